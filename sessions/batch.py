"""When small requests of the same key are sent, and with whom: a batch gathers while a call of its key is under way.

The first request goes at once and alone, so an idle gateway adds no latency. Whoever comes while a call of the same key is in flight
waits for company, until

- a call of the key ends (group commit: what gathered meanwhile goes as one),
- the first of those waiting has waited for the window, or
- there are as many inputs as a batch may hold.

So nobody ever waits while nothing is in flight, and nobody longer than the window. (Ray's batcher waited in any case, and added its
window to every time to first token: ray #59681.) Bytes need no bound of their own: members are small by configuration
(`max_bytes`), and there are at most `max_items` of them.

A batch that had to be taken apart (the upstream refused it, or its answer could not be split) sends its members each alone, and for
ten seconds nothing of its key is gathered: an upstream that takes no lists costs one useless call per ten seconds, not one per batch.

Nothing here sends, waits or knows the time. Every method that may let something go returns the batches to send now; `Batches` says
in `next_due` when it wants to be asked again. Whoever sends a batch owes it exactly one `finished` or `apart`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sessions.batch_asks import Ask, BatchKey, merged_body

APART_S: Final = 10.0
_KEYS_APART: Final = 1_024
"""So many keys are remembered as to be sent alone; clients choose keys, and memory must not grow with their fancy."""


class Member:
    """One request that may share a call. A subclass may carry what its owner needs to answer it."""

    __slots__ = ("ask", "batch", "gone")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.batch: Batch | None = None
        """The batch it was sent in; None while it waits."""
        self.gone = False


class Batch:
    """Members that are sent as one request, in the order of their inputs."""

    __slots__ = ("_staying", "ended", "gathering", "members")

    def __init__(self, gathering: Gathering, members: Iterable[Member]) -> None:
        self.gathering = gathering
        self.members = tuple(members)
        self.ended = False
        self._staying = len(self.members)
        for member in self.members:
            member.batch = self

    @property
    def lone(self) -> bool:
        """Has it one member only? Then its body and its answer are that member's, byte for byte."""
        return len(self.members) == 1

    @property
    def empty(self) -> bool:
        """Has everybody left? Then the call is for nobody."""
        return not self._staying

    @property
    def asks(self) -> list[Ask]:
        """What the members ask, in order; members that left since it was sent included, because the answer holds their part."""
        return [member.ask for member in self.members]

    def body(self) -> bytes:
        """The request to send."""
        return merged_body(self.asks)

    def leave(self, member: Member) -> bool:
        """One has gone away; its part is nobody's. Returns whether it was the last, and the call is to be cancelled."""
        if member.gone:
            return False
        member.gone = True
        self._staying -= 1
        return not self._staying and not self.ended


