"""What a request to a model asks for, read from its body once; of the body only the model's name is ever written anew.

Two readers of one body must not see two models: a body that is no JSON object, or that names its model twice, is refused
before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from streamgate.errors import Refused
from streamgate.exchange import Exchange
from streamgate.headers import values
from streamgate.json_span import find

_PATH: Final = re.compile(rb"(?:/(?:v1|openai))/((?:chat/)?completions|embeddings|responses|messages(?:/count_tokens)?)$")
OPERATIONS: Final = {
    b"chat/completions": "chat",
    b"completions": "text_completion",
    b"embeddings": "embeddings",
    b"responses": "chat",
    b"messages": "chat",
    b"messages/count_tokens": "chat",
}
"""What is served, and ``gen_ai.operation.name`` of OpenTelemetry's conventions for it."""
_MODEL: Final = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("[^"]*")')
_MODELS: Final = re.compile(rb'"model"', re.IGNORECASE)
_LISTING: Final = re.compile(rb"(?:/(?:v1|openai))/models(?:/(.+))?$")
_PROMPT_KEYS: Final = ("system", "instructions", "tools", "messages", "input", "prompt")
_PROMPT_BYTES: Final = 1_024
"""How much of each part of a prompt its beginning is: what a provider's prefix cache would have seen before."""
_KEY_CHARS: Final = 512


class BadAsk(Refused):
    """The body is no request to a model."""

    code = "bad_request"
    title = "The body is no request to a model"


class _Fields(msgspec.Struct, gc=False):
    """What is read of a body; types are checked only where the gateway acts on them."""

    model: Any = None
    stream: Any = None
    previous_response_id: Any = None
    stream_options: Any = None


_decoder: Final = msgspec.json.Decoder(_Fields)


class Ask:
    """One request to a model. ``span`` is where its model's name stands in ``body``, quotes included."""

    __slots__ = ("_fields", "body", "model", "size_bytes", "span", "stream")

    def __init__(self, body: bytes) -> None:
        """Read a body. Raises BadAsk."""
        self.body = body
        self.size_bytes = len(body)
        try:
            self._fields = _decoder.decode(body)
            span = _model_span(body)
        except msgspec.ValidationError:
            raise BadAsk("The body must be a JSON object") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadAsk("The body is no JSON; send one JSON object") from None
        except RecursionError:
            raise BadAsk("The body is nested too deep") from None
        except ValueError as error:
            raise BadAsk(_sentence(str(error))) from None
        model = self._fields.model
        if span is None or not isinstance(model, str) or not model:
            raise BadAsk('The body names no model; send "model" as a text')
        if self._fields.stream not in (None, True, False):
            raise BadAsk('"stream" must be true or false')
        self.span = span
        self.model = model
        self.stream = self._fields.stream is True

    def forget(self) -> None:
        """Let go of the body: it will not be sent again. A prompt may be megabytes, and a stream may last."""
        self.body = b""

    @property
    def previous_response_id(self) -> str | None:
        """The answer that this one goes on from; only who gave that one knows it."""
        found = self._fields.previous_response_id
        return found if isinstance(found, str) else None

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the extra chunk with the usage itself."""
        options = self._fields.stream_options
        return isinstance(options, dict) and options.get("include_usage") is True

    def with_model(self, name: str) -> bytes:
        """The body for an upstream that knows the model by ``name``; every other byte as it came."""
        if name == self.model:
            return self.body
        start, end = self.span
        return b"%b%b%b" % (self.body[:start], msgspec.json.encode(name), self.body[end:])

    def member(self, path: str) -> str | None:
        """A text or number of the body by its dotted path (``metadata.user_id``), as text; None where there is none."""
        first, *rest = path.split(".")
        value = self._value(first)
        for step in rest:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        return str(value)[:_KEY_CHARS] or None

    def prompt_key(self) -> str | None:
        """A hash of the prompt's beginning: equal for the turns of one conversation, and for prompts of one template."""
        digest = blake2b(digest_size=12)
        some = False
        for key in _PROMPT_KEYS:
            span = find(self.body, key)
            if span is not None:
                digest.update(self.body[span[0] : min(span[1], span[0] + _PROMPT_BYTES)])
                some = True
        return digest.hexdigest() if some else None

    def _value(self, key: str) -> Any:
        try:
            span = find(self.body, key)
        except ValueError:
            return None  # sent twice: nobody can say which is meant
        if span is None:
            return None
        try:
            return msgspec.json.decode(self.body[span[0] : span[1]])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadAsk(f'"{key}" in the body is no JSON in UTF-8') from None


def _model_span(body: bytes) -> tuple[int, int] | None:
    """Where the model's name stands in a JSON object. Raises ValueError as `find` does.

    Where only one text in all of the body could be that key, however it is spelled, it is that one; nothing else is looked at.
    """
    match = _MODEL.search(body)
    if match is not None and b"\\" not in body and len(_MODELS.findall(body)) == 1:
        return match.span(1)
    return find(body, "model")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def kind_of(path: bytes) -> bytes | None:
    """Which of ``OPERATIONS`` a path asks for, below whatever prefix; None where it is none that the gateway serves."""
    match = _PATH.search(path)
    return None if match is None else match[1]


def listed(path: bytes) -> str | None:
    """Whether a path asks for the list of models ("") or for one of them (its name); None where it does neither."""
    match = _LISTING.search(path)
    return None if match is None else (match[1] or b"").decode("ascii", "replace")


Source = Callable[[Exchange, Ask], str | None]
"""Reads a sticky key out of a request."""


def sticky_source(written: str) -> Source:
    """What `sticky` in the configuration means: header:NAME, cookie:NAME, body:PATH, claim:NAME, prompt."""
    kind, _, name = written.partition(":")
    wanted = name.encode("latin-1").lower()
    match kind:
        case "header":
            return lambda exchange, _ask: _text(next(iter(values(exchange.headers, wanted)), None))
        case "cookie":
            return lambda exchange, _ask: _cookie(exchange, name.encode("latin-1"))
        case "body":
            return lambda _exchange, ask: ask.member(name)
        case "prompt":
            return lambda _exchange, ask: ask.prompt_key()
        case _:
            return lambda _exchange, _ask: None  # nobody verifies claims before there are auth.providers


def sticky_key(exchange: Exchange, ask: Ask, sources: tuple[tuple[str, Source], ...]) -> tuple[str, str] | None:
    """(source, key) of the first source that is present; None when nothing is to stick."""
    for written, read in sources:
        found = read(exchange, ask)
        if found:
            return written, found
    return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1").strip()[:_KEY_CHARS] or None


def _cookie(exchange: Exchange, name: bytes) -> str | None:
    for part in b";".join(values(exchange.headers, b"cookie")).split(b";"):
        key, equals, value = part.strip().partition(b"=")
        if equals and key == name:
            return _text(value)
    return None
