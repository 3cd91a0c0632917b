"""What users bring: SDKs, curl and a browser stream through the gateway unchanged, and tell a broken stream from a whole one."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.kit.gateway import RunningGateway
from tests.kit.scripted import scripted_server
from tests.kit.wait import eventually

NODE = Path(__file__).parent.parent / "node"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCRIPT = "tokens=6, delay_ms=2"
CUT = "tokens=6, cut_after=3"
EARLY = "tokens=6, end_after=3"
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
loop_scope = pytest.mark.asyncio(loop_scope="module")
pytestmark = loop_scope


@asynccontextmanager
async def stand(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """(the gateway's address, the model server's own) for clients to be compared on."""
    page = "<!doctype html><title>clients</title>"
    with scripted_server(folder) as server:
        config = {
            "services": [{"id": "model", "url": server.url}],
            "routes": [
                {"id": "llm", "match": {"paths": ["/v1/*", "/events"]}, "to": {"service": "model"}},
                {
                    "id": "page",
                    "match": {"paths": ["/page"]},
                    "to": {"respond": {"status": 200, "body": page, "headers": {"content-type": "text/html"}}},
                },
            ],
        }
        async with RunningGateway(folder, config) as gateway:
            yield gateway.url, server.url


@pytest.fixture(scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str]]:
    async with stand(tmp_path_factory.mktemp("clients")) as pair:
        yield pair


@pytest.fixture
def through(addresses: tuple[str, str]) -> str:
    return addresses[0]


@pytest.fixture
def direct(addresses: tuple[str, str]) -> str:
    return addresses[1]


def openai_at(base: str, script: str = SCRIPT) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="k", base_url=f"{base}/v1", max_retries=0, default_headers={"x-script": script})


def anthropic_at(base: str, script: str = SCRIPT) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(api_key="k", base_url=base, max_retries=0, default_headers={"x-script": script})


async def openai_chat(base: str, script: str = SCRIPT) -> str:
    stream = await openai_at(base, script).chat.completions.create(model="m", messages=MESSAGES, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def openai_completion(base: str, script: str = SCRIPT) -> str:
    stream = await openai_at(base, script).completions.create(model="m", prompt="Hello", stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def openai_responses(base: str, script: str = SCRIPT) -> str:
    stream = await openai_at(base, script).responses.create(model="m", input="Hello", stream=True)
    return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])


async def openai_whole(base: str, script: str = SCRIPT) -> str:
    answer = await openai_at(base, script).chat.completions.create(model="m", messages=MESSAGES)
    return answer.choices[0].message.content or ""


async def anthropic_messages(base: str, script: str = SCRIPT) -> str:
    async with anthropic_at(base, script).messages.stream(model="m", max_tokens=64, messages=MESSAGES) as stream:
        return "".join([text async for text in stream.text_stream])


async def langchain(base: str, script: str = SCRIPT) -> str:
    chat = ChatOpenAI(model="m", api_key="k", base_url=f"{base}/v1", max_retries=0, default_headers={"x-script": script})
    return "".join([str(chunk.content) async for chunk in chat.astream("Hello")])


CLIENTS = [openai_chat, openai_completion, openai_responses, openai_whole, anthropic_messages, langchain]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
async def test_a_client_reads_through_the_gateway_what_it_reads_directly(client, through: str, direct: str):
    text = await client(through)
    assert text == await client(direct)
    assert len(text.split()) >= 5


@pytest.mark.parametrize("script", [CUT, EARLY])
@pytest.mark.parametrize("client", [openai_chat, openai_completion, openai_responses, langchain], ids=lambda c: c.__name__)
async def test_an_openai_client_raises_its_own_error_where_a_stream_breaks(client, script: str, through: str):
    with pytest.raises(openai.APIError, match="upstream ended"):
        await client(through, script)


@pytest.mark.parametrize("script", [CUT, EARLY])
async def test_the_anthropic_client_raises_its_own_error_where_a_stream_breaks(script: str, through: str):
    with pytest.raises(anthropic.APIError, match="upstream ended"):
        await anthropic_messages(through, script)


async def test_an_answer_of_the_provider_keeps_its_status_and_class(through: str):
    with pytest.raises(openai.RateLimitError) as caught:
        await openai_chat(through, "status=429, retry_after=7")
    assert caught.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError):
        await openai_whole(through, "status=503")


async def test_a_client_that_leaves_early_stops_the_model(through: str, direct: str):
    stream = await openai_at(through, "tokens=1000, delay_ms=20").chat.completions.create(
        model="m", messages=MESSAGES, stream=True
    )
    async for _chunk in stream:
        break
    await stream.close()

    async def cancelled() -> bool:
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", f"{direct}/script/stats", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return json.loads(out)["open_streams"] == 0

    await eventually(cancelled, timeout=5)


async def run(*command: str, cwd: Path | None = None) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_curl_prints_the_same_bytes(through: str, direct: str):
    body = json.dumps({"model": "m", "stream": True, "messages": MESSAGES})
    args = ("curl", "-sN", "-H", "content-type: application/json", "-H", f"x-script: {SCRIPT}", "-d", body)
    text = await run(*args, f"{through}/v1/chat/completions")
    assert text == await run(*args, f"{direct}/v1/chat/completions")
    assert text.endswith("data: [DONE]\n\n")


def needs_node():
    if shutil.which("node") is None or not (NODE / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are not installed (make node)")


async def node(client: str, base: str, script: str = SCRIPT) -> dict[str, str]:
    needs_node()
    return json.loads((await run("node", "clients.mjs", client, base, script, cwd=NODE)).splitlines()[-1])


@pytest.mark.parametrize("client", ["openai", "anthropic", "vercel", "eventsource"])
async def test_a_javascript_client_reads_through_the_gateway_what_it_reads_directly(client: str, through: str, direct: str):
    said = await node(client, through)
    assert said == await node(client, direct)
    assert len(said["text"].split()) >= 5, said


@pytest.mark.parametrize("client", ["openai", "anthropic", "vercel"])
async def test_a_javascript_client_raises_where_a_stream_breaks(client: str, through: str):
    said = await node(client, through, CUT)
    assert "upstream ended" in said.get("message", ""), said


async def test_a_browser_reads_fetch_and_eventsource(through: str, direct: str):
    needs_node()
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (make parts, as root)")
    said = json.loads((await run("node", "browser.mjs", CHROMIUM, through, cwd=NODE)).splitlines()[-1])
    assert said["fetched"].count("data: ") >= 6, said
    assert said["fetched"].endswith("data: [DONE]\n\n")
    assert said["reads"] > 1, "the browser saw the tokens only when all had come"
    assert said["events"] >= 5
