"""Until when each waits, soonest first; who is gone is dropped when they are as many as who is left."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

_SLACK: Final = 64


class Patient(Protocol):
    """Someone who waits until `deadline` (monotonic seconds), or until `waiting` is set to False."""

    @property
    def number(self) -> int: ...
    @property
    def deadline(self) -> float: ...
    @property
    def waiting(self) -> bool: ...


P = TypeVar("P", bound=Patient)


class Deadlines(Generic[P]):
    """A heap of deadlines. Each one's `number` must be its own."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        """Nobody waits."""
        self._heap: list[tuple[float, int, P]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, one: P) -> None:
        """It waits from now on."""
        heappush(self._heap, (one.deadline, one.number, one))

    def next(self) -> P | None:
        """Return whose deadline comes first; None if nobody waits."""
        heap = self._heap
        while heap:
            one = heap[0][2]
            if one.waiting:
                return one
            heappop(heap)
        return None

    def shrink(self, waiting: int) -> None:
        """Drop those gone, if they are more than `waiting` and a few."""
        if len(self._heap) > 2 * waiting + _SLACK:
            self._heap = [entry for entry in self._heap if entry[2].waiting]
            heapify(self._heap)