class Gathering:
    """Those of one key: who waits, and how many calls are in flight."""

    __slots__ = ("_items", "_waiting", "due_at", "flying", "key", "max_items", "window_s")

    def __init__(self, key: BatchKey, *, window_s: float, max_items: int) -> None:
        self.key = key
        self.window_s = window_s
        self.max_items = max_items
        self.flying = 0
        self.due_at: float | None = None
        """When those waiting have to go; None while nobody waits."""
        self._waiting: list[Member] = []
        self._items = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, member: Member, now: float, *, alone: bool) -> list[Batch]:
        """Take one in. At most one batch leaves; the new member may be in it or wait for the next."""
        if alone or not self.flying:
            return [self._send([member])]
        size = len(member.ask.items)
        let_go = self.let_go() if self._items + size > self.max_items else []
        if not self._waiting:
            self.due_at = now + self.window_s
        self._waiting.append(member)
        self._items += size
        return let_go or (self.let_go() if self._items >= self.max_items else [])

    def leave(self, member: Member) -> Batch | None:
        """One has gone away, at any time. Returns the batch whose last member it was: cancel its call."""
        if member.batch is not None:
            return member.batch if member.batch.leave(member) else None
        if not member.gone:
            member.gone = True
            self._waiting.remove(member)
            self._items -= len(member.ask.items)
            if not self._waiting:
                self.due_at = None
        return None

    def finished(self, batch: Batch) -> list[Batch]:
        """The call of ``batch`` is over, however it ended: what gathered meanwhile goes."""
        batch.ended = True
        self.flying -= 1
        return self.let_go()

    def apart(self, batch: Batch) -> list[Batch]:
        """``batch`` could not be answered as one: its members that are still there go each alone, and so do those who wait."""
        batch.ended = True
        self.flying -= 1
        members = [member for member in (*batch.members, *self._waiting) if not member.gone]
        self._waiting, self._items, self.due_at = [], 0, None
        return [self._send([member]) for member in members]

    def let_go(self) -> list[Batch]:
        """Those who wait go now, together."""
        if not self._waiting:
            return []
        members, self._waiting = self._waiting, []
        self._items, self.due_at = 0, None
        return [self._send(members)]

    def _send(self, members: list[Member]) -> Batch:
        self.flying += 1
        return Batch(self, members)


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Of this moment: calls in flight, requests waiting, keys. Since the beginning: requests that joined, calls they became, those
    of the calls with one member, and how many were taken apart.
    """

    flying: int
    waiting: int
    keys: int
    joined: int
    calls: int
    lone: int
    apart: int


class Batches:
    """The gatherings of one model. A key costs memory while somebody waits or flies, no longer."""

    def __init__(self, *, window_s: float, max_items: int) -> None:
        """Gather up to ``max_items`` inputs for at most ``window_s`` seconds. Raises ValueError for fewer than 2, or below 0 s."""
        if max_items < 2 or window_s < 0:  # noqa: PLR2004  # two make a batch
            raise ValueError(f"a batch of {max_items} inputs within {window_s} s is none; give at least 2, and 0 s or more")
        self._window_s = window_s
        self._max_items = max_items
        self._gatherings: dict[BatchKey, Gathering] = {}
        self._due: dict[Gathering, None] = {}  # in the order of their deadlines, since every window is as long
        self._alone_until: dict[BatchKey, float] = {}
        self._joined = self._calls = self._lone = self._apart = 0

    def join(self, member: Member, now: float) -> list[Batch]:
        """Take one in; returns what goes now."""
        key = member.ask.key
        gathering = self._gatherings.get(key)
        if gathering is None:
            gathering = self._gatherings[key] = Gathering(key, window_s=self._window_s, max_items=self._max_items)
        self._joined += 1
        return self._noted(gathering, gathering.join(member, now, alone=self._is_alone(key, now)))

    def leave(self, member: Member) -> Batch | None:
        """One has gone away, at any time. Returns the batch whose last member it was: cancel its call, then say `finished`."""
        gathering = self._gatherings.get(member.ask.key)
        if gathering is None:  # its batch is over
            return None
        emptied = gathering.leave(member)
        self._noted(gathering, [])
        return emptied

    def finished(self, batch: Batch) -> list[Batch]:
        """The call of ``batch`` is over, however it ended; returns what goes now. Only the first time counts."""
        if batch.ended:  # its gathering may have been forgotten since, and another one have its key
            return []
        return self._noted(batch.gathering, batch.gathering.finished(batch))

    def apart(self, batch: Batch, now: float) -> list[Batch]:
        """The call of ``batch`` is over and answers nobody; returns its members, each to be sent alone. Only the first time counts."""
        if batch.ended:
            return []
        self._apart += 1
        until = self._alone_until
        until.pop(batch.gathering.key, None)
        until[batch.gathering.key] = now + APART_S
        if len(until) > _KEYS_APART:
            del until[next(iter(until))]
        return self._noted(batch.gathering, batch.gathering.apart(batch))

    def due(self, now: float) -> list[Batch]:
        """What has waited for the window and goes now. To be asked at `next_due`."""
        let_go: list[Batch] = []
        while (at := self.next_due) is not None and at <= now:
            gathering = next(iter(self._due))
            let_go += self._noted(gathering, gathering.let_go())
        return let_go

    @property
    def next_due(self) -> float | None:
        """When `due` wants to be asked; None while nobody waits."""
        for gathering in self._due:
            return gathering.due_at
        return None

    def statistics(self) -> BatchStatistics:
        """Return the figures of this moment."""
        gatherings = self._gatherings.values()
        return BatchStatistics(
            flying=sum(gathering.flying for gathering in gatherings),
            waiting=sum(map(len, gatherings)),
            keys=len(gatherings),
            joined=self._joined,
            calls=self._calls,
            lone=self._lone,
            apart=self._apart,
        )

    def _noted(self, gathering: Gathering, let_go: list[Batch]) -> list[Batch]:
        """Count what goes, and keep the gathering and its deadline just as long as there is something to keep."""
        for batch in let_go:
            self._calls += 1
            self._lone += batch.lone
        if let_go or gathering.due_at is None:
            self._due.pop(gathering, None)
        if gathering.due_at is not None:
            self._due.setdefault(gathering)
        elif not gathering.flying:
            self._gatherings.pop(gathering.key, None)
        return let_go

    def _is_alone(self, key: BatchKey, now: float) -> bool:
        until = self._alone_until.get(key)
        return until is not None and now < until
