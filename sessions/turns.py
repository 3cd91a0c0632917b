"""Whose turn it is among those who wait with the same priority: flows in turn, first come first served within a flow.

Every flow with someone waiting has one turn a round. A flow that begins to wait goes behind all others, whether it is new, was
idle, or left and came back: idleness earns nothing, leaving gains nothing. Who cannot be served now keeps its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

Ready: TypeAlias = Callable[[], bool]
"""May who waits with this be served right now? Asks without changing anything; hashable."""

K = TypeVar("K")
V = TypeVar("V")

FLOWS_LOOKED_AT: Final = 32
QUEUES_LOOKED_AT: Final = 8
"""Of more flows, or more different `Ready` in a flow, twice this many are looked at at a time: the first ones and some others."""

_FLOWS_COUNTED: Final = 64
_GAP_SHARE: Final = 0.25


class Waiting(Protocol):
    """Someone who waits: of which flow, as which arrival, and what makes it ready (None: always is)."""

    @property
    def flow(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def ready(self) -> Ready | None: ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class FlowStatistics:
    """A flow that waits: how many of it, and how many were served since it last had nobody waiting."""

    flow: str
    priority: int
    waiting: int
    served: int


class _Few:
    """Walks over a bounded part of something long, and over other parts the next times, so that none is left out for ever."""

    __slots__ = ("_at", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._at = most

    def of(self, things: OrderedDict[K, V], *, everything: bool) -> Iterator[tuple[K, V]]:
        """The first ones and as many others; all where there are no more than that, or where `everything` is asked for."""
        most = self._most
        size = len(things)
        if everything or size <= 2 * most:
            return iter(things.items())
        start = self._at if self._at < size else most
        self._at = start + most
        return chain(islice(things.items(), most), islice(things.items(), start, start + most))


class _Flow(Generic[W]):
    """Those of one flow, apart by what makes them ready; each queue in the order of arrival."""

    __slots__ = ("few", "gap", "last", "name", "queues", "served", "turn", "waiting")

    def __init__(self, name: str, turn: int) -> None:
        self.name = name
        self.turn = turn
        self.waiting = 0
        self.served = 0
        self.gap = 0.0
        self.last = -1
        self.queues: OrderedDict[Ready | None, OrderedDict[W, None]] = OrderedDict()
        self.few = _Few(QUEUES_LOOKED_AT)

    def first(self, shut: set[Ready], *, everything: bool) -> W | None:
        """The one who came first of those who can be served. What says no is added to `shut`, and not asked while it is there."""
        best: W | None = None
        for ready, queue in self.few.of(self.queues, everything=everything):
            if ready is not None and ready in shut:
                continue
            head = next(iter(queue))
            if best is not None and best.number < head.number:
                continue
            if ready is None or ready():
                best = head
            else:
                shut.add(ready)
        return best

    def depth(self, waiter: W) -> int:
        """How many of this flow came before `waiter`."""
        return sum(1 for queue in self.queues.values() for one in queue if one.number < waiter.number)

    def pass_turn(self, turn: int, grants: int) -> None:
        """One of it is served, as the line's grant number `grants`; `turn` is its next turn."""
        if self.last >= 0:
            gap = grants - self.last
            self.gap += (gap - self.gap) * _GAP_SHARE if self.gap else gap
        self.last = grants
        self.turn = turn
        self.served += 1


