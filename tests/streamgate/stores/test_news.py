"""What is sent to this worker is heard by whom it concerns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamgate.stores.news import News
from streamgate.stores.redis import Store
from streamgate.tasks import Tasks
from tests.kit.redis_server import RedisServer
from tests.kit.wait import eventually


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    async with RedisServer() as one:
        yield one


@asynccontextmanager
async def news_at(url: str, worker_id: str = "w-1", **how: Any) -> AsyncIterator[News]:
    broken: list[Any] = []
    tasks = Tasks(lambda name, error: broken.append((name, error)))
    store = Store(url, now=time.monotonic, namespace="test")
    news = News(store, worker_id, tasks=tasks, **how)
    try:
        yield news
    finally:
        await news.close()
        await tasks.close()
        await store.close()
        assert broken == []


async def send(server: RedisServer, message: str, worker_id: str = "w-1") -> int:
    heard: int = await server.ask("PUBLISH", f"streamgate:test:to:{worker_id}", message)
    return heard


async def test_a_subject_is_heard_by_its_listener_and_nobody_else(server: RedisServer) -> None:
    async with news_at(server.url) as news, news_at(server.url, "w-2") as other:
        said: list[tuple[str, str]] = []
        news.hear("a\nb c", lambda text: said.append(("a", text)))
        news.hear("b", lambda text: said.append(("b", text)))
        other.hear("b", lambda text: said.append(("other", text)))
        news.open()
        other.open()
        await eventually(lambda: news.is_live and other.is_live)
        assert sorted(said) == [("a", ""), ("b", ""), ("other", "")]
        said.clear()
        assert await send(server, "a\nb c\n1 2") == 1
        await send(server, "nobody\n3")
        await send(server, "b\n4")
        await send(server, "no subject")
        await send(server, "b\n5")
        await eventually(lambda: len(said) == 3)
        assert said == [("a", "1 2"), ("b", "4"), ("b", "5")]
        assert (news.statistics().heard, news.statistics().connected, other.statistics().heard) == (5, 1, 0)


async def test_a_listener_may_go(server: RedisServer) -> None:
    async with news_at(server.url) as news:
        said: list[str] = []
        news.hear("a", said.append)
        news.hear("b", said.append)
        news.open()
        await eventually(lambda: said == ["", ""])
        news.forget("a")
        news.forget("a")
        await send(server, "a\n1")
        await send(server, "b\n2")
        await eventually(lambda: len(said) == 3)
        assert said[-1] == "2"


async def test_a_lost_connection_is_made_again_and_listeners_know_that_they_may_have_missed_something(server: RedisServer) -> None:
    async with news_at(server.url) as news:
        said: list[str] = []
        news.hear("a", said.append)
        news.open()
        await eventually(lambda: news.is_live)
        server.kill()
        await eventually(lambda: not news.is_live)
        assert said == [""]
        await server.ended()
        await server.start()
        await eventually(lambda: news.is_live)
        await send(server, "a\n1")
        await eventually(lambda: said == ["", "", "1"])
        assert news.statistics().connected == 2


async def test_it_waits_for_a_redis_that_is_not_there_yet(server: RedisServer) -> None:
    server.kill()
    await server.ended()
    async with news_at(server.url) as news:
        news.open()
        await asyncio.sleep(0.02)
        assert not news.is_live
        await server.start()
        await eventually(lambda: news.is_live)


async def test_a_redis_that_says_nothing_any_more_is_noticed(server: RedisServer) -> None:
    async with news_at(server.url, silence_s=0.05) as news:
        news.open()
        await eventually(lambda: news.is_live)
        server.freeze()
        await eventually(lambda: not news.is_live)
        server.thaw()
        await eventually(lambda: news.is_live)


async def test_silence_alone_is_no_loss(server: RedisServer) -> None:
    async with news_at(server.url, silence_s=0.05) as news:
        news.open()
        await eventually(lambda: news.is_live)

        async def asked_twice() -> bool:
            return "cmdstat_ping:calls=2," in await server.ask("INFO", "commandstats")

        await eventually(asked_twice)
        assert (news.is_live, news.statistics().connected) == (True, 1)


async def test_closed_it_listens_no_more(server: RedisServer) -> None:
    async with news_at(server.url) as news:
        news.open()
        news.open()
        await eventually(lambda: news.is_live)
        await news.close()
        assert not news.is_live

        async def unheard() -> bool:
            return await send(server, "a\n1") == 0

        await eventually(unheard)


@pytest.mark.parametrize("worker_id", ["", "a b", "a:b", "x" * 129, "a\n"])
async def test_the_id_of_a_worker_is_a_plain_word(worker_id: str) -> None:
    with pytest.raises(ValueError, match="id of a worker"):
        async with news_at("redis://h", worker_id):
            pass
