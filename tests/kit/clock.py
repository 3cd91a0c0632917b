"""A clock that stands still until it is told to go on."""

import random


class ManualClock:
    """The `streamgate.clock.Clock` of a test: time moves by `advance` alone, and chance repeats itself."""

    def __init__(self, now: float = 1000.0, wall: float = 1_750_000_000.0, seed: int = 0) -> None:
        self._now = now
        self._wall = wall
        self._chance = random.Random(seed)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch; moves along with `now`."""
        return self._wall

    def random(self) -> float:
        """The next number in [0, 1), the same ones for the same seed."""
        return self._chance.random()

    def token(self, size_bytes: int) -> bytes:
        """The next bytes, guessable."""
        return self._chance.randbytes(size_bytes)

    def advance(self, by_s: float) -> float:
        """Let `by_s` seconds pass; returns the new `now`. Time never goes back: a negative one is a ValueError."""
        if by_s < 0:
            raise ValueError(f"time cannot go back by {-by_s:g} s")
        self._now += by_s
        self._wall += by_s
        return self._now
