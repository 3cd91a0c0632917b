"""Which model serves a request: the name, the flag, the split; what of the body is changed; what is refused and how."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import CHAT, DONE, ROLE, USAGE, Stage, stage, stream, token, told
from tests.kit.quiet import at_rest
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    auth = {"auth": {"tenant": {"from": ["host"]}}}
    async with stage(tmp_path_factory.mktemp("models"), config=auth, sticky=["header:x-session-id", "body:user"]) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def models(whole: Stage) -> AsyncIterator[Stage]:
    whole.forget()
    yield whole
    await at_rest(whole.gateway)


async def test_the_body_arrives_as_it_was_but_for_the_models_name(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("hello"))
    raw = b'{ "messages":[{"role":"user","content":"\\"model\\": \\"tutor\\" \xf0\x9f\x99\x82"}] ,\r\n "model" :"tutor","x":1.50 }'
    async with await models.client() as client:
        response = await client.ask(models.request(raw, "Content-Type: application/json"))
    assert (response.status, json.loads(response.body)["choices"][0]["message"]["content"]) == (200, "hello")
    assert models.a.requests[0].body == raw.replace(b'"model" :"tutor"', b'"model" :"up"')
    assert models.a.requests[0].target == CHAT


async def test_an_answer_says_what_happened(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("hello"))
    response = await models.ask()
    said = {name: response.header(f"x-streamgate-{name}") for name in ("model", "split", "service", "attempts", "queue-ms", "variant", "reason")}
    assert said == {
        "model": "tutor", "split": "stable", "service": "a", "attempts": "1", "queue-ms": "0", "variant": "stable", "reason": "STATIC",
    }  # fmt: skip
    record = await models.record()
    assert (record["model"], record["routed_model"], record["answering_model"]) == ("tutor", "up", "up")
    assert (record["split"], record["flag"], record["variant"], record["reason"]) == ("stable", "tutor-split", "stable", "STATIC")
    assert (record["input_tokens"], record["output_tokens"], record["usage_estimated"]) == (7, 2, False)


async def test_a_flag_that_is_flipped_moves_new_requests(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("from a"))
    models.b.answer_with(lambda _one: told("from b"))

    async def split() -> str | None:
        return (await models.ask()).header("x-streamgate-split")

    assert await split() == "stable"
    models.set_flag("canary")

    async def moved() -> bool:
        return await split() == "canary"

    await eventually(moved, timeout=3)
    assert json.loads(models.b.requests[-1].body)["model"] == "up-b"
    models.set_flag("stable")

    async def back() -> bool:
        return await split() == "stable"

    await eventually(back, timeout=3)


async def test_a_value_that_names_no_split_falls_to_the_default_and_is_counted(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("from a"))
    models.set_flag("odd")

    async def odd() -> bool:
        return (await models.ask()).header("x-streamgate-reason") == "UNKNOWN_SPLIT"

    await eventually(odd, timeout=3)
    assert (await models.record())["split"] == "stable"
    assert await models.gateway.metric("streamgate_flag_evaluations_total", reason="UNKNOWN_SPLIT") >= 1
    models.set_flag("stable")

    async def back() -> bool:
        return (await models.ask()).header("x-streamgate-reason") == "STATIC"

    await eventually(back, timeout=3)


async def test_a_flag_decides_by_tenant_and_session(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("from a"))
    models.b.answer_with(lambda _one: told("from b"))
    models.set_flag("stable", {"if": [{"==": [{"var": "tenant"}, "acme"]}, "canary", None]})

    async def split(host: str) -> str | None:
        async with await models.client() as client:
            body = {"model": "tutor", "messages": []}
            raw = models.request(body).replace(b"Host: gate", b"Host: " + host.encode())
            return (await client.ask(raw)).header("x-streamgate-split")

    async def decided() -> bool:
        return await split("acme.example") == "canary"

    await eventually(decided, timeout=3)
    assert await split("globex.example") == "stable"
    assert (await models.record())["tenant"] == "globex"
    models.set_flag("stable")

    async def back() -> bool:
        return await split("acme.example") == "stable"

    await eventually(back, timeout=3)


async def test_usage_is_asked_for_and_taken_out_again(models: Stage) -> None:
    models.a.answer_with(lambda _one: stream(ROLE, token("a"), token("b"), USAGE, DONE))
    response = await models.ask(stream=True)
    assert response.body == ROLE + token("a") + token("b") + DONE
    assert json.loads(models.a.requests[-1].body)["stream_options"] == {"include_usage": True}
    record = await models.record()
    assert (record["input_tokens"], record["output_tokens"], record["usage_estimated"], record["state"]) == (7, 2, False, "complete")
    assert await models.gateway.metric("gen_ai_client_token_usage_sum", gen_ai_token_type="output") >= 2


async def test_who_asked_for_usage_gets_it(models: Stage) -> None:
    models.a.answer_with(lambda _one: stream(ROLE, token("a"), USAGE, DONE))
    response = await models.ask(stream=True, stream_options={"include_usage": True})
    assert response.body == ROLE + token("a") + USAGE + DONE


async def test_an_anthropic_request_is_left_alone_but_for_its_model(models: Stage) -> None:
    events = [b'event: message_start\ndata: {"type":"message_start","message":{"model":"up","usage":{"input_tokens":5,"output_tokens":1}}}\n\n',
              b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}\n\n',
              b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\n',
              b'event: message_stop\ndata: {"type":"message_stop"}\n\n']
    models.a.answer_with(lambda _one: stream(*events))
    response = await models.ask("anthropic-version: 2023-06-01", path="/v1/messages", stream=True, max_tokens=9)
    assert response.body == b"".join(events)
    assert "stream_options" not in json.loads(models.a.requests[-1].body)
    record = await models.record()
    assert (record["input_tokens"], record["output_tokens"]) == (5, 4)


async def test_the_list_of_models(models: Stage) -> None:
    response = await models.ask(path="/v1/models", method="GET")
    assert [one["id"] for one in json.loads(response.body)["data"]] == ["tutor"]
    theirs = await models.ask("anthropic-version: 2023-06-01", path="/v1/models", method="GET")
    assert json.loads(theirs.body)["first_id"] == "tutor"
    one = await models.ask(path="/v1/models/tutor", method="GET")
    assert json.loads(one.body)["id"] == "tutor"
    none = await models.ask(path="/v1/models/nobody", method="GET")
    assert none.status == 404
    assert models.asked() == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"", 400, "bad_request", "JSON"),
        (b"{}", 400, "bad_request", 'send "model"'),
        (b'{"model":"tutor","model":"x"}', 400, "bad_request", "2 times"),
        (b'{"model":"tuto"}', 404, "model_not_found", "did you mean 'tutor'"),
    ],
)
async def test_what_is_refused_is_refused_in_the_clients_words(models: Stage, body: bytes, status: int, code: str, says: str) -> None:
    async with await models.client() as client:
        response = await client.ask(models.request(body))
        error = json.loads(response.body)["error"]
        assert (response.status, error["code"]) == (status, code)
        assert says in error["message"]
        models.a.answer_with(lambda _one: told("still here"))
        assert (await client.ask(models.request({"model": "tutor", "messages": []}))).status == 200


async def test_a_path_that_no_model_serves(models: Stage) -> None:
    response = await models.ask(path="/v1/audio/speech")
    assert (response.status, json.loads(response.body)["error"]["code"]) == (404, "no_route")
    response = await models.ask(path=CHAT, method="GET")
    assert response.status == 404
    assert models.asked() == {"a": 0, "b": 0}


async def test_a_body_that_comes_slowly_and_in_chunks(models: Stage) -> None:
    models.a.answer_with(lambda _one: told("hello"))
    body = json.dumps({"model": "tutor", "messages": ["x" * 200_000]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    async with await models.client() as client:
        await client.send(head)
        assert (await client.head()).status == 100
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).status == 200
    assert models.a.requests[-1].body == body.replace(b'"tutor"', b'"up"')
    assert models.a.requests[-1].header("content-length") == str(len(body) - 3)


async def test_a_stream_whose_client_leaves_is_counted_by_what_was_delivered(models: Stage) -> None:
    async def some(one: Any) -> None:
        await one.send(stream(ROLE, token("a"), token("b")).removesuffix(b"0\r\n\r\n"))

    models.a.answer_with(some)
    async with await models.client() as client:
        await client.send(models.request({"model": "tutor", "stream": True, "messages": []}))
        await client.head()
        got = b""
        while token("b") not in got:
            got += await client.chunk()
    record = await models.record()
    assert (record["state"], record["output_tokens"], record["usage_estimated"]) == ("client_closed", 2, True)
    await eventually(lambda: models.a.open_connections == 0)
