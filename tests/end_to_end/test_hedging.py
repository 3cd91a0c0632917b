"""A second attempt beside a slow first one: the first to speak wins, the loser is cancelled, and the budget holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import DONE, ROLE, Stage, refusal, stage, stream, token, told
from tests.kit.quiet import at_rest
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPLITS = {"stable": [{"service": "a", "weight": 1000}, {"service": "b", "weight": 1}]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    hedge = {"after": "60ms", "share": "20%"}
    async with stage(tmp_path_factory.mktemp("hedging"), splits=SPLITS, fallback=[], flag=None, hedge=hedge) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def models(whole: Stage) -> AsyncIterator[Stage]:
    whole.forget()
    whole.a.answer_with(lambda _one: told("quick"))
    whole.b.answer_with(lambda _one: told("quick"))
    for _ in range(12):  # they pay for what follows
        await whole.ask()
    whole.forget()
    yield whole
    await at_rest(whole.gateway)


async def silent(stage_: Stage) -> list[Arrived]:
    """``a`` says nothing; what arrives there."""
    arrived: list[Arrived] = []

    async def note(one: Arrived) -> None:
        arrived.append(one)

    stage_.a.answer_with(note)
    return arrived


async def test_the_second_answers_where_the_first_is_silent(models: Stage) -> None:
    arrived = await silent(models)
    models.b.answer_with(lambda _one: stream(ROLE, token("from b"), DONE))
    won = await models.gateway.metric("streamgate_hedges_total", outcome="won")
    response = await models.ask(stream=True)
    assert response.body == ROLE + token("from b") + DONE
    assert response.header("x-streamgate-service") == "b"
    await arrived[0].wait_closed()
    record = await models.record()
    assert (record["hedged"], record["service"], record["state"], record["output_tokens"]) == (True, "b", "complete", 1)
    assert await models.gateway.metric("streamgate_hedges_total", outcome="won") == won + 1
    assert await models.gateway.metric("streamgate_duplicate_generations_total", reason="hedge") >= 1


async def test_the_first_may_still_win(models: Stage) -> None:
    arrived = await silent(models)
    second: list[Arrived] = []

    async def note(one: Arrived) -> None:
        second.append(one)
        await arrived[0].send(told("from a"))

    models.b.answer_with(note)
    response = await models.ask()
    assert b"from a" in response.body
    await second[0].wait_closed()
    assert (await models.record())["hedged"] is True
    assert await models.gateway.metric("streamgate_hedges_total", outcome="lost") >= 1


async def test_an_error_of_one_is_waited_with_while_the_other_runs(models: Stage) -> None:
    arrived = await silent(models)

    async def fail(_one: Arrived) -> None:
        await _one.send(refusal(500))
        await arrived[0].send(told("from a"))

    models.b.answer_with(fail)
    response = await models.ask()
    assert (response.status, b"from a" in response.body) == (200, True)


async def test_a_client_that_leaves_cancels_both(models: Stage) -> None:
    arrived = await silent(models)
    second: list[Arrived] = []

    async def note(one: Arrived) -> None:
        second.append(one)

    models.b.answer_with(note)
    async with await models.client() as client:
        await client.send(models.request({"model": "tutor", "messages": [], "stream": True}))
        await eventually(lambda: second)
    await arrived[0].wait_closed()
    await second[0].wait_closed()
    assert (await models.record())["state"] == "client_closed"


async def test_the_budget_holds(models: Stage) -> None:
    async def slow(one: Arrived) -> None:
        await asyncio.sleep(0.15)  # what a hedge would save
        await one.send(told("slow"))

    models.a.answer_with(slow)
    models.b.answer_with(lambda _one: told("from b"))
    hedged = 0
    for _ in range(20):
        await models.ask()
        hedged += (await models.record())["hedged"]
    assert 1 <= hedged <= 14  # of all calls of the last minute a fifth, those before included
