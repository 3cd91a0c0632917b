"""A call of the gateway's own: what its row is told, and that it is told an end whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from routers.flags import Verdict
from sessions.relay import Response
from streamgate.errors import Fault, QueueFull, ShuttingDown, UpstreamFault, UpstreamMalformed, UpstreamReset
from streamgate.exchange import Dialect, Exchange
from streamgate.pipeline.calls import Call, Row
from streamgate.pipeline.deck import Deck
from streamgate.pipeline.whole import Whole
from tests.end_to_end.models_stage import CHAT, DONE, ROLE, STREAM, USAGE, refusal, stream, token, told
from tests.kit.around import SetFlags
from tests.kit.wait import eventually
from tests.kit.wire import chunk
from tests.streamgate.pipeline.bench import Client
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench


class Told(Row):
    """A row that writes down what it is told."""

    def __init__(self) -> None:
        self.heads: list[Response] = []
        self.body = b""
        self.flushes = 0
        self.ends: list[Fault | None] = []

    def on_head(self, response: Response) -> None:
        self.heads.append(response)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def flush(self, *, ended: bool = False, trailers: Any = None) -> None:
        self.flushes += 1
        if ended:
            self.ends.append(None)

    def on_lost(self, fault: Fault) -> None:
        self.ends.append(fault)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[ModelsBench]:
    async with models_bench(fallback=[]) as bench:
        yield bench


def asking(bench: ModelsBench, *headers: tuple[bytes, bytes], **members: Any) -> tuple[Call, Told]:
    """A call for what a client asks, and its row."""
    plan = bench.plan
    assert plan.models is not None
    exchange = Exchange(
        method=b"POST", path=CHAT.encode(), query=None, host=b"gate", headers=list(headers), http10=True, started_at=bench.clock.now()
    )  # fmt: skip
    exchange.dialect, exchange.request_id, exchange.client_address = Dialect.OPENAI, b"r-1", "192.0.2.1"
    body = json.dumps({"model": "tutor", "messages": [], **members}).encode()
    client = Client()
    client.loop = asyncio.get_running_loop()
    kit = bench.gateway.kit
    first = plan.models.prompting(exchange, plan, plan.models, client, Whole(body), kit)  # type: ignore[arg-type]  # it reads no body
    row = Told()
    call = Call(first, Deck(first.link, body), row)
    call.flying = kit.tasks.spawn(call.fly(), name="call")
    return call, row


async def test_the_row_hears_a_head_bare_content_and_an_end(bench: ModelsBench) -> None:
    call, row = asking(bench, (b"Accept-Encoding", b"gzip"), (b"X-Own", b"1"))
    one = await bench.a.next_request()
    assert call.pair == ("a", "up")
    await one.send(told("hello"))
    await eventually(lambda: row.ends)
    assert (row.ends, len(row.heads), row.heads[0].status) == ([None], 1, 200)
    assert row.body == told("hello").partition(b"\r\n\r\n")[2]
    assert one.request.header("accept-encoding") is None
    assert (one.request.header("x-own"), one.request.header("x-request-id")) == ("1", "r-1")


async def test_of_a_stream_the_row_hears_all_that_was_asked_for_and_nothing_else() -> None:
    """The usage is asked for: each rider takes it out by itself, and adds its own summary."""
    async with models_bench(route={"summary": True}) as bench:
        _, row = asking(bench, stream=True)
        one = await bench.a.next_request()
        assert json.loads(one.request.body)["stream_options"] == {"include_usage": True}
        await one.send(STREAM + chunk(ROLE))
        await one.send(chunk(token("a")))
        await eventually(lambda: row.body)
        assert (row.body, row.ends) == (ROLE + token("a"), [])
        await one.send(chunk(USAGE) + chunk(DONE) + b"0\r\n\r\n")
        await eventually(lambda: row.ends)
        assert row.body == ROLE + token("a") + USAGE + DONE
        assert row.flushes >= 3


async def test_an_error_of_the_upstreams_is_an_answer(bench: ModelsBench) -> None:
    _, row = asking(bench)
    await (await bench.a.next_request()).send(refusal(404))
    await eventually(lambda: row.ends)
    assert (row.ends, row.heads[0].status) == ([None], 404)


async def test_what_breaks_before_and_after_the_first_token(bench: ModelsBench) -> None:
    _, row = asking(bench)
    (await bench.a.next_request()).reset()
    await eventually(lambda: row.ends)
    assert isinstance(row.ends[0], UpstreamReset)
    assert row.heads == []
    _, row = asking(bench, stream=True)
    one = await bench.a.next_request()
    await one.send(STREAM + chunk(token("a")))
    await eventually(lambda: row.body)
    one.reset()
    await eventually(lambda: row.ends)
    assert isinstance(row.ends[0], UpstreamFault)
    assert row.body == token("a")  # each rider is told in band by its own relay


async def test_a_refusal_of_our_own_is_told_as_it_is() -> None:
    async with models_bench(queue={"max_in_flight": 1, "max_waiting": 0}) as bench:
        first, held = asking(bench)
        one = await bench.a.next_request()
        _, row = asking(bench)
        await eventually(lambda: row.ends)
        assert isinstance(row.ends[0], QueueFull)
        await one.send(told("x"))
        await eventually(lambda: held.ends)
        assert first.exchange.status == 200


class BrokenFlags(SetFlags):
    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict:
        raise ZeroDivisionError("hunter2")


async def test_a_defect_of_ours_is_an_end_too(bench: ModelsBench) -> None:
    async with models_bench(flag="f", parts={"flags": BrokenFlags()}) as broken:
        _, row = asking(broken)
        await eventually(lambda: row.ends)
        (fault,) = row.ends
        assert (type(fault), fault.status) == (Fault, 500)  # type: ignore[union-attr]
        assert "ZeroDivisionError" in fault.note and "hunter2" not in fault.note  # type: ignore[union-attr]
    _, row = asking(bench)
    one = await bench.a.next_request()
    bench.clock.broken = True  # while the answer is judged
    await one.send(told("x"))
    await eventually(lambda: row.ends)
    bench.clock.broken = False
    assert isinstance(row.ends[0], UpstreamMalformed)


@pytest.mark.parametrize("begun", [False, True])
async def test_its_owner_ends_it(bench: ModelsBench, *, begun: bool) -> None:
    _, row = asking(bench, stream=True)
    one = await bench.a.next_request()
    if begun:
        await one.send(STREAM + chunk(token("a")))
        await eventually(lambda: row.body)
    await bench.gateway.kit.tasks.close()
    assert [type(fault) for fault in row.ends] == [ShuttingDown]
    await one.wait_closed()


@pytest.mark.parametrize("begun", [False, True])
async def test_nobody_wants_it_any_more(bench: ModelsBench, *, begun: bool) -> None:
    call, row = asking(bench, stream=True)
    one = await bench.a.next_request()
    if begun:
        await one.send(STREAM + chunk(token("a")))
        await eventually(lambda: row.body)
    call.abandon(bench.clock.now() - 100.0)
    await one.wait_closed()
    await eventually(lambda: call.flying is not None and call.flying.done())
    assert row.ends == []
    cancelled = bench.plan.metrics.cancel
    await eventually(lambda: sum(cancelled.counts) == 1)
    assert cancelled.total >= 100.0  # since the client left, not since somebody noticed


async def test_it_is_abandoned_before_it_has_begun(bench: ModelsBench) -> None:
    call, row = asking(bench)
    call.abandon()
    await eventually(lambda: call.flying is not None and call.flying.done())
    assert (row.ends, bench.a.requests) == ([], [])


async def test_it_tells_nobody_its_place_in_the_queue() -> None:
    async with models_bench(queue={"max_in_flight": 1, "announce": "5ms"}) as bench:
        asking(bench)
        one = await bench.a.next_request()
        call, row = asking(bench, stream=True)
        await eventually(lambda: bench.model.line.waiting)
        await asyncio.sleep(0.03)  # in which a client would have been told
        assert (row.body, call.pair) == (b"", None)
        await one.send(told("x"))
        await (await bench.a.next_request()).send(stream(token("a"), DONE))
        await eventually(lambda: row.ends)
        assert row.body == token("a") + DONE


async def test_a_row_that_is_behind_stops_the_upstream(bench: ModelsBench) -> None:
    call, row = asking(bench, stream=True)
    one = await bench.a.next_request()
    await one.send(STREAM + chunk(token("a")))
    await eventually(lambda: row.body)
    call.pause_reading()
    transport = one.connection.writer.transport
    while transport.get_write_buffer_size() < 300_000:
        transport.write(chunk(token("x" * 60_000)))
        await asyncio.sleep(0)
    assert len(row.body) < 1_000_000
    call.resume_reading()
    await one.send(chunk(DONE) + b"0\r\n\r\n")
    await eventually(lambda: row.ends == [None])
    assert row.body.endswith(DONE)


async def test_no_reader_is_too_slow_for_it_and_other_deadlines_hold(bench: ModelsBench) -> None:
    call, row = asking(bench)
    limits = call.limits_of("a")
    assert (limits.write_s, limits.first_byte_s, limits.idle_s) == (float("inf"), 30.0, 30.0)
    await (await bench.a.next_request()).send(told("x"))
    await eventually(lambda: row.ends)


async def test_it_asks_nobody_who_is_asked_already() -> None:
    async with models_bench() as bench:
        call, row = asking(bench)
        call.avoids = lambda: (("a", "up"),)
        await (await bench.b.next_request()).send(told("x"))
        await eventually(lambda: row.ends)
        call, row = asking(bench)
        one = await bench.a.next_request()
        call.avoids = lambda: (("b", "up-b"),)
        one.reset()
        await eventually(lambda: row.ends)
        assert isinstance(row.ends[0], UpstreamReset)
        assert len(bench.b.requests) == 1
