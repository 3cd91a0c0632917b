"""Whatever becomes of a request to a model, and wherever it is when that happens: every lease is given back.

A window is a place where a request can be; an ending is what happens to it there. ``models_bench`` checks all that is held.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from routers.flags import Verdict
from tests.end_to_end.models_stage import DONE, ROLE, STREAM, stream, token, told
from tests.kit.around import SetFlags
from tests.kit.client import RawClient
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk
from tests.streamgate.pipeline.models_bench import ModelsBench, models_bench

EMBEDDINGS = "/v1/embeddings"
ONE_AT_A_TIME = {"queue": {"max_in_flight": 1}}
HEDGE = {"fallback": [], "hedge": {"after": "20ms", "share": "20%"}, "splits": {"stable": [{"service": "a", "weight": 1000}, {"service": "b", "weight": 1}]}}
BATCH = {"batch": {"window": "10s", "max_items": 4}}


class SlowFlags(SetFlags):
    """Flags that have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.known = asyncio.Event()

    def evaluate_nowait(self, key: str, context: Mapping[str, object]) -> Verdict | None:  # type: ignore[override]
        return None

    async def decide(self, key: str, context: Mapping[str, object]) -> Verdict:
        await self.known.wait()
        return Verdict(key, "stable", "stable", "STATIC")


class Scene:
    """One request in a window: ``bench`` and what arrived; ``goes_on`` lets it come to a good end."""

    def __init__(self, bench: ModelsBench) -> None:
        self.bench = bench
        self.clients: list[RawClient] = []
        self.arrived: list[Arrived] = []

    async def ask(self, path: str = "/v1/chat/completions", **members: Any) -> None:
        self.clients.append(await self.bench.sent(path=path, **members))

    async def reaches(self, upstream: RawUpstream) -> Arrived:
        self.arrived.append(await upstream.next_request())
        return self.arrived[-1]

    def outcomes(self) -> set[str]:
        """How those in the window ended; nothing before all have."""
        records = self.bench.records
        return {record.state for record in records[-len(self.clients) :]} if len(records) == self.bench.asked else set()

    async def goes_on(self) -> None:
        """Everybody answers whatever they are asked from now on, and what has arrived."""
        bench = self.bench
        if isinstance(bench.flags, SlowFlags):
            bench.flags.known.set()
        for upstream in (bench.a, bench.b):
            upstream.answer_with(_answer)
        for one in self.arrived:
            if one.connection.is_open:
                await one.send(await _answer(one, begun=getattr(one, "begun", False)))


async def _answer(one: Arrived, *, begun: bool = False) -> bytes:
    if begun:
        return chunk(token("b")) + chunk(DONE) + b"0\r\n\r\n"
    body = json.loads(one.request.body)
    if "input" in body:
        data = [{"index": at, "embedding": [1.0]} for at, _ in enumerate(body["input"])]
        return answer(json.dumps({"object": "list", "data": data, "model": "up"}).encode(), 200, [("content-type", "application/json")])
    if b'"stream": true' in one.request.body:
        return stream(ROLE, token("a"), DONE)
    return told("hello")


async def reading_the_body(scene: Scene) -> None:
    client = await RawClient.open(scene.bench.port)
    raw = scene.bench.request({"messages": []})
    await client.send(raw[:-3])
    scene.clients.append(client)
    await eventually(lambda: scene.bench.live)


async def waiting_for_a_flag(scene: Scene) -> None:
    await scene.ask(messages=[])
    await eventually(lambda: scene.bench.live)


async def waiting_in_the_queue(scene: Scene) -> None:
    await scene.ask(messages=[])
    await scene.reaches(scene.bench.a)
    await scene.ask(messages=[])
    await eventually(lambda: scene.bench.model.line.waiting)


async def told_of_its_place(scene: Scene) -> None:
    await scene.ask(messages=[])
    await scene.reaches(scene.bench.a)
    await scene.ask(messages=[], stream=True)
    assert (await scene.clients[-1].head()).status == 200


async def waiting_for_an_answer(scene: Scene) -> None:
    await scene.ask(messages=[])
    await scene.reaches(scene.bench.a)


async def in_the_opening(scene: Scene) -> None:
    await scene.ask(messages=[], stream=True)
    one = await scene.reaches(scene.bench.a)
    await one.send(STREAM + chunk(ROLE))
    one.begun = True  # type: ignore[attr-defined]
    await eventually(lambda: scene.bench.live[0]._connection is not None and scene.bench.live[0]._connection.bytes_seen)


