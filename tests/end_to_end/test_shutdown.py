"""SIGTERM, SIGINT, and the second of them: what is open may finish, what is idle ends, and what is cut off is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, answer, chunk, head

CHAT = b"/v1/chat/completions"
SSE = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def config(upstream: RawUpstream, *, drain: str = "30s", gate: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "gate": {"drain": drain, **(gate or {})},
        "services": [{"id": "a", "url": upstream.url}],
        "routes": [{"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "a"}}],
    }


def get(path: bytes = b"/plain") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def post(path: bytes = CHAT) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def open_stream(client: RawClient, upstream: RawUpstream, request: bytes | None = None) -> Arrived:
    """A completion that has given its first token to the client."""
    await client.send(request or post())
    arrived = await upstream.next_request()
    await arrived.send(head(200, SSE) + chunk(TOKEN))
    response = await client.head()
    assert response.status == 200
    assert await client.chunk() == TOKEN
    return arrived


async def rest_of(client: RawClient) -> bytes:
    """The content that still comes, up to a proper end of the body."""
    found = b""
    while piece := await client.chunk():
        found += piece
    assert await client.trailers() == ()
    return found


async def ended(gateway: RunningGateway, within_s: float = 20) -> int:
    assert gateway.process is not None
    return await asyncio.wait_for(gateway.process.wait(), within_s)


def log_of(gateway: RunningGateway) -> str:
    text = gateway.log_file.read_text()
    assert "Traceback" not in text, text
    assert '"error"' not in text, text
    return text


async def draining(gateway: RunningGateway) -> None:
    async def says_so() -> bool:
        return (await asyncio.to_thread(gateway.admin, "/-/readyz"))[0] == 503

    await eventually(says_so)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_drain_lets_streams_finish_and_takes_nothing_new(tmp_path: Path, signum: signal.Signals) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream)) as gateway, AsyncExitStack() as stack:
        streaming, idle, waiting = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(3)]
        arrived = await open_stream(streaming, upstream)
        await idle.send(get(b"/first"))
        first = await upstream.next_request()
        await first.send(answer(b"1"))
        assert (await idle.answer()).body == b"1"
        await waiting.send(get(b"/second"))
        second = await upstream.next_request()

        gateway.tell(signum)
        await draining(gateway)
        assert await idle.closed() == b""
        assert gateway.admin("/-/readyz") == (503, b"not ready: shutting down\n")
        assert gateway.admin("/-/healthz") == (200, b"ok\n")
        assert gateway.admin("/-/config")[0] == 200
        assert await gateway.metric("streamgate_in_flight", route="all") == 2

        late = await stack.enter_async_context(await RawClient.open(gateway.port))
        refused = await late.ask(post())
        assert refused.status == 503
        assert refused.closes
        assert json.loads(refused.body)["error"]["code"] == "shutting_down"
        assert int(refused.header("retry-after") or "") >= 1
        assert await late.closed() == b""
        async with await RawClient.open(gateway.port) as other:
            assert json.loads((await other.ask(get())).body)["code"] == "shutting_down"

        await second.send(answer(b"2"))
        slow = await waiting.answer()
        assert (slow.body, slow.closes) == (b"2", True)
        await arrived.send(chunk(TOKEN) + chunk(DONE) + LAST_CHUNK)
        assert await rest_of(streaming) == TOKEN + DONE
        assert await ended(gateway) == 0
    states = {(record["status"], record["state"], record["fault"]) for record in gateway.records()}
    assert states == {(200, "complete", None), (503, "shutdown", "shutting_down")}
    assert len(gateway.records()) == 5
    assert "drained, 0 ended early" in log_of(gateway)


DIALECTS = {
    b"/v1/chat/completions": lambda event: event["error"]["code"],
    b"/v1/responses": lambda event: event["code"],
    b"/events": lambda event: event["code"],
}


async def test_after_the_patience_streams_end_with_words(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config(upstream, drain="600ms")))
        clients = {path: await stack.enter_async_context(await RawClient.open(gateway.port)) for path in DIALECTS}
        for path, client in clients.items():
            await open_stream(client, upstream, post(path))
        claude = await stack.enter_async_context(await RawClient.open(gateway.port))
        anthropic = await open_stream(claude, upstream, post(b"/v1/messages"))
        unanswered = await stack.enter_async_context(await RawClient.open(gateway.port))
        await unanswered.send(get(b"/waits"))
        await upstream.next_request()
        counted = await stack.enter_async_context(await RawClient.open(gateway.port))
        await counted.send(get(b"/counted"))
        counted_up = await upstream.next_request()
        await counted_up.send(head(200, [("content-length", "100")]) + b"begun")
        await counted.head()

        gateway.tell(signal.SIGTERM)
        for path, client in clients.items():
            rest = await client.chunk()
            event = json.loads(rest.rpartition(b"data: ")[2])
            assert DIALECTS[path](event) == "shutdown", rest
            assert rest.endswith(b"\n\n")
            assert await client.chunk() == b"", "the body ends as its framing says"
            assert DONE not in rest
        rest = await claude.chunk()
        assert rest.startswith(b"event: error\ndata: ")
        assert await claude.chunk() == b""
        assert (await unanswered.answer()).status == 503
        assert await counted.closed() == b"begun", "what has a length can be told nothing, only be cut"
        await anthropic.wait_closed()
        assert await ended(gateway) == 0
    by_path = {(record["path"], record["status"]): record["state"] for record in gateway.records()}
    assert len(gateway.records()) == 6
    assert set(by_path.values()) == {"shutdown"}
    assert "drained, 6 ended early" in log_of(gateway)


async def test_shutdown_is_a_metric_too(tmp_path: Path) -> None:
    """The port lives for as long as a client takes for its last words: one that takes none shows the figures after the end."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream())
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config(upstream, drain="300ms")))
        stalled, reading = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(2)]
        stalled.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await stalled.send(post())
        flood = await upstream.next_request()
        await flood.send(head(200, SSE))
        more = asyncio.create_task(flood.send(chunk(TOKEN * 1000) * 400))
        await open_stream(reading, upstream)

        gateway.tell(signal.SIGTERM)
        assert b"shutdown" in await reading.chunk()

        async def counted() -> bool:
            return await gateway.metric("streamgate_streams_total", route="all", state="shutdown") == 2

        await eventually(counted, timeout=2)
        assert await ended(gateway) == 0
        more.cancel()
        await asyncio.gather(more, return_exceptions=True)
    assert [record["state"] for record in gateway.records()] == ["shutdown", "shutdown"]
    log_of(gateway)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream, drain="60m")) as gateway:
        async with await RawClient.open(gateway.port) as client:
            await open_stream(client, upstream)
            gateway.tell(signal.SIGTERM)
            await draining(gateway)
            gateway.tell(second)
            async with asyncio.timeout(20):
                assert b'"code":"shutdown"' in await rest_of(client)
        assert await ended(gateway) == 0
    assert [record["state"] for record in gateway.records()] == ["shutdown"]
    log_of(gateway)


