"""What one worker shares with others, and through what: nothing with memory://, slots and places of answers through Redis."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from streamgate.clock import Clock
from streamgate.config.spec import Spec
from streamgate.stores.answers import Answers
from streamgate.stores.news import News
from streamgate.stores.redis import Store
from streamgate.stores.slots import SharedSlots
from streamgate.tasks import Tasks

END_S: Final = 1.0
"""How long what is given back at the end may take."""


class Shared:
    """One worker's ways to what is shared. Without Redis everything is this worker's own."""

    def __init__(self, started: Spec, clock: Clock, tasks: Tasks, log: logging.Logger) -> None:
        """Redis is connected to when it is first needed, and may be away."""
        self._workers = started.gate.workers
        self._clock = clock
        self._tasks = tasks
        self._log = log
        self._ends: set[asyncio.Task[Any]] = set()
        self._store: Store | None = None
        self._news: News | None = None
        if started.state.is_shared:
            self._store = Store(started.state.url, now=clock.now, on_change=self._changed)
            who = f"{os.uname().nodename[:40]}.{os.getpid()}.{secrets.token_hex(4)}".replace("_", "-")
            self._news = News(self._store, who, tasks=tasks)
        self.answers = Answers(tasks=tasks, store=self._store)

    @property
    def share(self) -> Callable[[str, int, Callable[[int | None], None]], tuple[SharedSlots, Callable[[], None]]] | None:
        """Makes a capacity that all workers share; None where this one is alone."""
        return None if self._store is None else self._share

    def _share(
        self, name: str, limit: int, on_capacity: Callable[[int | None], None]
    ) -> tuple[SharedSlots, Callable[[], None]]:
        if self._store is None or self._news is None:
            raise RuntimeError("nothing is shared")  # nobody asks then
        self._news.open()
        slots = SharedSlots(
            name, limit, workers=self._workers, store=self._store, news=self._news, on_capacity=on_capacity, now=self._clock.now,
            tasks=self._tasks,
        )  # fmt: skip
        slots.open()
        return slots, lambda: self.end(slots.close())

    def end(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something be given back in the background; the worker waits for it before it ends."""
        task = self._tasks.spawn(work, name="end")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def close(self) -> None:
        """Give back what is shared, as far as Redis takes it in a moment."""
        if self._ends:
            await asyncio.wait(self._ends, timeout=END_S)
        if self._news is not None:
            await self._news.close()
        await self.answers.close()
        if self._store is not None:
            await self._store.close()

    def _changed(self, away: bool, why: str) -> None:  # noqa: FBT001  # what a store tells
        if away:
            self._log.error("the state store is away (%s): each worker goes on with its own part", why, extra={"worker": os.getpid()})
        else:
            self._log.info("the state store is back", extra={"worker": os.getpid()})
