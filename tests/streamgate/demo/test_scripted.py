"""The scripted server on a real socket, read by the SDKs its dialects belong to."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from streamgate.demo.embeddings import vector
from streamgate.demo.script import words
from streamgate.demo.scripted import listen
from streamgate.demo.ticks import RETRY_MS
from tests.kit.scripted import HOST, ScriptedServer, scripted_server
from tests.kit.wait import eventually

HELLO: Any = [{"role": "user", "content": "hello there"}]
TEXT = "".join(words(0, 16))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as server:
        yield server


@pytest.fixture
async def server(process: ScriptedServer) -> ScriptedServer:
    """Its counts at nought."""
    await eventually(lambda: _idle(process))
    await process.reset()
    return process


async def _idle(server: ScriptedServer) -> bool:
    return (await server.stats())["open_streams"] == 0


@pytest.fixture
async def chat(server: ScriptedServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
async def claude(server: ScriptedServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="any", max_retries=0, timeout=5) as client:
        yield client


def script(**told: Any) -> dict[str, str]:
    return {"x-script": ", ".join(f"{key}={value}" for key, value in told.items())}


async def exchange(server: ScriptedServer, raw: bytes) -> bytes:
    """Everything that comes back for these bytes, until the server closes."""
    reader, writer = await asyncio.open_connection(HOST, server.port)
    try:
        writer.write(raw)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def post(path: str, body: Any, *headers: str) -> bytes:
    raw = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Connection: close", f"Content-Length: {len(raw)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + raw


class TestOpenai:
    async def test_chat_streams_its_words_usage_and_end(self, chat: openai.AsyncOpenAI, server: ScriptedServer) -> None:
        chunks = [
            chunk
            async for chunk in await chat.chat.completions.create(
                model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 18
        assert (await server.stats())["completed"] == 1

    async def test_chat_answers_whole(self, chat: openai.AsyncOpenAI) -> None:
        answer = await chat.chat.completions.create(model="m", messages=HELLO, seed=4, max_tokens=5)
        assert answer.choices[0].message.content == "".join(words(4, 5))
        assert answer.choices[0].finish_reason == "length"

    async def test_a_body_can_carry_the_script(self, chat: openai.AsyncOpenAI) -> None:
        told = {"script": {"tokens": 3, "seed": 9}}
        answer = await chat.chat.completions.create(model="m", messages=HELLO, extra_body=told)
        assert answer.choices[0].message.content == "".join(words(9, 3))

    async def test_completions_answer_every_prompt(self, chat: openai.AsyncOpenAI) -> None:
        answer = await chat.completions.create(model="m", prompt=["one", "two"])
        assert [choice.text for choice in answer.choices] == ["".join(words(0, 16, about)) for about in ("one", "two")]
        chunks = [chunk async for chunk in await chat.completions.create(model="m", prompt="two", stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[1].text

    async def test_responses_stream_and_answer_whole(self, chat: openai.AsyncOpenAI) -> None:
        async with chat.responses.stream(model="m", input="hello") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text == TEXT
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
        assert kinds.count("response.output_text.delta") == 16
        whole = await chat.responses.create(model="m", input="hello")
        assert whole.output_text == TEXT
        assert whole.usage is not None
        assert whole.usage.output_tokens == 16

    @pytest.mark.parametrize("encoding", ["float", "base64"])
    async def test_embeddings_come_in_both_encodings(self, chat: openai.AsyncOpenAI, encoding: Any) -> None:
        # With "float" asked for, the SDK passes floats on; without, it asks for base64 and unpacks it.
        told = {"encoding_format": "float"} if encoding == "float" else {}
        answer = await chat.embeddings.create(model="m", input=["a", "b"], dimensions=6, **told)  # type: ignore[arg-type]
        assert [item.embedding for item in answer.data] == [vector("a", 6), vector("b", 6)]

    async def test_models_are_listed(self, chat: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in chat.models.list()] == ["scripted", "scripted-large"]

    @pytest.mark.parametrize(
        ("status", "error"),
        [(429, openai.RateLimitError), (401, openai.AuthenticationError), (503, openai.InternalServerError)],
    )
    async def test_statuses_become_the_sdks_errors(
        self, chat: openai.AsyncOpenAI, status: int, error: type[openai.APIStatusError]
    ) -> None:
        with pytest.raises(error) as caught:
            await chat.chat.completions.create(model="m", messages=HELLO, extra_headers=script(status=status, retry_after=3))
        assert caught.value.response.headers["retry-after"] == "3"

    async def test_a_bad_script_is_a_bad_request_that_says_so(self, chat: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="unknown script key 'tokns'"):
            await chat.chat.completions.create(model="m", messages=HELLO, extra_headers=script(tokns=3))

    async def test_an_error_in_the_stream_is_raised(self, chat: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.APIError, match="had an error while processing"):
            await _all(chat, error_after=2)

    async def test_a_malformed_event_is_raised(self, chat: openai.AsyncOpenAI) -> None:
        with pytest.raises(json.JSONDecodeError):
            await _all(chat, malformed_after=2)

    async def test_a_cut_is_raised(self, chat: openai.AsyncOpenAI, server: ScriptedServer) -> None:
        with pytest.raises(openai.APIConnectionError):
            await _all(chat, cut_after=2)
        assert (await server.stats())["broken"] == 1

    async def test_an_early_end_is_no_error_but_says_no_reason(self, chat: openai.AsyncOpenAI) -> None:
        chunks = await _all(chat, end_after=2)
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None]

    async def test_a_stall_runs_into_the_clients_timeout_and_is_seen_to_be_cancelled(
        self, chat: openai.AsyncOpenAI, server: ScriptedServer
    ) -> None:
        impatient = chat.with_options(timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            await _all(impatient, stall_after=2)
        counts = await eventually(lambda: _cancelled(server))
        assert counts == {**counts, "open_streams": 0, "started": 1, "completed": 0, "tokens_sent": 2}

    @pytest.mark.parametrize("delay", ["head_delay_ms", "first_delay_ms", "open_delay_ms", "delay_ms"])
    async def test_a_client_that_leaves_in_any_window_is_counted(
        self, chat: openai.AsyncOpenAI, server: ScriptedServer, delay: str
    ) -> None:
        asking = asyncio.ensure_future(_all(chat.with_options(timeout=60), **{delay: 60_000}))
        await eventually(lambda: _open(server))
        asking.cancel()
        counts = await eventually(lambda: _cancelled(server))
        assert counts["open_streams"] == 0


async def _all(client: openai.AsyncOpenAI, **told: Any) -> list[Any]:
    stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True, extra_headers=script(**told))
    return [chunk async for chunk in stream]


async def _open(server: ScriptedServer) -> int:
    return (await server.stats())["open_streams"]


async def _cancelled(server: ScriptedServer) -> dict[str, int] | None:
    counts = await server.stats()
    return counts if counts["cancelled"] else None


class TestAnthropic:
    async def test_messages_stream_to_their_stop(self, claude: anthropic.AsyncAnthropic) -> None:
        async with claude.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
        assert text == TEXT
        assert (final.stop_reason, final.usage.input_tokens, final.usage.output_tokens) == ("end_turn", 2, 16)

    async def test_messages_answer_whole(self, claude: anthropic.AsyncAnthropic) -> None:
        answer = await claude.messages.create(model="m", max_tokens=4, messages=HELLO)
        assert answer.content[0].type == "text"
        assert answer.content[0].text == "".join(words(0, 4))
        assert answer.stop_reason == "max_tokens"

    async def test_an_error_in_the_stream_is_raised(self, claude: anthropic.AsyncAnthropic) -> None:
        told = script(error_after=1)
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            async with claude.messages.stream(model="m", max_tokens=9, messages=HELLO, extra_headers=told) as stream:
                await stream.get_final_message()

    async def test_statuses_become_the_sdks_errors(self, claude: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error") as caught:
            await claude.messages.create(model="m", max_tokens=9, messages=HELLO, extra_headers=script(status=529))
        assert caught.value.status_code == 529

    async def test_models_are_listed_in_their_shape(self, claude: anthropic.AsyncAnthropic) -> None:
        assert [model.id async for model in claude.models.list()] == ["scripted", "scripted-large"]


class TestWire:
    async def test_the_head_is_out_before_any_token(self, server: ScriptedServer) -> None:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        writer.write(post("/v1/chat/completions?first_delay_ms=60000", {"stream": True}))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b"content-type: text/event-stream" in head
        writer.close()

    async def test_a_cut_has_no_last_chunk_and_an_early_end_has(self, server: ScriptedServer) -> None:
        cut = await exchange(server, post("/v1/completions", {"stream": True}, "x-script: cut_after=1"))
        early = await exchange(server, post("/v1/completions", {"stream": True}, "x-script: end_after=1"))
        assert cut.endswith(b"}\n\n\r\n")
        assert early.endswith(b"}\n\n\r\n0\r\n\r\n")

    async def test_chunks_are_of_the_size_asked_for(self, server: ScriptedServer) -> None:
        raw = await exchange(server, post("/v1/messages?chunk_bytes=5", {"stream": True}))
        sizes = re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n", raw.partition(b"\r\n\r\n")[2])
        assert {int(size, 16) for size in sizes[:-1]} <= set(range(1, 6))
        assert len(sizes) > 100

    async def test_the_same_request_gets_the_same_body(self, server: ScriptedServer) -> None:
        bodies = {(await exchange(server, post("/v1/responses", {"stream": True}))).partition(b"\r\n\r\n")[2] for _ in range(2)}
        assert len(bodies) == 1

    async def test_echo_tells_what_arrived(self, server: ScriptedServer) -> None:
        raw = (
            b"PURGE /echo/a%2Fb//c?x=1&x=%20 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nB: 2\r\nx-a: 3\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        head, _, body = (await exchange(server, raw)).partition(b"\r\n\r\n")
        told = json.loads(body)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (told["method"], told["path"], told["query"]) == ("PURGE", "/echo/a%2Fb//c", "x=1&x=%20")
        assert told["headers"][1:4] == [["x-a", "1"], ["b", "2"], ["x-a", "3"]]
        assert told["body"]["length"] == 3
        assert told["body"]["sha256"].startswith("ba7816bf")

    async def test_echo_takes_a_status_from_the_header_and_leaves_the_query_alone(self, server: ScriptedServer) -> None:
        raw = await exchange(server, post("/echo?status=500", {}, "x-script: status=418, retry_after=2"))
        assert raw.startswith(b"HTTP/1.1 418 ")
        assert b"\r\nretry-after: 2\r\n" in raw
        assert (await exchange(server, post("/echo", {}, "x-script: oops=1"))).startswith(b"HTTP/1.1 400 ")

    async def test_an_event_stream_is_taken_up_where_it_was_cut(self, server: ScriptedServer) -> None:
        def get(query: str, *headers: str) -> bytes:
            lines = [f"GET /events{query} HTTP/1.1", "Host: a", "Connection: close", *headers, "", ""]
            return "\r\n".join(lines).encode()

        def ids(raw: bytes) -> list[int]:
            return [int(found) for found in re.findall(rb"id: (\d+)", raw)]

        cut = await exchange(server, get("?tokens=5&cut_after=2"))
        assert ids(cut) == [0, 1]
        assert f"retry: {RETRY_MS}\n".encode() in cut
        rest = await exchange(server, get("?tokens=5", "Last-Event-ID: 1"))
        assert ids(rest) == [2, 3, 4, 5]
        assert b"event: end\n" in rest
        over = await exchange(server, get("?tokens=5", "Last-Event-ID: 5"))
        assert over.startswith(b"HTTP/1.1 204 ")
        assert (await exchange(server, get("", "Last-Event-ID: x"))).startswith(b"HTTP/1.1 400 ")

    async def test_health_answers(self, server: ScriptedServer) -> None:
        assert b'{"status":"ok"}' in await exchange(server, b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


def test_a_taken_port_is_said_in_words() -> None:
    with listen(HOST, 0) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "streamgate.demo.scripted", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert ended.stderr == f"Error: cannot listen on {HOST}:{port}: Address already in use; try --port 0\n"
    assert ended.stdout == ""


def test_listening_works_on_ipv6_too() -> None:
    try:
        listener = listen("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener, socket.create_connection(("::1", listener.getsockname()[1]), 2):
        pass
