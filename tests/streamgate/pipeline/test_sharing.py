"""Who shares a generation with whom, what each hears of it, and who counts what it used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from streamgate.exchange import Exchange
from streamgate.pipeline.sharing import principal_of
from streamgate.prompt import Prompt
from tests.end_to_end.models_stage import DONE, ROLE, STREAM, USAGE, refusal, stream, token, told
from tests.kit.client import RawClient
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import chunk
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench

SHARES: dict[str, Any] = {"route": {"single_flight": True}, "fallback": []}
SAME: dict[str, Any] = {"messages": [], "temperature": 0}


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[ModelsBench]:
    async with models_bench(**SHARES) as bench:
        yield bench


async def joined(bench: ModelsBench, count: int, **members: Any) -> tuple[Arrived, list[RawClient]]:
    """So many ask the same."""
    clients = [await bench.sent(**SAME, **members)]
    one = await bench.a.next_request()
    for riding in range(2, count + 1):
        clients.append(await bench.sent(**SAME, **members))
        await eventually(lambda n=riding: bench.model.sharing.flights.riding == n)
    return one, clients


# -- who is who ------------------------------------------------------------------------------------------------------------


def principal(*headers: tuple[bytes, bytes], query: bytes | None = None, tenant: str | None = None, sticky: tuple[str, ...] = ()) -> str:
    exchange = Exchange(method=b"POST", path=b"/", query=query, host=b"h", headers=list(headers), http10=False, started_at=0.0)
    exchange.prompt = Prompt("tutor", "chat", stream=False)
    exchange.prompt.tenant = tenant
    return principal_of(exchange, sticky)


def test_who_says_the_same_of_himself_is_the_same() -> None:
    one = principal((b"Authorization", b"k1"), (b"X-Other", b"1"), (b"Accept", b"*/*"))
    assert one == principal((b"accept", b"*/*"), (b"authorization", b"k1"), (b"x-other", b"2"))


@pytest.mark.parametrize(
    "other",
    [
        {"headers": [(b"authorization", b"k2")]},
        {"headers": [(b"authorization", b"k1"), (b"x-api-key", b"k1")]},
        {"headers": [(b"authorization", b"k1"), (b"cookie", b"a=1")]},
        {"headers": [(b"authorization", b"k1"), (b"OpenAI-Organization", b"o")]},
        {"headers": [(b"authorization", b"k1"), (b"anthropic-beta", b"b")]},
        {"headers": [(b"authorization", b"k1"), (b"accept-encoding", b"gzip")]},
        {"headers": [(b"authorization", b"k1"), (b"X-Session", b"s")]},
        {"headers": [(b"authorization", b"k1")], "query": b"api-version=1"},
        {"headers": [(b"authorization", b"k1")], "tenant": "acme"},
    ],
)
def test_who_says_anything_else_is_another(other: dict[str, Any]) -> None:
    sticky = ("header:x-session", "body:user", "prompt")
    mine = principal((b"authorization", b"k1"), sticky=sticky)
    assert mine != principal(*other.pop("headers"), sticky=sticky, **other)


# -- single flight ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
async def test_identical_requests_share_one_generation(bench: ModelsBench, *, streamed: bool) -> None:
    one, clients = await joined(bench, 3, stream=streamed)
    await one.send(stream(ROLE, token("a"), USAGE, DONE) if streamed else told("hello"))
    bodies = {(await client.answer()).body for client in clients}
    assert bodies == {ROLE + token("a") + DONE if streamed else told("hello").partition(b"\r\n\r\n")[2]}
    assert len(bench.a.requests) == 1
    await eventually(lambda: len(bench.records) == 3)
    assert {(record.shared, record.service, record.attempts, record.input_tokens) for record in bench.records} == {("flight", "a", 1, 7)}
    assert bench.model.metrics.shared == {("flight", "requests"): 3, ("flight", "calls"): 1}


async def test_one_that_nobody_joined_shared_nothing(bench: ModelsBench) -> None:
    one, (client,) = await joined(bench, 1)
    await one.send(told("hello"))
    assert (await client.answer()).status == 200
    await eventually(lambda: bench.records)
    assert bench.records[0].shared is None


async def test_a_latecomer_hears_the_beginning(bench: ModelsBench) -> None:
    one, (first,) = await joined(bench, 1, stream=True)
    await one.send(STREAM + chunk(ROLE) + chunk(token("a")))
    await first.head()
    late = await bench.sent(**SAME, stream=True)
    assert (await late.head()).status == 200
    assert await late.chunk() == ROLE + token("a")
    await one.send(chunk(token("b")) + chunk(DONE) + b"0\r\n\r\n")
    got = b""
    while piece := await late.chunk():
        got += piece
    assert got == token("b") + DONE


async def test_what_is_over_is_not_kept(bench: ModelsBench) -> None:
    for text in ("one", "two"):
        task = bench.asks(**SAME)
        await (await bench.a.next_request()).send(told(text))
        assert text.encode() in (await task).body


@pytest.mark.parametrize("other", [{"temperature": 1}, {"messages": [{}]}, {"stream": True}, {"n": 2}, {"user": "u"}])
async def test_what_is_not_bound_to_be_the_same_is_not_shared(bench: ModelsBench, other: dict[str, Any]) -> None:
    clients = [await bench.sent(**SAME), await bench.sent(**SAME | other)]
    for _ in clients:
        one = await bench.a.next_request()
        await one.send(stream(token("x"), DONE) if "stream" in other and b"true" in one.request.body else told("x"))
    assert [(await client.answer()).status for client in clients] == [200, 200]


async def test_nor_is_anything_with_another_principal_or_on_another_route() -> None:
    routes = [
        {"id": name, "match": {"paths": ["/v1/*"], **match}, "to": {"models": True}, "single_flight": True}
        for name, match in (("beta", {"hosts": ["beta.example"]}), ("llm", {}))
    ]
    async with models_bench(**SHARES) as bench:
        bench.reload(routes=routes)
        clients = [await bench.sent(**SAME), await bench.sent("Authorization: Bearer k", **SAME)]
        client = await RawClient.open(bench.port)
        await client.send(bench.request(SAME).replace(b"Host: gate", b"Host: beta.example"))
        for _ in range(3):
            await (await bench.a.next_request()).send(told("x"))
        assert [(await client.answer()).status for client in (*clients, client)] == [200] * 3


async def test_an_error_is_everybodys(bench: ModelsBench) -> None:
    one, clients = await joined(bench, 2)
    await one.send(refusal(400))
    assert [(await client.answer()).status for client in clients] == [400, 400]
    one, clients = await joined(bench, 2, user="again")
    one.reset()
    (await bench.a.next_request()).reset()  # a kept connection that ends at once was stale
    assert [(await client.answer()).status for client in clients] == [502, 502]


async def test_a_turn_that_does_not_come_is_told_to_all() -> None:
    async with models_bench(queue={"max_in_flight": 1, "max_wait": "300ms"}, **SHARES) as bench:
        held = await bench.sent(messages=[])
        one = await bench.a.next_request()
        tasks = [bench.asks(**SAME), bench.asks(**SAME)]
        responses = await asyncio.gather(*tasks)
        assert [response.status for response in responses] == [429, 429]
        assert all(b"queue_timeout" in response.body for response in responses)
        await one.send(told("x"))
        assert (await held.answer()).status == 200


async def test_whoever_leaves_leaves_the_others_their_stream_and_the_last_one_takes_it_along(bench: ModelsBench) -> None:
    one, clients = await joined(bench, 3, stream=True)
    await one.send(STREAM + chunk(token("a")))
    for client in clients:
        await client.head()
    clients[0].writer.transport.abort()  # who made the call
    await eventually(lambda: len(bench.records) == 1)
    await one.send(chunk(token("b")))
    for client in clients[1:]:
        assert await client.chunk() + await client.chunk() == token("a") + token("b")
    for client in clients[1:]:
        client.writer.transport.abort()
    await one.wait_closed()
    await eventually(lambda: len(bench.records) == 3)
    assert {record.state for record in bench.records} == {"client_closed"}


# -- what was used ---------------------------------------------------------------------------------------------------------


def output_tokens(bench: ModelsBench) -> float:
    """As the metrics count them."""
    (tokens,) = (family for family in bench.gen_ai.families() if family.name == "streamgate_tokens")
    return sum(sample.value for sample in tokens.samples if "output" in sample.labels)


async def test_what_was_used_is_counted_once(bench: ModelsBench) -> None:
    one, clients = await joined(bench, 3)
    await one.send(told("hello"))
    for client in clients:
        await client.answer()
    await eventually(lambda: len(bench.records) == 3)
    assert output_tokens(bench) == 2


async def test_it_is_counted_by_who_heard_all_of_it(bench: ModelsBench) -> None:
    one, clients = await joined(bench, 2, stream=True)
    await one.send(STREAM + chunk(token("a")))
    for client in clients:
        await client.head()
    clients[0].writer.transport.abort()
    await eventually(lambda: len(bench.records) == 1)
    assert output_tokens(bench) == 0
    await one.send(chunk(token("b")) + chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n")
    await eventually(lambda: len(bench.records) == 2)
    assert output_tokens(bench) == 2


async def test_where_nobody_did_by_the_last_to_leave(bench: ModelsBench) -> None:
    one, clients = await joined(bench, 2, stream=True)
    await one.send(STREAM + chunk(token("a")))
    for count, client in enumerate(clients, 1):
        await client.head()
        client.writer.transport.abort()
        await eventually(lambda n=count: len(bench.records) == n)
    assert output_tokens(bench) == 1
