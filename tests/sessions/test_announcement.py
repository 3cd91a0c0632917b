"""A comment in an event stream, read by the decoders that users bring."""

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from sessions.announcement import announcement

Event: TypeAlias = tuple[str, str]
Decoder: TypeAlias = Callable[[list[bytes]], list[Event]]


def sdk(name: str) -> Decoder:
    """The stream decoder of an SDK; its own name for an event without one is "message"."""

    def decode(chunks: list[bytes]) -> list[Event]:
        decoder: Any = pytest.importorskip(f"{name}._streaming").SSEDecoder()
        return [(event.event or "message", event.data) for event in decoder.iter_bytes(iter(chunks))]

    return decode


def standard(chunks: list[bytes]) -> list[Event]:
    """Event streams as the HTML Living Standard has browsers read them ("Interpreting an event stream")."""
    events: list[Event] = []
    kind, data = "", list[str]()
    lines = b"".join(chunks).decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for line in lines[:-1]:
        field, _, value = line.partition(":")
        if not line:
            if data:
                events.append((kind or "message", "\n".join(data)))
            kind, data = "", []
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            kind = value.removeprefix(" ")
    return events


DECODERS = {"openai": sdk("openai"), "anthropic": sdk("anthropic"), "standard": standard}

STREAMS = {
    "plain": [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b"data: [DONE]\n\n"],
    "ids": [b'id: 1\ndata: {"n": 1}\n\n', b'id: 2\ndata: {"n": 2}\n\n', b"data: [DONE]\n\n"],
    "named": [b'event: ping\ndata: {"n": 1}\n\n', b'event: message_stop\ndata: {"n": 2}\n\n'],
    "crlf": [b'id: 1\r\ndata: {"n": 1}\r\n\r\n', b'data: {"n": 2}\r\n\r\n', b"data: [DONE]\r\n\r\n"],
    "cr": [b'id: 1\rdata: {"n": 1}\r\r', b'data: {"n": 2}\r\r'],
    "two lines": [b'id: 1\nretry: 3000\ndata: {"n":\ndata:  1}\n\n', b'data: {"n": 2}\n\n'],
}


def told(stream: list[bytes], comment: bytes) -> Iterator[bytes]:
    """A stream with comments everywhere an event may begin, several before the first."""
    yield from [comment] * 3
    for event in stream:
        yield event
        yield comment


def cuts(chunks: list[bytes]) -> Iterator[list[bytes]]:
    """The same bytes as they were written, in one piece, and byte by byte."""
    whole = b"".join(chunks)
    yield chunks
    yield [whole]
    yield [whole[at : at + 1] for at in range(len(whole))]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_survives_it(decoder: str, stream: list[bytes]) -> None:
    decode = DECODERS[decoder]
    plain = decode(stream)
    assert plain
    for chunks in cuts(list(told(stream, announcement(3, 4.2)))):
        assert decode(chunks) == plain


@pytest.mark.parametrize("decoder", ["openai", "anthropic"])
def test_an_empty_line_behind_it_would_be_an_event_without_data(decoder: str) -> None:
    """Why it has a single line end: what this finds is what json.loads would be given."""
    events = DECODERS[decoder](list(told(STREAMS["ids"], announcement(3, 4.2) + b"\n")))
    assert ("message", "") in events
    with pytest.raises(json.JSONDecodeError):
        [json.loads(data) for _, data in events if data != "[DONE]"]


def test_the_openai_sdk_streams_through_it() -> None:
    openai = pytest.importorskip("openai")
    kind = next(kind for kind in openai.DefaultHttpxClient.__mro__ if kind.__module__.startswith("httpx"))
    httpx = importlib.import_module(kind.__module__.partition(".")[0])  # which of them depends on the SDK's version
    part = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}
    event = b"id: 7\ndata: " + json.dumps({**part, "choices": [choice]}).encode() + b"\n\n"
    body = b"".join(told([event, event, b"data: [DONE]\n\n"], announcement(1, None)))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body))
    client = openai.OpenAI(api_key="k", base_url="http://gate.example/v1", http_client=httpx.Client(transport=transport))
    stream = client.chat.completions.create(model="m", stream=True, messages=[{"role": "user", "content": "?"}])
    assert [chunk.choices[0].delta.content for chunk in stream] == ["Hello", "Hello"]


@pytest.mark.parametrize(
    ("position", "eta_s", "line"),
    [
        (3, 4.2, b": queue position=3 eta=4.2\n"),
        (1, 0.04, b": queue position=1 eta=0.0\n"),
        (120, 3599.96, b": queue position=120 eta=3600.0\n"),
        (7, None, b": queue position=7\n"),
    ],
)
def test_what_it_says(position: int, eta_s: float | None, line: bytes) -> None:
    assert announcement(position, eta_s) == line
