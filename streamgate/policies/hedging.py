"""Whether a call that waits for its first byte may be sent a second time, to whoever answers first.

A hedge buys a shorter tail with work done twice. So it is rationed, and off as soon as the model is busy: there the
waiting is queueing, and a second copy only lengthens the queue (Dean and Barroso, The Tail at Scale, 2013).
"""

from __future__ import annotations

from typing import Final

import msgspec


class HedgingStatistics(msgspec.Struct, frozen=True):
    """`calls` and `hedges` are of the window as of the last event; the refusals count since the beginning, by reason."""

    calls: int
    hedges: int
    refused_busy: int
    refused_share: int


class Hedging:
    """One model's hedges: after how long, and of how many calls.

    `after_s` is when to ask, counted from the sending of a call that has had no first byte yet. Of the calls of a minute
    no more than `share` are hedged, none of the first ones: with 5 % it takes twenty calls to pay for one. The window
    is kept in twelve slots and moves by whole ones.
    """

    __slots__ = ("_calls", "_hedges", "_refused_busy", "_refused_share", "_slot", "_spent", "_total", "after_s", "share")

    BUSY: Final = 0.8
    """Of the capacity in use: above it nothing is hedged."""
    _SLOTS: Final = 12
    _SLOT_S: Final = 5.0

    def __init__(self, after_s: float, share: float = 0.05) -> None:
        """Hedge after so long; raises ValueError when `after_s` is not above 0 or `share` not between 0 and 1."""
        if not (after_s > 0.0 and 0.0 <= share <= 1.0):
            message = f"after {after_s} s and a share of {share} make no hedging; use a time above 0 and a share from 0 to 1"
            raise ValueError(message)
        self.after_s = after_s
        self.share = share
        self._slot = 0
        self._calls = [0] * self._SLOTS
        self._hedges = [0] * self._SLOTS
        self._total = 0
        self._spent = 0
        self._refused_busy = 0
        self._refused_share = 0

    def deposit(self, now: float) -> None:
        """Count one call, at its first attempt."""
        self._move_to(now)
        self._calls[self._slot % self._SLOTS] += 1
        self._total += 1

    def may_hedge(self, now: float, busy: float, waiting: int) -> bool:
        """Pay for one hedge if that is allowed now; the caller then sends it.

        `busy` is the part of the model's capacity that is in flight (0.0 where it has no limit), `waiting` the length of
        its queue.
        """
        if waiting > 0 or busy > self.BUSY:
            self._refused_busy += 1
            return False
        self._move_to(now)
        if self._spent + 1 > self._total * self.share:
            self._refused_share += 1
            return False
        self._hedges[self._slot % self._SLOTS] += 1
        self._spent += 1
        return True

    def _move_to(self, now: float) -> None:
        """Forget the slots that lie outside the window ending at `now`; a reading that is late moves nothing."""
        slot = int(now / self._SLOT_S)
        for passed in range(self._slot + 1, min(slot, self._slot + self._SLOTS) + 1):
            place = passed % self._SLOTS
            self._total -= self._calls[place]
            self._spent -= self._hedges[place]
            self._calls[place] = self._hedges[place] = 0
        self._slot = max(slot, self._slot)

    def statistics(self) -> HedgingStatistics:
        """Return the figures as of the last event."""
        return HedgingStatistics(
            calls=self._total, hedges=self._spent, refused_busy=self._refused_busy, refused_share=self._refused_share
        )
