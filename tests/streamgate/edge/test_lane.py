"""One connection of a client: the lane's requests and those of Sanic's own handlers in turn, and what ends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sanic import Sanic
from sanic.request import Request
from sanic.response import HTTPResponse, json, text

from streamgate.edge.enter import Gateway
from tests.kit.client import RawClient
from tests.kit.clock import ManualClock
from tests.kit.inside import Told, gateway_of, serving
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk, head

HANDLED = "/handled"


def handlers(app: Sanic[Any, Any]) -> None:
    @app.get(HANDLED)
    async def get(request: Request) -> HTTPResponse:
        return text(f"handled {request.query_string}")

    @app.post(HANDLED)
    async def post(request: Request) -> HTTPResponse:
        return json({"body": request.body.decode(), "host": request.host})

    @app.post("/unread", stream=True)
    async def unread(_request: Request) -> HTTPResponse:
        return text("not read", status=403)

    @app.get("/streamed")
    async def streamed(request: Request) -> None:
        response = await request.respond(content_type="text/plain")
        await response.send("one ")
        await response.send("two")
        await response.eof()

    @app.get("/failing")
    async def failing(_request: Request) -> HTTPResponse:
        raise ValueError("on purpose")

    @app.websocket("/socket")  # type: ignore[untyped-decorator]
    async def echo(_request: Request, socket: Any) -> None:
        async for message in socket:
            await socket.send(message)


@asynccontextmanager
async def standing(upstream: RawUpstream, **gate: Any) -> AsyncIterator[tuple[Gateway, int]]:
    gateway = gateway_of(
        {
            "gate": gate,
            "services": [{"id": "up", "url": upstream.url}],
            "routes": [
                {"id": "up", "match": {"paths": ["/up/*"]}, "to": {"service": "up"}},
                {"id": "local", "match": {"paths": ["/local"]}, "to": {"respond": {"status": 200, "body": "local"}}},
                {"id": "put", "match": {"paths": ["/handled/put"], "methods": ["PUT"]}, "to": {"service": "up"}},
            ],
        }
    )
    async with serving(gateway, handlers) as port:
        yield gateway, port


def get(target: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: gate.example", *lines, "", ""]).encode()


def post(target: str, body: bytes) -> bytes:
    return get(target, f"Content-Length: {len(body)}", method="POST") + body


# -- beside Sanic's handlers -------------------------------------------------------------------------------------------


async def test_the_lane_and_handlers_take_turns_on_one_connection() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        upstream.answer_with(lambda arrived: answer(b"up " + arrived.request.body))
        for _ in range(3):
            assert (await client.ask(get("/up/x"))).body == b"up "
            assert (await client.ask(get(f"{HANDLED}?a=1"))).body == b"handled a=1"
            assert (await client.ask(post("/up/x", b"hello"))).body == b"up hello"
            assert (await client.ask(post(HANDLED, b"hello"))).body == b'{"body":"hello","host":"gate.example"}'
            assert (await client.ask(get("/local"))).body == b"local"
            assert (await client.ask(get("/streamed"))).body == b"one two"
            assert (await client.ask(get("/missing"))).status == 404
            assert (await client.ask(get(HANDLED, method="DELETE"))).status == 405


async def test_they_take_turns_in_a_pipeline_too() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        upstream.answer_with(lambda arrived: answer(b"up " + arrived.request.body))
        chunked = get(HANDLED, "Transfer-Encoding: chunked", method="POST") + chunk(b"he") + chunk(b"y") + b"0\r\n\r\n"
        await client.send(post(HANDLED, b"one") + post("/up/x", b"two") + chunked + get("/local") + get(HANDLED) + get("/up/y"))
        bodies = [(await client.answer()).body for _ in range(6)]
    assert bodies == [
        *(b'{"body":"one","host":"gate.example"}', b"up two", b'{"body":"hey","host":"gate.example"}'),
        *(b"local", b"handled ", b"up "),
    ]


async def test_a_body_a_handler_reads_slowly_is_its_own() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        body = b"x" * 300_000
        await client.send(get(HANDLED, f"Content-Length: {len(body)}", method="POST"))
        for at in range(0, len(body), 50_000):
            await client.send(body[at : at + 50_000])
            await asyncio.sleep(0)
        assert len((await client.answer()).body) > len(body)
        assert (await client.ask(get("/local"))).body == b"local"


async def test_a_body_no_handler_read_is_no_request() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        upstream.answer_with(lambda _arrived: answer(b"up"))
        response = await client.ask(post("/unread", get("/up/stolen")))
        assert (response.status, response.body) == (403, b"not read")
        if not response.closes:
            assert (await client.ask(get("/local"))).body == b"local"
        assert upstream.requests == []


async def test_a_handler_that_fails_and_one_that_closes() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port):
        async with await RawClient.open(port) as client:
            assert (await client.ask(get("/failing"))).status == 500
            assert (await client.ask(get("/local"))).body == b"local"
        async with await RawClient.open(port) as client:
            response = await client.ask(get(HANDLED, "Connection: close") + get("/local"))
            assert (response.body, response.closes) == (b"handled ", True)
            assert await client.closed() == b""
        async with await RawClient.open(port) as client:
            await client.send(f"GET {HANDLED} HTTP/1.0\r\n\r\n".encode())
            assert (await client.closed()).endswith(b"handled ")


async def test_a_route_comes_before_a_handler_and_its_methods_count() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        upstream.answer_with(lambda _arrived: answer(b"up"))
        assert (await client.ask(get("/handled/put", method="PUT"))).body == b"up"
        assert (await client.ask(get("/handled/put"))).status == 405


async def test_the_guard_stands_before_handlers_too() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port):
        for lines in (["Content-Length: 5", "Transfer-Encoding: chunked"], ["Content-Length: +5"], ["Host: other"]):
            async with await RawClient.open(port) as client:
                response = await client.ask(get(HANDLED, *lines, method="POST") + b"0\r\n\r\n")
                assert (response.status, response.closes) == (400, True)


async def test_a_websocket_handler_has_the_connection_to_itself() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (_, port), await RawClient.open(port) as client:
        assert (await client.ask(get("/local"))).body == b"local"
        key = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        await client.send(get("/socket", "Connection: Upgrade", "Upgrade: websocket", *key))
        assert (await client.head()).status == 101
        for word in (b"GET /", b"hello"):
            await client.send(bytes([0x81, 0x80 | len(word), 0, 0, 0, 0]) + word)
            async with asyncio.timeout(5):
                assert await client.reader.readexactly(2 + len(word)) == bytes([0x81, len(word)]) + word


# -- what ends a connection --------------------------------------------------------------------------------------------


async def test_a_connection_that_nobody_uses_is_forgotten() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (gateway, port):
        upstream.answer_with(lambda _arrived: answer(b"up"))
        clients = [await RawClient.open(port) for _ in range(5)]
        for client in clients:
            await client.ask(get("/up/x"))
        assert len(gateway.connections) == 5
        for client in clients:
            client.writer.close()
        await eventually(lambda: not gateway.connections)
        assert len(gateway.kit.registry) == 0


async def test_overdue_asks_every_kind_of_connection() -> None:
    """Also one whose task has not begun: whoever fails here ends the deadlines of all."""
    async with RawUpstream() as upstream, standing(upstream, timeouts={"head": "1s", "keep_alive": "2s"}) as (gateway, port):
        now = gateway.kit.clock.now()
        fresh, idle, reading, busy = [await RawClient.open(port) for _ in range(4)]
        await eventually(lambda: len(gateway.connections) == 4)
        for connection in gateway.connections:
            connection.overdue(now)
        await idle.ask(get("/local"))
        await reading.send(b"GET / HT")
        await busy.send(get("/up/x"))
        arrived = await upstream.next_request()
        await asyncio.sleep(0.05)
        for connection in tuple(gateway.connections):
            connection.overdue(gateway.kit.clock.now() + 1.5)
        assert (await reading.answer()).status == 408
        assert await reading.closed() == b""
        for connection in tuple(gateway.connections):
            connection.overdue(gateway.kit.clock.now() + 2.5)
        assert await idle.closed() == b""
        assert await fresh.closed() == b""
        await arrived.send(answer(b"still here"))
        assert (await busy.answer()).body == b"still here"
        for client in (fresh, idle, reading, busy):
            client.writer.transport.abort()


async def test_a_gateway_that_drains_says_so_and_closes() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (gateway, port), await RawClient.open(port) as client:
        await client.ask(get("/local"))
        gateway.kit.registry.draining = True
        response = await client.ask(get("/up/x"))
        assert (response.status, response.closes) == (503, True)
        assert await client.closed() == b""
        async with await RawClient.open(port) as late:
            assert (await late.ask(get("/local"))).closes


async def test_what_was_begun_while_it_drains_is_finished_and_announced() -> None:
    async with RawUpstream() as upstream, standing(upstream) as (gateway, port), await RawClient.open(port) as client:
        await client.send(get("/up/x"))
        arrived = await upstream.next_request()
        gateway.kit.registry.draining = True
        await arrived.send(head(200, [("content-length", "5")]) + b"hello")
        response = await client.answer()
        assert (response.body, response.closes) == (b"hello", True)
        assert await client.closed() == b""


@pytest.mark.parametrize(
    ("data", "status", "route"),
    [
        (b"BROKEN\r\n\r\n", 400, "_none"),
        (get("/missing"), 404, "_none"),
        (get("/local"), 200, "local"),
        (get("/up/x"), 200, "up"),
    ],
)
async def test_everything_is_recorded_once(data: bytes, status: int, route: str) -> None:
    async with RawUpstream() as upstream, standing(upstream) as (gateway, port), await RawClient.open(port) as client:
        upstream.answer_with(lambda _arrived: answer(b"up"))
        await client.ask(data)
        records = gateway.records
        assert isinstance(records, Told)
        await eventually(lambda: records.seen)
        assert [(record.status, record.route) for record in records.seen] == [(status, route)]


def test_the_clock_of_tests_is_a_clock() -> None:
    """The lane asks for nothing that a clock standing still could not tell."""
    assert gateway_of({}, ManualClock()).kit.clock.now() == 1000.0
