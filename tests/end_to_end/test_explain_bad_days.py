"""Cooling targets, lines and full endpoints: what is told of them is what then happens."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.explaining import BOTH, became, explain, foretold, home_of, seen
from tests.end_to_end.models_stage import refusal, stage, told
from tests.kit.quiet import at_rest
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio

WHOLE: dict[str, Any] = {"splits": BOTH, "sticky": ["header:x-session-id"], "fallback": ["canary"]}


async def test_a_cooling_target_is_told_and_left_alone(tmp_path: Path) -> None:
    async with stage(tmp_path, **WHOLE) as models:
        models.b.answer_with(lambda _one: told("from b"))
        models.a.answer_with(lambda _one: refusal(429, ("retry-after", "60")))
        line = await home_of(models, "a")
        order = [step["targets"][0] for step in (await explain(models, {}, line))["model"]["order"]]
        response = await models.ask(line)
        assert (response.status, response.header("x-streamgate-service")) == (200, order[1]["service"])
        [a, b] = next(split for split in (await seen(models))["splits"] if split["name"] == "stable")["targets"]
        assert (a["effective_share"], b["effective_share"], b["cooling"]) == (0.0, 1.0, None)
        assert (a["cooling"]["reason"], 30 < a["cooling"]["for_s"] <= 60) == ("asked", True)
        assert (await seen(models))["fallbacks"]["went_on"] == 1
        found = await explain(models, {}, line)
        assert (found["model"]["target"]["how"], found["model"]["order"][-1]["how"]) == ("moved", "cooling")
        again = await models.ask(line)
        assert became(again)[:3] == foretold(found)[:3]
        assert (await models.record())["sticky"] == "moved"
        assert len(models.a.requests) == 1


async def test_a_line_is_told_and_then_stood_in(tmp_path: Path) -> None:
    only = {"splits": {"stable": [{"service": "a"}]}, "fallback": [], "flag": None, "queue": {"max_in_flight": 1, "max_waiting": 1}}
    async with stage(tmp_path, first_byte="30s", **only) as models:
        held: list[Arrived] = []
        models.a.answer_with(lambda one: _keep(held, one))

        async def turn() -> tuple[str, int | None]:
            queue = (await explain(models))["model"]["queue"]
            return queue["verdict"], queue["position"]

        assert await turn() == ("at once", None)
        first = asyncio.create_task(models.ask())
        await eventually(lambda: len(held) == 1)
        assert await turn() == ("waits", 1)
        second = asyncio.create_task(models.ask())

        async def waits() -> bool:
            return bool((await seen(models))["queue"]["waiting"])

        await eventually(waits)
        found = await explain(models)
        assert (found["outcome"], found["model"]["queue"]["verdict"]) == ("refused", "refused")
        refused = await models.ask()
        error = json.loads(refused.body)["error"]
        assert (refused.status, error["code"], error["message"]) == tuple(found["refusal"][name] for name in ("status", "code", "message"))
        queue = (await seen(models))["queue"]
        assert (queue["held"], queue["waiting"], queue["refused"]["max_waiting"]) == (1, 1, 1)
        for number in range(2):
            await eventually(lambda n=number: len(held) == n + 1)
            await held[number].send(told("served"))
        assert {(await first).status, (await second).status} == {200}
        await at_rest(models.gateway)
        assert await turn() == ("at once", None)


async def _keep(held: list[Arrived], one: Arrived) -> None:
    held.append(one)


async def test_endpoints_that_are_full_are_waited_for(tmp_path: Path) -> None:
    async with stage(tmp_path, first_byte="30s", splits={"stable": [{"service": "a"}]}, fallback=[], flag=None) as models:
        models.config["services"][0]["max_in_flight"] = 1
        models.gateway.write(models.config)

        async def bounded() -> bool:
            found = await explain(models)
            return bool(found["services"][0]["endpoints"][0]["max_in_flight"] == 1)

        await eventually(bounded, timeout=10)
        held: list[Arrived] = []
        models.a.answer_with(lambda one: _keep(held, one))
        first = asyncio.create_task(models.ask())
        await eventually(lambda: held)
        found = await explain(models)
        assert (found["model"]["queue"]["verdict"], found["model"]["queue"]["because"]) == ("waits", "every target of its split is full")
        assert found["model"]["target"]["because"].endswith("once there is room")
        assert found["services"][0]["endpoints"][0]["verdict"] == "full: 1 of 1 in flight"
        second = asyncio.create_task(models.ask())

        async def waits() -> bool:
            return bool((await seen(models))["queue"]["waiting"])

        await eventually(waits)
        await held[0].send(told("served"))
        await eventually(lambda: len(held) == 2)
        await held[1].send(told("served"))
        assert {(await first).status, (await second).status} == {200}


async def test_a_reload_is_told_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path, **WHOLE) as models:
        models.config["models"][0]["name"] = "teacher"
        models.gateway.write(models.config)

        async def renamed() -> dict[str, Any] | None:
            found = await explain(models)
            return found if found["refusal"] else None

        found = await eventually(renamed, timeout=10)
        assert found["refusal"]["code"] == "model_not_found"
        assert (await seen(models))["name"] == "teacher"
        status, body = await asyncio.to_thread(models.gateway.admin, "/-/config")
        assert (status, json.loads(body)["hash"]) == (200, found["config"]["hash"])
