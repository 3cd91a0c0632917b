"""Time and randomness enter here and nowhere else, so that every decision can be driven from a test."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """What effects need of the outside: two clocks and chance. Decisions get the values, never the clock."""

    def now(self) -> float:
        """Monotonic seconds; the ``now`` of every decision."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch; for records and Retry-After dates only."""
        ...

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes, for identifiers."""
        ...


class SystemClock:
    """The machine's own clock and randomness."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    random = staticmethod(random.random)
    token = staticmethod(os.urandom)
