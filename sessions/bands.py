"""Strict priorities: nobody of a band is served while somebody of a higher one can be."""

from __future__ import annotations

from heapq import nlargest
from typing import Final, Generic, Protocol, TypeVar

from sessions.turns import FlowStatistics, Ready, Turns, Waiting

_FLOWS_SHOWN: Final = 20


class Ranked(Waiting, Protocol):
    """Someone who waits with a priority; the higher number goes first."""

    @property
    def priority(self) -> int: ...


W = TypeVar("W", bound=Ranked)


class Bands(Generic[W]):
    """Who waits, by priority; within one by `Turns`. Bands without anybody are forgotten."""

    __slots__ = ("_bands", "waiting")

    def __init__(self) -> None:
        """Nobody waits."""
        self.waiting = 0
        self._bands: dict[int, Turns[W]] = {}  # highest first

    def add(self, waiter: W) -> None:
        """It waits from now on."""
        band = self._bands.get(waiter.priority)
        if band is None:
            band = self._bands[waiter.priority] = Turns()
            self._bands = dict(sorted(self._bands.items(), reverse=True))
        band.add(waiter)
        self.waiting += 1

    def remove(self, waiter: W) -> None:
        """It waits no more. It must have."""
        band = self._bands[waiter.priority]
        band.remove(waiter)
        self._one_less(waiter.priority, band)

    def serve(self, waiter: W, grants: int) -> None:
        """It waits no more, since it is served, as the line's grant number `grants`."""
        band = self._bands[waiter.priority]
        band.serve(waiter, grants)
        self._one_less(waiter.priority, band)

    def _one_less(self, priority: int, band: Turns[W]) -> None:
        self.waiting -= 1
        if not band.waiting:
            del self._bands[priority]

    def first(self, shut: set[Ready], *, everything: bool) -> W | None:
        """Return who is to be served next; see `Turns.first`."""
        for band in self._bands.values():
            found = band.first(shut, everything=everything)
            if found is not None:
                return found
        return None

    def to_make_room(self, flow: str, priority: int) -> W | None:
        """Return who should give up its place to a newcomer where no more may wait; None if the newcomer is who should not wait.

        Of the lowest priority the last of the longest flow, if the newcomer is more urgent or of a flow that stays shorter than
        that one: else whoever sends most would fill the line, and all fairness would be to those who wait in it.
        """
        if not self._bands:
            return None
        lowest = next(reversed(self._bands))
        band = self._bands[lowest]
        if lowest < priority or (lowest == priority and band.length(flow) + 1 < band.longest()):
            return band.last_of_longest()
        return None

    def position(self, waiter: W) -> int:
        """Return its place, from 1, in the order in which those who wait now will be served; see `Turns.ahead`."""
        band = self._bands[waiter.priority]
        return self._above(waiter.priority) + band.ahead(waiter.flow, band.depth(waiter)) + 1

    def before(self, waiter: W, refill: float) -> float:
        """Return how many will probably be served before it; see `Turns.before`."""
        band = self._bands[waiter.priority]
        return band.before(waiter.flow, band.depth(waiter), self._above(waiter.priority), refill)

    def before_newcomer(self, flow: str, priority: int, refill: float) -> float:
        """Return how many will probably be served before one who comes now."""
        above = self._above(priority)
        band = self._bands.get(priority)
        return above if band is None else band.before(flow, None, above, refill)

    def _above(self, priority: int) -> int:
        return sum(band.waiting for other, band in self._bands.items() if other > priority)

    def statistics(self) -> tuple[FlowStatistics, ...]:
        """Return the figures of the flows with most waiting, twenty at most."""
        flows = (figures for priority, band in self._bands.items() for figures in band.statistics(priority))
        return tuple(nlargest(_FLOWS_SHOWN, flows, key=lambda flow: flow.waiting))
