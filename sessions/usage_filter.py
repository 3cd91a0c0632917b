"""The usage of an OpenAI stream that the meter asked for and the client did not: asked for in the request, left out of the answer.

With ``stream_options.include_usage`` an extra chunk ends the stream, of no choices and the usage of all (OpenAI, "Create chat
completion"); clients that did not ask for it fail on it (Portkey-AI/gateway#1259).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from streamgate.json_span import find

_OPTIONS: Final = "stream_options"
_ASK: Final = b'"include_usage":true'

HELD_MAX_BYTES: Final = 64 * 1_024
"""An event that is longer is no usage, and is not held."""
_ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_END: Final = re.compile(rb"\n(?:\r\n|[\r\n])|\r(?:\r\n|\r)")
"""An empty line with the line end before it. ``\\r\\n`` is one line end, and so is a ``\\r`` that nothing follows yet."""
_COUNTS: Final = b'_tokens":'
"""In every usage, and in no text: there the quote is escaped. Found by ``rfind``, which is twice as fast as ``in``."""


def with_include_usage(body: bytes) -> bytes | None:
    """The body of a streamed completion with ``stream_options.include_usage`` true, every other byte as it was.

    None where there is nothing to do: it is true already, or what stands there is for the upstream to refuse. Raises ValueError
    where the body is no JSON object, or has one of the two keys twice.
    """
    options = find(body, _OPTIONS)
    if options is None:
        return _first_member(body, b'"' + _OPTIONS.encode() + b'":{' + _ASK + b"}")
    begin, end = options
    written = body[begin:end]
    if written == b"null":
        return body[:begin] + b"{" + _ASK + b"}" + body[end:]
    if not written.startswith(b"{"):
        return None
    asked = find(written, "include_usage")
    if asked is None:
        return body[:begin] + _first_member(written, _ASK) + body[end:]
    if written[asked[0] : asked[1]] in {b"false", b"null"}:
        return body[: begin + asked[0]] + b"true" + body[begin + asked[1] :]
    return None


def _first_member(written: bytes, member: bytes) -> bytes:
    brace = written.index(b"{") + 1
    is_empty = written[brace:].lstrip(b" \t\n\r").startswith(b"}")
    return written[:brace] + member + (b"" if is_empty else b",") + written[brace:]


class UsageFilter:
    """Takes that chunk out of one stream. Of everything else not a byte is changed, and only an event that has not ended is held.

    The first chunk of Azure has no choices either, but no usage; it stays.
    """

    __slots__ = ("_amid", "_drops_lf", "_held", "_plain")

    def __init__(self) -> None:
        self._held = b""
        self._plain = True  # at the beginning of an event, with nothing to remember
        self._amid = False  # in an event that has been let go in part
        self._drops_lf = False  # the last byte dropped was a CR; an LF would belong to it

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on now, none or those of several chunks."""
        if self._plain and data.endswith(_ENDS) and data.rfind(_COUNTS) < 0:
            return data
        return self._sift(data)

    def flush(self) -> bytes:
        """What is held, when no more comes. A usage chunk whose last empty line is missing is one all the same."""
        held = self._held
        self._held = b""
        self._plain, self._amid = True, False
        return b"" if _is_extra(held) else held

    def _sift(self, data: bytes) -> bytes:
        if self._drops_lf and data:
            data = data.removeprefix(b"\n")
            self._drops_lf = False
        window = self._held + data
        searched = max(0, len(self._held) - 2)
        out: list[bytes] = []
        start = 0
        while (end := _end_of_event(window, max(searched, start))) > 0:
            event = window[start:end]
            if self._amid or not _is_extra(event):
                out.append(event)
            else:
                out.append(event[: len(event) - len(event.lstrip(b"\r\n"))])
                self._drops_lf = end == len(window) and event.endswith(b"\r")
            self._amid = False
            start = end
        self._held = self._let_go(window[start:], out)
        self._plain = not (self._held or self._amid or self._drops_lf)
        return b"".join(out)

    def _let_go(self, rest: bytes, out: list[bytes]) -> bytes:
        """Of an event that has not ended, what has to wait."""
        begun = rest.lstrip(b"\r\n")
        if not begun and not self._amid:
            out.append(rest)  # line ends between events
            return b""
        if not self._amid and len(begun.rstrip(b"\r\n")) <= HELD_MAX_BYTES:
            out.append(rest[: len(rest) - len(begun)])
            return begun
        self._amid = True
        passed = len(rest.rstrip(b"\r\n"))
        out.append(rest[:passed])
        return rest[passed:]


def _end_of_event(window: bytes, at: int) -> int:
    """Where the event ends that ends first from there on; 0 when none does."""
    if window.find(b"\r") < 0:
        place = window.find(b"\n\n", at)
        return 0 if place < 0 else place + 2
    found = _END.search(window, at)
    return 0 if found is None else found.end()


def _is_extra(event: bytes) -> bool:
    if event.rfind(_COUNTS) < 0 or len(event.strip(b"\r\n")) > HELD_MAX_BYTES:
        return False
    data = b"\n".join(line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:"))
    try:
        chunk: Any = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
