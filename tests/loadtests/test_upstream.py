import asyncio
import itertools
import json
import time
from typing import Any

import pytest

from loadtests import stamps, upstream
from loadtests.asking import HOST, Address, fetch, request
from loadtests.drops import Visitor, visit
from tests.kit.wait import eventually
from tests.loadtests.fake_model import model


async def answer(address: Address, data: bytes) -> bytes:
    """What comes back for these bytes until the whole answer has come."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" in head:
        body = await reader.readuntil(b"0\r\n\r\n")
    else:
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
    writer.close()
    return head + body


async def stats(address: Address, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await fetch(HOST, address.port, "/stats" + query))
    return found


async def test_json_is_answered_the_same_with_and_without_the_short_cut() -> None:
    async with model() as (address, _):
        quick = await fetch(HOST, address.port, "/json")
        parsed = await answer(address, b"POST /json HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        assert json.loads(quick)["ok"] is True
        assert parsed.endswith(quick)


async def test_a_stream_has_as_many_tokens_as_asked_and_an_end() -> None:
    async with model() as (address, counts):
        wire = await answer(address, request(address, {"tokens": 5, "rate": 500}))
        assert len(stamps.PATTERN.findall(wire)) == 5
        assert wire.endswith(stamps.END_OF_STREAM)
        assert (counts.started, counts.finished, counts.tokens) == (1, 1, 5)
        assert not +counts.phases


async def test_wishes_may_stand_in_the_query_string() -> None:
    async with model() as (address, _):
        target = Address(address.host, address.port, address.path + "?tokens=3&rate=500")
        wire = await answer(target, request(target, {}))
        assert len(stamps.PATTERN.findall(wire)) == 3


async def test_stamps_are_a_period_apart_and_no_token_comes_early() -> None:
    async with model() as (address, _):
        wire = await answer(address, request(address, {"tokens": 6, "rate": 100}))
        sent_ns = [int(stamp) for stamp in stamps.PATTERN.findall(wire)]
        assert (sent_ns[-1] - sent_ns[0]) / 1e9 >= 5 * 0.01 - 0.002
        assert all(later - sooner > 5e6 for sooner, later in itertools.pairwise(sent_ns))


class Loop:
    """A loop whose clock stands until it is set, and whose one timer is fired by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, call: Any, *args: Any) -> None:
        self.due, self.fire = due, lambda: call(*args)


class Listening:
    def __init__(self) -> None:
        self.tokens = 0

    def emit(self) -> None:
        self.tokens += 1


def test_beats_keep_their_grid_when_the_loop_is_late_and_missed_ones_are_not_made_up_for() -> None:
    loop, stream = Loop(), Listening()
    upstream.Metronome(loop, 50).join(stream)  # type: ignore[arg-type]
    dues = []
    for late_s in (0.0, 0.003, 0.015, 0.045):  # the last one misses two beats
        dues.append(loop.due)
        loop.now = loop.due + late_s
        loop.fire()
    assert dues == pytest.approx([100.02, 100.04, 100.06, 100.08])
    assert loop.due == pytest.approx(100.14)
    assert stream.tokens == 4


async def test_streams_of_one_rate_share_timers() -> None:
    async with model() as (address, counts):
        visitors = [await visit(address, request(address, {"tokens": 1000, "rate": 50})) for _ in range(60)]
        await eventually(lambda: counts.phases["streaming"] == 60)
        loop = asyncio.get_running_loop()
        timers = [handle for handle in loop._scheduled if "Metronome._fire" in repr(handle)]  # type: ignore[attr-defined]
        assert 1 <= len(timers) <= 21
        for visitor in visitors:
            visitor.leave()
        await eventually(lambda: counts.phases["streaming"] == 0)
        assert counts.closed_early == 60


async def test_a_plain_completion_is_not_streamed() -> None:
    async with model() as (address, _):
        wire = await answer(address, request(address, {}, stream=False))
        assert json.loads(wire.partition(b"\r\n\r\n")[2])["object"] == "chat.completion"


async def test_a_close_is_reported_under_its_name_once() -> None:
    async with model() as (address, counts):
        visitor: Visitor = await visit(address, request(address, {"hold": "headers", "id": "first"}))
        await eventually(lambda: counts.phases["held before headers"] == 1)
        left_ns = visitor.leave()
        await eventually(lambda: "first" in counts.closes)
        seen = await stats(address, "?reset=1")
        assert left_ns <= seen["closes"]["first"] <= time.monotonic_ns()
        assert (seen["closed_early"], seen["phases"]) == (1, {})
        assert (await stats(address))["closes"] == {}


async def test_holding_before_the_first_chunk_sends_the_head_alone() -> None:
    async with model() as (address, counts):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(request(address, {"hold": "body"}))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert counts.phases["held before chunk"] == 1
        writer.close()
        await eventually(lambda: counts.phases["held before chunk"] == 0)


async def test_a_client_that_leaves_after_the_end_was_not_early() -> None:
    async with model() as (address, counts):
        await answer(address, request(address, {"tokens": 1, "rate": 500}))
        await eventually(lambda: counts.connections == 0)
        assert counts.closed_early == 0
