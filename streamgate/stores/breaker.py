"""Whether Redis is asked at all: after a few failures in a row nobody waits for it, and now and then one call finds out."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

FAILURES: Final = 3
OPEN_S: Final = 1.0

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed: every call passes. Open: none does, for a while. Half open: one at a time, and its outcome decides.

    Without it every request pays the deadline for as long as Redis is away, and the deadline becomes the outage.
    """

    __slots__ = ("_failed", "_failures", "_open_s", "_retry_at", "state")

    def __init__(self, failures: int = FAILURES, open_s: float = OPEN_S) -> None:
        """Open after `failures` in a row, for `open_s` seconds; raises ValueError where one of them is not positive."""
        if failures < 1 or open_s <= 0:
            message = f"{failures} failures and {open_s} s make no breaker; use positive numbers"
            raise ValueError(message)
        self.state: BreakerState = "closed"
        self._failures = failures
        self._open_s = open_s
        self._failed = 0
        self._retry_at = 0.0

    def try_pass(self, now: float) -> bool:
        """Let a call through, or not. Whoever passed tells `succeeded` or `failed`, once.

        A call sent to find out that never tells is given up after `open_s`; another one is sent then.
        """
        if self.state == "closed":
            return True
        if now < self._retry_at:
            return False
        self.state = "half_open"
        self._retry_at = now + self._open_s
        return True

    def succeeded(self) -> None:
        """Count an answer, whatever it said: whoever answers is there."""
        self.state = "closed"
        self._failed = 0

    def failed(self, now: float) -> None:
        """Count a call without an answer in time."""
        self._failed += 1
        if self.state == "half_open" or self._failed >= self._failures:
            self.state = "open"
            self._retry_at = now + self._open_s
