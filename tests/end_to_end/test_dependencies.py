"""What the gateway stands on goes away while it serves: Redis, the flag file, the flag service. Nothing is cut, and all comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.models_stage import DONE, ROLE, STREAM, Stage, stage, token, told
from tests.kit.client import RawClient, Response
from tests.kit.gateway import RunningGateway
from tests.kit.quiet import at_rest, nothing_went_wrong
from tests.kit.redis_server import RedisServer
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk

pytestmark = pytest.mark.asyncio
LIMIT, WORKERS = 4, 2
MOST = LIMIT + (WORKERS - 1) * (LIMIT // WORKERS)
"""What two that do not hear of each other may hold together, by the contract of shared slots."""


# -- Redis -----------------------------------------------------------------------------------------------------------------


class Crowd:
    """Clients of two workers with a limit, and the upstream that they reach."""

    def __init__(self, gateway: RunningGateway, upstream: RawUpstream, redis: RedisServer) -> None:
        self.gateway, self.redis = gateway, redis
        self.held: list[Arrived] = []
        self.most = 0
        upstream.answer_with(self._hold)

    async def _hold(self, one: Arrived) -> None:
        self.held.append(one)
        self.held[:] = [each for each in self.held if each.connection.is_open]
        self.most = max(self.most, len(self.held))
        await one.send(STREAM + chunk(ROLE) + chunk(token("begun")))

    async def asks(self) -> RawClient:
        """A stream on a connection of its own; which worker has it is the kernel's choice."""
        client = await RawClient.open(self.gateway.port)
        body = json.dumps({"model": "tutor", "stream": True, "messages": []}).encode()
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return client

    async def end(self, count: int = 1) -> None:
        """Let so many streams end well."""
        for _ in range(count):
            await eventually(lambda: self.held, timeout=15)
            one = self.held.pop(0)
            await one.send(chunk(token("end")) + chunk(DONE) + b"0\r\n\r\n")

    async def waiting(self) -> float:
        return await self.gateway.metric("streamgate_queue_depth", model="tutor")

    def said(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.gateway.log_file.read_text()


@asynccontextmanager
async def crowd(folder: Path) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer())
        upstream = await stack.enter_async_context(RawUpstream())
        config = {
            "gate": {"workers": WORKERS},
            "state": {"url": redis.url},
            "services": [{"id": "a", "url": upstream.url}],
            "models": [{"name": "tutor", "splits": {"stable": [{"service": "a"}]}, "queue": {"max_in_flight": LIMIT, "max_wait": "60s"}}],
            "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}],
        }
        gateway = await stack.enter_async_context(RunningGateway(folder, config))
        yield Crowd(gateway, upstream, redis)
        await at_rest(gateway)
    log = gateway.log_file.read_text()
    loud = [line for line in log.splitlines() if '"level": "error"' in line and "state store is away" not in line]
    assert not loud, loud
    assert "Traceback" not in log


async def whole(client: RawClient) -> Response:
    return await client.answer(timeout=30)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_redis_goes_away_while_streams_run_and_comes_back(tmp_path: Path, how: str) -> None:
    async with crowd(tmp_path) as house:
        clients = [await house.asks() for _ in range(LIMIT)]
        await eventually(lambda: len(house.held) == LIMIT, timeout=10)
        waits = [await house.asks() for _ in range(3)]
        await eventually(lambda: _is(house.waiting(), 3))

        house.redis.kill() if how == "killed" else house.redis.freeze()
        await eventually(house.said("state store is away"), timeout=15)
        for one in house.held:
            await one.send(chunk(token("goes on")))
        for client in clients:
            assert (await client.head()).status == 200
            while token("goes on") not in await client.chunk():
                pass
        await house.end(len(clients) + len(waits))  # each worker goes on with its part, then with an equal one
        for response in await asyncio.gather(*(whole(client) for client in waits)):
            assert (response.status, response.body.endswith(DONE)) == (200, True)
        assert house.most <= MOST

        if how == "killed":
            await house.redis.ended()
            await house.redis.start()
        else:
            house.redis.thaw()
        await eventually(house.said("state store is back"), timeout=15)
        await at_rest(house.gateway)
        house.held.clear()
        house.most = 0
        many = [await house.asks() for _ in range(12)]
        await eventually(lambda: len(house.held) >= LIMIT, timeout=15)
        await house.end(len(many))
        assert {response.status for response in await asyncio.gather(*map(whole, many))} == {200}
        assert house.most <= MOST  # LIMIT once both have been heard again


