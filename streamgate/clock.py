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


_POOL_BYTES = 8_192


class SystemClock:
    """The machine's own clock and randomness. Identifiers are cut from a pool, since asking the system costs a call each."""

    def __init__(self) -> None:
        self._pool = b""
        self._used = _POOL_BYTES

    def token(self, size_bytes: int) -> bytes:
        """Unguessable bytes, never handed out twice."""
        start = self._used
        end = start + size_bytes
        if end > _POOL_BYTES:
            self._pool = os.urandom(max(_POOL_BYTES, size_bytes))
            start, end = 0, size_bytes
        self._used = end
        return self._pool[start:end]

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    random = staticmethod(random.random)