async def in_the_stream(scene: Scene) -> None:
    await scene.ask(messages=[], stream=True)
    one = await scene.reaches(scene.bench.a)
    await one.send(STREAM + chunk(ROLE) + chunk(token("a")))
    one.begun = True  # type: ignore[attr-defined]
    assert (await scene.clients[0].head()).status == 200


async def at_the_second_target(scene: Scene) -> None:
    await scene.ask(messages=[])
    (await scene.bench.a.next_request()).reset()
    await scene.reaches(scene.bench.b)


async def riding_a_flight(scene: Scene) -> None:
    for _ in range(2):
        await scene.ask(messages=[], temperature=0, stream=True)
    await scene.reaches(scene.bench.a)
    await eventually(lambda: scene.bench.model.sharing.flights.riding == 2)


async def riding_a_flight_that_speaks(scene: Scene) -> None:
    await riding_a_flight(scene)
    (one,) = scene.arrived
    await one.send(STREAM + chunk(ROLE) + chunk(token("a")))
    one.begun = True  # type: ignore[attr-defined]
    for client in scene.clients:
        assert (await client.head()).status == 200


async def a_flight_that_waits_for_its_turn(scene: Scene) -> None:
    await scene.ask(messages=[])
    await scene.reaches(scene.bench.a)
    await scene.ask(messages=[], temperature=0)
    await eventually(lambda: scene.bench.model.line.waiting)


async def gathering_in_a_batch(scene: Scene) -> None:
    await scene.ask(EMBEDDINGS, input="one")
    await scene.reaches(scene.bench.a)
    await scene.ask(EMBEDDINGS, input="two")
    await eventually(lambda: scene.bench.model.sharing.batches.statistics().waiting)  # type: ignore[union-attr]


async def together_in_a_batch(scene: Scene) -> None:
    await scene.ask(EMBEDDINGS, input="one")
    await scene.reaches(scene.bench.a)
    for count, text in enumerate(("two", "three"), 1):
        await scene.ask(EMBEDDINGS, input=text)
        await eventually(lambda n=count: scene.bench.model.sharing.batches.statistics().waiting == n)  # type: ignore[union-attr,misc]
    (one,) = scene.arrived
    await one.send(told("hello"))
    await scene.clients.pop(0).answer()
    await scene.reaches(scene.bench.a)
    scene.arrived.pop(0)


async def in_a_race(scene: Scene) -> None:
    for _ in range(5):
        scene.bench.model.hedging.deposit(scene.bench.clock.now())  # type: ignore[union-attr]
    await scene.ask(messages=[])
    await scene.reaches(scene.bench.a)
    await scene.reaches(scene.bench.b)


Window = Callable[[Scene], Awaitable[None]]
WINDOWS: list[tuple[Window, dict[str, Any]]] = [
    (reading_the_body, {}),
    (waiting_for_a_flag, {"flag": "f"}),
    (waiting_in_the_queue, ONE_AT_A_TIME),
    (told_of_its_place, {"queue": {"max_in_flight": 1, "announce": "10ms"}}),
    (waiting_for_an_answer, {}),
    (in_the_opening, {}),
    (in_the_stream, {}),
    (at_the_second_target, {}),
    (riding_a_flight, {"route": {"single_flight": True}}),
    (riding_a_flight_that_speaks, {"route": {"single_flight": True}}),
    (a_flight_that_waits_for_its_turn, {"route": {"single_flight": True}, **ONE_AT_A_TIME}),
    (gathering_in_a_batch, BATCH),
    (together_in_a_batch, BATCH),
    (in_a_race, HEDGE),
]
EVERY = pytest.mark.parametrize(("window", "config"), WINDOWS, ids=[window.__name__ for window, _ in WINDOWS])


@asynccontextmanager
async def scenes(window: Window, config: Mapping[str, Any]) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        flags = {"flags": SlowFlags()} if window is waiting_for_a_flag else {}
        bench = await stack.enter_async_context(models_bench(parts=flags, **config))
        scene = Scene(bench)
        await window(scene)
        assert bench.held(), "nothing is held in this window"
        yield scene
        for client in scene.clients:
            client.writer.transport.abort()


