"""Where a response was made, as this worker knows it and as the others do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.stores.answers import Answers, AnswersStatistics
from streamgate.stores.redis import Store
from streamgate.tasks import Tasks
from tests.kit.redis_server import RedisServer
from tests.kit.wait import eventually


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as one:
        yield one


def alone(**how: Any) -> Answers:
    return Answers(tasks=Tasks(lambda *_: None), **how)


@asynccontextmanager
async def shared(url: str, *, deadline_s: float = 5.0, **how: Any) -> AsyncIterator[Answers]:
    broken: list[Any] = []
    tasks = Tasks(lambda name, error: broken.append((name, error)))
    store = Store(url, now=time.monotonic, deadline_s=deadline_s)
    answers = Answers(tasks=tasks, store=store, **how)
    try:
        yield answers
    finally:
        await answers.close()
        await tasks.close()
        await store.close()
        assert broken == []


def written(answers: Answers) -> bool:
    return answers.statistics().unwritten == 0


# --- one process ---------------------------------------------------------------------------------------------------------


async def test_a_place_is_remembered_for_its_time() -> None:
    answers = alone(ttl_s=10.0)
    answers.remember("resp_1", "model-a/0", 0.0)
    assert await answers.place_of("resp_1", 9.9) == "model-a/0"
    assert await answers.place_of("resp_1", 10.0) is None
    assert await answers.place_of("resp_2", 0.0) is None
    assert answers.statistics().kept == 0


async def test_a_later_place_replaces_the_earlier_one_and_its_time() -> None:
    answers = alone(ttl_s=10.0)
    answers.remember("r", "a", 0.0)
    answers.remember("r", "b", 5.0)
    assert await answers.place_of("r", 12.0) == "b"


async def test_of_too_many_those_not_asked_for_longest_go() -> None:
    answers = alone(most=3)
    for name in "abc":
        answers.remember(name, name.upper(), 0.0)
    assert await answers.place_of("a", 1.0) == "A"
    answers.remember("d", "D", 1.0)
    assert [answers.known(name, 1.0) for name in "abcd"] == ["A", None, "C", "D"]
    assert answers.statistics() == AnswersStatistics(kept=3, unwritten=0, dropped=0, invalid=0, asked=0, found=0)
    await answers.close()


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers(0, 3)), max_size=60))
def test_it_is_a_bounded_memory_of_the_latest(steps: list[tuple[str, bool, int]]) -> None:
    answers, now = alone(most=3, ttl_s=5.0), 0.0
    latest: dict[str, tuple[int, float]] = {}
    for number, (name, remembers, pause) in enumerate(steps):
        now += pause
        if remembers:
            answers.remember(name, str(number), now)
            latest[name] = (number, now)
        else:
            place = answers.known(name, now)
            assert place is None or (place == str(latest[name][0]) and now < latest[name][1] + 5.0)
        assert answers.statistics().kept <= 3


@pytest.mark.parametrize("response_id", ["", "a b", "a\n", "ä", "../x", "a:b", "x" * 257, "a\0"])
async def test_what_is_no_id_is_never_kept(response_id: str) -> None:
    answers = alone()
    answers.remember(response_id, "a", 0.0)
    assert await answers.place_of(response_id, 0.0) is None
    assert (answers.statistics().kept, answers.statistics().invalid) == (0, 1)
    answers.remember("x" * 256, "a", 0.0)
    assert answers.statistics().kept == 1


# --- several -------------------------------------------------------------------------------------------------------------


async def test_what_one_worker_has_seen_another_finds_and_then_knows(server: RedisServer) -> None:
    async with shared(server.url, ttl_s=3600.0) as one, shared(server.url) as other:
        one.remember("resp_1-A", "model-ä/0", 0.0)
        await eventually(lambda: written(one))
        assert await server.ask("GET", "streamgate:answer:resp_1-A") == "model-ä/0"
        assert 3_590_000 < await server.ask("PTTL", "streamgate:answer:resp_1-A") <= 3_600_000
        assert await other.place_of("resp_1-A", 0.0) == "model-ä/0"
        assert other.known("resp_1-A", 0.0) == "model-ä/0"
        assert await other.place_of("resp_1-A", 0.0) == "model-ä/0"
        assert await other.place_of("resp_2", 0.0) is None
        assert (other.statistics().asked, other.statistics().found) == (2, 1)


async def test_an_id_that_is_none_is_not_asked_for(server: RedisServer) -> None:
    async with shared(server.url) as answers:
        assert await answers.place_of("a b", 0.0) is None
        assert answers.statistics().asked == 0


async def test_many_are_written_in_few_calls(server: RedisServer) -> None:
    async with shared(server.url) as answers:
        for number in range(1050):
            answers.remember(f"r{number}", str(number), 0.0)
        await eventually(lambda: written(answers))
        assert await server.ask("DBSIZE") == 1050
        assert await server.ask("GET", "streamgate:answer:r1049") == "1049"
        assert "cmdstat_evalsha:calls=11," in await server.ask("INFO", "commandstats")


async def test_an_id_that_is_remembered_anew_while_it_is_written_is_written_again(server: RedisServer) -> None:
    async with shared(server.url) as answers:
        server.freeze()
        answers.remember("r", "a", 0.0)
        await asyncio.sleep(0.01)
        answers.remember("r", "b", 0.0)
        server.thaw()
        await eventually(lambda: written(answers))
        assert await server.ask("GET", "streamgate:answer:r") == "b"


async def test_without_redis_a_worker_knows_what_it_has_seen_and_the_rest_is_written_later(server: RedisServer) -> None:
    async with shared(server.url, deadline_s=0.02, most_unwritten=2) as answers:
        server.kill()
        await server.ended()
        for name in "abc":
            answers.remember(name, name.upper(), 0.0)
        assert await answers.place_of("a", 0.0) == "A"
        assert await answers.place_of("z", 0.0) is None
        assert (answers.statistics().unwritten, answers.statistics().dropped) == (2, 1)
        await server.start()
        await eventually(lambda: written(answers))
        assert [await server.ask("GET", f"streamgate:answer:{name}") for name in "abc"] == [None, "B", "C"]


async def test_a_frozen_redis_costs_the_deadline(server: RedisServer) -> None:
    async with shared(server.url, deadline_s=0.02) as answers:
        server.freeze()
        answers.remember("a", "A", 0.0)
        assert await answers.place_of("z", 0.0) is None
        assert await answers.place_of("a", 0.0) == "A"


async def test_what_is_no_text_there_is_nobodys_place(server: RedisServer) -> None:
    async with shared(server.url) as answers:
        await server.ask("LPUSH", "streamgate:answer:r", "x")
        assert await answers.place_of("r", 0.0) is None


async def test_closing_writes_what_is_left(server: RedisServer) -> None:
    async with shared(server.url) as answers:
        answers.remember("a", "A", 0.0)
        await answers.close()
        assert await server.ask("GET", "streamgate:answer:a") == "A"
