import asyncio

import pytest

from loadtests import drops, processes
from loadtests.asking import HOST, Address
from tests.kit.wait import eventually
from tests.loadtests.fake_model import model


@pytest.mark.parametrize("window", drops.WINDOWS, ids=lambda window: window.name)
async def test_without_a_proxy_every_close_is_seen_at_once(window: drops.Window) -> None:
    async with model() as (address, counts):
        closes = await drops.close_times(address, address.port, window, 4)
        assert len(closes.seen_ms) == 4
        assert all(0 <= seen < drops.PATIENCE_S * 1000 for seen in closes.seen_ms)
        assert closes.unseen == 0
        assert not +counts.phases


def test_a_close_that_is_not_seen_counts_as_long_as_we_waited() -> None:
    closes = drops.Closes([1.0], unseen=2)
    assert closes.all_ms == [1.0, 2000.0, 2000.0]


async def test_requests_that_do_not_get_there_are_no_figure() -> None:
    stuck = drops.Window("nowhere to be found", "a phase that does not exist", {"hold": "headers"})
    async with model() as (address, _):
        with pytest.raises(TimeoutError, match="0 of 1 requests came to be a phase"):
            await drops.close_times(address, address.port, stuck, 1, within_s=0.0)


async def test_connecting_to_nowhere_does_not_end() -> None:
    with drops.nowhere() as port:
        before = processes.connecting_to(port)
        connecting = drops.visit(Address(HOST, port), b"")
        task = asyncio.ensure_future(connecting)
        await eventually(lambda: processes.connecting_to(port) - before)
        assert not task.done()
        task.cancel()
        await eventually(lambda: not processes.connecting_to(port) - before)
