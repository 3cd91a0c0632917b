"""Several workers: they share the ports, answer as one, are told together, and one that dies is replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme

from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import LAST_CHUNK, answer, chunk, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

SSE = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
GET = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def config(url: str, *, gate: Mapping[str, Any] | None = None, routes: str = "all") -> dict[str, Any]:
    return {
        "gate": {"workers": 2, **(gate or {})},
        "state": {"url": "redis://127.0.0.1:6379/0"},
        "services": [{"id": "a", "url": url}],
        "routes": [{"id": routes, "match": {"paths": ["/*"]}, "to": {"service": "a"}}],
    }


def workers_of(gateway: RunningGateway) -> set[int]:
    """The processes that serve: children of the main process, without Python's own resource tracker."""
    assert gateway.process is not None
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    found = set()
    for pid in children:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.add(int(pid))
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def shown(gateway: RunningGateway) -> dict[str, Any]:
    status, body = await asyncio.to_thread(gateway.admin, "/-/config")
    return json.loads(body) if status == 200 else {}


async def everybody_shows(gateway: RunningGateway, **wanted: Any) -> None:
    """Ask until twenty answers in a row, each from whichever worker took the connection, say the same."""

    async def same() -> bool:
        for _ in range(20):
            seen = await shown(gateway)
            if any(seen.get(key) != value for key, value in wanted.items()):
                return False
        return True

    await eventually(same, timeout=20)


async def all_serve(gateway: RunningGateway, count: int = 2) -> None:
    async def counted() -> bool:
        return await gateway.metric("streamgate_workers") == count

    await eventually(counted, timeout=20)


async def ended(gateway: RunningGateway, within_s: float = 25) -> int:
    assert gateway.process is not None
    return await asyncio.wait_for(gateway.process.wait(), within_s)


def log_of(gateway: RunningGateway) -> str:
    text = gateway.log_file.read_text()
    assert "Traceback" not in text, text
    return text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: RawUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    async with RunningGateway(tmp_path_factory.mktemp("two"), config(upstream.url)) as gateway:
        await all_serve(gateway)
        yield gateway


def quick(_arrived: Arrived) -> bytes:
    return answer(b"ok")


async def test_connections_are_spread_over_both_and_counted_as_one(gateway: RunningGateway, upstream: RawUpstream) -> None:
    upstream.answer_with(quick)
    before = await gateway.metric("streamgate_requests_total", route="all", status="200")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(80)]
        by_worker: Counter[str] = Counter()
        for client in clients:
            response = await client.ask(GET)
            assert response.body == b"ok"
            by_worker[(response.header("x-request-id") or "").partition("-")[0]] += 1
        assert len(by_worker) == 2
        assert min(by_worker.values()) >= 20, by_worker  # fair coins fall so one time in a million less evenly
        for _ in range(20):
            assert await gateway.metric("streamgate_requests_total", route="all", status="200") == before + 80
            assert await gateway.metric("streamgate_workers") == 2


async def test_histograms_and_gauges_add_up(gateway: RunningGateway, upstream: RawUpstream) -> None:
    upstream.answer_with(None)
    seconds = await gateway.metric("streamgate_request_seconds_count", route="all")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(20)]
        arrived = []
        for client in clients:
            await client.send(GET)
            arrived.append(await upstream.next_request())
        for _ in range(10):
            assert await gateway.metric("streamgate_in_flight", route="all") == 20
        for one in arrived:
            await one.send(answer(b"x"))
        for client in clients:
            await client.answer()
        for _ in range(10):
            assert await gateway.metric("streamgate_in_flight", route="all") == 0
            assert await gateway.metric("streamgate_request_seconds_count", route="all") == seconds + 20


async def test_sighup_to_the_main_process_reaches_all(gateway: RunningGateway, upstream: RawUpstream) -> None:
    gateway.write(config(upstream.url, routes="renamed"))
    gateway.tell(signal.SIGHUP)
    await everybody_shows(gateway, number=2, last_error=None)
    upstream.answer_with(quick)
    for _ in range(10):
        async with await RawClient.open(gateway.port) as client:
            assert (await client.ask(GET)).status == 200
    assert await gateway.metric("streamgate_requests_total", route="renamed") == 10
    assert await gateway.metric("streamgate_reloads_total", outcome="applied") == 2  # one by each worker
    gateway.write(config(upstream.url))
    await everybody_shows(gateway, number=3)  # noticed without a signal, too
    before = await gateway.metric("streamgate_reloads_total", outcome="unchanged")
    gateway.tell(signal.SIGHUP)  # and this without a change

    async def both_looked() -> bool:
        return await gateway.metric("streamgate_reloads_total", outcome="unchanged") == before + 2

    await eventually(both_looked)


async def test_a_dead_worker_is_replaced(gateway: RunningGateway, upstream: RawUpstream) -> None:
    upstream.answer_with(quick)
    before = workers_of(gateway)
    assert len(before) == 2
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    await eventually(lambda: len(workers_of(gateway) - before) == 1, timeout=20)
    await all_serve(gateway)
    assert victim not in workers_of(gateway)
    for _ in range(40):  # the dead one's share of new connections has found a taker
        async with await RawClient.open(gateway.port) as client:
            assert (await client.ask(GET)).status == 200
    assert f'"a worker has ended: SIGKILL", "worker": {victim}' in log_of(gateway)


