"""What is told of a request before it is sent is what then becomes of it; and asking changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from itertools import accumulate
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.explaining import BOTH, became, explain, foretold, home_of, seen
from tests.end_to_end.models_stage import CHAT, DONE, ROLE, Stage, stage, stream, token, told
from tests.kit.quiet import at_rest
from tests.kit.wait import eventually
from tests.kit.wire import answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

RING, GOLDEN = 2**32, 0x9E3779B9
WHOLE: dict[str, Any] = {"splits": BOTH, "sticky": ["header:x-session-id", "body:user"], "fallback": ["canary"]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    auth = {"auth": {"tenant": {"from": ["host"]}}}
    async with stage(tmp_path_factory.mktemp("explain"), config=auth, **WHOLE) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def models(whole: Stage) -> AsyncIterator[Stage]:
    whole.forget()
    whole.a.answer_with(lambda _one: told("from a"))
    whole.b.answer_with(lambda _one: told("from b"))
    yield whole
    await at_rest(whole.gateway)


async def test_a_key_goes_where_it_was_told_to_go(models: Stage) -> None:
    services = set()
    for number in range(30):
        line = f"X-Session-Id: s-{number}"
        found = await explain(models, {}, line)
        assert found["model"]["target"]["how"] == "sticky"
        response = await models.ask(line)
        assert became(response) == foretold(found)
        assert (await models.record())["sticky"] == "sticky"
        services.add(response.header("x-streamgate-service"))
    assert services == {"a", "b"}


async def test_the_upstream_gets_what_was_told(models: Stage) -> None:
    lines = ("X-Session-Id: s-1", "X-Extra: 1", "Accept: */*", "Authorization: Bearer mine", "Content-Type: application/json")
    found = await explain(models, {"stream": True}, *lines)
    for upstream in (models.a, models.b):
        upstream.answer_with(lambda _one: stream(ROLE, token("x"), DONE))
    await models.ask(*lines, stream=True)
    [request] = [*models.a.requests, *models.b.requests]
    sent = found["upstream"]
    assert (request.method, request.target, request.header("host")) == (sent["method"], sent["target"], sent["host"])
    assert len(request.body) == sent["body_bytes"]
    assert json.loads(request.body)["model"] == sent["model"]
    theirs = {name.lower(): value for name, value in request.headers if name != "Host"}
    assert found["model"]["usage"]["asked_upstream"]
    assert json.loads(request.body)["stream_options"] == {"include_usage": True}
    mine = {name.lower(): value for name, value in sent["headers"]}
    assert set(mine) == set(theirs)
    differs = {name for name, value in mine.items() if theirs[name] != value}
    assert differs == {"authorization", "x-session-id", "x-request-id", "traceparent"}
    assert mine["authorization"] == mine["x-session-id"] == "(hidden)"


async def test_a_flag_that_is_flipped_is_told_flipped(models: Stage) -> None:
    line = "X-Session-Id: s-2"
    assert (await explain(models, {}, line))["model"]["split"]["name"] == "stable"
    for value, split in (("canary", "canary"), ("odd", "stable"), ("stable", "stable")):
        models.set_flag(value)

        async def flipped(wanted: str = value) -> dict[str, Any] | None:
            found = await explain(models, {}, line)
            return found if found["model"]["flag"]["variant"] == wanted else None

        found = await eventually(flipped, timeout=3)
        assert found["model"]["split"]["name"] == split
        assert found["model"]["split"]["why"] == ("unknown" if value == "odd" else "flag")
        response = await models.ask(line)
        assert became(response)[:4] == foretold(found)[:4]
        assert (await models.record())["reason"] == ("UNKNOWN_SPLIT" if value == "odd" else found["model"]["flag"]["reason"])
    assert (await seen(models))["unknown_values"] == {"odd": 1}, "asked about often, sent once"


async def test_a_flag_is_asked_with_what_a_request_brings(models: Stage) -> None:
    models.set_flag("stable", {"if": [{"and": [{"==": [{"var": "tenant"}, "acme"]}, {"==": [{"var": "targetingKey"}, "k-1"]}]}, "canary", None]})

    async def targeted() -> bool:
        return (await explain(models, {}, "Host: acme.example", "X-Session-Id: k-1"))["model"]["split"]["name"] == "canary"

    try:
        await eventually(targeted, timeout=3)
        for host, key, split in (("acme.example", "k-1", "canary"), ("globex.example", "k-1", "stable"), ("acme.example", "k-2", "stable")):
            found = await explain(models, {}, f"Host: {host}", f"X-Session-Id: {key}")
            assert found["model"]["tenant"] == {"name": host.partition(".")[0], "from": "host"}
            assert found["model"]["split"]["name"] == split
            async with await models.client() as client:
                raw = models.request({"model": "tutor", "messages": []}, f"X-Session-Id: {key}").replace(b"Host: gate", f"Host: {host}".encode())
                assert became(await client.ask(raw))[:2] == foretold(found)[:2]
    finally:
        models.set_flag("stable")

    async def back() -> bool:
        return not await targeted()

    await eventually(back, timeout=3)


@pytest.mark.parametrize(
    ("body", "path"), [({"model": "tuto"}, CHAT), ({"model": 7}, CHAT), ({"stream": "yes"}, CHAT), ({}, "/v1/audio/speech"), ({"model": ""}, "/v1/embeddings")]
)
async def test_what_is_refused_is_told_in_the_same_words(models: Stage, body: dict[str, Any], path: str) -> None:
    found = await explain(models, body, path=path)
    response = await models.ask(path=path, **body)
    assert found["refusal"]["status"] == response.status
    error = json.loads(response.body)["error"]
    assert (found["refusal"]["code"], found["refusal"]["message"]) == (error["code"], error["message"])
    assert models.asked() == {"a": 0, "b": 0}


async def test_an_answer_is_gone_on_from_where_it_was_told(models: Stage) -> None:
    body = json.dumps({"id": "resp_explained", "object": "response", "model": "up-b", "status": "completed", "output": [], "usage": None}).encode()
    models.b.answer_with(lambda _one: answer(body, 200, [("content-type", "application/json")]))
    line = await home_of(models, "b")
    await models.ask(line, path="/v1/responses", input="hi")
    await models.record()
    on = {"previous_response_id": "resp_explained", "input": "more"}
    found = await explain(models, on, await home_of(models, "a"), path="/v1/responses")
    assert (found["model"]["continues"], found["model"]["target"]["how"]) == ({"known": True}, "pinned")
    response = await models.ask(await home_of(models, "a"), path="/v1/responses", **on)
    assert became(response)[:3] == foretold(found)[:3] == ("stable", "b", "up-b")


async def test_the_command_tells_the_same(models: Stage) -> None:
    """From the configuration alone, with nobody's cooldowns: the same key, the same target."""
    for number in range(3):
        line = f"X-Session-Id: cli-{number}"
        live = await explain(models, {}, line)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "streamgate.cli", "explain", "-c", str(models.gateway.file), "--json", "POST", CHAT, "-H", line,
            "-H", "Host: gate", "-d", json.dumps({"model": "tutor", "messages": [{"role": "user", "content": "hi"}]}),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0
        alone = json.loads(output)
        assert (alone["live"], live["live"]) == (False, True)
        for found in (alone, live):
            found["model"]["queue"].pop("state")  # of the line that has been in use
        assert alone["model"] == live["model"]
        assert alone["services"] == live["services"]


