"""The usage of a stream, read as its bytes go by, however they are cut: server-sent events, JSON lines, AWS event streams. No I/O.

Nearly all of a stream is output, and of that only its events are counted. What is looked at is found by a literal search, some
chunks at a time: the first events, which name model and answer, and those with counts of tokens. Usage is taken when it is seen,
so a client that leaves after the terminal event takes no count with it (envoyproxy/ai-gateway#2563); an explicit zero is a count
(BerriAI/litellm#37992).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec

from sessions.usage_fields import Reported, Usage, usage_of_body

__all__ = ["Usage", "UsageTap", "usage_of_body"]

_LOOK_EVERY: Final = 16
_LOOK_BYTES: Final = 1_024
"""At most this many chunks below this size wait to be looked at, as with the stream's end (`sessions/sse.py`)."""
HELD_MAX_BYTES: Final = 256 * 1_024
"""An event that is longer is not kept whole: images in Responses are megabytes."""
_REST_BYTES: Final = 16 * 1_024
"""What is kept of its end, where usage stands."""
_FIRST_EVENTS: Final = 8
"""As many are searched for the names of model and answer."""
_FRAME_HEAD, _FRAME_CRC = 12, 4


class _Framing(Enum):
    EVENTS = "server-sent events"
    LINES = "JSON lines"
    FRAMES = "AWS event stream"
    WHOLE = "one JSON text"
    NONE = "unreadable"


_BLANK: Final = re.compile(rb"(?:\n[\r\n]|\r\r)[\r\n]*")
_BLANK_ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_BOM: Final = b"\xef\xbb\xbf"
_COUNTS: Final = b'_tokens":'
"""In every usage of the dialects whose streams are told by their first events, and in no text: there the quote is escaped.
Looked for with ``rfind``, which is twice as fast as ``in``.
"""
_OTHER_COUNTS: Final = re.compile(rb'okens"|ount"|units"')
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|thinking|refusal|arguments|partial_json|input|delta|value|response'
    rb'|outputText|generation|generated_text)"\s*:\s*"(?!")|"functionCall"|"tool_calls"\s*:\s*\[\s*\{|"function_call"\s*:\s*\{'
)
"""What the models of the other dialects write stands in a text under one of these names."""
_ANTHROPIC: Final = re.compile(rb'"type": ?"(?:message_start|content_block|ping)')
_RESPONSES: Final = re.compile(rb'"type": ?"response\.')
_DELTA, _BLOCK, _TYPED = (b'"delta":{', b'"delta": {', b'"text":"', b'"text": "'), b'_block_delta"', b'.delta"'


def _mark_of(data: bytes) -> bytes | None:
    """What an event with output has once in this stream and no other event has, as far as one event shows; None: not yet known."""
    if b'"choices"' in data:
        spelled = next((mark for mark in _DELTA if mark in data), None)
        return spelled if spelled is None or spelled.endswith(b'"') else spelled + b'"'  # not {}
    if _ANTHROPIC.search(data):
        return _BLOCK
    return _TYPED if _RESPONSES.search(data) else None


def _carries(data: bytes, mark: bytes | None) -> bool:
    """Has the data of one event output in it?"""
    if mark is None:
        return data[:1] not in {b"{", b"["} or _TEXT.search(data) is not None
    return mark in data and (mark in {_BLOCK, _TYPED} or _TEXT.search(data) is not None)


class _Chunk(msgspec.Struct):
    data: bytes = msgspec.field(name="bytes")  # in base64: what a model on Bedrock answers in its own words