async def test_a_third_signal_waits_for_nobody(tmp_path: Path) -> None:
    """A client that takes nothing holds the last words up for a second; who signals again does not wait for that either."""
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream, drain="60m")) as gateway:
        async with await RawClient.open(gateway.port) as client:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(post())
            arrived = await upstream.next_request()
            await arrived.send(head(200, SSE))
            more = asyncio.create_task(arrived.send(chunk(TOKEN * 1000) * 400))
            await eventually(lambda: upstream.connections[0].writer.transport.get_write_buffer_size() > 0)  # all is full
            gateway.tell(signal.SIGTERM)
            await draining(gateway)
            for _ in range(6):
                gateway.tell(signal.SIGTERM)
                await asyncio.sleep(0.05)
            assert await ended(gateway) in {0, 128 + signal.SIGTERM}
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
    assert [record["state"] for record in gateway.records()] == ["shutdown"]
    log_of(gateway)


async def test_no_record_is_lost(tmp_path: Path) -> None:
    """Also where whoever reads them is slow: most of them still wait for the pipe when the signal comes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    async with RawUpstream() as upstream:
        upstream.answer_with(lambda _arrived: answer(b"ok"))
        async with RunningGateway(tmp_path, {**config(upstream), "telemetry": {"records": str(pipe)}}) as gateway:

            async def ask(count: int) -> None:
                async with await RawClient.open(gateway.port) as client:
                    for _ in range(count):
                        assert (await client.ask(get())).status == 200

            await asyncio.gather(*(ask(50) for _ in range(8)))
            gateway.tell(signal.SIGTERM)
            await eventually(lambda: "drained" in log_of(gateway))
            seen = await asyncio.to_thread(read_on, reading)
            assert await ended(gateway) == 0
    os.close(reading)
    records = [json.loads(line) for line in seen.splitlines()]
    assert len({record["request_id"] for record in records}) == len(records) == 400


def read_on(fd: int) -> bytes:
    os.set_blocking(fd, True)
    pieces = []
    while piece := os.read(fd, 65_536):
        pieces.append(piece)
    return b"".join(pieces)


async def test_a_head_that_is_not_finished_does_not_hold_the_gateway(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream)) as gateway, AsyncExitStack() as stack:
        begun, silent = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(2)]
        await begun.send(b"GET / HTTP/1.1\r\nHost:")
        await silent.send(b"")
        gateway.tell(signal.SIGTERM)
        assert await ended(gateway, 8) == 0
    log_of(gateway)


async def test_sigterm_while_nothing_is_open_is_quick_and_clean(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream)) as gateway:
        gateway.tell(signal.SIGTERM)
        assert await ended(gateway, 8) == 0
    assert gateway.admin("/-/healthz")[0] == 0
    log_of(gateway)