async def _is(figure: Any, wanted: float) -> bool:
    return bool(await figure == wanted)


# -- the flag file ---------------------------------------------------------------------------------------------------------


async def _split(models: Stage) -> str | None:
    return (await models.ask()).header("x-streamgate-split")


@pytest.mark.parametrize("how", ["deleted", "broken", "emptied", "a folder"])
async def test_a_flag_file_that_breaks_leaves_the_last_good_one_in_force(tmp_path: Path, how: str) -> None:
    async with stage(tmp_path) as models:
        models.a.answer_with(lambda _one: told("from a"))
        models.b.answer_with(lambda _one: told("from b"))
        models.set_flag("canary")
        await eventually(lambda: _says(_split(models), "canary"))
        if how == "broken":
            models.flags.write_text('{"flags": {"tutor-split": ')
        elif how == "emptied":
            models.flags.write_text("")
        else:
            models.flags.unlink()
        if how == "a folder":
            models.flags.mkdir()
        await eventually(lambda: "flags: " in models.gateway.log_file.read_text(), timeout=10)
        for _ in range(5):
            assert await _split(models) == "canary"
        if how == "a folder":
            models.flags.rmdir()
        models.set_flag("stable")
        await eventually(lambda: _says(_split(models), "stable"))
        assert models.gateway.log_file.read_text().count("flags: ") == 1


async def _says(split: Any, wanted: str) -> bool:
    return bool(await split == wanted)


# -- the flag service ------------------------------------------------------------------------------------------------------


def verdict(value: str) -> bytes:
    said = {"key": "tutor-split", "value": value, "variant": value, "reason": "STATIC"}
    return answer(json.dumps(said).encode(), 200, [("content-type", "application/json")])


async def test_a_flag_service_that_is_away_costs_neither_requests_nor_their_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        service, up, canary = [await stack.enter_async_context(RawUpstream()) for _ in range(3)]
        config: dict[str, Any] = {
            "flags": {"provider": "ofrep", "url": service.url, "timeout": "300ms"},
            "services": [{"id": "a", "url": up.url}, {"id": "b", "url": canary.url}],
            "models": [
                {
                    "name": "tutor", "flag": "tutor-split", "sticky": ["body:user"], "default": "stable",
                    "splits": {"stable": [{"service": "a"}], "canary": [{"service": "b"}]},
                }
            ],
            "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}],
        }  # fmt: skip
        up.answer_with(lambda _one: told("from a"))
        canary.answer_with(lambda _one: told("from b"))
        service.answer_with(lambda _one: verdict("canary"))
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config))

        async def ask(user: str) -> tuple[str | None, str | None]:
            body = json.dumps({"model": "tutor", "messages": [], "user": user}).encode()
            async with await RawClient.open(gateway.port) as client:
                await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                response = await client.answer()
            assert response.status == 200
            return response.header("x-streamgate-split"), response.header("x-streamgate-reason")

        assert await ask("u1") == ("canary", "STATIC")

        async def silence(_one: Arrived) -> None:
            """Nothing at all."""

        service.answer_with(silence)
        await eventually(lambda: _says(_reason(ask("u1")), "STALE"))
        assert await ask("new") == ("stable", "ERROR")  # of whom nothing is known
        asked = len(service.requests)
        answers = [await ask("u1") for _ in range(20)]
        assert set(answers) == {("canary", "STALE")}
        assert len(service.requests) - asked < 10, "each waited for the service"
        service.answer_with(lambda _one: verdict("stable"))
        await eventually(lambda: _says(_reason(ask("u1")), "STATIC"))
        assert await ask("u1") == ("stable", "STATIC")
        await at_rest(gateway)
    nothing_went_wrong(gateway)


async def _reason(asked: Any) -> str | None:
    reason: str | None = (await asked)[1]
    return reason
