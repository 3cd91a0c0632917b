"""The chunked coding of request bodies, read strictly: sizes are bare hex digits, extensions follow their grammar, every
chunk ends in CRLF, trailers are fields (RFC 9112 §7.1). No I/O. Where a message ends matters more here than speed: the bytes
after it are the next request. Property: whatever h11 and llhttp both accept decodes to the same bytes, however it is cut.
"""

from __future__ import annotations

import re
from typing import Final

from streamgate.errors import NotFramed, TooLarge

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)[ \t]*")
_LINE_BYTES: Final = 4_096
_OVERHEAD_BYTES: Final = 65_536  # extensions carry nothing for us: a flood of them is an attack on the reader
_TRAILER_BYTES: Final = 16_384


class Chunked:
    """Decodes one body. ``done`` is set at its end; then ``trailers`` holds its fields."""

    __slots__ = ("_left", "_overhead", "_stage", "done", "trailers")

    def __init__(self) -> None:
        self._stage = "size"
        self._left = 0
        self._overhead = 0
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, buffer: bytearray, most: int) -> bytes:
        """Take what belongs to this body out of ``buffer``, at most ``most`` bytes of content, and return the content.

        Raises NotFramed where the coding is broken and TooLarge where it is abused; both end the connection.
        """
        content: list[bytes] = []
        while not self.done and most > 0:
            if self._stage == "data":
                piece = bytes(buffer[: min(self._left, most)])
                if not piece:
                    break
                del buffer[: len(piece)]
                content.append(piece)
                most -= len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._stage = "data end"
            elif self._stage == "data end":
                if len(buffer) < 2:  # noqa: PLR2004  # a CRLF
                    if buffer and buffer != b"\r":
                        raise NotFramed("A chunk does not end in CRLF")
                    break
                if buffer[:2] != b"\r\n":
                    raise NotFramed("A chunk does not end in CRLF")
                del buffer[:2]
                self._stage = "size"
            elif (line := self._line(buffer)) is None:
                break
            elif self._stage == "size":
                self._size(line)
            else:
                self._trailer(line)
        return content[0] if len(content) == 1 else b"".join(content)

    def _line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\n", 0, _LINE_BYTES)
        if end < 0:
            if len(buffer) >= _LINE_BYTES:
                raise TooLarge("A line of the chunked coding is too long", status=400)
            return None
        line = bytes(buffer[: end + 1])
        if not line.endswith(b"\r\n") or line.count(b"\r") != 1:
            raise NotFramed("Lines of the chunked coding end in CRLF")
        del buffer[: end + 1]
        return line[:-2]

    def _size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise NotFramed("A chunk size is not a hexadecimal number")
        self._left = int(match[1], 16)
        self._overhead += len(line) - len(match[1])
        if self._overhead > _OVERHEAD_BYTES:
            raise TooLarge("The chunk extensions are too long", status=400)
        if self._left > 1 << 62:
            raise NotFramed("A chunk is larger than any message")
        self._stage = "data" if self._left else "trailers"
        if not self._left:
            self._overhead = 0

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        match = _FIELD.fullmatch(line)
        if match is None:
            raise NotFramed("A trailer field is malformed")
        self._overhead += len(line) + 2
        if self._overhead > _TRAILER_BYTES:
            raise TooLarge("The trailer section is too long", status=431)
        self.trailers.append((match[1], match[2]))
