"""An exchange from its admission to its record: however it ends, it is settled once and nothing is held."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from streamgate.errors import ClientStalled, Fault, Looped, ShuttingDown, UpstreamReset
from streamgate.exchange import State, Terminal
from tests.kit.upstream import RawUpstream
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk, head
from tests.streamgate.pipeline.bench import Bench, configured

STREAM = head(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[RawUpstream]:
    async with RawUpstream() as upstream:
        yield upstream


@pytest_asyncio.fixture
async def bench(upstream: RawUpstream) -> AsyncIterator[Bench]:
    bench = Bench(configured(upstream.url))
    yield bench
    await eventually(lambda: sum(keeper.counts()[0] for keeper in bench.service.keepers.values()) == 0)
    bench.nothing_is_held()
    bench.close()


def ended(bench: Bench, status: int, state: State, terminal: Terminal, fault: str | None) -> None:
    """The one record, and the exchange behind it."""
    (record,) = bench.records
    assert bench.settled == 1
    assert (record.status, record.state, record.fault) == (status, terminal, fault)
    assert bench.last.state is state
    assert bench.plan.metrics.streams[terminal] == 1
    assert sum(bench.plan.metrics.streams.values()) == 1


async def test_an_answer_is_delivered_and_settled(bench: Bench, upstream: RawUpstream) -> None:
    upstream.answer_with(lambda _: answer(b"hello"))
    await bench.starts()
    assert bench.client.got.endswith(b"\r\n\r\nhello")
    ended(bench, 200, State.DONE, Terminal.COMPLETE, None)
    assert bench.records[0].bytes_out == 5


async def test_permits_are_held_until_the_last_byte(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    await arrived.send(head(200, [("content-length", "5")]) + b"hell")
    await eventually(lambda: bench.client.got)
    (endpoint,) = bench.service.keepers
    assert (endpoint.count.held, bench.plan.metrics.in_flight.held, len(bench.kit.registry)) == (1, 1, 1)
    assert bench.client.live is not None
    assert bench.settled == 0
    await arrived.send(b"o")
    await task
    bench.nothing_is_held()


async def test_a_gate_that_drains_takes_no_more(bench: Bench, upstream: RawUpstream) -> None:
    bench.kit.registry.draining = True
    await bench.starts()
    assert [type(fault) for fault in bench.client.refusals] == [ShuttingDown]
    assert bench.client.refusals[0].close
    ended(bench, 503, State.REFUSED, Terminal.SHUTDOWN, "shutting_down")
    assert bench.records[0].attempts == 0
    assert not upstream.connections


async def test_what_has_passed_before_goes_round_no_more(bench: Bench, upstream: RawUpstream) -> None:
    await bench.starts(bench.exchange(via=[b"1.1 other, 1.1 streamgate-test"]))
    assert [type(fault) for fault in bench.client.refusals] == [Looped]
    ended(bench, 508, State.REFUSED, Terminal.UPSTREAM_ERROR, "loop_detected")
    assert not upstream.connections


async def test_a_fault_before_commit_is_an_answer(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts(bench.exchange(b"POST"))
    (await upstream.next_request()).close()
    await task
    assert [type(fault) for fault in bench.client.refusals] == [UpstreamReset]
    assert bench.client.got == b""
    ended(bench, 502, State.FAILED, Terminal.UPSTREAM_ERROR, "upstream_reset")


async def test_a_fault_after_commit_is_no_second_answer(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    await arrived.send(STREAM + chunk(b"data: x\n\n"))
    await eventually(lambda: bench.client.got)
    arrived.close()
    await task
    assert bench.client.refusals == []
    assert bench.client.got.count(b"HTTP/1.1 ") == 1
    assert bench.client.got.count(b"event: error") == 1
    ended(bench, 200, State.FAILED, Terminal.UPSTREAM_TRUNCATED, "upstream_truncated")


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_goes(bench: Bench, upstream: RawUpstream, *, begun: bool) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    if begun:
        await arrived.send(STREAM + chunk(b"data: x\n\n"))
        await eventually(lambda: bench.client.got)
    assert bench.client.live is not None
    bench.client.live.client_gone()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await arrived.wait_closed()
    ended(bench, 200 if begun else 499, State.GONE, Terminal.CLIENT_CLOSED, "client_closed")


async def test_a_task_that_is_cancelled_by_others_leaves_no_upstream_behind(bench: Bench, upstream: RawUpstream) -> None:
    """Whoever cancels it without saying that the client went."""
    task = bench.starts()
    arrived = await upstream.next_request()
    await arrived.send(STREAM + chunk(b"data: x\n\n"))
    await eventually(lambda: bench.client.got)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await arrived.wait_closed()
    ended(bench, 200, State.GONE, Terminal.CLIENT_CLOSED, "client_closed")


async def test_a_client_that_stalls_before_commit_is_cut_and_not_written_to(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    await upstream.next_request()
    assert bench.client.live is not None
    bench.client.live.relay.fail(ClientStalled())
    await task
    assert (bench.client.cuts, bench.client.refusals, bench.client.got) == (1, [], b"")
    ended(bench, 499, State.GONE, Terminal.CLIENT_CLOSED, "client_stalled")


Broken = Callable[..., Any]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_defect_of_ours_is_an_answer_and_a_record(bench: Bench, upstream: RawUpstream, *, begun: bool) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    if begun:
        await arrived.send(STREAM + chunk(b"data: x\n\n"))
        await eventually(lambda: bench.client.got)
    assert bench.client.live is not None
    bench.client.live.relay.done.set_exception(ZeroDivisionError("hunter2"))
    await task
    if begun:
        assert (bench.client.cuts, bench.client.refusals) == (1, [])
        ended(bench, 200, State.FAILED, Terminal.UPSTREAM_ERROR, "internal")
    else:
        assert [(type(fault), fault.status) for fault in bench.client.refusals] == [(Fault, 500)]
        ended(bench, 500, State.FAILED, Terminal.UPSTREAM_ERROR, "internal")
    note = bench.records[0].note
    assert note is not None
    assert note.startswith("ZeroDivisionError in ")
    assert "hunter2" not in note
    await arrived.wait_closed()


# -- shutting down ---------------------------------------------------------------------------------------------------------


async def test_shutting_down_before_an_answer(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    assert bench.kit.registry.end_all() == 1
    await task
    assert [type(fault) for fault in bench.client.refusals] == [ShuttingDown]
    await arrived.wait_closed()
    ended(bench, 503, State.REFUSED, Terminal.SHUTDOWN, "shutting_down")


async def test_shutting_down_in_a_stream(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    await arrived.send(STREAM + chunk(b"data: x\n\n"))
    await eventually(lambda: bench.client.got)
    bench.kit.registry.end_all()
    await task
    assert b'"code":"shutdown"' in bench.client.got
    assert bench.client.got.endswith(b"0\r\n\r\n")
    await arrived.wait_closed()
    ended(bench, 200, State.FAILED, Terminal.SHUTDOWN, "shutting_down")


async def test_shutting_down_between_two_attempts(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url, retries={"attempts": 2, "on": ["503"]}))
    task = bench.starts()
    arrived = await upstream.next_request()
    await arrived.send(answer(b"no", 503, headers=[("retry-after", "2")]))
    await eventually(lambda: bench.service.metrics.attempts)
    bench.kit.registry.end_all()
    await task
    assert task.cancelling() == 0
    assert [type(fault) for fault in bench.client.refusals] == [ShuttingDown]
    ended(bench, 503, State.REFUSED, Terminal.SHUTDOWN, "shutting_down")
    bench.nothing_is_held()


async def test_shutting_down_in_the_moment_an_attempt_fails_leaves_no_other(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url, retries={"attempts": 3, "on": ["connect", "reset"]}))
    upstream.answer_with(lambda _: answer(b"ok"))
    await bench.starts()
    upstream.answer_with(None)
    task = bench.starts()  # over the connection that was kept: nothing but an answer is ever waited for
    await upstream.next_request()
    assert bench.client.live is not None
    bench.client.live.relay.fail(UpstreamReset())
    bench.kit.registry.end_all()  # before the task has been told
    await asyncio.wait_for(task, 5)
    assert [type(fault) for fault in bench.client.refusals] == [ShuttingDown]
    assert (bench.last.attempts, bench.last.status, bench.last.terminal) == (1, 503, Terminal.SHUTDOWN)
    bench.nothing_is_held()
    bench.close()


async def test_shutting_down_in_the_moment_of_the_end_changes_nothing(bench: Bench, upstream: RawUpstream) -> None:
    task = bench.starts()
    arrived = await upstream.next_request()
    live = bench.client.live
    assert live is not None
    done = live.relay.done
    done.add_done_callback(lambda _: bench.kit.registry.end_all())
    await arrived.send(answer(b"hello"))
    await task
    assert (bench.client.cuts, bench.client.refusals) == (0, [])
    ended(bench, 200, State.DONE, Terminal.COMPLETE, None)


# -- reading on ------------------------------------------------------------------------------------------------------------


async def _left(bench: Bench, upstream: RawUpstream, *, begun: bool) -> Any:
    task = bench.starts()
    arrived = await upstream.next_request()
    if begun:
        await arrived.send(STREAM + chunk(b"data: x\n\n"))
        await eventually(lambda: bench.client.got)
    assert bench.client.live is not None
    bench.client.live.client_gone()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return arrived


@pytest.mark.parametrize("begun", [False, True])
async def test_reading_on_is_settled_when_it_ends(upstream: RawUpstream, *, begun: bool) -> None:
    bench = Bench(configured(upstream.url, on_disconnect="drain"))
    arrived = await _left(bench, upstream, begun=begun)
    assert (bench.settled, len(bench.kit.tasks), bench.kit.drains.held) == (0, 1, 1)
    (endpoint,) = bench.service.keepers
    assert (endpoint.count.held, bench.plan.metrics.in_flight.held, len(bench.kit.registry)) == (1, 1, 1)
    said = bench.client.got
    await arrived.send((b"" if begun else STREAM) + chunk(b"data: y\n\n") + b"0\r\n\r\n")
    await eventually(lambda: bench.settled)
    ended(bench, 200 if begun else 499, State.GONE, Terminal.CLIENT_CLOSED, "client_closed")
    assert bench.records[0].drained_bytes == len(b"data: y\n\n")
    assert bench.client.got == said
    bench.nothing_is_held()
    bench.close()


Ending = Callable[[Bench, Any], Awaitable[None]]


async def _upstream_resets(_: Bench, arrived: Any) -> None:
    arrived.reset()


async def _gate_ends(bench: Bench, _: Any) -> None:
    bench.kit.registry.end_all()


async def _tasks_end(bench: Bench, _: Any) -> None:
    await bench.kit.tasks.close()


@pytest.mark.parametrize("ending", [_upstream_resets, _gate_ends, _tasks_end])
@pytest.mark.parametrize("begun", [False, True])
async def test_reading_on_that_is_ended_is_settled_too(upstream: RawUpstream, ending: Ending, *, begun: bool) -> None:
    bench = Bench(configured(upstream.url, on_disconnect="drain"))
    arrived = await _left(bench, upstream, begun=begun)
    await ending(bench, arrived)
    await eventually(lambda: bench.settled)
    (record,) = bench.records
    assert record.state is Terminal.CLIENT_CLOSED
    await eventually(lambda: sum(keeper.counts()[0] for keeper in bench.service.keepers.values()) == 0)
    bench.nothing_is_held()
    await eventually(lambda: upstream.open_connections == 0)


async def test_there_is_room_for_so_many_only(upstream: RawUpstream) -> None:
    bench = Bench(configured(upstream.url, on_disconnect="drain"))
    lease = bench.kit.drains.take()
    assert lease is not None, "the only one"
    arrived = await _left(bench, upstream, begun=True)
    await arrived.wait_closed()
    assert bench.settled == 1
    assert bench.records[0].drained_bytes is None
    lease.release()
