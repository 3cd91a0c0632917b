import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtests import stamps
from loadtests.asking import HOST, Address
from loadtests.swarm import Load, Swarm, Tally
from tests.kit.wait import eventually
from tests.loadtests.fake_model import model

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = stamps.template(200) % 1


@asynccontextmanager
async def saying(data: bytes, *, then_close: bool) -> AsyncIterator[Address]:
    """A server that answers every request with these bytes."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if not then_close:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(one, HOST, 0) as server:
        yield Address(HOST, server.sockets[0].getsockname()[1])


async def first(address: Address) -> Tally:
    """The tally after the first stream has ended in some way."""
    async with Swarm(address, Load(), 1, ramp_s=0) as swarm:
        tally = swarm.tally
        await eventually(lambda: tally.completed + tally.failed + tally.cut)
        return tally


async def test_streams_are_timed_from_the_request_and_from_the_stamp() -> None:
    async with model() as (address, _), Swarm(address, Load(rate_per_s=200), 5, ramp_s=0) as swarm:
        swarm.tally.recording = True
        await eventually(lambda: swarm.tally.tokens > 100)
        tally = swarm.tally
        assert (tally.failed, tally.cut, tally.opened) == (0, 0, 5)
        assert all(0 <= delay < 1e9 for delay in tally.delay_ns)
        assert len(tally.gap_ns) >= 80
        assert 2e6 < sorted(tally.gap_ns)[len(tally.gap_ns) // 2] < 20e6  # 5 ms apart


async def test_a_repeating_swarm_asks_again_and_counts_what_is_complete() -> None:
    async with model() as (address, counts), Swarm(address, Load(5, 500, repeat=True), 4, ramp_s=0) as swarm:
        await eventually(lambda: swarm.tally.completed >= 20)
        assert (swarm.tally.failed, swarm.tally.cut) == (0, 0)
        assert counts.connections == 4  # the same ones
        assert counts.started > 20


async def test_streams_dropped_on_purpose_are_replaced_and_are_no_fault() -> None:
    load = Load(20, 500, repeat=True, drop_share=1.0)
    async with model() as (address, counts), Swarm(address, load, 3, ramp_s=0) as swarm:
        await eventually(lambda: swarm.tally.dropped >= 6)
        assert (swarm.tally.failed, swarm.tally.cut, swarm.tally.completed) == (0, 0, 0)
        await eventually(lambda: counts.closed_early >= 6)


async def test_leaving_the_swarm_closes_every_socket() -> None:
    async with model() as (address, counts):
        async with Swarm(address, Load(), 10, ramp_s=0):
            await eventually(lambda: counts.phases["streaming"] == 10)
        await eventually(lambda: counts.connections == 0)


async def test_an_error_status_is_a_failure() -> None:
    async with saying(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", then_close=False) as address:
        tally = await first(address)
        assert (tally.failed, tally.cut, tally.completed) == (1, 0, 0)
        assert tally.reasons == {"status 503": 1}


async def test_a_connection_lost_before_the_head_is_a_failure() -> None:
    async with saying(b"", then_close=True) as address:
        tally = await first(address)
        assert (tally.failed, tally.cut) == (1, 0)


async def test_a_connection_lost_in_the_answer_is_a_cut() -> None:
    async with saying(HEAD + TOKEN, then_close=True) as address:
        tally = await first(address)
        assert (tally.failed, tally.cut) == (0, 1)


async def test_an_answer_that_ends_without_its_last_event_is_a_cut() -> None:
    async with saying(HEAD + TOKEN + b"0\r\n\r\n", then_close=False) as address:
        tally = await first(address)
        assert (tally.failed, tally.cut) == (0, 1)
        assert tally.reasons == {"ended without [DONE]": 1}


async def test_plain_requests_need_no_end_of_stream() -> None:
    data = b"GET /json HTTP/1.1\r\nhost: x\r\n\r\n"
    async with model() as (address, _), Swarm(address, Load(repeat=True, data=data), 2, ramp_s=0) as swarm:
        await eventually(lambda: swarm.tally.completed >= 10)
        assert (swarm.tally.failed, swarm.tally.cut) == (0, 0)


async def test_nobody_listening_is_a_failure_and_ends_with_the_swarm() -> None:
    async with model() as (address, _):
        pass  # its port is free now
    swarm = Swarm(address, Load(), 1, ramp_s=0)
    opening = asyncio.ensure_future(swarm.__aenter__())
    await eventually(lambda: swarm.tally.failed >= 1)
    opening.cancel()
    await swarm.__aexit__()
    assert any(reason.startswith("cannot connect") for reason in swarm.tally.reasons)
