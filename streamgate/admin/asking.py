"""What is sent to `POST /api/v1/explain`, read strictly: a request to be explained."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamgate.pipeline.explaining.asked import Asked, asked_for

_EXAMPLE: Final = 'send {"method": "POST", "url": "/v1/chat/completions", "headers": {"NAME": "VALUE"}, "body": {…}}'
_SHOWN_MAX: Final = 200


class _Sent(msgspec.Struct, forbid_unknown_fields=True):
    method: str
    url: str
    headers: dict[str, str] | list[tuple[str, str]] = {}  # msgspec makes a new one each time
    body: msgspec.Raw = msgspec.Raw()
    client: str = "127.0.0.1"


_decoder: Final = msgspec.json.Decoder(_Sent)


def asked_of(data: bytes, host: str) -> Asked:
    """The request that is asked about; ``host`` where it names none itself. Raises ValueError, saying what to send instead.

    A `body` that is a text is that text's bytes; anything else is sent as it is written, to the byte; null is no body.
    """
    try:
        sent = _decoder.decode(data)
        body = _body(bytes(sent.body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"This is no request to be explained ({_short(str(error))}); {_EXAMPLE}") from None
    headers: Any = list(sent.headers.items()) if isinstance(sent.headers, dict) else sent.headers
    try:
        return asked_for(sent.method, sent.url, headers, host=host, client=sent.client, body=body)
    except ValueError as error:
        raise ValueError(f"This request cannot be explained: {error}") from None


def _body(written: bytes) -> bytes | None:
    if written in {b"", b"null"}:
        return None
    return msgspec.json.decode(written, type=str).encode() if written.startswith(b'"') else written


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"
