"""Everything open now, so that a gate that shuts down can wait for it, and then end it in words its clients can read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol


class Open(Protocol):
    """Something that stays open and can be told to end."""

    def shut_down(self) -> None:
        """End now, saying why."""


class Registry:
    """What is open in one worker. ``draining`` refuses newcomers while the rest finishes."""

    __slots__ = ("_emptied", "_open", "draining")

    def __init__(self) -> None:
        self._open: set[Open] = set()
        self._emptied: asyncio.Event | None = None
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Open]:
        return iter(tuple(self._open))

    def add(self, one: Open) -> None:
        """It is open from now on."""
        self._open.add(one)

    def discard(self, one: Open) -> None:
        """It has ended."""
        self._open.discard(one)
        if self._emptied is not None and not self._open:
            self._emptied.set()
            self._emptied = None

    async def wait_empty(self) -> None:
        """Return when nothing is open."""
        if self._open:
            if self._emptied is None:
                self._emptied = asyncio.Event()
            await self._emptied.wait()

    def end_all(self) -> int:
        """Tell everything that is still open to end; returns how many there were."""
        left = tuple(self._open)
        for one in left:
            one.shut_down()
        return len(left)
