"""How an event stream ends: watched as its bytes go by, however they are cut. No I/O, nothing decoded.

A dialect's terminal event is what tells a finished answer from a cut one (OpenAI's ``[DONE]``, Anthropic's ``message_stop``, the
Responses API's ``response.completed``). A stream that carries an error of the provider's own has said why it ended. Both are
found by a literal search, some chunks at a time, with the few bytes before them; only a hit is looked at with a pattern. Line
ends may be LF, CRLF or CR (HTML Living Standard, "Server-sent events").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streamgate.exchange import Dialect

_LOOK_EVERY: Final = 16
_LOOK_BYTES: Final = 1_024
"""At most this many chunks below this size wait to be looked at: 16 KiB, and a few hundred bytes where tokens are small."""
_KEPT_BYTES: Final = 192  # longer than any terminal event up to its data


@dataclass(frozen=True, slots=True)
class _Marks:
    literal: bytes
    complete: re.Pattern[bytes]


_EOL: Final = rb"(?:\r\n|\n|\r)"
_EMPTY_LINE: Final = rb"(?:\r\n[\r\n]|\n[\r\n]|\r\r)"
_START: Final = rb"[\r\n](?:\xef\xbb\xbf)?"


def _terminal(name: bytes) -> re.Pattern[bytes]:
    """An event called ``name``, by its event field before or after its data, or by the type that its data begins with.

    ``end`` is what ends its data, ``all`` what ends it where its data came first; without either its data is still on its way.
    """
    field = rb"event: ?" + name
    before = field + _EOL + rb"(?:(?!data:)[^\r\n]+" + _EOL + rb")*data:"
    typed = rb'data: ?\{ ?"type": ?"' + name + rb'"'
    data = _START + rb"(?:" + before + rb"|" + typed + rb")[^\r\n]*(?P<end>[\r\n])?"
    after = rb"[^\r\n]" + _EOL + field + rb"(?P<all>" + _EMPTY_LINE + rb")"
    return re.compile(data + rb"|" + after)


_COMPLETE: Final = {
    Dialect.OPENAI: _Marks(b"[DONE]", re.compile(_START + rb"data: ?(?P<end>\[DONE\])")),
    Dialect.ANTHROPIC: _Marks(b"message_stop", _terminal(rb"message_stop")),
    Dialect.RESPONSES: _Marks(b"response.", _terminal(rb"response\.(?:completed|incomplete|failed)")),
}
_FAILED: Final = re.compile(_START + rb'(?:event: ?error(?=[\r\n])|data: ?\{ ?"error": ?[{"]|data: ?\{ ?"type": ?"error")')
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")


def at_boundary(tail: bytes) -> bool:
    """Did the last event of a stream that ends in ``tail`` (four bytes are enough) end? An event of ours may only begin there."""
    return tail.endswith(_ENDS)


class StreamEnd:
    """Watches one stream of one dialect.

    A terminal event is owed on a path that is its dialect's alone. OpenAI's other paths have been taken by streams of other shapes
    (legacy completions of ``{"value": …}``, transcripts, images): there it is owed once an event has shown ``choices``.
    """

    __slots__ = ("_complete", "_failed", "_in_last_line", "_marks", "_other", "_owed", "_seen", "_tail")

    def __init__(self, dialect: Dialect, path: bytes) -> None:
        self._marks = _COMPLETE[dialect]
        self._owed = dialect is not Dialect.OPENAI or path.endswith(b"/chat/completions")
        self._other = False
        self._seen = [b"\n\n"]  # a stream begins where an event may begin
        self._tail = b""
        self._in_last_line = False
        self._complete = False
        self._failed = False

    def feed(self, data: bytes) -> None:
        """See the next bytes of the stream. They are looked at some tokens later, or when somebody asks: a look per token
        would cost as much as everything else that is done for it.
        """
        seen = self._seen
        seen.append(data)
        if len(seen) > _LOOK_EVERY or len(data) > _LOOK_BYTES:
            self._look()

    def _look(self) -> None:
        if not self._seen:
            return
        new = b"".join(self._seen)
        self._seen.clear()
        window = self._tail + new
        if self._in_last_line:
            self._complete = self._complete or b"\n" in new or b"\r" in new
        elif self._marks.literal in window and (found := self._marks.complete.search(window)) is not None:
            self._in_last_line = True
            self._complete = found.lastgroup is not None
        if b"error" in window and _FAILED.search(window):
            self._failed = True
        if not self._owed:
            self._owed = b'"choices"' in window
            self._other = self._other or b"data:" in window
        self._tail = window[-_KEPT_BYTES:]

    @property
    def failed(self) -> bool:
        """Has the provider reported an error in band?"""
        self._look()
        return self._failed

    @property
    def at_boundary(self) -> bool:
        """See the function of this name."""
        self._look()
        return at_boundary(self._tail)

    @property
    def complete(self) -> bool:
        """Has the terminal event's data been seen whole?

        Some providers close without the last empty line; the line end after the data counts, since every decoder has it then.
        """
        self._look()
        return self._complete

    @property
    def whole(self) -> bool:
        """Is this all, when the framing says so? With the terminal event; or without one by a stream that owes none."""
        return self.complete or (self._other and not self._owed and self.at_boundary)
