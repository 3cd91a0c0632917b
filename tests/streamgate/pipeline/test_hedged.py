"""A race of two attempts: who wins, what becomes of errors, what is counted, and that nobody waits for an answer that cannot come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import DONE, ROLE, STREAM, USAGE, refusal, stream, token, told
from tests.kit.client import RawClient
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk, head
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench

CONFIG: dict[str, Any] = {
    "hedge": {"after": "20ms", "share": "20%"},
    "splits": {"stable": [{"service": "a", "weight": 1_000_000}, {"service": "b", "weight": 1}]},
    "fallback": [],
}


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[ModelsBench]:
    async with models_bench(**CONFIG) as bench:
        pay_for_one(bench)
        yield bench


def pay_for_one(bench: ModelsBench) -> None:
    for _ in range(5):
        bench.model.hedging.deposit(bench.clock.now())  # type: ignore[union-attr]


async def both(bench: ModelsBench, **members: Any) -> tuple[RawClient, Arrived, Arrived]:
    """A client whose request has come to both."""
    client = await bench.sent(messages=[], **members)
    return client, await bench.a.next_request(), await bench.b.next_request()


def counted(bench: ModelsBench) -> tuple[dict[str, int], dict[str, int]]:
    return bench.model.metrics.hedges, bench.model.metrics.duplicates


async def test_a_quick_answer_is_nobodys_race(bench: ModelsBench) -> None:
    bench.a.answer_with(lambda _one: told("quick"))
    response = await bench.asks(messages=[])
    assert b"quick" in response.body
    assert response.header("x-streamgate-service") == "a"
    await eventually(lambda: bench.records)
    (record,) = bench.records
    assert (record.hedged, record.shared, record.service, record.attempts, record.output_tokens) == (False, None, "a", 1, 2)
    assert counted(bench) == ({}, {})


@pytest.mark.parametrize("second", [False, True])
async def test_the_first_to_speak_wins_and_the_other_is_cancelled(bench: ModelsBench, *, second: bool) -> None:
    client, *runners = await both(bench, stream=True)
    winner, loser = runners[second], runners[not second]
    await loser.send(STREAM + chunk(ROLE))  # that says nothing
    await winner.send(stream(ROLE, token("x"), USAGE, DONE))
    response = await client.answer()
    assert response.body == ROLE + token("x") + DONE
    await loser.wait_closed()
    await eventually(lambda: bench.records)
    (record,) = bench.records
    assert (record.hedged, record.service, record.input_tokens, record.state) == (True, "ab"[second], 7, "complete")
    assert counted(bench) == ({"won" if second else "lost": 1}, {"hedge": 1})


@pytest.mark.parametrize("second", [False, True])
async def test_an_error_is_held_while_the_other_may_do_better(bench: ModelsBench, *, second: bool) -> None:
    client, *runners = await both(bench)
    await runners[second].send(refusal(500))
    await eventually(lambda: not (runners[second].connection.is_open and bench.model.loads.held(("ab"[second], "tutor"))))
    await runners[not second].send(told("better"))
    response = await client.answer()
    assert (response.status, b"better" in response.body) == (200, True)
    await eventually(lambda: bench.records)
    assert bench.records[0].service == "ba"[second]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("whole", [False, True])
async def test_an_error_is_given_when_the_other_is_lost(bench: ModelsBench, *, second: bool, whole: bool) -> None:
    client, *runners = await both(bench)
    rest = b"" if whole else b"x" * 5
    error = refusal(503) if whole else head(503, [("content-length", "10")]) + b"y" * 5
    await runners[second].send(error)
    await eventually(lambda: any(one.call is not None and one.response is not None for one in runners_of(bench)))
    runners[not second].reset()
    if not whole:
        await runners[second].send(rest)
    response = await client.answer()
    assert response.status == 503
    assert response.body == (b"y" * 5 + rest if not whole else refusal(503).partition(b"\r\n\r\n")[2])
    assert response.header("x-streamgate-service") == "ab"[second]
    assert counted(bench) == ({"won" if second else "lost": 1}, {"hedge": 1})
    await eventually(lambda: bench.records)
    assert bench.records[0].state == "complete"


async def test_an_error_that_is_held_is_not_read_on_without_end(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    await first.send(head(503, [("content-length", "10000000")]) + b"x" * 10)
    transport = first.connection.writer.transport
    sent = 10
    while transport.get_write_buffer_size() < 500_000:
        transport.write(b"x" * 60_000)
        sent += 60_000
        assert sent < 9_000_000, "it takes everything"
        await asyncio.sleep(0)
    second.reset()
    transport.write(b"x" * (10_000_000 - sent))
    response = await client.answer()
    assert (response.status, len(response.body)) == (503, 10_000_000)


def runners_of(bench: ModelsBench) -> list[Any]:
    """What is known of each attempt of the race that is under way."""
    (live,) = bench.live
    return list(live._seat._row._runners)  # type: ignore[union-attr]


async def test_of_two_errors_the_second_is_given(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    await first.send(refusal(500))
    await eventually(lambda: any(one.response is not None for one in runners_of(bench)))
    await second.send(refusal(529))
    assert (await client.answer()).status == 529
    assert counted(bench) == ({"won": 1}, {"hedge": 1})


async def test_what_is_the_requests_own_fault_is_no_error_to_wait_with(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    await first.send(refusal(400))
    assert (await client.answer()).status == 400
    await second.wait_closed()


async def test_when_both_are_lost_that_is_told(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    first.reset()
    await eventually(lambda: len(runners_of(bench)) == 1)
    second.reset()
    assert (await client.answer()).status == 502
    await eventually(lambda: bench.records)
    assert (bench.records[0].fault, bench.records[0].service) == ("upstream_reset", "b")
    assert counted(bench) == ({"won": 1}, {"hedge": 1})


async def test_one_that_is_lost_leaves_the_race_to_the_other(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    first.reset()
    await eventually(lambda: len(runners_of(bench)) == 1)
    await second.send(told("from b"))
    assert b"from b" in (await client.answer()).body
    assert counted(bench) == ({"won": 1}, {"hedge": 1})


async def test_a_winner_that_breaks_off_is_told_in_band(bench: ModelsBench) -> None:
    client, first, second = await both(bench, stream=True)
    await second.send(STREAM + chunk(ROLE) + chunk(token("a")))
    assert (await client.head()).status == 200
    second.reset()
    await client.reader.readuntil(b'"error"')
    await first.wait_closed()


async def test_an_answer_without_a_body_wins_too(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    await first.send(answer(b"", 202))
    assert (await client.answer()).status == 202
    await second.wait_closed()


async def test_who_leaves_takes_both_along_and_the_duplicate_is_counted(bench: ModelsBench) -> None:
    client, first, second = await both(bench)
    client.writer.transport.abort()
    await first.wait_closed()
    await second.wait_closed()
    assert counted(bench) == ({"lost": 1}, {"hedge": 1})


async def test_a_slow_reader_slows_the_winner_down(bench: ModelsBench) -> None:
    client, first, second = await both(bench, stream=True)
    piece = b"data: " + b"x" * 65_000 + b"\n\n"
    await first.send(STREAM + chunk(ROLE) + chunk(token("a")))
    transport, pieces = first.connection.writer.transport, 0
    while transport.get_write_buffer_size() < 500_000:
        transport.write(chunk(piece))
        pieces += 1
        assert pieces < 1_000, "it takes everything"
        await asyncio.sleep(0)
    await second.wait_closed()
    await client.head()
    got = 0
    while got < pieces * len(piece):
        got += len(await client.chunk())


async def test_who_goes_on_from_an_answer_races_nobody(bench: ModelsBench) -> None:
    client = await bench.sent(path="/v1/responses", input="x", previous_response_id="resp_1")
    one = await bench.a.next_request()
    assert bench.live[0]._seat is None
    await one.send(told("x"))
    assert (await client.answer()).status == 200


async def test_no_second_where_another_worker_has_all_the_turns(bench: ModelsBench) -> None:
    client = await bench.sent(messages=[])
    one = await bench.a.next_request()
    bench.model.line.resize(0)
    await eventually(lambda: bench.model.hedging.statistics().refused_busy == 1)  # type: ignore[union-attr]
    await one.send(told("late"))
    assert (await client.answer()).status == 200
    bench.model.line.resize(None)


async def test_no_second_while_the_first_waits_for_its_turn(bench: ModelsBench) -> None:
    bench.model.line.resize(0)
    client = await bench.sent(messages=[])
    (live,) = await eventually(lambda: bench.live)
    race = live._seat._row  # type: ignore[union-attr]
    await eventually(lambda: race._timer is None)
    bench.model.line.resize(None)
    await (await bench.a.next_request()).send(told("late"))
    assert (await client.answer()).status == 200
    assert bench.b.requests == []


async def test_no_second_where_there_is_nobody_else() -> None:
    async with models_bench(**CONFIG | {"splits": {"stable": [{"service": "a"}]}}) as bench:
        pay_for_one(bench)
        client = await bench.sent(messages=[])
        one = await bench.a.next_request()
        (live,) = bench.live
        await eventually(lambda: live._seat._row._timer is None)  # type: ignore[union-attr]
        await one.send(told("late"))
        assert (await client.answer()).status == 200
        assert len(bench.a.requests) == 1
        await eventually(lambda: bench.records)
        assert bench.records[0].hedged is False
        assert bench.model.hedging.statistics().calls == 6  # type: ignore[union-attr]
