"""What one worker may use of slots that it shares, as far as it knows; what it asks for, and what an answer means.

Two numbers: `granted` is what Redis counts as ours, `capacity` what our queue may fill. Capacity is never above granted, and it is
lowered before Redis is told that something comes back, so that what another worker is given is free in truth. Granted is for
a time: nine tenths of what Redis allows, counted from before the question was sent.

Without an answer nothing grows, and a question that was lost counts as answered with the least. When the time is over, each
worker goes on alone with an equal part of the limit, at least one slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

NO_HURRY: Final = 0
GIVE_SPARE: Final = 1
"""Another worker has no room left: what is above the target goes back at once."""
GIVE_UNUSED: Final = 2
"""More is wanted than there is: whatever is not used goes back at once."""

SAFETY: Final = 0.9
"""The part of a grant's time that is used; the rest is for clocks, and for a loop that wakes late."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question: `held` slots are in use, not more than `keep` will be until it is answered, `want` is held and waiting."""

    held: int
    keep: int
    want: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What slots.lua returns; `target` is what would be fair, `press` how much hurry there is to give, `live` counts workers."""

    granted: int
    target: int
    press: int
    live: int


class Grant:
    """One worker's part of one limit. Pure: `now` is monotonic seconds, and nothing here waits."""

    __slots__ = (
        "_asked", "_kept", "_offered", "_press", "_target", "_ttl_s", "_until", "_workers", "capacity", "granted", "held",
        "is_alone", "limit", "live", "want",
    )  # fmt: skip

    def __init__(self, limit: int, workers: int, now: float, *, ttl_s: float, patience_s: float) -> None:
        """Own nothing yet. `workers` is how many share the limit as far as is configured; without any answer for `patience_s` this one
        goes on alone. Raises ValueError where a number is not positive.
        """
        if limit < 1 or workers < 1 or ttl_s <= 0 or patience_s <= 0:
            message = f"limit {limit}, workers {workers}, ttl {ttl_s} s and patience {patience_s} s must be positive"
            raise ValueError(message)
        self.limit = limit
        self.capacity = 0
        self.granted = 0
        self.held = 0
        self.want = 0
        self.live = 0
        self.is_alone = False
        self._workers = workers
        self._ttl_s = ttl_s
        self._until = now + patience_s
        self._target = 0
        self._press = NO_HURRY
        self._asked = -1
        self._kept = 0
        self._offered = 0

    @property
    def workers(self) -> int:
        """How many share the limit: as configured, or as last seen where that is more."""
        return max(self._workers, self.live)

    @property
    def alone(self) -> int:
        """The capacity without Redis."""
        return max(1, self.limit // self.workers)

    def demand(self, held: int, waiting: int) -> bool:
        """Note what is held and waiting; True when Redis should hear of it now."""
        self.held = held
        self.want = held + waiting
        self._offered = 0
        return self.is_due

    @property
    def is_due(self) -> bool:
        """Whether a question would change something: more is wanted than was asked for, or something is to be given back."""
        if self.is_alone:
            return False
        if self.want >= self.capacity and self._asked < self.want and self._asked <= self._target:
            return True
        return self._press > NO_HURRY and max(self.used, self._lowered()) < self.granted

    @property
    def is_short(self) -> bool:
        """Whether a fair part is still to come: all that is granted is used, and the target is higher."""
        return not self.is_alone and self.want >= self.granted and self._target > self.granted

    @property
    def is_wanting(self) -> bool:
        """Whether somebody waits."""
        return self.want > self.capacity

    @property
    def used(self) -> int:
        """What may be held by now: as was told, and who waited then may have taken what was offered since."""
        return max(self.held, min(self.want, self._offered))

    def _offer(self, capacity: int) -> None:
        """Change the capacity."""
        if capacity > self.capacity:
            self._offered = capacity
        self.capacity = capacity

    def _lowered(self) -> int:
        """The capacity that fairness leaves, as far as it is known."""
        if self._press == GIVE_UNUSED:
            return min(self.granted, self._target, self.want)
        return min(self.granted, max(self._target, self.want))

    def ask(self) -> Ask:
        """Lower the capacity to what is to be kept, and return the question."""
        if not self.is_alone:
            self._offer(min(self._lowered(), self.limit))
        self._kept = self.used if self.is_alone else max(self.used, self.capacity)
        self._asked = self.want
        return Ask(held=self.used, keep=self._kept, want=self.want)

    def answered(self, answer: Answer, sent_at: float) -> None:
        """Take what was granted to the question sent at `sent_at`."""
        self.is_alone = False
        self.granted = answer.granted
        self.live = answer.live
        self._target = answer.target
        self._press = answer.press
        self._until = sent_at + SAFETY * self._ttl_s
        fair = answer.target if answer.press == GIVE_UNUSED else max(answer.target, self.want)
        self._offer(min(answer.granted, fair, self.limit))

    def heard(self, target: int, press: int) -> None:
        """Take in that the target has changed; a question should follow."""
        if not self.is_alone:
            self._target = target
            self._press = press

    def failed(self) -> None:
        """Count the last question as answered with the least: Redis may have heard it."""
        self._asked = -1
        if not self.is_alone:
            self.granted = min(self.granted, self._kept)

    def expire(self, now: float) -> None:
        """Go on alone when the grant's time is over."""
        if not self.is_alone and now >= self._until:
            self.is_alone = True
            self.granted = 0
            self._offer(self.alone)

    def left_s(self, now: float) -> float:
        """Seconds until the grant ends; infinite where there is none."""
        return math.inf if self.is_alone else max(0.0, self._until - now)

    def resize(self, limit: int) -> None:
        """Change the limit; a lower one holds at once, a higher one when Redis agrees. Raises ValueError below 1."""
        if limit < 1:
            message = f"limit is {limit}; give a number from 1 up"
            raise ValueError(message)
        self.limit = limit
        self._offer(self.alone if self.is_alone else min(self.capacity, limit))
