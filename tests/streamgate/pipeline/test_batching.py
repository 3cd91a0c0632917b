"""Batches as calls: each hears its own part, or is asked for alone; nobody is stranded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import DONE, STREAM, refusal
from tests.kit.client import RawClient, Response
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench

EMBEDDINGS, COMPLETIONS = "/v1/embeddings", "/v1/completions"
BATCH = {"window": "10s", "max_items": 8}


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[ModelsBench]:
    async with models_bench(batch=BATCH, fallback=[]) as bench:
        yield bench


def vectors(inputs: list[str]) -> bytes:
    """As many as were asked for, each telling what for, last one first."""
    data = [{"object": "embedding", "index": at, "embedding": [0.1, len(one)]} for at, one in enumerate(inputs)]
    body = {"object": "list", "model": "up", "data": data[::-1], "usage": {"prompt_tokens": 10 * len(inputs), "total_tokens": 10 * len(inputs)}}
    return answer(json.dumps(body).encode(), 200, [("content-type", "application/json")])


def asked(one: Arrived) -> Any:
    body = json.loads(one.request.body)
    return body.get("input", body.get("prompt"))


def heard(response: Response) -> list[float]:
    return [entry["embedding"][1] for entry in json.loads(response.body)["data"]]


async def gathered(bench: ModelsBench, *inputs: str, path: str = EMBEDDINGS, **members: Any) -> tuple[Arrived, list[RawClient]]:
    """The first is under way, the others gather."""
    name = "input" if path == EMBEDDINGS else "prompt"
    clients = [await bench.sent(path=path, **{name: inputs[0]}, **members)]
    first = await bench.a.next_request()
    for count, one in enumerate(inputs[1:], 1):
        clients.append(await bench.sent(path=path, **{name: one}, **members))
        await eventually(lambda n=count: waiting(bench) == n)
    return first, clients


def waiting(bench: ModelsBench) -> int:
    batches = bench.model.sharing.batches
    return 0 if batches is None else batches.statistics().waiting


# -- together --------------------------------------------------------------------------------------------------------------


async def test_the_first_goes_alone_and_who_comes_meanwhile_together(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    assert asked(first) == "a"
    await first.send(vectors(["a"]))
    second = await bench.a.next_request()
    assert asked(second) == ["bb", "ccc"]
    await second.send(vectors(["bb", "ccc"]))
    assert [heard(await client.answer()) for client in clients] == [[1], [2], [3]]
    await eventually(lambda: len(bench.records) == 3)
    assert [record.shared for record in bench.records] == [None, "batch", "batch"]
    assert [record.input_tokens for record in bench.records] == [10, 9, 11]  # 20, by the size of what was asked
    assert bench.model.metrics.shared == {("batch", "requests"): 3, ("batch", "calls"): 2}


async def test_one_that_is_alone_hears_every_byte_as_it_comes(bench: ModelsBench) -> None:
    """Also what no batch could be told apart by."""
    client = await bench.sent(path=COMPLETIONS, prompt="x", stream=True)
    one = await bench.a.next_request()
    odd = b'data: {"object":"odd","text":"no choice is named"}\n\n'
    await one.send(STREAM + chunk(odd))
    assert (await client.head()).status == 200
    assert await client.chunk() == odd
    await one.send(chunk(DONE) + b"0\r\n\r\n")
    assert await client.chunk() == DONE


async def test_one_that_is_alone_and_reads_slowly_slows_its_call(bench: ModelsBench) -> None:
    client = await bench.sent(path=COMPLETIONS, prompt="x", stream=True)
    one = await bench.a.next_request()
    piece = b'data: {"choices":[{"index":0,"text":"' + b"x" * 60_000 + b'"}]}\n\n'
    await one.send(STREAM + chunk(piece))
    transport, pieces = one.connection.writer.transport, 1
    while transport.get_write_buffer_size() < 500_000:
        transport.write(chunk(piece))
        pieces += 1
        assert pieces < 1_000, "it takes everything"
        await asyncio.sleep(0)
    await client.head()
    got = 0
    while got < pieces * len(piece):
        got += len(await client.chunk())


async def test_one_that_is_alone_and_lost_holds_up_nobody(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb")
    first.reset()
    assert (await clients[0].answer()).status == 502
    await (await bench.a.next_request()).send(vectors(["bb"]))
    assert heard(await clients[1].answer()) == [2]


async def test_the_window_ends_for_who_waits_and_for_who_comes_later() -> None:
    async with models_bench(batch={"window": "30ms", "max_items": 8}) as bench:
        first, clients = await gathered(bench, "a", "bb")
        second = await bench.a.next_request()
        assert asked(second) == "bb"
        clients.append(await bench.sent(path=EMBEDDINGS, input="ccc"))
        third = await bench.a.next_request()
        assert asked(third) == "ccc"
        for one, text in ((third, "ccc"), (second, "bb"), (first, "a")):
            await one.send(vectors([text]))
        assert [heard(await client.answer()) for client in clients] == [[1], [2], [3]]


# -- apart -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [refusal(400), refusal(500), vectors(["only one"]), answer(b"no JSON", 200)])
async def test_what_cannot_be_answered_as_one_is_asked_for_one_by_one(bench: ModelsBench, broken: bytes) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    await first.send(vectors(["a"]))
    await (await bench.a.next_request()).send(broken)
    for _ in range(2):
        one = await bench.a.next_request()
        await one.send(refusal(400) if asked(one) == "bb" else vectors([asked(one)]))
    responses = [await client.answer() for client in clients]
    assert [response.status for response in responses] == [200, 400, 200]
    assert heard(responses[2]) == [3]
    await eventually(lambda: len(bench.records) == 3)
    assert {record.shared for record in bench.records} == {None}


async def test_what_is_about_all_alike_is_everybodys_answer(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    await first.send(vectors(["a"]))
    await (await bench.a.next_request()).send(refusal(429, ("retry-after", "7")))
    responses = [await client.answer() for client in clients]
    assert [response.status for response in responses] == [200, 429, 429]
    assert responses[1].header("retry-after") == "7"
    assert len(bench.a.requests) == 2


async def test_what_is_lost_is_lost_for_all(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    await first.send(vectors(["a"]))
    for _ in range(2):  # a kept connection that ends at once was stale
        (await bench.a.next_request()).reset()
    assert [(await client.answer()).status for client in clients] == [200, 502, 502]


# -- streams ---------------------------------------------------------------------------------------------------------------


def text(index: int, said: str, finish: str | None = None) -> bytes:
    return b"data: " + json.dumps({"id": "c", "choices": [{"index": index, "text": said, "finish_reason": finish}]}).encode() + b"\n\n"


def used(count: int) -> bytes:
    return b"data: " + json.dumps({"id": "c", "choices": [], "usage": {"prompt_tokens": 3 * count, "completion_tokens": 2 * count}}).encode() + b"\n\n"


async def streaming(bench: ModelsBench, **members: Any) -> tuple[Arrived, list[RawClient]]:
    """Two that share a stream, which has begun upstream."""
    first, clients = await gathered(bench, "a", "bb", "ccc", path=COMPLETIONS, stream=True, **members)
    await first.send(STREAM + chunk(text(0, "x")) + chunk(DONE) + b"0\r\n\r\n")
    await clients.pop(0).answer()
    shared = await bench.a.next_request()
    assert asked(shared) == ["bb", "ccc"]
    await shared.send(STREAM)
    return shared, clients


async def test_streams_come_apart(bench: ModelsBench) -> None:
    shared, clients = await streaming(bench)
    events = [text(1, "one"), text(0, "zero"), text(1, "!", "stop"), text(0, "!", "stop"), used(2), DONE]
    await shared.send(b"".join(map(chunk, events)) + b"0\r\n\r\n")
    bodies = [(await client.answer()).body for client in clients]
    assert bodies == [text(0, "zero") + text(0, "!", "stop") + DONE, text(0, "one") + text(0, "!", "stop") + DONE]
    await eventually(lambda: len(bench.records) == 3)
    assert [(record.shared, record.output_tokens) for record in bench.records[1:]] == [("batch", 2)] * 2
    assert shared.connection.is_open


async def test_who_is_done_waits_for_nobody() -> None:
    async with models_bench(batch=BATCH, include_usage=False) as bench:
        shared, clients = await streaming(bench)
        await shared.send(chunk(text(0, "x", "stop")))
        assert (await clients[0].answer()).body.endswith(DONE)
        await shared.send(chunk(text(1, "y", "stop")) + chunk(DONE) + b"0\r\n\r\n")
        assert (await clients[1].answer()).body == text(0, "y", "stop") + DONE
        assert shared.connection.is_open


async def test_usage_that_its_members_ask_for_is_theirs_in_parts() -> None:
    async with models_bench(batch=BATCH, include_usage=False) as bench:
        shared, clients = await streaming(bench, stream_options={"include_usage": True})
        events = [text(0, "x", "stop"), text(1, "y", "stop"), used(2), DONE]
        await shared.send(b"".join(map(chunk, events)) + b"0\r\n\r\n")
        for client in clients:
            body = (await client.answer()).body
            assert b'"completion_tokens":2' in body.replace(b" ", b"") and body.endswith(DONE)


async def test_a_stream_that_cannot_be_told_apart_is_an_error_for_whoever_has_had_a_part(bench: ModelsBench) -> None:
    shared, clients = await streaming(bench)
    await shared.send(chunk(text(0, "mine")))
    await clients[0].head()
    await shared.send(chunk(b'data: {"text":"whose?"}\n\n'))
    await clients[0].reader.readuntil(b'"error"')
    alone = await bench.a.next_request()
    assert asked(alone) == "ccc"
    await shared.wait_closed()
    await alone.send(STREAM + chunk(text(0, "alone")) + chunk(DONE) + b"0\r\n\r\n")
    assert (await clients[1].answer()).body == text(0, "alone") + DONE


async def test_a_stream_that_begins_with_an_error_is_asked_for_one_by_one(bench: ModelsBench) -> None:
    shared, clients = await streaming(bench)
    error = b'data: {"error":{"message":"bad input","type":"invalid_request_error"}}\n\n'
    await shared.send(chunk(error) + b"0\r\n\r\n")
    for _ in range(2):
        one = await bench.a.next_request()
        if asked(one) == "bb":
            await one.send(refusal(400))
        else:
            await one.send(STREAM + chunk(text(0, "x")) + chunk(DONE) + b"0\r\n\r\n")
    assert [(await client.answer()).status for client in clients] == [400, 200]


async def test_a_stream_that_breaks_off_breaks_off_for_all(bench: ModelsBench) -> None:
    shared, clients = await streaming(bench)
    await shared.send(chunk(text(0, "mine")))
    await clients[0].head()
    shared.reset()
    await clients[0].reader.readuntil(b'"error"')
    assert (await clients[1].answer()).status == 502


# -- who leaves ------------------------------------------------------------------------------------------------------------


async def test_who_leaves_while_gathering_is_not_asked_for(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    clients[1].writer.transport.abort()
    await eventually(lambda: waiting(bench) == 1)
    await first.send(vectors(["a"]))
    second = await bench.a.next_request()
    assert asked(second) == "ccc"
    await second.send(vectors(["ccc"]))
    assert heard(await clients[2].answer()) == [3]


async def test_who_leaves_a_call_takes_it_along_when_nobody_else_is_there(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    await first.send(vectors(["a"]))
    second = await bench.a.next_request()
    clients[1].writer.transport.abort()
    await eventually(lambda: len(bench.records) == 2)
    assert second.connection.is_open
    clients[2].writer.transport.abort()
    await second.wait_closed()


async def test_a_call_whose_riders_have_left_lets_the_next_go(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb")
    clients[0].writer.transport.abort()
    await first.wait_closed()
    second = await bench.a.next_request()
    await second.send(vectors([asked(second)]))
    assert heard(await clients[1].answer()) == [2]


# -- a reload in the middle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [None, {"window": "20s", "max_items": 4}, {"window": "1ms", "max_items": 1}, {"window": "10s", "max_items": 8, "max_bytes": "4KiB"}])
async def test_who_gathers_when_the_setting_changes_is_served(bench: ModelsBench, changed: Any) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    before = bench.model.sharing.batches
    bench.remodel(batch=changed)
    clients.append(await bench.sent(path=EMBEDDINGS, input="dddd"))
    newcomer = await bench.a.next_request()
    await newcomer.send(vectors([asked(newcomer)]))
    assert heard(await clients.pop().answer()) == [4]
    await first.send(vectors(["a"]))
    second = await bench.a.next_request()
    await second.send(vectors(asked(second)))
    assert [heard(await client.answer()) for client in clients] == [[1], [2], [3]]
    assert before is not None
    await eventually(lambda: before.statistics().keys == 0)
    assert (before.statistics().waiting, before.statistics().flying) == (0, 0)


async def test_a_window_of_before_still_ends() -> None:
    async with models_bench(batch={"window": "30ms", "max_items": 8}) as bench:
        first, clients = await gathered(bench, "a", "bb")
        bench.remodel(batch=None)
        second = await bench.a.next_request()
        await second.send(vectors(["bb"]))
        assert heard(await clients[1].answer()) == [2]
        await first.send(vectors(["a"]))
        await clients[0].answer()


async def test_who_leaves_or_fails_after_a_change_is_let_go_of_too(bench: ModelsBench) -> None:
    first, clients = await gathered(bench, "a", "bb", "ccc")
    bench.remodel(batch=None)
    clients[1].writer.transport.abort()
    await eventually(lambda: len(bench.records) == 1)
    await first.send(refusal(500))
    second = await bench.a.next_request()
    assert asked(second) == "ccc"
    clients[2].writer.transport.abort()
    await second.wait_closed()
