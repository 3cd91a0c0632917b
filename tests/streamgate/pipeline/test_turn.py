"""A request's turn: waited for in order and within its patience, taken hold of at once, given back however that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from streamgate.errors import Evicted, Overloaded, QueueExpired, QueueFull, WaitTooLong
from streamgate.exchange import Exchange, State
from streamgate.pipeline.turn import Turn
from streamgate.prompt import Prompt
from tests.kit.clock import ManualClock
from tests.kit.wait import eventually
from tests.streamgate.pipeline.bench import Client
from tests.streamgate.pipeline.models_bench import ModelsBench, unheard


class House:
    """A model that serves one at a time, and who asks for a turn there."""

    def __init__(self, clock: ManualClock | None = None, **queue: Any) -> None:
        self.bench: ModelsBench = unheard(clock, queue={"max_in_flight": 1, "max_wait": "5s", **queue})
        self.demands: list[tuple[int, int]] = []
        self.reserved: list[str] = []
        line = self.bench.model.line
        self.model = replace(self.bench.model, demand=lambda: self.demands.append((line.count.held, line.waiting)))
        self.line = line
        self.turns: list[Turn] = []

    def comes(
        self, name: str = "one", *headers: tuple[bytes, bytes], reserve: Callable[[], object] | None = None, tenant: str | None = None,
        announces: bool = False, priority: int = 0, size_bytes: int = 1,
    ) -> asyncio.Task[None]:  # fmt: skip
        exchange = Exchange(
            method=b"POST", path=b"/v1/chat/completions", query=None, host=b"h", headers=list(headers), http10=False, started_at=0.0
        )  # fmt: skip
        exchange.move(State.ADMITTED)
        exchange.client_address = "192.0.2.7"
        self.last, self.prompt = exchange, Prompt("tutor", "chat", stream=True)
        self.prompt.tenant = tenant
        self.client = Client()
        self.client.loop = asyncio.get_running_loop()
        turn = Turn(exchange, self.client, self.model, reserve or (lambda: self.reserved.append(name)), self.bench.clock)  # type: ignore[arg-type]  # of a link it wants what this has
        self.turns.append(turn)
        return asyncio.ensure_future(
            turn.wait(self.prompt, priority=priority, size_bytes=size_bytes, ready=None, announces=announces)
        )

    async def holds(self) -> Turn:
        """Somebody is served."""
        await self.comes("holder")
        return self.turns[-1]

    async def waits(self, *args: Any, **options: Any) -> asyncio.Task[None]:
        before = self.line.waiting
        task = self.comes(*args, **options)
        await eventually(lambda: self.line.waiting > before)
        return task

    def nothing_is_held(self) -> None:
        for turn in self.turns:
            turn.release()
            turn.release()
        assert (self.line.count.held, self.line.waiting, self.line.waiting_bytes) == (0, 0, 0)
        assert self.demands[-1] == (0, 0)

    @property
    def refusals(self) -> dict[str, int]:
        return self.model.metrics.refusals


def defect() -> None:
    raise ZeroDivisionError


def no_room() -> None:
    raise Overloaded


# -- how it comes ----------------------------------------------------------------------------------------------------------


async def test_at_once_where_there_is_room() -> None:
    house = House()
    await house.comes()
    assert (house.reserved, house.line.count.held, house.prompt.queue_s) == (["one"], 1, 0.0)
    assert house.last.state is State.ADMITTED
    assert house.model.metrics.queue_wait.counts[0] == 1
    house.nothing_is_held()


async def test_else_when_another_gives_its_own_back() -> None:
    house = House()
    holder = await house.holds()
    task = await house.waits("next")
    assert (house.last.state, house.reserved) == (State.WAITING, ["holder"])
    holder.release()
    assert house.reserved == ["holder", "next"]  # in the same moment, or another would be told that there is room
    await task
    assert house.prompt.queue_s > 0.0
    house.nothing_is_held()


async def test_others_are_told_of_every_change() -> None:
    house = House()
    holder = await house.holds()
    task = await house.waits()
    holder.release()
    await task
    house.turns[-1].release()
    assert house.demands == [(1, 0), (1, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize(("fair_by", "flow"), [("tenant", "acme"), ("client_ip", "192.0.2.7"), ("off", "")])
async def test_whom_it_is_fair_to(fair_by: str, flow: str) -> None:
    house = House(fair_by=fair_by)
    await house.holds()
    task = await house.waits(tenant="acme")
    assert [one.flow for one in house.line.statistics().flows] == [flow]
    task.cancel()
    await asyncio.wait([task])
    house.nothing_is_held()


async def test_without_a_tenant_it_is_fair_to_addresses() -> None:
    house = House()
    await house.holds()
    task = await house.waits()
    assert [one.flow for one in house.line.statistics().flows] == ["192.0.2.7"]
    task.cancel()


# -- when it does not come -------------------------------------------------------------------------------------------------


async def test_a_line_that_is_full() -> None:
    house = House(max_waiting=0)
    await house.holds()
    with pytest.raises(QueueFull):
        await house.comes()
    assert house.refusals == {QueueFull().name: 1}
    house.nothing_is_held()


async def test_patience_that_ends() -> None:
    house = House(max_wait="20ms")
    await house.holds()
    task = await house.waits()
    with pytest.raises(QueueExpired):
        await task
    assert house.refusals == {QueueExpired().name: 1}
    assert house.demands[-1] == (1, 0)  # or others would go on keeping a place for it
    house.nothing_is_held()


async def test_patience_that_is_its_clients_own() -> None:
    house = House()
    await house.holds()
    with pytest.raises(QueueExpired):
        await house.comes("one", (b"X-Stainless-Read-Timeout", b"0.02"))
    house.nothing_is_held()


async def test_a_wait_that_would_be_too_long_is_not_begun() -> None:
    clock = ManualClock()
    house = House(clock)
    for _ in range(10):
        (await house.holds()).release()
        holder = await house.holds()
        clock.advance(1.0)
        holder.release()
    holder = await house.holds()
    task = await house.waits("one", tenant="t")
    with pytest.raises(WaitTooLong):
        await house.comes("two", (b"x-stainless-read-timeout", b"0.5"), tenant="t")
    assert house.refusals == {WaitTooLong().name: 1}
    holder.release()
    await task
    house.nothing_is_held()


async def test_another_is_more_urgent() -> None:
    house = House(max_waiting=1)
    await house.holds()
    task = await house.waits("patient")
    urgent = house.comes("urgent", priority=9)
    with pytest.raises(Evicted):
        await task
    house.turns[0].release()
    await urgent
    assert house.reserved == ["holder", "urgent"]
    assert house.refusals == {Evicted().name: 1}
    house.nothing_is_held()


# -- when it comes to nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reserve", "raised"), [(no_room, Overloaded), (defect, ZeroDivisionError)])
@pytest.mark.parametrize("waits", [False, True])
async def test_what_reserving_raises_is_this_ones_alone(reserve: Callable[[], None], raised: type[Exception], *, waits: bool) -> None:
    house = House()
    holder = await house.holds() if waits else None
    task = await house.waits(reserve=reserve) if waits else house.comes(reserve=reserve)
    turn = house.turns[-1]
    if holder is not None:
        another = await house.waits("another")
        holder.release()  # who makes room is not told
    with pytest.raises(raised):
        await task
    turn.release()
    if holder is not None:
        await another
        assert house.reserved == ["holder", "another"]
    house.nothing_is_held()


async def test_who_leaves_while_waiting_leaves_the_line() -> None:
    house = House()
    await house.holds()
    task = await house.waits()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (house.line.waiting, house.demands[-1]) == (0, (1, 0))
    house.nothing_is_held()


async def test_who_leaves_between_grant_and_waking_gives_it_back() -> None:
    house = House()
    holder = await house.holds()
    task = await house.waits("gone")
    holder.release()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (house.reserved, house.line.count.held) == (["holder", "gone"], 1)
    house.nothing_is_held()


async def test_who_is_granted_between_leaving_and_waking_never_has_it() -> None:
    house = House()
    holder = await house.holds()
    task = await house.waits("gone")
    task.cancel()
    holder.release()
    assert (house.reserved, house.line.count.held) == (["holder"], 0)
    with pytest.raises(asyncio.CancelledError):
        await task
    house.nothing_is_held()


async def test_a_refusal_between_leaving_and_waking_is_nobodys() -> None:
    house = House(max_waiting=1)
    await house.holds()
    task = await house.waits()
    task.cancel()
    urgent = house.comes("urgent", priority=9)
    with pytest.raises(asyncio.CancelledError):
        await task
    urgent.cancel()
    await asyncio.wait([urgent])
    house.nothing_is_held()


# -- what is told meanwhile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("announce", "announces", "tells"), [("5ms", True, True), ("5ms", False, False), ("off", True, False)])
async def test_a_client_is_told_its_place_where_that_is_wanted(announce: str, *, announces: bool, tells: bool) -> None:
    house = House(announce=announce)
    holder = await house.holds()
    task = await house.waits(announces=announces)
    turn, client = house.turns[-1], house.client
    if tells:
        await eventually(lambda: client.got.count(b": queue position=1") > 1)
        assert turn.announcing is not None
    else:
        await asyncio.sleep(0.02)
        assert (client.got, turn.announcing) == (b"", None)
    holder.release()
    await task
    said = client.got
    await asyncio.sleep(0.02)
    assert client.got == said
    house.nothing_is_held()


async def test_one_whose_stream_has_not_been_opened_has_been_told_nothing() -> None:
    house = House(announce="5s")
    holder = await house.holds()
    task = await house.waits(announces=True)
    holder.release()
    await task
    assert house.turns[-1].announcing is None
    house.nothing_is_held()
