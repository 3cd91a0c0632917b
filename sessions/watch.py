"""Deadlines of all that one worker has open: one timer, set for the nearest of them.

Most exchanges end long before a deadline of theirs. So an exchange costs a place in a set and a comparison, and only when the
timer goes off is anybody looked at. A deadline is met when it is due, or ``TICK_S`` later where another one was met just before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.05
"""The least time between two looks: thousands of deadlines that come one after the other are met together."""
_LOOK_AGAIN_S: Final = 3_600.0
_NEVER: Final = float("inf")


class Watched(Protocol):
    """Something that has a deadline. ``due`` may move back at any time without a word; who moves it forward says so."""

    due: float

    def look(self, now: float) -> None:
        """Act on what is overdue, or set ``due`` anew."""


class Watch:
    """Looks at whoever's deadline has come. ``now`` gives the monotonic seconds that deadlines are told in."""

    __slots__ = ("_at", "_handle", "_open", "now")

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._open: set[Watched] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._at = _NEVER

    def __len__(self) -> int:
        return len(self._open)

    def add(self, one: Watched) -> None:
        """Look at ``one`` when its ``due`` has come, until it is discarded; also: its ``due`` has moved forward."""
        self._open.add(one)
        if one.due < self._at:
            self._set(one.due)

    def discard(self, one: Watched) -> None:
        """It has no deadline any more. The timer stays: one that finds nobody costs less than one that is taken back."""
        self._open.discard(one)

    def _set(self, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._at = at
        wait_s = min(max(0.0, at - self.now()), _LOOK_AGAIN_S)
        self._handle = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _look(self) -> None:
        self._handle, self._at = None, _NEVER
        now = self.now()
        for one in [one for one in self._open if one.due <= now]:
            try:
                one.look(now)
            except Exception as error:  # noqa: BLE001  # a defect met at one must not end the deadlines of all others
                self._open.discard(one)
                asyncio.get_running_loop().call_exception_handler({"message": "A deadline was not met", "exception": error})
        nearest = min((one.due for one in self._open), default=_NEVER)
        if nearest < self._at:
            self._set(max(nearest, now + TICK_S))
