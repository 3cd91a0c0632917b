"""How an event stream ends: watched as its bytes go by, however they are cut. No I/O, nothing decoded.

A dialect's terminal event is what tells a finished answer from a cut one (OpenAI's ``[DONE]``, Anthropic's ``message_stop``, the
Responses API's ``response.completed``). A stream that carries an error of the provider's own has said why it ended. Both are found
by a literal search in each chunk and the few bytes before it; only a hit is looked at with a pattern. Line ends may be LF, CRLF or
CR (HTML Living Standard, "Server-sent events").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from streamgate.exchange import Dialect

_KEPT_BYTES: Final = 96  # longer than any terminal marker with the line end before it


@dataclass(frozen=True, slots=True)
class _Marks:
    literal: bytes
    complete: re.Pattern[bytes]


_START: Final = rb"[\r\n](?:\xef\xbb\xbf)?"
_COMPLETE: Final = {
    Dialect.OPENAI: _Marks(b"[DONE]", re.compile(_START + rb"data: ?\[DONE\]")),
    Dialect.ANTHROPIC: _Marks(
        b"message_stop", re.compile(_START + rb'(?:event: ?message_stop|data: ?\{ ?"type": ?"message_stop")')
    ),
    Dialect.RESPONSES: _Marks(
        b"response.",
        re.compile(_START + rb'(?:event: ?|data: ?\{ ?"type": ?")response\.(?:completed|incomplete|failed)(?=["\r\n])'),
    ),
}
_FAILED: Final = re.compile(_START + rb'(?:event: ?error(?=[\r\n])|data: ?\{ ?"error": ?[{"]|data: ?\{ ?"type": ?"error")')
_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n")


class StreamEnd:
    """Watches one stream of one dialect.

    ``terminal`` says that the terminal event has begun, ``failed`` that the provider reported an error in band.
    """

    __slots__ = ("_marks", "_tail", "failed", "terminal")

    def __init__(self, dialect: Dialect) -> None:
        self._marks = _COMPLETE[dialect]
        self._tail = b"\n\n"  # a stream begins where an event may begin
        self.terminal = False
        self.failed = False

    def feed(self, data: bytes) -> None:
        """See the next bytes of the stream."""
        window = self._tail + data
        if self._marks.literal in window and self._marks.complete.search(window):
            self.terminal = True
        if b"error" in window and _FAILED.search(window):
            self.failed = True
        self._tail = window[-_KEPT_BYTES:]

    @property
    def at_boundary(self) -> bool:
        """Did the last event end? An event of ours may only begin where the last one ended."""
        return self._tail.endswith(_ENDS)

    @property
    def complete(self) -> bool:
        """Has the terminal event been seen whole?

        Some providers close without the last empty line; one line end after the marker counts, since every decoder has the data.
        """
        return self.terminal and self._tail.endswith((b"\n", b"\r", b"[DONE]"))
