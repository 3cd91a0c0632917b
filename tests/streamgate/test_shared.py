"""What a worker shares: nothing without Redis; with it slots and the places of answers, which are given back at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamgate.clock import SystemClock
from streamgate.config.spec import Spec
from streamgate.shared import END_S, Shared
from streamgate.tasks import Tasks
from tests.kit.redis_server import RedisServer
from tests.kit.wait import eventually


def spec_of(url: str, workers: int = 2) -> Spec:
    return Spec.model_validate(
        {
            "gate": {"workers": workers},
            "state": {"url": url},
            "services": [{"id": "s", "url": "http://127.0.0.1:9001"}],
            "routes": [{"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "s"}}],
        }
    )


class Sharer:
    """One worker's, and what it was told."""

    def __init__(self, url: str) -> None:
        self.failed: list[str] = []
        self.tasks = Tasks(lambda name, _error: self.failed.append(name))
        self.log = logging.getLogger("streamgate.test_shared")
        self.one = Shared(spec_of(url), SystemClock(), self.tasks, self.log)
        self.capacities: list[int | None] = []
        self.give_back: Any = lambda: None

    async def shares(self) -> Any:
        """A part of four; the slots."""
        share = self.one.share
        assert share is not None
        slots, self.give_back = share("tutor", 4, self.capacities.append)
        await eventually(lambda: self.capacities)
        return slots

    async def close(self) -> None:
        """As a worker does: first what is in force is retired."""
        self.give_back()
        await self.one.close()
        assert not len(self.tasks)
        assert not self.failed


@asynccontextmanager
async def sharers(count: int) -> AsyncIterator[tuple[RedisServer, list[Sharer]]]:
    async with RedisServer() as redis:
        found = [Sharer(redis.url) for _ in range(count)]
        yield redis, found
        for one in found:
            await one.close()


async def test_one_worker_alone_shares_nothing() -> None:
    alone = Sharer("memory://")
    assert alone.one.share is None
    alone.one.answers.remember("resp_1", "a up", 0.0)
    assert await alone.one.answers.place_of("resp_1", 0.0) == "a up"
    await alone.close()


async def test_two_have_a_limit_together_and_one_has_it_when_the_other_goes() -> None:
    async with sharers(2) as (_redis, (one, two)):
        first, second = await one.shares(), await two.shares()
        first.demand(4, 4)
        second.demand(4, 4)
        await eventually(lambda: one.capacities[-1] == two.capacities[-1] == 2)
        one.give_back()
        one.give_back = lambda: None
        await eventually(lambda: two.capacities[-1] == 4)
        await eventually(lambda: not one.one._ends)


async def test_where_an_answer_was_made_is_known_to_all() -> None:
    async with sharers(2) as (_redis, (one, two)):
        one.one.answers.remember("resp_1", "a up", 0.0)
        await eventually(lambda: _place(two, "resp_1"))
        assert await two.one.answers.place_of("resp_2", 0.0) is None


async def _place(sharer: Sharer, response_id: str) -> bool:
    return await sharer.one.answers.place_of(response_id, 0.0) == "a up"


async def test_what_is_given_back_at_the_end_is_waited_for() -> None:
    async with sharers(2) as (_redis, (one, two)):
        (await one.shares()).demand(4, 4)
        second = await two.shares()
        second.demand(4, 4)
        await eventually(lambda: one.capacities[-1] == 2)
        await one.close()
        one.give_back = lambda: None
        assert one.one._ends == set()
        await eventually(lambda: two.capacities[-1] == 4)


async def test_but_not_for_ever() -> None:
    alone = Sharer("memory://")
    alone.one.end(asyncio.sleep(60))  # type: ignore[arg-type]  # a coroutine that gives back nothing
    async with asyncio.timeout(END_S * 10):
        await alone.one.close()
    await alone.tasks.close()


async def test_redis_away_is_told_once_and_its_return_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streamgate.test_shared")
    async with sharers(1) as (redis, (one,)):
        await one.shares()
        redis.kill()
        await redis.ended()
        await eventually(lambda: "away" in caplog.text, timeout=10)
        assert "each worker goes on with its own part" in caplog.text
        assert str(redis.port) not in caplog.text
        await redis.start()
        await eventually(lambda: "is back" in caplog.text, timeout=15)
        levels = [record.levelname for record in caplog.records if record.name == one.log.name]
        assert levels == ["ERROR", "INFO"]


async def test_a_redis_that_is_not_there_does_not_keep_a_worker_from_ending() -> None:
    async with RedisServer() as redis:
        one = Sharer(redis.url)
        await one.shares()
        redis.freeze()
        async with asyncio.timeout(10):
            one.give_back()
            await one.one.close()
            await one.tasks.close()
