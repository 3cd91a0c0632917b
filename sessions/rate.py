"""How fast a line is served, measured from what it holds and gives back. No clock: `now` is monotonic seconds."""

from __future__ import annotations

from typing import Final

from streamgate.lease import Count


class ServiceRate:
    """The mean time for which a slot is held: slot-seconds that went by, divided by slots that came back.

    Unlike the mean of the times of those that came back, this counts who is still being served: a model that stalls is seen to
    stall, and short answers, which come back first, do not make it look fast. Both sums fade by each slot that comes back, so the
    measure follows the last three fillings of all slots, or the last two dozen slots where there are few.
    """

    __slots__ = ("_arrived", "_at", "_count", "_held_s", "_returned", "samples")

    FEWEST: Final = 8
    """Before this many slots came back, or as many as are held, nothing is known."""

    def __init__(self, count: Count, now: float) -> None:
        """Know nothing yet. `count` is what counts the slots; tell before it changes."""
        self._count = count
        self._at = now
        self._held_s = 0.0
        self._returned = 0.0
        self._arrived = 0.0
        self.samples = 0

    def takes(self, now: float) -> None:
        """A slot is about to be taken."""
        self._held_s += self._count.held * (now - self._at)
        self._at = now

    def returns(self, now: float) -> None:
        """A slot is about to come back."""
        held = self._count.held
        kept = 1.0 - 1.0 / (24 + 3 * held)
        self._held_s = (self._held_s + held * (now - self._at)) * kept
        self._returned = (self._returned + 1.0) * kept
        self._arrived *= kept
        self._at = now
        self.samples += 1

    def arrives(self) -> None:
        """One more wants a slot, and will wait for it if it must."""
        self._arrived += 1.0

    @property
    def refill(self) -> float:
        """How many arrived, of late, for each that was served; at most 1."""
        return min(1.0, self._arrived / self._returned) if self._returned else 0.0

    def hold_s(self, now: float) -> float | None:
        """Return for how long a slot is held, in seconds; None while too little is known."""
        held = self._count.held
        if self.samples < max(self.FEWEST, held):
            return None
        return (self._held_s + held * (now - self._at)) / self._returned

    def per_s(self, now: float) -> float | None:
        """Return how many are served per second when all slots are in use; None while that is unknown."""
        hold_s = self.hold_s(now)
        capacity = self._count.capacity
        return (self._count.held if capacity is None else capacity) / hold_s if hold_s else None

    def wait_s(self, before: float, now: float) -> float | None:
        """Return when the one will be served who has `before` others before him, in seconds from now.

        None while that is unknown, and where slots are free: then it is something else that is waited for.
        """
        count = self._count
        hold_s = self.hold_s(now)
        if hold_s is None or not 0 < count.limit <= count.held:
            return None
        return (before + 1 + count.held - count.limit) * hold_s / count.limit
