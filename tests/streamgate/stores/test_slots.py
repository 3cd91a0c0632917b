"""Workers that share a limit, on a real Redis that is killed, frozen and emptied under them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, cast

import pytest

from streamgate.stores.news import News
from streamgate.stores.redis import Store, StoreAway
from streamgate.stores.slots import OwnSlots, SharedSlots, Slots, SlotsStatistics
from streamgate.tasks import Tasks
from tests.kit.clock import ManualClock
from tests.kit.redis_server import RedisServer
from tests.kit.wait import eventually

SLOW_S = 60.0
"""So long that no heartbeat comes while a test runs: what happens then, happened because somebody was told."""
QUICK_S = 0.4


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as one:
        yield one


class House:
    """All workers there are, and the most that they ever held together."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.most = 0

    @property
    def held(self) -> int:
        return sum(line.held for line in self.lines)

    @property
    def capacities(self) -> list[int]:
        return [line.capacity for line in self.lines]

    def note(self) -> None:
        self.most = max(self.most, self.held)


class Line:
    """A queue as simple as can be: it admits who waits while there is capacity, and tells its slots about it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.capacity = 0
        self.held = 0
        self.waiting: list[asyncio.Future[None]] = []
        self.said: list[int] = []
        self.slots: Slots
        self.news: News
        self.store: Store
        house.lines.append(self)

    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        self.said.append(capacity)
        self.pump()

    def pump(self) -> None:
        while self.waiting and self.held < self.capacity:
            self.held += 1
            self.waiting.pop(0).set_result(None)
        self.house.note()
        self.slots.demand(self.held, len(self.waiting))

    def take(self) -> asyncio.Future[None]:
        wanted = asyncio.get_running_loop().create_future()
        self.waiting.append(wanted)
        self.pump()
        return wanted

    def release(self, number: int = 1) -> None:
        self.held -= number
        self.pump()


@asynccontextmanager
async def worker(
    url: str, house: House, name: str, *, limit: int = 8, workers: int = 2, ttl_s: float = SLOW_S, deaf: bool = False,
    deadline_s: float | None = None, between: Callable[[], None] | None = None, now: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Line]:
    if deadline_s is None:
        deadline_s = 5.0 if ttl_s == SLOW_S else 0.05
    broken: list[Any] = []
    tasks = Tasks(lambda task, error: broken.append((task, error)))
    line = Line(house)
    line.store = Store(url, now=time.monotonic, deadline_s=deadline_s)
    line.news = News(line.store, name, tasks=tasks, silence_s=0.1)
    line.slots = SharedSlots(
        "tutor model", limit, workers=workers, store=cast("Store", Between(line.store, between)) if between else line.store,
        news=line.news, on_capacity=line.resize, now=now, tasks=tasks, ttl_s=ttl_s,
    )  # fmt: skip
    if not deaf:
        line.news.open()
        await asyncio.sleep(0)
    line.slots.open()
    try:
        yield line
    finally:
        await line.slots.close()
        await line.news.close()
        await tasks.close()
        await line.store.close()
        assert broken == []


@asynccontextmanager
async def several(url: str, number: int, **how: Any) -> AsyncIterator[House]:
    """That many workers who know of each other."""
    house = House()
    async with AsyncExitStack() as stack:
        for place in range(number):
            await stack.enter_async_context(worker(url, house, f"w{place}", workers=number, **how))
        await eventually(lambda: all(line.slots.statistics().live == number for line in house.lines) or wake(house))
        await eventually(lambda: all(line.news.is_live for line in house.lines))
        yield house


def wake(house: House) -> bool:
    """Let everybody ask again."""
    for line in house.lines:
        line.slots.resize(line.slots.statistics().limit)
    return False


def die(line: Line) -> None:
    """What SIGKILL does: no word to anybody, no more questions, and nothing is held."""
    line.slots._task.cancel()  # type: ignore[attr-defined]
    line.slots._task = None  # type: ignore[attr-defined]
    line.news.forget(line.slots._key)  # type: ignore[attr-defined]
    line.house.lines.remove(line)


# --- sharing -------------------------------------------------------------------------------------------------------------


async def test_idle_workers_have_an_equal_part_before_anybody_asks(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        assert house.capacities == [4, 4]
        first = house.lines[0].take()
        assert first.done()  # without a word to Redis
        assert house.lines[0].slots.statistics() == SlotsStatistics(
            limit=8, capacity=4, granted=4, held=1, waiting=0, is_alone=False, live=2,
            calls=house.lines[0].slots.statistics().calls, failures=0,
        )  # fmt: skip


async def test_one_may_have_all_when_the_other_wants_nothing_and_gives_it_back_when_it_does(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(8)))
        assert (one.held, other.capacity) == (8, 0)
        waits = other.take()
        await eventually(lambda: one.capacity == 7)
        assert not waits.done()
        one.release()
        await waits
        assert (one.held, other.held, house.most) == (7, 1, 8)


async def test_a_freed_slot_comes_to_another_worker_without_a_heartbeat_and_back(server: RedisServer) -> None:
    async with several(server.url, 2, limit=1) as house:
        one, other = house.lines
        await one.take()
        for _ in range(5):
            waits = other.take()
            one.release()
            await asyncio.wait_for(waits, 5)
            waits = one.take()
            other.release()
            await asyncio.wait_for(waits, 5)
        assert house.most == 1


async def test_those_who_always_want_more_have_as_much(server: RedisServer) -> None:
    async with several(server.url, 3, limit=8) as house:
        served = [0, 0, 0]

        async def keep_busy(place: int) -> None:
            for _ in range(20):
                await house.lines[place].take()
                served[place] += 1
                await asyncio.sleep(0.004)
                house.lines[place].release()

        busy = [asyncio.ensure_future(keep_busy(place)) for place in range(3) for _ in range(15)]
        await eventually(lambda: sum(served) > 300)
        assert max(served) - min(served) < 0.15 * max(served), served
        await asyncio.gather(*busy)
        assert (house.most, house.held) == (8, 0)


async def test_a_worker_that_leaves_gives_everything_back_at_once(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(8)))
        waits = [other.take() for _ in range(8)]
        one.house.lines.remove(one)
        await one.slots.close()
        await asyncio.wait_for(asyncio.gather(*waits), 5)
        await other.slots.close()
        assert await server.ask("HKEYS", "streamgate:slots:tutor model") == [":born"]


async def test_the_slots_of_a_dead_worker_come_back_when_its_grant_ends(server: RedisServer) -> None:
    async with several(server.url, 2, ttl_s=QUICK_S) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(8)))
        waits = [other.take() for _ in range(8)]
        die(one)
        assert not any(wait.done() for wait in waits)
        await asyncio.wait_for(asyncio.gather(*waits), 5)
        assert house.most == 8


async def test_without_news_who_waits_looks_for_itself(server: RedisServer) -> None:
    house = House()
    async with worker(server.url, house, "w0", limit=2, ttl_s=SLOW_S / 2, deaf=True) as one:
        async with worker(server.url, house, "w1", limit=2, ttl_s=SLOW_S / 2, deaf=True) as other:
            await eventually(lambda: one.slots.statistics().live == other.slots.statistics().live == 2 or wake(house))
            await asyncio.gather(one.take(), other.take())
            waits = one.take()
            calls = one.slots.statistics().calls
            await eventually(lambda: one.slots.statistics().calls > calls)
            house.lines.remove(other)
        await asyncio.wait_for(waits, 5)
        assert house.most == 2


async def test_who_is_owed_something_does_not_rely_on_being_told(server: RedisServer) -> None:
    async with several(server.url, 2, limit=2, ttl_s=24.0) as house:
        one, other = house.lines
        await asyncio.gather(other.take(), other.take())
        waits = one.take()
        await eventually(lambda: other.capacity < 2)
        one.news.forget("streamgate:slots:tutor model")
        other.release(2)
        await asyncio.wait_for(waits, 4)  # a heartbeat comes later


async def test_what_is_heard_is_done_before_it_is_asked_about(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        one = house.lines[0]
        subject = "streamgate:slots:tutor model"

        async def gives() -> bool:
            await server.ask("PUBLISH", "streamgate:to:w0", f"{subject}\n1 1")
            return one.said[-2:] == [1, 4]

        await eventually(gives)
        heard = one.news.statistics().heard
        await server.ask("PUBLISH", "streamgate:to:w0", f"{subject}\nnonsense")
        await server.ask("PUBLISH", "streamgate:to:w0", f"{subject}\n0 0 0")
        await eventually(lambda: one.news.statistics().heard >= heard + 2)
        assert one.capacity in {1, 4}


class Between:
    """A store with something between it and Redis, that happens after a call."""

    def __init__(self, store: Store, after: Callable[[], None]) -> None:
        self.key = store.key
        self.store = store
        self.after = after

    async def run(self, *words: Any) -> Any:
        reply = await self.store.run(*words)
        self.after()
        return reply


async def test_a_lost_answer_counts_as_the_least(server: RedisServer) -> None:
    lost: list[bool] = []

    def lose() -> None:
        if lost:
            lost.clear()
            raise StoreAway("lost")

    house = House()
    async with worker(server.url, house, "w0", ttl_s=SLOW_S, between=lose) as one:
        async with worker(server.url, house, "w1", ttl_s=SLOW_S):
            await eventually(lambda: one.slots.statistics().live == 2 or wake(house))
            await asyncio.gather(*(one.take() for _ in range(8)))
            one.release(8)
            one.slots.resize(8)
            await eventually(lambda: (one.slots.statistics().granted, one.capacity) == (8, 4))
            lost.append(True)
            one.slots.resize(8)
            await eventually(lambda: one.slots.statistics().failures == 1)
            assert (one.slots.statistics().granted, one.capacity) == (4, 4)


async def test_a_grant_is_counted_from_before_the_question(server: RedisServer) -> None:
    clock, house = ManualClock(), House()
    await server.ask("HSET", "streamgate:slots:tutor model", ":born", 0)

    def a_second_passes() -> None:
        clock.advance(1.0)

    async with worker(server.url, house, "w0", limit=9, deaf=True, between=a_second_passes, now=clock.now) as one:
        await eventually(lambda: one.capacity == 9)
        clock.advance(0.9 * SLOW_S - 1.0)
        one.slots.resize(9)
        await eventually(lambda: one.said == [0, 9, 4, 9])  # it had ended, and was asked for anew


async def test_once_it_is_told_to_close_it_says_nothing_more(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(4)))
        one.take()  # it asks for more
        await asyncio.sleep(0)
        said = list(one.said)
        closing = one.slots.close()
        other.slots.resize(1)
        one.slots.resize(1)
        await closing
        assert one.said == said


# --- another limit -------------------------------------------------------------------------------------------------------


async def test_a_limit_changes_for_all(server: RedisServer) -> None:
    async with several(server.url, 2) as house:
        one, other = house.lines
        await asyncio.gather(one.take(), one.take(), one.take())
        one.slots.resize(2)
        assert one.capacity == 2
        other.slots.resize(2)
        await eventually(lambda: other.capacity == 0)
        waits = other.take()
        one.release(2)
        await asyncio.wait_for(waits, 5)
        one.slots.resize(20)
        other.slots.resize(20)
        await eventually(lambda: sum(house.capacities) == 20 or wake(house))
        with pytest.raises(ValueError, match="from 1 up"):
            one.slots.resize(0)


# --- Redis is away -------------------------------------------------------------------------------------------------------


async def test_without_redis_a_worker_starts_alone_and_joins_later(server: RedisServer) -> None:
    server.kill()
    await server.ended()
    house = House()
    async with worker(server.url, house, "w0", limit=9, ttl_s=QUICK_S) as line:
        waits = line.take()
        assert house.capacities == [0]
        await asyncio.wait_for(waits, 5)
        assert (line.said, line.slots.statistics().is_alone) == ([0, 4], True)
        await server.start()
        await eventually(lambda: not line.slots.statistics().is_alone)
        await eventually(lambda: house.capacities == [9])  # nobody else came within a ttl
        assert line.slots.statistics().failures > 0


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_grant_is_kept_while_it_lasts_and_then_everybody_is_alone(server: RedisServer, fault: str) -> None:
    async with several(server.url, 2, limit=9, ttl_s=1.0) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(7)))
        await eventually(lambda: other.capacity <= 2)
        getattr(server, fault)()
        before = one.capacity
        await eventually(lambda: one.slots.statistics().failures > 0)
        waits = [one.take() for _ in range(9)]
        assert one.capacity <= before
        await eventually(lambda: house.capacities == [4, 4])
        assert all(line.slots.statistics().is_alone for line in house.lines)
        assert house.most <= 9
        assert not waits[-1].done()
        one.release(one.held)  # 4 go on
        assert one.held == 4
        await asyncio.wait_for(asyncio.gather(*(other.take() for _ in range(4))), 5)
        if fault == "kill":
            await server.ended()
            await server.start()
        else:
            server.thaw()
        await eventually(lambda: not any(line.slots.statistics().is_alone for line in house.lines))
        assert house.most <= 9 + 4  # the bound that is stated: a thawed Redis hears old questions first
        one.waiting.clear()
        one.release(one.held)
        other.release(other.held)
        await eventually(lambda: sum(line.slots.statistics().granted for line in house.lines) == 9)
        house.most = 0
        await asyncio.wait_for(asyncio.gather(*(line.take() for line in house.lines for _ in range(4))), 5)
        assert house.most == 8


async def test_a_redis_that_forgets_is_reminded_within_a_heartbeat(server: RedisServer) -> None:
    async with several(server.url, 2, ttl_s=1.0) as house:
        one, other = house.lines
        await asyncio.gather(*(one.take() for _ in range(8)))
        await eventually(lambda: other.capacity == 0)
        await server.flush()
        waits = [other.take() for _ in range(8)]
        await eventually(lambda: one.slots.statistics().live == other.slots.statistics().live == 2)
        assert house.most <= 8 + 4  # the bound that is stated: an equal part more
        one.release(one.held)
        await asyncio.wait_for(asyncio.gather(*waits), 5)
        house.most = 0
        other.release(8)
        await asyncio.wait_for(asyncio.gather(*(one.take() for _ in range(8))), 5)
        assert house.most == 8


async def test_closing_without_redis_ends(server: RedisServer) -> None:
    async with several(server.url, 2, ttl_s=QUICK_S):
        server.kill()
        await server.ended()


async def test_never_opened_it_can_be_closed() -> None:
    async with AsyncExitStack() as stack:
        tasks = Tasks(lambda *_: None)
        store = Store("redis://127.0.0.1:1", now=time.monotonic)
        stack.push_async_callback(store.close)
        slots = SharedSlots(
            "m", 1, workers=1, store=store, news=News(store, "w", tasks=tasks), on_capacity=lambda _: None,
            now=time.monotonic, tasks=tasks,
        )  # fmt: skip
        slots.resize(3)
        await slots.close()
        assert (slots.statistics().limit, store.statistics().calls) == (3, 0)


# --- chance --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "mortal"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
async def test_whatever_comes_never_more_than_the_limit_is_held_and_everybody_is_served(
    server: RedisServer, seed: int, mortal: bool
) -> None:
    chance = Random(seed)
    limit, house = chance.randrange(1, 9), House()
    how = {"limit": limit, "workers": 3, "ttl_s": 2.0 if mortal else SLOW_S, "deadline_s": 0.15 if mortal else 5.0}
    async with AsyncExitStack() as stack:

        async def be_born(name: str) -> None:
            await stack.enter_async_context(worker(server.url, house, name, **how))

        for number in range(3):
            await be_born(f"w{number}")
        for turn in range(400):
            line = chance.choice(house.lines)
            what = chance.random()
            if what < 0.35:
                line.take()
            elif what < 0.8 and line.held:
                line.release(chance.randrange(1, line.held + 1))
            elif what < 0.82 and line.waiting:
                line.waiting.pop(chance.randrange(len(line.waiting)))
                line.pump()
            if mortal and turn % 150 == 149:
                die(line)
                await be_born(f"w{turn}")
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.003)
            assert house.held <= limit

        def served() -> bool:
            for line in house.lines:
                if line.held:
                    line.release(line.held)
            return not any(line.waiting or line.held for line in house.lines)

        await eventually(served, 10)
        assert house.most <= limit


# --- alone ---------------------------------------------------------------------------------------------------------------


async def test_one_process_alone_has_the_whole_limit() -> None:
    house = House()
    line = Line(house)
    line.slots = OwnSlots(3, line.resize)
    waits = [line.take() for _ in range(5)]
    line.slots.open()
    assert (line.capacity, line.held) == (3, 3)
    line.slots.resize(4)
    assert [wait.done() for wait in waits] == [True] * 4 + [False]
    assert line.slots.statistics() == SlotsStatistics(
        limit=4, capacity=4, granted=4, held=4, waiting=1, is_alone=True, live=1, calls=0, failures=0
    )
    await line.slots.close()
    with pytest.raises(ValueError, match="from 1 up"):
        line.slots.resize(0)
    with pytest.raises(ValueError, match="must be positive"):
        OwnSlots(0, line.resize)
