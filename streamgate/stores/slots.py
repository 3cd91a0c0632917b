"""`max_in_flight` of a model, shared by workers and machines: capacity is leased from Redis ahead of its use.

A request takes a slot from its worker's own queue and waits for Redis only where its worker has no room left. What is free lies with
the workers in equal parts; when more is wanted than there is, everybody has a max-min fair part, a slot that is not used goes
back at once and its next owner is told (`slots.lua`, `Grant`, `News`). Measured on one machine: a freed slot serves another
worker's request in 1 to 3 ms.

Together the workers never hold more than the limit while Redis answers and remembers. Otherwise, with an equal part being
max(1, limit // workers), never more than limit + (workers - 1) × an equal part:

- Redis away: every worker keeps its grant until that ends (`ttl_s`, 5 s), then goes on with an equal part. What began before is not
  cut. When Redis is back they join again, and nobody takes more than an equal part until all have; one that was frozen may hear old
  questions first.
- Redis lost its memory (FLUSHALL, a restart): every worker keeps its grant, and takes at most an equal part until all were heard,
  one heartbeat (ttl_s / 5) later, or one ttl later where one is missing.

A worker that dies gives its slots back when its grant ends. A worker that is cut off alone, or frozen for longer than its grant, has
lost its slots to the others: what it still holds, or an equal part, comes on top. While workers know different limits (a
reload on its way), the lowest counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from streamgate.stores.grant import Answer, Ask, Grant
from streamgate.stores.news import News
from streamgate.stores.redis import Script, Store, StoreAway
from streamgate.tasks import Tasks

TTL_S: Final = 5.0
LEAVES: Final = -1
_SHARE: Final = Script.file("slots.lua")


@dataclass(frozen=True, slots=True)
class SlotsStatistics:
    """One worker's part of a limit. `is_alone`: without Redis; `live`: the workers that Redis knew of last."""

    limit: int
    capacity: int
    granted: int
    held: int
    waiting: int
    is_alone: bool
    live: int
    calls: int
    failures: int


class Slots(Protocol):
    """Where a queue has its capacity from."""

    def open(self) -> None:
        """Begin; `on_capacity` is called from here on, with the first capacity and with every other."""
        ...

    def demand(self, held: int, waiting: int) -> None:
        """Tell how many slots are in use and how many requests wait, after every change. Cheap, and never calls back.

        Those who were let in by `on_capacity` are a change too; until that is told, all are taken to be in who had room.
        """
        ...

    def resize(self, limit: int) -> None:
        """Change the limit. May call `on_capacity`. Raises ValueError below 1."""
        ...

    def close(self) -> Coroutine[Any, Any, None]:
        """Give everything back. `on_capacity` is not called from here on, though the giving has to be awaited."""
        ...

    def statistics(self) -> SlotsStatistics:
        """Return the figures of this moment."""
        ...


class OwnSlots:
    """The limit of one process alone: all of it is capacity."""

    def __init__(self, limit: int, on_capacity: Callable[[int], None]) -> None:
        """Raises ValueError below 1."""
        self._grant = Grant(limit, 1, 0.0, ttl_s=TTL_S, patience_s=TTL_S)
        self._on_capacity = on_capacity

    def open(self) -> None:
        """Give the queue its capacity."""
        self._on_capacity(self._grant.limit)

    def demand(self, held: int, waiting: int) -> None:
        """Note it for the figures."""
        self._grant.held = held
        self._grant.want = held + waiting

    def resize(self, limit: int) -> None:
        """Change the limit and the capacity with it."""
        self._grant.resize(limit)
        self._on_capacity(limit)

    async def close(self) -> None:
        """Nobody waits for what this process held."""

    def statistics(self) -> SlotsStatistics:
        """Return the figures of this moment."""
        grant, waiting = self._grant, self._grant.want - self._grant.held
        return SlotsStatistics(
            limit=grant.limit, capacity=grant.limit, granted=grant.limit, held=grant.held, waiting=waiting,
            is_alone=True, live=1, calls=0, failures=0,
        )  # fmt: skip


