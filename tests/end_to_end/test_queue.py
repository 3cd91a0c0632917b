"""Waiting for a turn: never more than the model bears, fair among tenants, refused in words that SDKs act on rightly, nothing leaked."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end.models_stage import DONE, ROLE, Stage, stage, stream, token, told
from tests.kit.client import RawClient, Response
from tests.kit.quiet import at_rest
from tests.kit.redis_server import RedisServer
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio
AUTH = {"tenant": {"from": ["host"]}}
QUEUE = {"max_in_flight": 2, "max_waiting": 50, "max_wait": "5s"}


@asynccontextmanager
async def queued(folder: Path, *, workers: int = 1, route: Any = None, config: Any = None, **queue: Any) -> AsyncIterator[Stage]:
    """The model ``tutor`` at a alone, with a queue; several workers share Redis."""
    async with AsyncExitStack() as stack:
        more: dict[str, Any] = {"auth": AUTH, **(config or {})}
        if workers > 1:
            redis = await stack.enter_async_context(RedisServer())
            more |= {"gate": {"workers": workers}, "state": {"url": redis.url}}
        only = {"splits": {"stable": [{"service": "a"}]}, "fallback": [], "flag": None, "queue": QUEUE | queue}
        yield await stack.enter_async_context(stage(folder, config=more, route=route, first_byte="30s", **only))


class Held:
    """Requests that have arrived upstream and wait for an answer; ``most`` were there at once."""

    def __init__(self, stage_: Stage) -> None:
        self.now: list[Arrived] = []
        self.most = 0
        stage_.a.answer_with(self._hold)

    async def _hold(self, one: Arrived) -> None:
        self.now.append(one)
        self.most = max(self.most, len(self.now))

    async def answer(self, data: bytes = b"") -> Arrived:
        """Answer the one that came first."""
        await eventually(lambda: self.now)
        one = self.now.pop(0)
        await one.send(data or told("served"))
        return one


async def asked(stage_: Stage, tenant: str = "t0", *lines: str, **members: Any) -> Response:
    """One request of a tenant."""
    async with await RawClient.open(stage_.gateway.port) as client:
        raw = stage_.request({"model": "tutor", "messages": [], **members}, *lines)
        return await client.ask(raw.replace(b"Host: gate", f"Host: {tenant}.example".encode()))


async def waiting(stage_: Stage, count: int) -> None:
    """So many wait."""

    async def there() -> bool:
        return await stage_.gateway.metric("streamgate_queue_depth", model="tutor") == count

    await eventually(there)


async def test_no_more_than_the_model_bears_and_in_order(tmp_path: Path) -> None:
    async with queued(tmp_path) as models:
        held = Held(models)
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(asked(models, user=str(number))))
            await eventually(lambda n=number: len(held.now) + 0 == min(n + 1, 2))
            if number >= 2:
                await waiting(models, number - 1)
        served = []
        for _ in range(6):
            served.append(json.loads((await held.answer()).request.body)["user"])
        assert served == [str(number) for number in range(6)]
        responses = await asyncio.gather(*tasks)
        assert {response.status for response in responses} == {200}
        assert held.most == 2
        waits = [int(response.header("x-streamgate-queue-ms") or "") for response in responses]
        assert waits[0] == 0 < max(waits)
        await at_rest(models.gateway)
        assert await models.gateway.metric("streamgate_queue_wait_seconds_count", model="tutor") == 6


async def test_a_client_that_leaves_leaves_the_queue(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1) as models:
        held = Held(models)
        first = asyncio.create_task(asked(models, user="first"))
        await eventually(lambda: held.now)
        async with await models.client() as client:
            await client.send(models.request({"model": "tutor", "messages": [], "user": "gone"}))
            await waiting(models, 1)
        await waiting(models, 0)
        assert (await models.record())["state"] == "client_closed"
        last = asyncio.create_task(asked(models, user="last"))
        await waiting(models, 1)
        await held.answer()
        assert json.loads((await held.answer()).request.body)["user"] == "last"
        assert {(await first).status, (await last).status} == {200}
        await at_rest(models.gateway)
        assert len(models.a.requests) == 2


async def test_a_full_queue_refuses_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1, max_waiting=1) as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        second = asyncio.create_task(asked(models))
        await waiting(models, 1)
        refused = await asked(models)
        error = json.loads(refused.body)["error"]
        assert (refused.status, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
        assert 1 <= int(refused.header("retry-after") or "") <= 60
        assert refused.header("x-should-retry") is None
        assert refused.header("x-streamgate-model") == "tutor"
        await held.answer()
        await held.answer()
        assert {(await first).status, (await second).status} == {200}
        assert await models.gateway.metric("streamgate_queue_refused_total", reason="rejected-saturated") == 1


async def test_patience_that_has_ended_is_not_to_be_repeated(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1, max_wait="200ms") as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        expired = await asked(models)
        assert (expired.status, json.loads(expired.body)["error"]["code"]) == (429, "queue_timeout")
        assert (expired.header("x-should-retry"), expired.header("retry-after")) == ("false", None)
        sooner = await asked(models, "t0", "x-stainless-read-timeout: 0.1")
        assert (sooner.status, json.loads(sooner.body)["error"]["code"]) == (429, "queue_timeout")
        await held.answer()
        assert (await first).status == 200


async def test_the_sdk_repeats_what_should_be_repeated_and_nothing_else(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1, max_waiting=0) as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        client = openai.AsyncOpenAI(api_key="k", base_url=models.gateway.url + "/v1", max_retries=1)
        repeated = asyncio.create_task(client.chat.completions.create(model="tutor", messages=[{"role": "user", "content": "x"}]))

        async def refused_once() -> bool:
            return await models.gateway.metric("streamgate_queue_refused_total", reason="rejected-saturated") == 1

        await eventually(refused_once)
        await held.answer()
        assert (await first).status == 200
        await held.answer()
        assert (await repeated).choices[0].message.content == "served"
    (tmp_path / "once").mkdir()
    async with queued(tmp_path / "once", max_in_flight=1, max_wait="150ms") as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        client = openai.AsyncOpenAI(api_key="k", base_url=models.gateway.url + "/v1", max_retries=3)
        with pytest.raises(openai.RateLimitError, match="waited"):
            await client.chat.completions.create(model="tutor", messages=[{"role": "user", "content": "x"}])
        assert await models.gateway.metric("streamgate_queue_refused_total", reason="rejected-ttl-expired") == 1
        await held.answer()
        await first


async def test_a_waiting_stream_is_told_its_position_and_every_sdk_reads_it(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1, announce="50ms") as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        client = openai.AsyncOpenAI(api_key="k", base_url=models.gateway.url + "/v1", max_retries=0)

        async def heard() -> str:
            chunks = await client.chat.completions.create(model="tutor", messages=[{"role": "user", "content": "x"}], stream=True)
            return "".join([one.choices[0].delta.content or "" async for one in chunks if one.choices])

        async with await models.client() as raw:
            await raw.send(models.request({"model": "tutor", "messages": [], "stream": True}))
            head = await raw.head()
            assert (head.status, head.header("content-type")) == (200, "text/event-stream; charset=utf-8")
            assert (await raw.chunk()).startswith(b": queue position=1")
            sdk = asyncio.create_task(heard())
            await waiting(models, 2)
            await held.answer()
            answer = stream(ROLE, token("a"), DONE)
            await held.answer(answer)
            got = b""
            while piece := await raw.chunk():
                got += piece
            assert got.endswith(ROLE + token("a") + DONE)
        assert (await first).status == 200
        await held.answer(answer)
        assert await sdk == "a"
        await at_rest(models.gateway)


async def test_what_goes_wrong_after_an_announcement_is_told_in_the_stream(tmp_path: Path) -> None:
    async with queued(tmp_path, max_in_flight=1, announce="40ms", max_wait="400ms") as models:
        held = Held(models)
        first = asyncio.create_task(asked(models))
        await eventually(lambda: held.now)
        expired = await asked(models, stream=True)
        assert expired.status == 200
        assert expired.body.startswith(b": queue position=1")
        assert b'"code":"' in expired.body
        assert b"[DONE]" not in expired.body
        await held.answer()
        assert (await first).status == 200


async def test_higher_priority_goes_first(tmp_path: Path) -> None:
    urgent = {"id": "urgent", "match": {"paths": ["/v1/*"], "hosts": ["urgent.example"]}, "to": {"models": True}, "priority": 5}
    plain = {"id": "plain", "match": {"paths": ["/v1/*"]}, "to": {"models": True}}
    async with queued(tmp_path, config={"routes": [urgent, plain]}, max_in_flight=1) as models:
        held = Held(models)
        tasks = [asyncio.create_task(asked(models, user="0"))]
        await eventually(lambda: held.now)
        for number, tenant in enumerate(("t0", "urgent"), 1):
            tasks.append(asyncio.create_task(asked(models, tenant, user=tenant)))
            await waiting(models, number)
        served = [json.loads((await held.answer()).request.body)["user"] for _ in range(3)]
        assert served == ["0", "urgent", "t0"]
        await asyncio.gather(*tasks)


async def test_an_endpoint_that_is_full_is_waited_for(tmp_path: Path) -> None:
    config = {"auth": AUTH}
    async with stage(tmp_path, config=config, first_byte="30s", splits={"stable": [{"service": "a"}]}, fallback=[], flag=None) as models:
        services = models.config["services"]
        services[0]["max_in_flight"] = 1
        models.gateway.write(models.config)
        held = Held(models)

        async def applied() -> bool:
            return await models.gateway.metric("streamgate_reloads_total", outcome="applied") == 1

        await eventually(applied)
        tasks = [asyncio.create_task(asked(models)) for _ in range(3)]
        await eventually(lambda: held.now)
        await waiting(models, 2)
        for _ in range(3):
            await held.answer()
        assert {response.status for response in await asyncio.gather(*tasks)} == {200}
        assert held.most == 1


@pytest.mark.parametrize(("workers", "within"), [(1, 0.1), (2, 0.25)])
async def test_five_tenants_one_of_them_greedy(tmp_path: Path, workers: int, within: float) -> None:
    """500 clients; one tenant asks ten times as often as the others. While all have work, all are served alike.

    Two workers are each fair to those they have, and get equal parts of the turns; who has come to which is the kernel's choice.
    """
    share = {f"t{number}": 360 if not number else 36 for number in range(5)}
    most = 0
    flying: list[Arrived] = []
    served: list[str] = []
    go = asyncio.Event()

    async with queued(tmp_path, workers=workers, max_in_flight=8, max_waiting=1000, max_wait="60s") as models:

        async def serve(one: Arrived) -> None:
            nonlocal most
            flying.append(one)
            flying[:] = [each for each in flying if each.connection.is_open]  # who was cancelled has gone at once
            most = max(most, len(flying))
            await go.wait()
            served.append(one.request.header("x-tenant") or "")
            await asyncio.sleep(0)
            flying[:] = [each for each in flying if each is not one]
            await one.send(told("served"))

        models.a.answer_with(serve)
        tenants = [tenant for tenant, count in share.items() for _ in range(count)]
        random.Random(1).shuffle(tenants)
        clients = [await RawClient.open(models.gateway.port) for _ in tenants]
        try:
            for client, tenant in zip(clients, tenants, strict=True):
                raw = models.request({"model": "tutor", "messages": []}, f"x-tenant: {tenant}")
                await client.send(raw.replace(b"Host: gate", f"Host: {tenant}.example".encode()))
            await waiting(models, len(clients) - 8)
            gone = [client for number, client in enumerate(clients) if number % 31 == 3]
            for client in gone:
                client.writer.transport.abort()
            await waiting(models, len(clients) - 8 - len(gone))
            go.set()
            answers = await asyncio.gather(*(client.answer(timeout=60) for client in clients if client not in gone))
        finally:
            for client in clients:
                client.writer.transport.abort()
        assert Counter(answer.status for answer in answers) == {200: len(answers)}
        assert most <= 8
        await at_rest(models.gateway)
        assert await models.gateway.metric("streamgate_queue_depth", model="tutor") == 0
        together: Counter[str] = Counter()
        for tenant in served[8:]:  # the first eight had their turn before anybody waited
            together[tenant] += 1
            if together[tenant] == 24:
                break  # all have work until here
        mean = together.total() / 5
        assert all(abs(together[tenant] - mean) <= within * mean + 1 for tenant in share), together