class Turns(Generic[W]):
    """One priority's waiters. Flows without any are forgotten."""

    __slots__ = ("_deep", "_few", "_flows", "_next", "waiting")

    def __init__(self) -> None:
        """Nobody waits."""
        self.waiting = 0
        self._flows: OrderedDict[str, _Flow[W]] = OrderedDict()
        self._next = 0
        self._deep: list[
            int
        ] = []  # at i: how many flows have more than i waiting; counting them for each arrival would take long
        self._few = _Few(FLOWS_LOOKED_AT)

    def add(self, waiter: W) -> None:
        """Put it behind the others of its flow; a flow that had none waiting goes behind all others."""
        flow = self._flows.get(waiter.flow)
        if flow is None:
            flow = self._flows[waiter.flow] = _Flow(waiter.flow, self._next)
            self._next += 1
        queue = flow.queues.get(waiter.ready)
        if queue is None:
            queue = flow.queues[waiter.ready] = OrderedDict()
        queue[waiter] = None
        if flow.waiting == len(self._deep):
            self._deep.append(0)
        self._deep[flow.waiting] += 1
        flow.waiting += 1
        self.waiting += 1

    def remove(self, waiter: W) -> None:
        """Take it out, wherever it stands. It must be in."""
        flow = self._flows[waiter.flow]
        queue = flow.queues[waiter.ready]
        del queue[waiter]
        if not queue:
            del flow.queues[waiter.ready]
        flow.waiting -= 1
        self.waiting -= 1
        self._deep[flow.waiting] -= 1
        if not self._deep[flow.waiting]:
            self._deep.pop()
        if not flow.waiting:
            del self._flows[waiter.flow]

    def first(self, shut: set[Ready], *, everything: bool) -> W | None:
        """Return who is to be served next, of those who can be served now; None if none of those looked at can be."""
        for _, flow in self._few.of(self._flows, everything=everything):
            found = flow.first(shut, everything=everything)
            if found is not None:
                return found
        return None

    def longest(self) -> int:
        """Return how many of the flow wait of which most do."""
        return len(self._deep)

    def length(self, name: str) -> int:
        """Return how many of this flow wait."""
        flow = self._flows.get(name)
        return 0 if flow is None else flow.waiting

    def last_of_longest(self) -> W:
        """Return who came last of the flow of which most wait. Somebody must."""
        flow = max(self._flows.values(), key=lambda flow: flow.waiting)
        return max((next(reversed(queue)) for queue in flow.queues.values()), key=lambda waiter: waiter.number)

    def serve(self, waiter: W, grants: int) -> None:
        """It is served, as the line's grant number `grants`: take it out; its flow has had its turn."""
        flow = self._flows[waiter.flow]
        flow.pass_turn(self._next, grants)
        self._next += 1
        self._flows.move_to_end(waiter.flow)
        self.remove(waiter)

    def depth(self, waiter: W) -> int:
        """Return how many of its flow came before it."""
        return self._flows[waiter.flow].depth(waiter)

    def ahead(self, name: str, depth: int | None) -> int:
        """Return how many of those who wait now have their turn before the one who is number `depth` (from 0) of its flow.

        None means one who would come now. Each flow has as many turns before, if it has so many waiting; who goes before in the
        last round is counted where there are few flows, and elsewhere guessed from how far back in the rotation the flow stands.
        """
        flow = self._flows.get(name)
        if flow is None:
            return len(self._flows)
        if depth is None:
            depth = flow.waiting
        return sum(self._deep[:depth]) + self._this_round(flow, depth)

    def before(self, name: str, depth: int | None, above: int, refill: float) -> float:
        """Return how many the line will serve before that one, those included who are expected to come and have their turn first.

        `above` wait now with a higher priority; `refill` is how many arrive, of late, for each that is served, 0 to 1. Where others
        keep coming, a flow is served once in as many grants as of late. Where they do not, others are soon gone: then it cannot be
        more than if only their share of the arrivals came on top of those who wait.
        """
        ahead = above + self.ahead(name, depth)
        flow = self._flows.get(name)
        if flow is None:
            return ahead
        if depth is None:
            depth = flow.waiting
        gap = max(1.0, flow.gap or len(self._flows))
        paced = above + depth * gap + self._this_round(flow, 0)
        refilled = ahead / (1.0 - refill * (1.0 - 1.0 / gap))
        return max(float(ahead), min(paced, refilled))

    def _this_round(self, flow: _Flow[W], depth: int) -> int:
        """How many flows with more than `depth` waiting stand before this one in the rotation."""
        if len(self._flows) <= _FLOWS_COUNTED:
            before = 0
            for other in self._flows.values():
                if other is flow:
                    break
                before += other.waiting > depth
            return before
        front = next(iter(self._flows.values())).turn
        as_deep = self._deep[depth] if depth < len(self._deep) else 0
        return as_deep * (flow.turn - front) // (self._next - front)

    def statistics(self, priority: int) -> list[FlowStatistics]:
        """Return the figures of each flow."""
        return [FlowStatistics(flow.name, priority, flow.waiting, flow.served) for flow in self._flows.values()]