class SharedSlots:
    """One worker's part of a limit that many share."""

    def __init__(  # noqa: PLR0913  what it is, and what it is given to do it with
        self,
        name: str,
        limit: int,
        *,
        workers: int,
        store: Store,
        news: News,
        on_capacity: Callable[[int], None],
        now: Callable[[], float],
        tasks: Tasks,
        ttl_s: float = TTL_S,
    ) -> None:
        """Share `limit` slots of `name` with whoever uses the same name in the same part of Redis.

        `workers` is how many processes that will be, all machines together; it counts only while Redis is away or new. `ttl_s` must be
        the same for all. The first capacity comes with the first answer, without Redis after ttl_s / 5. Raises ValueError where a
        number is not positive.
        """
        self._pause_s = ttl_s / 5
        self._grant = Grant(limit, workers, now(), ttl_s=ttl_s, patience_s=self._pause_s)
        self._store = store
        self._news = news
        self._on_capacity = on_capacity
        self._now = now
        self._tasks = tasks
        self._ttl_s = ttl_s
        self._key = store.key("slots", name)
        self._wake = asyncio.Event()
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._heard = False
        self._said = -1
        self._calls = self._failures = 0

    def open(self) -> None:
        """Join the others; the capacity is 0 until they have been heard of."""
        if self._task is None:
            self._news.hear(self._key, self._hear)
            self._say()
            self._task = self._tasks.spawn(self._keep(), name="slots")

    def demand(self, held: int, waiting: int) -> None:
        """Tell how many slots are in use and how many requests wait, after every change. Cheap, and never calls back."""
        if self._grant.demand(held, waiting):
            self._wake.set()

    def resize(self, limit: int) -> None:
        """Change the limit: a lower one holds at once, a higher one when Redis agrees. May call `on_capacity`. Raises ValueError."""
        self._grant.resize(limit)
        self._heard = True
        self._wake.set()
        if self._task is not None:
            self._say()

    def close(self) -> Coroutine[Any, Any, None]:
        """Give everything back, what is held too; within the store's deadlines, and without Redis too.

        `on_capacity` is not called from here on, though the giving has to be awaited.
        """
        self._end.set()
        self._heard = True
        self._wake.set()
        self._news.forget(self._key)
        return self._leave()

    async def _leave(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait((task,))  # not cancelled: a question under way would make an owner of nobody
            try:
                await self._send(Ask(held=0, keep=0, want=LEAVES))
            except StoreAway:
                pass  # it ends by itself

    def statistics(self) -> SlotsStatistics:
        """Return the figures of this moment."""
        grant = self._grant
        return SlotsStatistics(
            limit=grant.limit, capacity=grant.capacity, granted=grant.granted, held=grant.held, waiting=grant.want - grant.held,
            is_alone=grant.is_alone, live=grant.live, calls=self._calls, failures=self._failures,
        )  # fmt: skip

    def _hear(self, text: str) -> None:
        """Take in TARGET and PRESS, or nothing where something may have been missed."""
        target, _, press = text.partition(" ")
        if target.isdecimal() and press.isdecimal():
            self._grant.heard(int(target), int(press))
        self._heard = True
        self._wake.set()

    async def _keep(self) -> None:
        """Ask whenever that would change something, and often enough to stay alive."""
        while not self._end.is_set():
            self._heard = False
            try:
                await self._ask()
            except StoreAway:
                self._failures += 1
                self._grant.failed()
                await self._rest(self._end, self._pause_s / 4)
            else:
                if not self._heard and not self._grant.is_due:
                    self._wake.clear()
                    await self._rest(self._wake, self._patience_s())

    def _patience_s(self) -> float:
        """How long to wait for something to happen: until the next heartbeat, or shorter where a message may be lost."""
        if not self._news.is_live:
            return self._pause_s / 20 if self._grant.is_wanting else self._pause_s
        return self._pause_s / 4 if self._grant.is_short else self._pause_s

    async def _rest(self, event: asyncio.Event, at_most_s: float) -> None:
        """Wait for an event, and watch the end of the grant."""
        try:
            async with asyncio.timeout(min(at_most_s, self._grant.left_s(self._now()))):
                await event.wait()
        except TimeoutError:
            pass
        self._grant.expire(self._now())
        self._say()

    async def _ask(self) -> None:
        ask = self._grant.ask()
        self._say()
        sent_at = self._now()
        reply = await self._send(ask)
        self._grant.answered(Answer(*reply), sent_at)
        self._say()

    async def _send(self, ask: Ask) -> list[int]:
        self._calls += 1
        args = (
            self._news.worker_id, self._calls, ask.held, ask.keep, ask.want, self._grant.limit, self._grant.workers,
            int(self._ttl_s * 1000), self._news.channels, self._key,
        )  # fmt: skip
        reply: Any = await self._store.run(_SHARE, (self._key,), args)
        return [int(number) for number in reply]

    def _say(self) -> None:
        if self._said != self._grant.capacity and not self._end.is_set():
            self._said = self._grant.capacity
            self._on_capacity(self._said)
