"""The waiting line of a model: strict bands of priority, fair across flows, first come first served within a flow.

    arrival ──► room, and nobody to go first? ──► Slot
                     │ no
                     ├── line full ──► QueueFull       wait longer than patience ──► WaitTooLong
                     ▼
                  Waiter ──► granted(Slot) · refused(QueueExpired | Evicted) · left

The semantics are llm-d's flow control (`ai-gateways.md` §5.2). Everything happens in the call that causes it: there is no task, no
timer and no polling here. Whoever holds a `Slot` holds it until the last byte of the answer, and its release serves the next.
A flow is whom to be fair to, a tenant by default; it comes from verified claims, never from a client's header.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from sessions.bands import Bands
from sessions.deadlines import Deadlines
from sessions.rate import ServiceRate
from sessions.turns import FlowStatistics, Ready
from streamgate.errors import Evicted, QueueExpired, QueueFull, Refused, WaitTooLong
from streamgate.lease import Count, Lease

_EARLY_S = 0.002  # so much too early a loop's timer may ring: uvloop's counts milliseconds


@dataclass(frozen=True, slots=True)
class LineStatistics:
    """A line at one moment. `refused` counts by cause, `rate_per_s` is None while unknown, `flows` are the longest (`Bands`)."""

    waiting: int
    waiting_bytes: int
    held: int
    capacity: int | None
    served: int
    left: int
    expired: int
    refused: dict[str, int]
    rate_per_s: float | None
    flows: tuple[FlowStatistics, ...]


class Slot(Lease):
    """The right to be served, and how long it was waited for. Given back once, at the last byte."""

    __slots__ = ("_line", "waited_s")

    def __init__(self, line: Line, now: float, waited_s: float) -> None:
        count = line.count
        line.rate.takes(now)
        super().__init__(count)
        self._line = line
        self.waited_s = waited_s

    def release(self) -> None:
        """Give it back, and serve the next; every call after the first does nothing."""
        count = self._count
        if count is not None:
            self._count = None
            line = self._line
            line.rate.returns(line.now())
            count.held -= 1
            if line.waiting:
                line.pump()


@dataclass(slots=True, eq=False)
class Waiter:
    """A request in the line: who it is, since and until when it waits (monotonic seconds), whom to tell what becomes of it."""

    number: int
    flow: str
    priority: int
    size_bytes: int
    since: float
    deadline: float
    ready: Ready | None
    granted: Callable[[Slot], None]
    refused: Callable[[Refused], None]
    waiting: bool = True


def _nobody(_: object) -> None:
    """Who hears of a waiter that waits no more."""


class Line:
    """The line of one model in one worker; one event loop owns it. `now` gives monotonic seconds.

    It serves `capacity` at a time, any number when None. `max_waiting` and `max_bytes` (of waiting requests' bodies) may be written
    to at any time: who waits already stays.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        capacity: int | None = None,
        max_waiting: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self.now = now
        self.count = Count(capacity)
        self.max_waiting = max_waiting
        self.max_bytes = max_bytes
        self.rate = ServiceRate(self.count, now())
        self.waiting_bytes = 0
        self._bands = Bands[Waiter]()
        self._deadlines = Deadlines[Waiter]()
        self._number = 0
        self._shut: set[Ready] | None = None  # while slots are being granted: what has said no
        self._refused = {"max_waiting": 0, "max_bytes": 0, "patience": 0, "evicted": 0}
        self._left = 0
        self._expired = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._bands.waiting

    def enter(
        self,
        flow: str,
        *,
        granted: Callable[[Slot], None],
        refused: Callable[[Refused], None],
        priority: int = 0,
        size_bytes: int = 0,
        patience_s: float = inf,
        ready: Ready | None = None,
    ) -> Slot | Waiter:
        """Return a slot, if there is room and nobody else to be served first; a place in the line otherwise.

        A higher `priority` goes first. `ready` says whether this one may be served right now (None: always); it is asked once for
        all who share it, so give those of the same targets the same one. `granted` is called with the slot, in the call that made
        room: what `ready` asks about must be taken there and not later, or the next is granted the same. `refused` is called
        with QueueExpired by `expire`, with Evicted when the line is full and someone comes who is due before; it must not call the
        line. Raises QueueFull, and WaitTooLong when the predicted wait is longer than `patience_s`.
        """
        count = self.count
        if count.held < count.limit and self._shut is None:
            if self._bands.waiting:
                self.pump()
            if count.held < count.limit and (ready is None or ready()):
                self.rate.arrives()
                return Slot(self, self.now(), 0.0)
        self._admit(flow, priority, size_bytes, patience_s)
        self.rate.arrives()
        self._number += 1
        now = self.now()
        waiter = Waiter(self._number, flow, priority, size_bytes, now, now + patience_s, ready, granted, refused)
        self._bands.add(waiter)
        self.waiting_bytes += size_bytes
        if patience_s < inf:
            self._deadlines.add(waiter)
        return waiter

    def _admit(self, flow: str, priority: int, size_bytes: int, patience_s: float) -> None:
        """Raise unless this one may wait. Where the line is full, another may have to make room for it."""
        leaves = None
        lacking = self._lacking(1, size_bytes)
        if lacking is not None:
            leaves = self._bands.to_make_room(flow, priority)
            if leaves is None or self._lacking(0, size_bytes - leaves.size_bytes) is not None:
                self._refused[lacking] += 1
                raise QueueFull(retry_after_s=self.predicted_entry_s(flow, priority))
        if patience_s < inf:
            wait_s = self.predicted_entry_s(flow, priority)
            if patience_s <= 0.0 or (wait_s is not None and wait_s > patience_s):
                self._refused["patience"] += 1
                raise WaitTooLong(retry_after_s=None if wait_s is None else wait_s - max(0.0, patience_s))
        if leaves is not None:
            self._refused["evicted"] += 1
            self._refuse(leaves, Evicted(retry_after_s=self.predicted_wait_s(leaves)))

    def _lacking(self, requests: int, size_bytes: int) -> str | None:
        """Which cap forbids that so much more waits."""
        if self.max_waiting is not None and self._bands.waiting + requests > self.max_waiting:
            return "max_waiting"
        if self.max_bytes is not None and self.waiting_bytes + size_bytes > self.max_bytes:
            return "max_bytes"
        return None

    def leave(self, waiter: Waiter) -> bool:
        """The client is gone. Returns whether it still waited: if not, it was granted a slot, which is to be released, or expired."""
        if not waiter.waiting:
            return False
        self._bands.remove(waiter)
        self._gone(waiter)
        self._left += 1
        return True

    def pump(self) -> None:
        """Grant what can be granted. To be called when a target has room again; releases and `resize` see to it themselves.

        Where more waiters cannot be served than are looked at in one call, others are looked at in the next; all are looked at
        where nothing is held, since then no release would come to look again. A `granted` that raises loses its slot, which goes
        to the next; the first such error is raised at the end.
        """
        if self._shut is not None:
            self._shut.clear()  # called by who has just been granted a slot: the loop below goes on
            return
        count = self.count
        shut = self._shut = set[Ready]()
        failed: Exception | None = None
        try:
            while count.held < count.limit:
                waiter = self._bands.first(shut, everything=not count.held)
                if waiter is None:
                    break
                try:
                    self._grant(waiter)
                except Exception as error:  # noqa: BLE001  # raised below: one caller's defect holds up nobody else
                    failed = failed or error
        finally:
            self._shut = None
        if failed is not None:
            raise failed

    def _grant(self, waiter: Waiter) -> None:
        granted = waiter.granted
        self._bands.serve(waiter, self.count.taken)
        self._gone(waiter)
        now = self.now()
        slot = Slot(self, now, now - waiter.since)
        try:
            granted(slot)
        except BaseException:
            slot.release()
            raise

    def _refuse(self, waiter: Waiter, fault: Refused) -> None:
        refused = waiter.refused
        self._bands.remove(waiter)
        self._gone(waiter)
        refused(fault)

    def _gone(self, waiter: Waiter) -> None:
        """It has been taken out of its band: what is counted of it is counted no more, and what it knew is let go of."""
        waiter.waiting = False
        waiter.ready, waiter.granted, waiter.refused = None, _nobody, _nobody
        self.waiting_bytes -= waiter.size_bytes
        self._deadlines.shrink(self._bands.waiting)

    def expire(self) -> float | None:
        """Refuse all whose patience has ended; returns when to call again (monotonic seconds), None where nobody's will end.

        Who comes later may have less patience: look at its `deadline` too.
        """
        now = self.now() + _EARLY_S
        while (waiter := self._deadlines.next()) is not None:
            if waiter.deadline > now:
                return waiter.deadline
            self._expired += 1
            self._refuse(waiter, QueueExpired())
        return None

    def resize(self, capacity: int | None) -> None:
        """Change how many are served at a time. Nobody's slot is revoked; room that appears is granted. Raises ValueError below 0."""
        self.count.resize(capacity)
        if self._bands.waiting:
            self.pump()

    def position(self, waiter: Waiter) -> int:
        """Return its place among those waiting now, from 1 (`Turns.ahead` tells how exact); 0 if it waits no more."""
        return self._bands.position(waiter) if waiter.waiting else 0

    def predicted_wait_s(self, waiter: Waiter) -> float | None:
        """Return how much longer it will probably wait, in seconds; None while that is unknown, 0 if it waits no more."""
        if not waiter.waiting:
            return 0.0
        return self.rate.wait_s(self._bands.before(waiter, self.rate.refill), self.now())

    def predicted_entry_s(self, flow: str, priority: int = 0) -> float | None:
        """Return how long one who came now would probably wait, in seconds; None while that is unknown.

        Who waits with a higher priority is counted; who will yet come with one is not.
        """
        if self.count.held < self.count.limit and not self._bands.waiting:
            return 0.0
        return self.rate.wait_s(self._bands.before_newcomer(flow, priority, self.rate.refill), self.now())

    def statistics(self) -> LineStatistics:
        """Return the figures of this moment."""
        return LineStatistics(
            waiting=self._bands.waiting,
            waiting_bytes=self.waiting_bytes,
            held=self.count.held,
            capacity=self.count.capacity,
            served=self.count.taken,
            left=self._left,
            expired=self._expired,
            refused=dict(self._refused),
            rate_per_s=self.rate.per_s(self.now()),
            flows=self._bands.statistics(),
        )
