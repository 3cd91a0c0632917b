"""A seat in a call that several share: to its rider what an upstream connection is to its relay, and as slow as that rider.

The call tells every seat what comes; a seat passes it on at once, or keeps it while its rider is paused or has not sat down yet
(then the beginning waits here, too). Kept pieces are the call's own bytes, not copies. A rider that is further behind than
`BEHIND_BYTES` makes the row ask for patience, so one slow reader costs that much memory and no more; the deadline of its own relay
ends it in the end.

`Relay` is a rider, and begins with a seat as with any upstream: `relay.begin(seat, uploading=False)`, then `seat.ride(relay)`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from sessions.relay import Response
from streamgate.errors import Fault
from streamgate.headers import Headers

BEHIND_BYTES: Final = 262_144
_PIECE_BYTES: Final = 65_536
"""So much is passed on between two questions whether the rider is paused: the mark at which a client's transport is full."""


class Rider(Protocol):
    """Who is told of an answer, in this order: its head, pieces with a flush after each read, its end. Relays are riders."""

    def on_head(self, response: Response) -> bool:
        """The head; False says that the rest is not wanted."""
        ...

    def on_body(self, data: bytes) -> None: ...
    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None: ...
    def on_lost(self, fault: Fault) -> None: ...


class Row(Protocol):
    """What a seat tells those who gave it."""

    def left(self, seat: Seat, gone_at: float | None) -> None:
        """The rider is gone."""

    def fell_behind(self, seat: Seat) -> None:
        """The rider is too far behind: the call must not go faster."""

    def caught_up(self, seat: Seat) -> None:
        """It is no longer."""


class Seat:
    """One rider's place."""

    __slots__ = ("_backlog", "_behind", "_bytes", "_end", "_head", "_paused", "_playing", "_rider", "_row", "first", "gone")

    def __init__(self, row: Row, *, first: bool = False, head: Response | None = None, beginning: Iterable[bytes] = ()) -> None:
        """``first``: the call is still to be made, by whoever took this seat. ``head`` and ``beginning``: what has come already."""
        self._row = row
        self._rider: Rider | None = None
        self._head = head
        self._backlog = deque(beginning)
        self._bytes = sum(map(len, self._backlog))
        self._end: Headers | Fault | None = None
        self._paused = self._playing = self._behind = False
        self.first = first
        self.gone = False

    def ride(self, rider: Rider) -> None:
        """Sit down: hear what has come so far, and from now on what comes."""
        self._rider = rider
        if self._head is not None:
            self.on_head(self._head)
        self._play()

    # -- from the rider: an upstream connection ------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Pass nothing on until ``resume_reading``."""
        self._paused = True

    def resume_reading(self) -> None:
        """Pass on what has come meanwhile, and go on."""
        self._paused = False
        self._play()

    def abandon(self, gone_at: float | None = None) -> None:
        """Leave; the rider hears nothing more. Every call after the first does nothing."""
        if self.gone:
            return
        self.gone = True
        self._rider = None
        self._backlog.clear()
        self._measure()
        self._row.left(self, gone_at)

    # -- from the call -------------------------------------------------------------------------------------------------

    def on_head(self, response: Response) -> None:
        """The answer's head."""
        self._head = response
        if self._rider is not None and not self._rider.on_head(response):
            self.abandon()

    def on_body(self, data: bytes) -> None:
        """The next bytes."""
        if self._rider is not None and not (self._paused or self._backlog or self._playing):
            self._rider.on_body(data)
        elif not self.gone:
            self._backlog.append(data)
            self._measure(len(data))

    def flush(self, *, ended: bool = False, trailers: Headers | None = None) -> None:
        """One read of the upstream is over; ``ended`` when it was the last."""
        if ended:
            self._end = trailers or []
            self._finish()
        elif self._rider is not None and not self._backlog:
            self._rider.flush()

    def on_lost(self, fault: Fault) -> None:
        """The answer broke off."""
        self._end = fault
        self._finish()

    # ------------------------------------------------------------------------------------------------------------------

    def _play(self) -> None:
        if self._playing:
            return
        self._playing = True
        try:
            while self._backlog and not self._paused and self._rider is not None:
                self._play_piece(self._rider)
        finally:
            self._playing = False
        self._finish()

    def _play_piece(self, rider: Rider) -> None:
        size = 0
        while self._backlog and size < _PIECE_BYTES:
            data = self._backlog.popleft()
            size += len(data)
            rider.on_body(data)
        self._measure(-size)
        rider.flush()

    def _finish(self) -> None:
        """Tell the end, once, when all before it has been told."""
        if self._end is None or self._backlog or self._playing or self._rider is None:
            return
        rider, self._rider = self._rider, None
        if isinstance(self._end, Fault):
            rider.on_lost(self._end)
        else:
            rider.flush(ended=True, trailers=self._end or None)
        self.abandon()

    def _measure(self, more: int = 0) -> None:
        self._bytes = self._bytes + more if self._backlog else 0
        if self._behind != (self._bytes > BEHIND_BYTES):
            self._behind = not self._behind
            (self._row.fell_behind if self._behind else self._row.caught_up)(self)
