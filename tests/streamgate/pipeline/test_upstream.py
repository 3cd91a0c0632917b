"""Attempts at upstreams: whom, how often, and what is held meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from streamgate.errors import ConnectTimeout, NoHealthyUpstream, NotFramed, Overloaded, ShuttingDown, Unreachable, UpstreamReset
from streamgate.exchange import Terminal
from tests.kit.ports import HOST, black_hole, refused_port
from tests.kit.upstream import Arrived, RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk, head
from tests.streamgate.pipeline.bench import Bench, configured


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as upstream:
        upstream.answer_with(lambda _: answer(b"ok"))
        yield upstream


async def served(bench: Bench, *args: Any, **options: Any) -> None:
    """One more exchange, to its end."""
    bench.client.refusals.clear()
    bench.client.got = b""
    await bench.starts(*args, **options)


def outcomes(bench: Bench) -> dict[str, int]:
    return bench.service.metrics.attempts


async def test_attempts_are_counted_by_how_they_ended(upstream: RawUpstream) -> None:
    with refused_port() as port:
        bench = Bench(configured(f"http://{HOST}:{port}", upstream.url, service_balance="round_robin"))
        for _ in range(4):
            await served(bench, bench.exchange(b"POST"))
            assert bench.client.got.endswith(b"ok")
        assert outcomes(bench)["ok"] == 4
        assert set(outcomes(bench)) <= {"ok", "upstream_unreachable"}
        assert sum(outcomes(bench).values()) == sum(record.attempts for record in bench.records)
    bench.nothing_is_held()
    bench.close()


async def test_an_endpoint_that_cannot_be_reached_is_avoided_and_forgiven(upstream: RawUpstream) -> None:
    with refused_port() as port:
        bench = Bench(configured(f"http://{HOST}:{port}", upstream.url, service_balance="round_robin"))
        dead = next(endpoint for endpoint in bench.service.keepers if endpoint.port == port)
        while not dead.failures:
            await served(bench)
        assert dead.failed_until > bench.kit.clock.now()
        tried = len(bench.records)
        for _ in range(6):
            await served(bench)
        assert all(record.attempts == 1 for record in bench.records[tried:])
    bench.close()


async def test_nothing_is_tried_twice_where_there_is_nobody_else() -> None:
    with refused_port() as port:
        bench = Bench(configured(f"http://{HOST}:{port}"))
        await served(bench)
    assert [type(fault) for fault in bench.client.refusals] == [Unreachable]
    assert outcomes(bench) == {"upstream_unreachable": 1}


async def test_when_none_may_be_picked() -> None:
    config = configured("http://127.0.0.1:9")
    config["services"][0]["endpoints"][0]["weight"] = 0
    bench = Bench(config)
    await served(bench)
    assert [type(fault) for fault in bench.client.refusals] == [NoHealthyUpstream]
    assert (bench.records[0].attempts, outcomes(bench)) == (0, {})


async def test_when_all_are_full(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url, service_max_in_flight=1))
    (endpoint,) = bench.service.keepers
    held = endpoint.count.take()
    assert held is not None
    await served(bench)
    (fault,) = bench.client.refusals
    assert isinstance(fault, Overloaded)
    assert fault.retry_after_s is not None
    assert not upstream.connections
    held.release()
    await served(bench)
    assert bench.client.got.endswith(b"ok")
    bench.nothing_is_held()
    bench.close()


async def test_connecting_has_the_routes_deadline(upstream: RawUpstream) -> None:
    with black_hole() as port:
        bench = Bench(configured(f"http://{HOST}:{port}", timeouts={"connect": "50ms"}, service_timeouts={"connect": "60s"}))
        await served(bench)
        assert [type(fault) for fault in bench.client.refusals] == [ConnectTimeout]
        bench.nothing_is_held()


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_stale_connection_is_made_anew_and_its_body_sent_again(upstream: RawUpstream, method: bytes) -> None:
    def stale(arrived: Arrived) -> bytes | None:
        if arrived.connection.requests == 1:
            return answer(b"ok")
        arrived.close()
        return None

    upstream.answer_with(stale)
    bench = Bench(configured(upstream.url, retries={"attempts": 0, "on": ["connect"]}))
    for _ in range(4):
        await served(bench, bench.exchange(method), body=b"once" if method == b"POST" else None)
        assert bench.client.got.endswith(b"ok")
    assert outcomes(bench) == {"ok": 4, "stale": 3}
    assert [record.attempts for record in bench.records] == [1, 2, 2, 2]
    assert {request.body for request in upstream.requests} == {b"once" if method == b"POST" else b""}
    bench.nothing_is_held()
    bench.close()


async def test_a_new_connection_is_never_stale(upstream: RawUpstream) -> None:
    upstream.answer_with(lambda arrived: arrived.close())
    bench = Bench(configured(upstream.url))
    await served(bench, bench.exchange(b"POST"))
    assert [type(fault) for fault in bench.client.refusals] == [UpstreamReset]
    assert outcomes(bench) == {"upstream_reset": 1}


async def test_an_answer_begun_is_no_stale_connection(upstream: RawUpstream) -> None:
    async def breaks(arrived: Arrived) -> bytes | None:
        if arrived.connection.requests == 1:
            return answer(b"ok")
        await arrived.send(b"HTTP/1.1 2")
        arrived.close()
        return None

    upstream.answer_with(breaks)
    bench = Bench(configured(upstream.url))
    await served(bench, bench.exchange(b"POST"))
    await served(bench, bench.exchange(b"POST"))
    assert [type(fault) for fault in bench.client.refusals] == [UpstreamReset]
    assert "stale" not in outcomes(bench)


async def test_a_body_too_large_to_keep_is_sent_once(upstream: RawUpstream) -> None:
    def stale(arrived: Arrived) -> bytes | None:
        if arrived.connection.requests == 1:
            return answer(b"ok")
        arrived.close()
        return None

    upstream.answer_with(stale)
    bench = Bench(configured(upstream.url))
    await served(bench)
    await served(bench, bench.exchange(b"POST"), body=bytes(300_000))
    assert [type(fault) for fault in bench.client.refusals] == [UpstreamReset]
    assert len(upstream.requests) == 2


async def test_a_body_that_breaks_ends_its_upstreams_connection() -> None:
    async with RawUpstream(bodies="lazy") as upstream:
        bench = Bench(configured(upstream.url))
        bench.client.body = None  # type: ignore[assignment]
        task = bench.starts(bench.exchange(b"POST"), body=b"half", length=8)
        arrived = await upstream.next_request()
        assert await arrived.read() == b"half"
        assert bench.client.live is not None
        bench.client.live.relay.fail(NotFramed("A chunk does not end in CRLF"))
        await task
        await arrived.wait_closed()
    assert [type(fault) for fault in bench.client.refusals] == [NotFramed]
    assert bench.records[0].bytes_in == 4
    assert outcomes(bench) == {"bad_request": 1}
    bench.nothing_is_held()


async def test_a_clients_fault_is_no_failure_of_the_endpoint(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url, service_balance="least_rtt"))
    upstream.answer_with(None)
    task = bench.starts(bench.exchange(b"POST"))
    await upstream.next_request()
    assert bench.client.live is not None
    bench.client.live.relay.fail(NotFramed("It broke"))
    await task
    (endpoint,) = bench.service.keepers
    assert endpoint.ewma_s == 0.0


async def test_continue_is_said_when_there_is_a_connection_and_more_to_come(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url))
    task = bench.starts(bench.exchange(b"POST"), body=b"", length=4)
    await eventually(lambda: bench.client.continued)
    bench.buffer += b"body"
    bench.client.pull()
    await task
    assert upstream.requests[0].body == b"body"
    assert bench.client.continued == 1
    await served(bench, bench.exchange(b"POST"), body=b"whole")
    assert bench.client.continued == 1
    bench.close()


async def test_how_fast_a_cancel_was_is_measured(upstream: RawUpstream) -> None:
    upstream.answer_with(None)
    bench = Bench(configured(upstream.url))
    for begun in (False, True):
        task = bench.starts()
        arrived = await upstream.next_request()
        if begun:
            await arrived.send(head(200, [("transfer-encoding", "chunked")]) + chunk(b"x"))
            await eventually(lambda: bench.client.got)
        live = bench.client.live
        assert live is not None
        live.client_gone()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await arrived.wait_closed()
    await eventually(lambda: sum(bench.plan.metrics.cancel.counts) == 2)
    assert outcomes(bench) == {"client_closed": 2}
    bench.nothing_is_held()


async def test_a_cancel_while_connecting_is_measured_too() -> None:
    with black_hole() as port:
        bench = Bench(configured(f"http://{HOST}:{port}"))
        task = bench.starts()
        await eventually(lambda: bench.client.live)
        await asyncio.sleep(0)
        live = bench.client.live
        assert live is not None
        live.client_gone()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert sum(bench.plan.metrics.cancel.counts) == 1
        assert outcomes(bench) == {"client_closed": 1}
        bench.nothing_is_held()


async def test_shutting_down_while_connecting_is_an_answer() -> None:
    with black_hole() as port:
        bench = Bench(configured(f"http://{HOST}:{port}", service_timeouts={"connect": "60s"}))
        task = bench.starts()
        await eventually(lambda: bench.last.attempts)
        bench.kit.registry.end_all()
        await task
        assert [type(fault) for fault in bench.client.refusals] == [ShuttingDown]
        assert bench.records[0].state is Terminal.SHUTDOWN
        assert outcomes(bench) == {"shutting_down": 1}
        bench.nothing_is_held()
