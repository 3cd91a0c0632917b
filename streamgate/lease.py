"""A permit owned from the moment it exists, and given back exactly once.

What is counted is what uncounts: a `Lease` that `take` returned is the only thing that lowers `held` again, and only
the first time it is told to. A stream holds its lease until its last byte, not until its head.

One event loop owns a count: nothing here is safe to share between threads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_UNLIMITED = sys.maxsize


@dataclass(frozen=True, slots=True)
class CountStatistics:
    """What a count looked like at one moment; `capacity` is None where nothing limits it."""

    held: int
    capacity: int | None
    taken: int
    refused: int


class Count:
    """How many permits are out, and how many may be.

    `held` is read by pickers on every request, so it is a plain attribute; write to it only through leases.
    `limit` is `capacity` as a number one can compare with: a very large one where there is no capacity.
    """

    __slots__ = ("held", "limit", "refused", "taken")

    def __init__(self, capacity: int | None = None) -> None:
        """Permit `capacity` leases at a time, any number when None; raises ValueError when it is negative."""
        self.held = 0
        self.taken = 0
        self.refused = 0
        self.limit = 0
        self.resize(capacity)

    @property
    def capacity(self) -> int | None:
        """The number of leases that may be out at a time; None means any number."""
        return None if self.limit == _UNLIMITED else self.limit

    def resize(self, capacity: int | None) -> None:
        """Change the capacity while leases are out: none is revoked, new ones wait until `held` has fallen below it."""
        if capacity is not None and capacity < 0:
            message = f"capacity is {capacity}; give a number from 0 up, or None for no limit"
            raise ValueError(message)
        self.limit = _UNLIMITED if capacity is None else capacity

    def take(self) -> Lease | None:
        """Return a lease to be released by whoever holds it, or None when all are out."""
        if self.held >= self.limit:
            self.refused += 1
            return None
        return Lease(self)

    def statistics(self) -> CountStatistics:
        """Return the figures of this moment."""
        return CountStatistics(held=self.held, capacity=self.capacity, taken=self.taken, refused=self.refused)


class Lease:
    """One permit out of a `Count`; a context manager that releases on the way out.

    Made by `Count.take`, which alone asks whether there is room.
    """

    __slots__ = ("_count",)

    def __init__(self, count: Count) -> None:
        """Count one more; the lease owns that one from here on."""
        self._count: Count | None = count
        count.held += 1
        count.taken += 1

    @property
    def released(self) -> bool:
        """Whether the permit has been given back."""
        return self._count is None

    def release(self) -> None:
        """Give the permit back; every call after the first does nothing."""
        count = self._count
        if count is not None:
            self._count = None
            count.held -= 1

    def __enter__(self) -> Self:
        """Hold the permit for the length of a `with` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release, whatever ended the block."""
        self.release()
