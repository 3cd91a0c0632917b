"""What users' clients make of what goes wrong: their own error of the right class for each, never a clean end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from langchain_openai import ChatOpenAI

from tests.kit.gateway import RunningGateway
from tests.kit.ports import free_port
from tests.kit.scripted import scripted_server
from tests.kit.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODE = Path(__file__).parent.parent / "node"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
WHOLE = "tokens=6, delay_ms=1"
BROKEN = {
    "cut in the middle": "tokens=6, cut_after=3",
    "ended without its terminal event": "tokens=6, end_after=3",
    "fell silent": "tokens=6, stall_after=3",
    "the provider's own error": "tokens=6, error_after=3",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("faults")
    with scripted_server(folder) as server:

        def to(service: str, prefix: str, **more: Any) -> dict[str, Any]:
            rewrite = {"strip_prefix": prefix} if prefix else None
            match = {"paths": [f"{prefix}/*"], "hosts": ["127.0.0.1"]}
            return {
                "id": service + prefix.replace("/", "-"),
                "match": match,
                "to": {"service": service},
                "rewrite": rewrite,
                **more,
            }

        config = {
            "services": [
                {"id": "model", "url": server.url, "timeouts": {"idle": "300ms", "first_byte": "300ms"}},
                {"id": "away", "url": f"http://127.0.0.1:{free_port()}"},
            ],
            "routes": [
                to("model", ""),
                to("away", "/away", retries={"attempts": 0}),
                to("model", "/small", max_body="10B"),
            ],
        }
        async with RunningGateway(folder, config) as gateway:
            yield gateway


@pytest.fixture
def url(gateway: RunningGateway) -> str:
    return gateway.url


# -- the synchronous clients -------------------------------------------------------------------------------------------


def openai_at(url: str, script: str, **more: Any) -> openai.OpenAI:
    headers = {"x-script": script, **more.pop("headers", {})}
    return openai.OpenAI(api_key="k", base_url=f"{url}/v1", default_headers=headers, **{"max_retries": 0, **more})


def anthropic_at(url: str, script: str, **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url=url, max_retries=0, default_headers={"x-script": script}, **more)


def chat(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def chat_whole(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        return client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content or ""


def completion(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        stream = client.completions.create(model="m", prompt="Hello", stream=True)
        return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def completion_whole(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        return client.completions.create(model="m", prompt="Hello").choices[0].text


def responses(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        stream = client.responses.create(model="m", input="Hello", stream=True)
        return "".join(event.delta for event in stream if event.type == "response.output_text.delta")


def responses_whole(url: str, script: str) -> str:
    with openai_at(url, script) as client:
        return client.responses.create(model="m", input="Hello").output_text


def messages(url: str, script: str) -> str:
    with anthropic_at(url, script) as client, client.messages.stream(model="m", max_tokens=64, messages=MESSAGES) as stream:
        return "".join(stream.text_stream)


def messages_raw(url: str, script: str) -> str:
    with anthropic_at(url, script) as client:
        stream = client.messages.create(model="m", max_tokens=64, messages=MESSAGES, stream=True)
        return "".join(
            event.delta.text for event in stream if event.type == "content_block_delta" and event.delta.type == "text_delta"
        )


def messages_whole(url: str, script: str) -> str:
    with anthropic_at(url, script) as client:
        [block] = client.messages.create(model="m", max_tokens=64, messages=MESSAGES).content
        assert block.type == "text"
        return block.text


def langchain(url: str, script: str) -> str:
    model = ChatOpenAI(model="m", api_key="k", base_url=f"{url}/v1", max_retries=0, default_headers={"x-script": script})
    return "".join(str(chunk.content) for chunk in model.stream("Hello"))


Client = Callable[[str, str], str]
STREAMS: list[Client] = [chat, completion, responses, messages, messages_raw, langchain]
THEIR_OWN = "the provider's own error"
"""Passed on as it came; in the Responses dialect that is an event which the SDKs hand over like any other."""
ANSWERS: list[Client] = [chat_whole, completion_whole, responses_whole, messages_whole]


def name(value: Any) -> str:
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize("client", [*STREAMS, *ANSWERS], ids=name)
async def test_they_read_the_whole_of_what_is_whole(client: Client, url: str) -> None:
    text = await asyncio.to_thread(client, url, WHOLE)
    assert len(text.split()) >= 5
    assert await asyncio.to_thread(client, url, WHOLE) == text


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("client", STREAMS, ids=name)
async def test_a_broken_stream_is_an_error_of_theirs(client: Client, how: str, url: str) -> None:
    if client is responses and how == THEIR_OWN:
        assert await asyncio.to_thread(client, url, BROKEN[how])
        return
    with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
        await asyncio.to_thread(client, url, BROKEN[how])
    assert not isinstance(caught.value, (openai.APIConnectionError, anthropic.APIConnectionError)), (
        "they were told, not cut off"
    )


@pytest.mark.parametrize("client", ANSWERS, ids=name)
async def test_a_broken_answer_is_a_lost_connection(client: Client, url: str) -> None:
    """A body with a length can be told nothing, only be cut; no client takes a half for the whole."""
    with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
        await asyncio.to_thread(client, url, "tokens=6, cut_after=3")


# -- statuses ----------------------------------------------------------------------------------------------------------

STATUSES = [
    ("/away", WHOLE, 502, openai.InternalServerError, anthropic.InternalServerError, "upstream_unreachable"),
    ("", "head_delay_ms=5000", 504, openai.InternalServerError, anthropic.InternalServerError, "upstream_timeout"),
    ("", "first_delay_ms=5000", 504, openai.InternalServerError, anthropic.InternalServerError, "upstream_timeout"),
    ("/small", WHOLE, 413, openai.APIStatusError, anthropic.APIStatusError, "too_large"),
    ("", "status=429", 429, openai.RateLimitError, anthropic.RateLimitError, None),
    ("", "status=500", 500, openai.InternalServerError, anthropic.InternalServerError, None),
]


@pytest.mark.parametrize(("prefix", "script", "status", "of_openai", "of_anthropic", "code"), STATUSES, ids=name)
async def test_an_error_before_the_first_token_is_its_status_s_class(
    prefix: str, script: str, status: int, of_openai: type, of_anthropic: type, code: str | None, url: str
) -> None:
    for client in (chat, responses):
        with pytest.raises(of_openai) as caught:
            await asyncio.to_thread(client, url + prefix, script)
        assert caught.value.status_code == status
        assert caught.value.request_id
        if code is not None:
            assert caught.value.code == code
            assert caught.value.response.headers["proxy-status"].startswith("streamgate; error=")
    with pytest.raises(of_anthropic) as told:
        await asyncio.to_thread(messages, url + prefix, script)
    assert told.value.status_code == status


async def test_no_route_is_not_found(gateway: RunningGateway) -> None:
    url = gateway.url.replace("127.0.0.1", "localhost")
    with pytest.raises(openai.NotFoundError) as caught:
        await asyncio.to_thread(chat, url, WHOLE)
    assert caught.value.code == "no_route"
    with pytest.raises(anthropic.NotFoundError):
        await asyncio.to_thread(messages, url, WHOLE)


async def test_they_try_again_where_that_can_help_and_only_there(gateway: RunningGateway) -> None:
    before = len(gateway.records())

    def ask(prefix: str, request_id: str) -> None:
        with openai_at(gateway.url + prefix, WHOLE, max_retries=1, headers={"x-request-id": request_id}) as client:
            client.chat.completions.create(model="m", messages=MESSAGES)

    for prefix, request_id, times in (("/away", "retryable", 2), ("/small", "final", 1)):
        with suppress(openai.APIStatusError):
            await asyncio.to_thread(ask, prefix, request_id)

        def recorded(wanted: str = request_id, times: int = times) -> bool:
            return [record["request_id"] for record in gateway.records()[before:]].count(wanted) == times

        await eventually(recorded)


# -- JavaScript --------------------------------------------------------------------------------------------------------

NODE_STREAMS = ["chat", "completions", "responses", "messages", "raw_messages", "vercel"]
Said = dict[tuple[str, str, str], dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def said(gateway: RunningGateway) -> Said:
    """What all JavaScript clients made of everything, asked in one process."""
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed (make node)")
    wanted = [[client, "", script] for client in [*NODE_STREAMS, "eventsource"] for script in (WHOLE, *BROKEN.values())]
    wanted += [["whole", "", WHOLE], ["whole", "", "tokens=6, cut_after=3"]]
    wanted += [[client, prefix, WHOLE] for client in ("chat", "whole", "messages", "vercel") for prefix in ("/away", "/small")]
    process = await asyncio.create_subprocess_exec(
        "node",
        "faults.mjs",
        gateway.url,
        json.dumps(wanted),
        cwd=NODE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, err.decode()
    lines = [json.loads(line) for line in out.splitlines()]
    return {(line["client"], line["prefix"], line["script"]): line for line in lines}


@pytest.mark.parametrize("client", [*NODE_STREAMS, "whole", "eventsource"])
async def test_javascript_reads_the_whole_of_what_is_whole(client: str, said: Said) -> None:
    line = said[client, "", WHOLE]
    assert line["error"] is None, line
    assert len(line["text"].split()) >= 5


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("client", NODE_STREAMS)
async def test_a_broken_stream_is_an_error_in_javascript(client: str, how: str, said: Said) -> None:
    line = said[client, "", BROKEN[how]]
    assert line["text"], "what had come before was given"
    if client == "responses" and how == THEIR_OWN:
        return
    assert line["error"] is not None, line
    if client not in {"vercel"}:
        assert line["error"] in {"APIError", "AnthropicError", "_APIError"}, line


@pytest.mark.parametrize("how", ["cut in the middle", "fell silent"])
async def test_an_event_source_hears_of_a_broken_stream(how: str, said: Said) -> None:
    """Its own reconnecting is no sign of an end; an error event with data is."""
    line = said["eventsource", "", BROKEN[how]]
    assert line["error"] is not None, line
    assert json.loads(line["message"])["code"] in {"upstream_truncated", "idle_timeout"}


async def test_a_broken_answer_is_an_error_in_javascript(said: Said) -> None:
    assert said["whole", "", "tokens=6, cut_after=3"]["error"] is not None


@pytest.mark.parametrize(("prefix", "status"), [("/away", 502), ("/small", 413)])
@pytest.mark.parametrize("client", ["chat", "whole", "messages", "vercel"])
async def test_a_status_reaches_javascript(client: str, prefix: str, status: int, said: Said) -> None:
    assert said[client, prefix, WHOLE]["status"] == status, said[client, prefix, WHOLE]