@EVERY
async def test_the_client_leaves(window: Window, config: Mapping[str, Any]) -> None:
    async with scenes(window, config) as scene:
        for client in scene.clients:
            client.writer.transport.abort()
        for one in scene.arrived:
            await one.wait_closed()
        await eventually(lambda: scene.outcomes() == {"client_closed"})


@EVERY
@pytest.mark.parametrize("shuts_down", [False, True])
async def test_the_client_leaves_and_the_rest_is_read(window: Window, config: Mapping[str, Any], *, shuts_down: bool) -> None:
    """Where there is a rest: before an answer was asked for, it is as if nothing were read on."""
    route = {**config.get("route", {}), "on_disconnect": "drain"}
    async with scenes(window, {**config, "route": route}) as scene:
        for client in scene.clients:
            client.writer.transport.abort()
        await eventually(lambda: not scene.bench.gateway.connections)
        if shuts_down:
            scene.bench.gateway.kit.registry.end_all()
        else:
            await scene.goes_on()
        await eventually(lambda: scene.outcomes() == {"client_closed"})


@EVERY
async def test_the_gate_shuts_down(window: Window, config: Mapping[str, Any]) -> None:
    async with scenes(window, config) as scene:
        scene.bench.gateway.kit.registry.draining = True
        assert scene.bench.gateway.kit.registry.end_all() == len(scene.clients)
        await eventually(lambda: scene.outcomes() == {"shutdown"})
        for one in scene.arrived:
            await one.wait_closed()
        async with asyncio.timeout(5):
            for client in scene.clients:
                await client.reader.readuntil(b"shutting down")


@EVERY
async def test_the_model_is_configured_no_more(window: Window, config: Mapping[str, Any]) -> None:
    """Who has been admitted is served to the end."""
    async with scenes(window, config) as scene:
        other = scene.bench.config["models"][0] | {"name": "other"}
        scene.bench.reload(models=[other])
        if window is reading_the_body:
            await scene.clients[0].send(b"[]}")
        await scene.goes_on()
        await eventually(lambda: scene.outcomes() == {"complete"})


@EVERY
async def test_the_model_has_other_settings(window: Window, config: Mapping[str, Any]) -> None:
    async with scenes(window, config) as scene:
        new = {"queue": {"max_in_flight": 1}, "batch": {"window": "20ms", "max_items": 8}, "hedge": {"after": "30s"}}
        scene.bench.remodel(**new)
        if window is reading_the_body:
            await scene.clients[0].send(b"[]}")
        await scene.goes_on()
        await eventually(lambda: scene.outcomes() == {"complete"})


@pytest.mark.parametrize("shuts_down", [False, True])
async def test_while_a_connection_is_made(*, shuts_down: bool) -> None:
    """An upstream that takes connections and says nothing: there is no end to the handshake."""
    async with RawUpstream("deaf") as deaf, models_bench(services={"url": deaf.url.replace("http", "https")}) as bench:
        client = await bench.sent(messages=[])
        await deaf.next_connection()
        assert bench.held()
        if shuts_down:
            bench.gateway.kit.registry.end_all()
            assert (await client.answer()).status == 503
        client.writer.transport.abort()
        await eventually(lambda: bench.records)


@pytest.mark.parametrize("order", ["granted, then gone", "gone, then granted"])
async def test_a_turn_that_comes_in_the_moment_in_which_the_client_goes(order: str) -> None:
    async with models_bench(**ONE_AT_A_TIME) as bench:
        holder = await bench.sent(messages=[])
        one = await bench.a.next_request()
        (first,) = bench.gateway.connections
        gone = await bench.sent(messages=[])
        await eventually(lambda: bench.model.line.waiting)
        (waiting,) = set(bench.gateway.connections) - {first}
        loop = asyncio.get_running_loop()
        if order == "granted, then gone":
            bench.model.line.resize(2)
            assert bench.model.line.count.held == 2
            waiting.live.client_gone()
            waiting.transport.abort()
        else:
            waiting.transport.abort()  # tells in the loop's next turn, and cancels the task in it
            loop.call_soon(bench.model.line.resize, 2)
        await eventually(lambda: len(bench.records) == 1)
        assert (bench.model.line.count.held, await gone.closed()) == (1, b"")
        await one.send(told("x"))
        assert (await holder.answer()).status == 200