# -- a thousand questions --------------------------------------------------------------------------------------------------


def starts(turns: list[tuple[int, str]]) -> list[int]:
    """Where turns may have begun, given which target had which turn: each stretch of such places by its first point."""
    ends = [-(-end * RING // 5) for end in accumulate((3, 2))]
    bounds = {"a": (0, ends[0]), "b": (ends[0], ends[1])}
    candidates = {(low - number * GOLDEN) % RING for number, _ in turns for low, _ in bounds.values()}
    return [
        start for start in candidates
        if all(bounds[service][0] <= (start + number * GOLDEN) % RING < bounds[service][1] for number, service in turns)
    ]  # fmt: skip


async def test_a_thousand_questions_take_nobody_s_turn(models: Stage) -> None:
    async def turns(count: int) -> list[str]:
        return [str((await models.ask()).header("x-streamgate-service")) for _ in range(count)]

    before = await turns(25)
    counted = await at_rest(models.gateway)
    stood = await seen(models)
    async with asyncio.TaskGroup() as group:
        for number in range(10):  # 700 without a key: as many turns would lead far round the ring
            group.create_task(many(models, 100, [f"X-Session-Id: q-{number}"] if number > 6 else []))
    assert await seen(models) == stood
    counters = [name for name in counted if name[0].endswith(("_total", "_count", "_sum", "_bucket"))]
    kept = [name for name in counters if not name[0].startswith(("process_", "streamgate_records_"))]  # records are written behind
    now = await models.gateway.metrics()
    assert {name: counted[name] for name in kept} == {name: now[name] for name in kept}
    after = await turns(25)
    assert starts([*enumerate(before), *enumerate(after, 25)]), "the turns go on where they were"
    assert not starts([*enumerate(before), *enumerate(after, 725)]), "and had each question taken one, they would be others"


async def many(models: Stage, count: int, lines: list[str]) -> None:
    for _ in range(count):
        found = await explain(models, {}, *lines)
        assert found["model"]["target"]["how"] == ("sticky" if lines else "turn")
        if not lines:
            assert found["model"]["order"][0]["targets"] == [
                {"service": "a", "model": "up", "share": 0.6}, {"service": "b", "model": "up-b", "share": 0.4},
            ]  # fmt: skip