async def test_a_replacement_begins_with_what_is_in_force(gateway: RunningGateway, upstream: RawUpstream) -> None:
    """The file is broken by then: the workers that are there serve on, and so does the new one."""
    upstream.answer_with(quick)
    in_force = (await shown(gateway))["hash"]
    gateway.write_text("routes: [broken")

    async def both_refuse() -> bool:
        return all([(await shown(gateway)).get("last_error") for _ in range(20)])

    await eventually(both_refuse, timeout=20)
    before = workers_of(gateway)
    os.kill(max(before), signal.SIGKILL)
    await eventually(lambda: len(workers_of(gateway) - before) == 1, timeout=20)
    await all_serve(gateway)
    await everybody_shows(gateway, hash=in_force)
    await eventually(both_refuse, timeout=20)  # the new one says so as well
    for _ in range(20):
        async with await RawClient.open(gateway.port) as client:
            assert (await client.ask(GET)).status == 200
    gateway.write(config(upstream.url))
    await everybody_shows(gateway, hash=in_force, last_error=None)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_the_end_drains_all(tmp_path: Path, signum: signal.Signals) -> None:
    """Also when the signal reaches every process of the group, as Ctrl-C and systemd do it: that is no impatience."""
    async with RawUpstream() as upstream, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config(upstream.url, gate={"drain": "60s"})))
        await all_serve(gateway)
        clients = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(12)]
        streams = []
        for client in clients:
            await client.send(POST)
            streams.append(await upstream.next_request())
            await streams[-1].send(head(200, SSE) + chunk(TOKEN))
            await client.head()
            await client.chunk()
        idle = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(12)]
        children = workers_of(gateway)
        for pid in children:
            os.kill(pid, signum)
        gateway.tell(signum)
        for client in idle:
            assert await client.closed() == b""
        for _ in range(10):
            assert gateway.admin("/-/readyz")[0] == 503
        for client, arrived in zip(clients, streams, strict=True):
            await arrived.send(chunk(DONE) + LAST_CHUNK)
            assert await client.chunk() == DONE
        assert await ended(gateway) == 0
        assert not any(is_alive(pid) for pid in children)
    records = gateway.records()
    assert len({record["request_id"].partition("-")[0] for record in records}) == 2
    assert [record["state"] for record in records] == ["complete"] * 12
    assert '"error"' not in log_of(gateway)
    assert log_of(gateway).count("drained, 0 ended early") == 2


async def test_impatience_reaches_all(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(RunningGateway(tmp_path, config(upstream.url, gate={"drain": "60m"})))
        await all_serve(gateway)
        clients = [await stack.enter_async_context(await RawClient.open(gateway.port)) for _ in range(12)]
        for client in clients:
            await client.send(POST)
            await (await upstream.next_request()).send(head(200, SSE) + chunk(TOKEN))
            await client.head()
            await client.chunk()
        gateway.tell(signal.SIGTERM)
        await eventually(lambda: gateway.admin("/-/readyz")[0] == 503)
        gateway.tell(signal.SIGINT)
        async with asyncio.timeout(20):
            for client in clients:
                assert b'"code":"shutdown"' in await client.chunk()
        assert await ended(gateway) == 0
    assert [record["state"] for record in gateway.records()] == ["shutdown"] * 12
    log_of(gateway)


async def test_workers_do_not_outlive_the_main_process(tmp_path: Path) -> None:
    async with RawUpstream() as upstream:
        upstream.answer_with(quick)
        gateway = RunningGateway(tmp_path, config(upstream.url))
        await gateway.__aenter__()
        await all_serve(gateway)
        children = workers_of(gateway)
        gateway.tell(signal.SIGKILL)
        await eventually(lambda: not any(is_alive(pid) for pid in children), timeout=20)
        assert await ended(gateway) == -signal.SIGKILL


async def test_tls_with_several_workers(tmp_path: Path) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    async with RawUpstream() as upstream:
        upstream.answer_with(quick)
        async with RunningGateway(tmp_path, config(upstream.url, gate={"tls": tls})) as gateway:
            await all_serve(gateway)
            by_worker = set()
            for _ in range(24):
                async with await RawClient.open(gateway.port, tls=context, name="localhost") as client:
                    response = await client.ask(GET)
                    assert response.status == 200
                    by_worker.add((response.header("x-request-id") or "").partition("-")[0])
            assert len(by_worker) == 2
            gateway.tell(signal.SIGTERM)
            assert await ended(gateway) == 0
    log_of(gateway)


async def test_one_line_says_that_all_listen(tmp_path: Path) -> None:
    async with RawUpstream() as upstream, RunningGateway(tmp_path, config(upstream.url)) as gateway:
        await eventually(lambda: "listens on" in log_of(gateway))
        [line] = [json.loads(line) for line in log_of(gateway).splitlines() if "listens on" in line]
        assert line["workers"] == 2
        assert gateway.url in line["message"]
        assert gateway.admin_url in line["message"]
