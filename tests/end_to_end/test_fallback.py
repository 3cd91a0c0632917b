"""What a client sees when targets fail: another one while nothing meaningful has been said, a clear error after that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import DONE, ROLE, Stage, refusal, stage, stream, token, told
from tests.kit.ports import refused_port
from tests.kit.quiet import at_rest
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
START = stream(ROLE, token("a")).removesuffix(b"0\r\n\r\n")
ERROR = b'data: {"error":{"message":"overloaded","type":"server_error","code":"server_error"}}\n\n'


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("fallback")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def models(whole: Stage) -> AsyncIterator[Stage]:
    whole.forget()
    yield whole
    await at_rest(whole.gateway)
    whole.a.answer_with(lambda _one: told("well again"))  # a success ends what failures began
    await eventually(lambda: _served_by_a(whole), timeout=8)


async def _served_by_a(whole: Stage) -> bool:
    return (await whole.ask()).header("x-streamgate-service") == "a"


async def reset(one: Arrived) -> None:
    one.reset()


async def close(one: Arrived) -> None:
    one.close()


async def silence(_one: Arrived) -> None:
    """Says nothing at all."""


async def opening_only(one: Arrived) -> None:
    await one.send(stream(ROLE).removesuffix(b"0\r\n\r\n"))


async def opening_and_end(one: Arrived) -> None:
    await one.send(stream(ROLE))


async def opening_and_cut(one: Arrived) -> None:
    await one.send(stream(ROLE).removesuffix(b"0\r\n\r\n"))
    one.reset()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (reset, "reset"),
        (close, "reset"),
        (silence, "first_byte"),
        (opening_only, "first_byte"),
        (opening_and_end, "truncated"),
        (lambda _one: refusal(500), "5xx"),
        (lambda _one: refusal(503, ("retry-after", "0")), "5xx"),
        (lambda _one: refusal(429), "rate_limited"),
        (lambda _one: stream(ROLE, ERROR), "in_band"),
    ],
)
async def test_another_target_answers_while_nothing_has_been_said(models: Stage, failure: Any, reason: str) -> None:
    models.a.answer_with(failure)
    models.b.answer_with(lambda _one: stream(ROLE, token("from b"), DONE))
    before = await models.gateway.metric("streamgate_fallbacks_total", reason=reason)
    response = await models.ask(stream=True)
    assert (response.status, response.body) == (200, ROLE + token("from b") + DONE)
    assert response.header("x-streamgate-service") == "b"
    record = await models.record()
    assert (record["state"], record["fallbacks"], record["split"]) == ("complete", 1, "canary")
    assert record["attempts"] == 2 or failure is close  # which, on a kept connection, looks like one that was stale
    assert await models.gateway.metric("streamgate_fallbacks_total", reason=reason) == before + 1
    await eventually(lambda: models.a.open_connections == 0 or reason in {"5xx", "rate_limited"})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_is_the_requests_own_fault_stays_where_it_is(models: Stage, status: int) -> None:
    models.a.answer_with(lambda _one: refusal(status))
    response = await models.ask(stream=True)
    assert (response.status, json.loads(response.body)["error"]["message"]) == (status, f"no: {status}")
    assert models.asked() == {"a": 1, "b": 0}


async def test_when_all_fail_the_last_answer_is_given(models: Stage) -> None:
    models.a.answer_with(lambda _one: refusal(503))
    models.b.answer_with(lambda _one: refusal(502))
    response = await models.ask()
    assert (response.status, json.loads(response.body)["error"]["message"]) == (502, "no: 502")
    assert models.asked() == {"a": 1, "b": 1}
    models.b.answer_with(lambda _one: told("x"))


async def test_after_the_first_token_nothing_switches(models: Stage) -> None:
    async def cut(one: Arrived) -> None:
        await one.send(START)
        one.reset()

    models.a.answer_with(cut)
    response = await models.ask(stream=True)
    assert response.status == 200
    assert response.body.startswith(ROLE + token("a"))
    assert b'"error"' in response.body
    assert b"[DONE]" not in response.body
    assert (await models.record())["state"] in {"upstream_error", "upstream_truncated"}
    assert models.asked() == {"a": 1, "b": 0}


async def test_a_silence_after_the_first_token_is_told_in_band(models: Stage) -> None:
    async def stall(one: Arrived) -> None:
        await one.send(START)

    models.a.answer_with(stall)
    response = await models.ask(stream=True)
    assert b'"code":"idle_timeout"' in response.body
    assert (await models.record())["state"] == "idle_timeout"
    assert models.asked() == {"a": 1, "b": 0}


async def test_a_quota_that_is_spent_leaves_the_target_alone_for_as_long_as_it_says(models: Stage) -> None:
    models.a.answer_with(lambda _one: refusal(429, ("retry-after", "2")))
    models.b.answer_with(lambda _one: told("from b"))
    assert (await models.ask()).header("x-streamgate-service") == "b"
    assert (await models.ask()).header("x-streamgate-service") == "b"
    assert models.asked() == {"a": 1, "b": 2}


async def test_a_client_that_leaves_is_no_failure_and_no_fallback(models: Stage) -> None:
    arrived = []

    async def note(one: Arrived) -> None:
        arrived.append(one)

    models.a.answer_with(note)
    async with await models.client() as client:
        await client.send(models.request({"model": "tutor", "messages": []}))
        await eventually(lambda: arrived)
    await arrived[0].wait_closed()
    assert (await models.record())["state"] == "client_closed"
    assert models.asked() == {"a": 1, "b": 0}


async def test_a_client_that_retries_by_itself_gets_fewer_of_ours(models: Stage) -> None:
    models.a.answer_with(lambda _one: refusal(500))
    models.b.answer_with(lambda _one: refusal(500))
    await models.ask("x-stainless-retry-count: 1")
    assert (await models.record())["attempts"] == 2


async def test_a_target_that_refuses_connections(tmp_path: Any) -> None:
    with refused_port() as port:
        async with stage(tmp_path) as models:
            services = [{"id": "a", "url": f"http://127.0.0.1:{port}"}, {"id": "b", "url": models.b.url}]
            models.gateway.write({**models.config, "services": services})
            await _served_by_b(models)


async def _served_by_b(models: Stage) -> None:
    models.b.answer_with(lambda _one: told("from b"))

    async def moved() -> bool:
        return (await models.ask()).header("x-streamgate-service") == "b"

    await eventually(moved)
    assert (await models.record())["state"] == "complete"
    models.b.answer_with(None)
    models.b.requests.clear()


async def test_a_response_that_is_gone_on_from_stays_where_it_was_made(tmp_path: Any) -> None:
    created = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","model":"up"}}\n\n'
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Hi"}\n\n'
    done = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1","model":"up","usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
    async with stage(tmp_path) as models:
        models.b.answer_with(lambda _one: stream(created, delta, done))
        models.set_flag("canary")

        async def by_b() -> bool:
            return (await models.ask(path="/v1/responses", stream=True, input="x")).header("x-streamgate-service") == "b"

        await eventually(by_b)
        models.set_flag("stable")
        models.a.answer_with(lambda _one: told("from a"))

        async def by_a() -> bool:
            return (await models.ask()).header("x-streamgate-service") == "a"

        await eventually(by_a)
        response = await models.ask(path="/v1/responses", stream=True, input="y", previous_response_id="resp_1")
        assert response.header("x-streamgate-service") == "b"
        assert (await models.record())["sticky"] == "pinned"