class UsageTap:
    """Reads one stream. Give it the upstream's bytes as they come, and ask once, at the end.

    Where output was delivered and not reported, events that carry some stand for tokens. The role alone is no output; after the
    stream's beginning, every delta that is not empty is taken for some.
    """

    __slots__ = (
        "_broken",
        "_by_mark",
        "_delivered",
        "_events",
        "_framing",
        "_held",
        "_held_bytes",
        "_mark",
        "_reported",
        "_seen",
    )

    def __init__(self) -> None:
        self._seen: list[bytes] = []
        self._held: list[bytes] = []  # of the event that has not ended
        self._held_bytes = 0
        self._broken = False  # the beginning of that event is not kept
        self._framing: _Framing | None = None
        self._reported = Reported()
        self._events = 0
        self._mark: bytes | None = None
        self._by_mark = False
        self._delivered = 0

    def feed(self, data: bytes) -> None:
        """See the next bytes of the stream, some tokens later or when somebody asks."""
        seen = self._seen
        seen.append(data)
        if len(seen) >= _LOOK_EVERY or len(data) > _LOOK_BYTES:
            self._look()

    def result(self, *, complete: bool, input_bytes: int | None = None) -> Usage:
        """The usage, at the end of the stream; ``complete``: its terminal event was seen.

        ``input_bytes``, the size of the prompt, gives an estimate of the input where the upstream told none (a token is four bytes).
        """
        if self._seen:
            self._look()
        rest = b"".join(self._held)
        self._held.clear()
        if self._framing is _Framing.WHOLE or (self._framing is _Framing.LINES and not self._events):
            if rest:  # an answer that is no stream
                self._take_long(rest) if self._broken else self._reported.take(rest)
            return self._reported.usage(input_bytes=input_bytes)
        if rest and self._framing is not _Framing.FRAMES and rest.rstrip().endswith(b"}"):
            self._read(rest)  # some providers close without the last empty line
        return self._reported.usage(self._delivered, complete=complete, input_bytes=input_bytes)

    def _look(self) -> None:
        new = b"".join(self._seen)
        self._seen.clear()
        if self._by_mark and not self._held and self._mark is not None and new.endswith(b"\n\n") and new.rfind(_COUNTS) < 0:
            self._delivered += new.count(self._mark)
            return
        if self._framing is None:
            new = new.lstrip()
            if not new:
                return
            first = {0: _Framing.FRAMES, ord("{"): _Framing.LINES, ord("["): _Framing.WHOLE}
            self._framing = first.get(new[0], _Framing.EVENTS)
        if self._framing is _Framing.FRAMES:
            self._read_frames(new)
            return
        edge = self._held[-1][-2:] if self._held else b""
        end = self._end_of_events(edge + new) - len(edge)
        if end > 0:
            part = new if end == len(new) else new[:end]
            if self._held:
                part = b"".join((*self._held, part))
                self._held.clear()
            self._read(part)
            new = new[end:]
            self._held_bytes = 0
        if new and self._framing is not _Framing.NONE:
            self._hold(new)

    def _end_of_events(self, window: bytes) -> int:
        """Where the last event that has ended in it ends; 0 when none has."""
        if self._framing is _Framing.LINES:
            if not self._events and (first := window.find(b"\n")) >= 0 and not window[:first].rstrip().endswith(b"}"):
                self._framing = _Framing.WHOLE  # laid out over several lines
                return 0
            return window.rfind(b"\n") + 1
        if self._framing is not _Framing.EVENTS:
            return 0
        if window.endswith(b"\n\n"):
            return len(window)
        return max((at + len(mark) for mark in _BLANK_ENDS if (at := window.rfind(mark)) >= 0), default=0)

    def _hold(self, new: bytes) -> None:
        self._held.append(new)
        self._held_bytes += len(new)
        if self._held_bytes > (_REST_BYTES * 2 if self._broken else HELD_MAX_BYTES):
            self._held[:] = [b"".join(self._held)[-_REST_BYTES:]]
            self._held_bytes = _REST_BYTES
            self._broken = True

    def _read(self, part: bytes) -> None:
        """Read events that have ended."""
        if self._broken:
            self._broken = False
            blank = _BLANK.search(part) if self._framing is _Framing.EVENTS else re.search(rb"\n", part)
            end = len(part) if blank is None else blank.end()
            self._take_long(part[:end])
            part = part[end:]
        if self._by_mark and self._mark is not None and part.rfind(_COUNTS) < 0:
            self._delivered += part.count(self._mark)
            return
        events = self._events_of(part)
        if self._by_mark and self._reported.whole:
            # Where every event says it all, the last one does.
            last = next((at for at in range(len(events) - 1, -1, -1) if _COUNTS in events[at]), -1)
            if last >= 0 and self._reported.take(self._data_of(events[last]), names=False):
                self._delivered = 0
                del events[: last + 1]
        for event in events:
            self._read_event(event)

    def _events_of(self, part: bytes) -> list[bytes]:
        if self._framing is _Framing.LINES:
            return part.split(b"\n")
        return _BLANK.split(part) if b"\r" in part else part.split(b"\n\n")

    def _read_event(self, event: bytes) -> None:
        if self._by_mark and self._mark is not None:
            if _COUNTS in event and self._reported.take(self._data_of(event), names=False):
                self._delivered = 0
            else:
                self._delivered += event.count(self._mark)
        elif data := self._data_of(event):
            if self._mark is None:
                self._mark = _mark_of(data)
                self._reported.whole = self._mark not in {None, _BLOCK, _TYPED}
            self._take(data, carries=_carries(data, self._mark))
            self._by_mark = self._mark is not None and (self._reported.named or self._events >= _FIRST_EVENTS)

    def _data_of(self, event: bytes) -> bytes:
        if self._framing is not _Framing.EVENTS:
            return event.strip()
        lines = event.removeprefix(_BOM).splitlines()
        return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))

    def _take(self, data: bytes, *, carries: bool) -> None:
        self._events += 1
        wanted = self._events <= _FIRST_EVENTS and not self._reported.named
        if (wanted or _OTHER_COUNTS.search(data)) and self._reported.take(data):
            self._delivered = 0
        elif carries:
            self._delivered += 1

    def _take_long(self, rest: bytes) -> None:
        if self._reported.take_fragment(rest):
            self._delivered = 0

    def _read_frames(self, new: bytes) -> None:
        """Length of all, length of the headers, a checksum; headers; payload; a checksum (AWS, "Event stream encoding")."""
        window = b"".join((*self._held, new))
        self._held.clear()
        at = 0
        while len(window) - at >= _FRAME_HEAD:
            size = int.from_bytes(window[at : at + 4], "big")
            headers = at + _FRAME_HEAD + int.from_bytes(window[at + 4 : at + 8], "big")
            if not _FRAME_HEAD + _FRAME_CRC <= size <= HELD_MAX_BYTES or headers > at + size - _FRAME_CRC:
                self._framing = _Framing.NONE
                return
            if len(window) - at < size:
                break
            self._take_frame(window[at + _FRAME_HEAD : headers], window[headers : at + size - _FRAME_CRC])
            at += size
        self._held.append(window[at:])

    def _take_frame(self, headers: bytes, payload: bytes) -> None:
        if payload.startswith(b'{"bytes"'):
            try:
                data = msgspec.json.decode(payload, type=_Chunk).data
            except ValueError:
                return
            self._take(data, carries=_carries(data, None))
        else:
            self._take(payload, carries=b"contentBlockDelta" in headers)
