"""Shared calls as users meet them: small requests that become few, identical ones that become one, each with its own answer.

The SDK asks twice, through the gateway and the model server itself, and must not see a difference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.end_to_end.models_stage import ROLE, STREAM, Stage, refusal, stage, token
from tests.kit.client import RawClient
from tests.kit.gateway import RunningGateway
from tests.kit.quiet import at_rest, nothing_went_wrong
from tests.kit.scripted import ScriptedServer, scripted_server
from tests.kit.upstream import Arrived
from tests.kit.wait import eventually
from tests.kit.wire import answer, chunk

pytestmark = pytest.mark.asyncio(loop_scope="module")
SAME: dict[str, Any] = {"model": "tutor", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
SLOW = "head_delay_ms=60, tokens=6"


class Twins:
    """The SDK through the gateway, and at the model server itself."""

    def __init__(self, gateway: RunningGateway, server: ScriptedServer) -> None:
        self.gateway, self.server = gateway, server
        self.through, self.direct = self._at(gateway.url), self._at(server.url)

    def _at(self, base: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key="k", base_url=f"{base}/v1", max_retries=0, default_headers={"x-script": SLOW})

    async def close(self) -> None:
        await self.through.close()
        await self.direct.close()

    async def asked(self) -> int:
        """How many calls the server has had."""
        return (await self.server.stats())["started"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def twins(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Twins]:
    folder = tmp_path_factory.mktemp("twins")
    with scripted_server(folder) as server:
        config = {
            "services": [{"id": "a", "url": server.url}],
            "models": [{"name": "tutor", "splits": {"stable": [{"service": "a"}]}, "batch": {"window": "120ms", "max_items": 32}}],
            "routes": [{"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}, "single_flight": True}],
        }
        async with RunningGateway(folder, config) as gateway:
            found = Twins(gateway, server)
            yield found
            await found.close()
            await at_rest(gateway)
        nothing_went_wrong(gateway)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    config = {"splits": {"stable": [{"service": "a"}]}, "fallback": [], "flag": None, "batch": {"window": "10s", "max_items": 8}}
    async with stage(tmp_path_factory.mktemp("sharing"), route={"single_flight": True}, first_byte="30s", **config) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def models(whole: Stage) -> AsyncIterator[Stage]:
    whole.forget()
    yield whole
    await at_rest(whole.gateway)


# -- beside an unbatched twin ----------------------------------------------------------------------------------------------


async def test_64_small_embeddings_are_few_calls_and_nobody_sees_it(twins: Twins) -> None:
    texts = [f"text number {number}" for number in range(64)]
    before = await twins.asked()
    batched = await asyncio.gather(*(twins.through.embeddings.create(model="tutor", input=text) for text in texts))
    calls = await twins.asked() - before
    assert calls <= 64 // 5, calls
    single = await asyncio.gather(*(twins.direct.embeddings.create(model="tutor", input=text) for text in texts))
    assert [one.data for one in batched] == [one.data for one in single]
    assert [(one.model, one.object) for one in batched] == [(one.model, one.object) for one in single]
    assert sum(one.usage.prompt_tokens for one in batched) == sum(one.usage.prompt_tokens for one in single)

    async def counted() -> bool:
        shared = [one for one in twins.gateway.records() if one["shared"] == "batch"]
        return len(shared) >= 60 and sum(one["input_tokens"] for one in twins.gateway.records()) == sum(one.usage.prompt_tokens for one in single)

    await eventually(counted)
    assert await twins.gateway.metric("streamgate_shared_calls_total", kind="batch", what="calls") == calls


async def test_several_inputs_each_and_completions_too(twins: Twins) -> None:
    asked = [[f"{number} a", f"{number} b"] for number in range(8)]
    batched = await asyncio.gather(*(twins.through.embeddings.create(model="tutor", input=pair) for pair in asked))
    single = await asyncio.gather(*(twins.direct.embeddings.create(model="tutor", input=pair) for pair in asked))
    assert [one.data for one in batched] == [one.data for one in single]
    prompts = [f"once upon {number}" for number in range(12)]
    before = await twins.asked()
    told = await asyncio.gather(*(twins.through.completions.create(model="tutor", prompt=text) for text in prompts))
    assert await twins.asked() - before < len(prompts)
    twin = await asyncio.gather(*(twins.direct.completions.create(model="tutor", prompt=text) for text in prompts))
    assert [one.choices for one in told] == [one.choices for one in twin]


async def test_streamed_completions_come_apart(twins: Twins) -> None:
    async def streamed(client: openai.AsyncOpenAI, prompt: str) -> list[Any]:
        chunks = await client.completions.create(model="tutor", prompt=prompt, stream=True)
        return [choice.model_dump() async for one in chunks for choice in one.choices]

    prompts = [f"once upon {number}" for number in range(10)]
    before = await twins.asked()
    batched = await asyncio.gather(*(streamed(twins.through, prompt) for prompt in prompts))
    assert await twins.asked() - before < len(prompts)
    single = await asyncio.gather(*(streamed(twins.direct, prompt) for prompt in prompts))
    texts = [["".join(choice["text"] for choice in choices) for choices in every] for every in (batched, single)]
    assert texts[0] == texts[1]
    assert [choices[-1]["finish_reason"] for choices in batched] == [choices[-1]["finish_reason"] for choices in single]


async def test_identical_streams_are_one_generation(twins: Twins) -> None:
    async def said(client: openai.AsyncOpenAI) -> str:
        chunks = await client.chat.completions.create(**SAME, stream=True)
        return "".join([one.choices[0].delta.content or "" async for one in chunks if one.choices])

    before = await twins.asked()
    heard = await asyncio.gather(*(said(twins.through) for _ in range(8)))
    assert await twins.asked() - before < 8
    assert set(heard) == {await said(twins.direct)}


# -- with the upstream in the test's hand ----------------------------------------------------------------------------------


def vectors(one: Arrived) -> bytes:
    inputs = json.loads(one.request.body)["input"]
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if "bad" in inputs:
        return refusal(400)
    data = [{"object": "embedding", "index": at, "embedding": [float(len(text))]} for at, text in enumerate(inputs)]
    body = {"object": "list", "model": "up", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    return answer(json.dumps(body).encode(), 200, [("content-type", "application/json")])


async def test_nobody_waits_for_company_while_nothing_is_under_way(models: Stage) -> None:
    """The window is ten seconds."""
    models.a.answer_with(vectors)
    async with asyncio.timeout(5):
        for text in ("a", "bb", "ccc"):
            response = await models.ask(path="/v1/embeddings", input=text)
            assert json.loads(response.body)["data"][0]["embedding"] == [len(text)]
    assert (await models.record())["shared"] is None


async def test_an_error_of_one_is_not_an_error_of_all(models: Stage) -> None:
    client = openai.AsyncOpenAI(api_key="k", base_url=models.gateway.url + "/v1", max_retries=0)

    async def embedded(text: str) -> float | int:
        try:
            return (await client.embeddings.create(model="tutor", input=text, encoding_format="float")).data[0].embedding[0]
        except openai.BadRequestError as error:
            return error.status_code

    first = asyncio.create_task(embedded("first"))
    held = await models.a.next_request()
    others = [asyncio.create_task(embedded(text)) for text in ("a", "bad", "ccc")]
    await eventually(lambda: seen(models, "batches", waiting=3))
    models.a.answer_with(vectors)
    await held.send(vectors(held))
    assert await first == 5
    assert [await one for one in others] == [1, 400, 3]
    first_input, together, *apart = [json.loads(request.body)["input"] for request in models.a.requests]
    assert (first_input, sorted(together), sorted(apart)) == ("first", ["a", "bad", "ccc"], ["a", "bad", "ccc"])
    await client.close()


async def seen(models: Stage, what: str, **figures: int) -> bool:
    """Does the admin port say so of the model now?"""
    status, body = await asyncio.to_thread(models.gateway.admin, "/api/v1/models")
    return status == 200 and figures.items() <= json.loads(body)["models"][0][what].items()


async def sent(models: Stage, *lines: str, path: str = "/v1/chat/completions", **members: Any) -> RawClient:
    client = await models.client()
    await client.send(models.request({"model": "tutor", **members}, *lines, path=path))
    return client


async def test_when_all_of_a_batch_have_left_its_call_is_cancelled(models: Stage) -> None:
    first = await sent(models, path="/v1/embeddings", input="first")
    held = await models.a.next_request()
    others = [await sent(models, path="/v1/embeddings", input=text) for text in ("a", "bb")]
    await eventually(lambda: seen(models, "batches", waiting=2))
    await held.send(vectors(held))
    assert (await first.answer()).status == 200
    batch = await models.a.next_request()
    assert json.loads(batch.request.body)["input"] == ["a", "bb"]
    others[0].writer.transport.abort()
    assert (await models.gateway.record(lambda record: record["fault"] == "client_closed"))["service"] == "a"
    assert batch.connection.is_open
    others[1].writer.transport.abort()
    await batch.wait_closed()


async def test_a_latecomer_hears_the_beginning_and_the_last_to_leave_cancels(models: Stage) -> None:
    first = await sent(models, messages=[], temperature=0, stream=True)
    one = await models.a.next_request()
    await one.send(STREAM + chunk(ROLE) + chunk(token("a")))
    await first.head()
    late = await sent(models, messages=[], temperature=0, stream=True)
    assert (await late.head()).status == 200
    assert await late.chunk() == ROLE + token("a")
    first.writer.transport.abort()
    await one.send(chunk(token("b")))
    assert await late.chunk() == token("b")
    late.writer.transport.abort()
    await one.wait_closed()
    record = await models.record()
    assert (record["state"], record["shared"], record["output_tokens"]) == ("client_closed", "flight", 2)


async def test_others_and_what_is_not_bound_to_be_the_same_have_their_own(models: Stage) -> None:
    clients = [
        await sent(models, *lines, messages=[], **members)
        for lines, members in (
            ((), {"temperature": 0}), (("Authorization: Bearer k",), {"temperature": 0}), ((), {"temperature": 1}), ((), {}), ((), {}),
        )
    ]  # fmt: skip
    for _ in clients:
        await (await models.a.next_request()).send(refusal(400))
    assert [(await client.answer()).status for client in clients] == [400] * 5


async def test_what_is_shared_is_counted_once(models: Stage) -> None:
    before = await models.gateway.metric("streamgate_tokens_total", type="output")
    clients = [await sent(models, messages=[], temperature=0) for _ in range(3)]
    one = await models.a.next_request()
    await eventually(lambda: seen(models, "flights", riding=3))
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    body = {"id": "c", "model": "up", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}], "usage": usage}
    await one.send(answer(json.dumps(body).encode(), 200, [("content-type", "application/json")]))
    assert [(await client.answer()).status for client in clients] == [200] * 3
    await at_rest(models.gateway)
    assert await models.gateway.metric("streamgate_tokens_total", type="output") == before + 2
