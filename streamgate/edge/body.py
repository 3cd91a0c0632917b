"""A request body on its way up: taken from the connection's buffer, checked, handed to whoever sends it, never held whole.

Until somebody takes it, and for a second attempt, its first 64 KiB are kept; past that the connection is not read any more. So a
1 GiB upload costs one buffer, and a body whose coding is broken at once is refused before an upstream has seen anything of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from streamgate.edge.chunked import Chunked
from streamgate.errors import Fault, TooLarge
from streamgate.headers import Headers

REPLAY_BYTES: Final = 65_536
_PIECE_BYTES: Final = 262_144


class Reading(Protocol):
    """The connection's reading, held while nobody takes what comes."""

    def hold(self) -> None: ...
    def release(self) -> None: ...


class Fixed:
    """A body of known length."""

    __slots__ = ("_left", "done", "trailers")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.trailers: Headers = []

    def feed(self, buffer: bytearray, most: int) -> bytes:
        """Take at most ``most`` bytes of this body out of ``buffer``."""
        size = min(self._left, most, len(buffer))
        data = bytes(buffer[:size])
        del buffer[:size]
        self._left -= size
        self.done = self._left == 0
        return data


Sink = Callable[[bytes, bool], None]
"""Takes (content, is this the last of it)."""


class Body:
    """One request body. ``length`` None means chunked; ``replay`` is None once too much has gone by to send it again."""

    __slots__ = (
        *("_blocked", "_buffer", "_coding", "_fault", "_max_bytes", "_reading", "_sink"),
        *("chunked", "complete", "length", "received", "replay"),
    )

    def __init__(self, buffer: bytearray, length: int | None, reading: Reading) -> None:
        self._buffer = buffer
        self._reading = reading
        self._coding: Fixed | Chunked = Chunked() if length is None else Fixed(length)
        self._sink: Sink | None = None
        self._blocked: Callable[[], bool] = _never
        self._max_bytes: int | None = None
        self._fault: Fault | None = None
        self.chunked = length is None
        self.complete = length == 0
        """Has all of it been read off the connection?"""
        self.length = length
        self.received = 0
        self.replay: bytearray | None = bytearray()

    @property
    def rest(self) -> int | None:
        """Bytes that have not come yet; None where nobody can know."""
        return None if self.length is None or self._fault is not None else self.length - self.received

    @property
    def trailers(self) -> Headers:
        """The fields after a chunked body; empty before its end."""
        return self._coding.trailers

    def limit(self, max_bytes: int | None) -> None:
        """Refuse more than this. Raises TooLarge at once where the length says so."""
        self._max_bytes = max_bytes
        if max_bytes is not None and (self.length or 0) > max_bytes:
            raise TooLarge("The request body is larger than this route takes", status=413)

    def look(self) -> None:
        """Read what has come already, so that what is broken is refused early. Raises NotFramed, TooLarge."""
        if self.complete:
            return
        size = self.length
        if self.received or self._sink is not None or size is None or size > REPLAY_BYTES or size > len(self._buffer):
            self.pull()
            return
        self.replay = self._buffer[:size]  # most are there whole
        del self._buffer[:size]
        self.received, self.complete = size, True
        self._reading.release()

    def attach(self, sink: Sink, blocked: Callable[[], bool]) -> None:
        """Give the body to ``sink`` from its beginning: what is kept now, the rest as it comes and while it is not ``blocked``."""
        self._sink = sink
        self._blocked = blocked
        kept = bytes(self.replay or b"")
        if kept or self.complete:
            sink(kept, self.complete)
        if not self.complete:
            self.pull()

    def detach(self) -> None:
        """Nobody takes it for now; what comes is kept or left in the connection."""
        self._sink = None

    def discard(self) -> None:
        """Let the rest go nowhere: the answer is already there."""
        self.replay = None
        self._sink = _nowhere
        self._blocked = _never

    def pull(self) -> None:
        """Move what has come to the sink, or into what is kept. Raises NotFramed, TooLarge; once it has, it always does: after
        a broken chunk nobody knows what the next bytes are.
        """
        if self._fault is not None:
            raise self._fault
        try:
            self._pull()
        except Fault as fault:
            self._fault = fault
            raise

    def _pull(self) -> None:
        while not self.complete:
            most = _PIECE_BYTES if self._sink is not None else REPLAY_BYTES - len(self.replay or b"")
            if most <= 0 or (self._sink is not None and self._blocked()):
                self._reading.hold()
                return
            data = self._coding.feed(self._buffer, most)
            self.complete = self._coding.done
            if not data and not self.complete:
                break
            self.received += len(data)
            if self._max_bytes is not None and self.received > self._max_bytes:
                raise TooLarge("The request body is larger than this route takes", status=413)
            if self.replay is not None:
                if len(self.replay) + len(data) <= REPLAY_BYTES:
                    self.replay += data
                else:
                    self.replay = None
            if self._sink is not None:
                self._sink(data, self.complete)
        self._reading.release()


class _Unread:
    """The reading of a body that needs none."""

    def hold(self) -> None:
        """Nothing to hold."""

    def release(self) -> None:
        """Nothing to release."""


def _never() -> bool:
    return False


def _nowhere(_data: bytes, _last: bool) -> None:  # noqa: FBT001  # the shape of a Sink
    return


NO_BODY: Final = Body(bytearray(), 0, _Unread())
"""The body of every request that has none."""
