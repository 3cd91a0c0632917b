"""When a stream has begun to say something: openings are held, all bytes go out as they came, errors are asked about first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.opening import HELD_MAX_BYTES, Opening

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
FILTER = b'data: {"choices":[],"prompt_filter_results":[{}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
BLOCK = b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'
COMMENT = b": keep-alive\n\n"
OPENINGS = [ROLE, FILTER, START, BLOCK, PING, CREATED, COMMENT]


def opening() -> tuple[Opening, list[tuple[object, ...]]]:
    told: list[tuple[object, ...]] = []
    return Opening(told.append), told


@pytest.mark.parametrize("first", OPENINGS)
def test_an_opening_is_held_until_something_is_said(first: bytes) -> None:
    one, _ = opening()
    assert one.feed(first) == b""
    assert not one.over
    assert one.feed(TOKEN) == first + TOKEN
    assert one.over
    assert one.feed(b"more") == b"more"


@pytest.mark.parametrize(
    "said",
    [
        TOKEN,
        DELTA,
        b"data: [DONE]\n\n",
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"text":"a","index":0}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b'data: {"type":"content_block_start","content_block":{"type":"tool_use","name":"f"}}\n\n',
        b'data: {"value": 1}\n\n',
        b"data: 5\n\n",
        b"data: {not json\n\n",
    ],
)
def test_what_means_something_goes_on_at_once(said: bytes) -> None:
    one, told = opening()
    assert one.feed(said) == said
    assert told == []


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (b'data: {"error":{"message":"m","type":"server_error","code":"x"}}\n\n', ("x", "server_error", None, None)),
        (b'data: {"error":{"code":502,"message":"m"}}\n\n', (502, None, None, None)),
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', (None, "overloaded_error", None, None)),
        (b'event: error\ndata: {"type":"error","code":"server_error","message":"m"}\n\n', (None, None, None, "server_error")),
        (b'data: {"error":"gone"}\n\n', (None, None, None, None)),
    ],
)
def test_an_error_that_comes_first_is_asked_about(event: bytes, words: tuple[object, ...]) -> None:
    one, told = opening()
    assert one.feed(ROLE) == b""
    assert one.feed(event) == ROLE + event
    assert told == [words]


def test_whoever_is_asked_may_give_the_attempt_up() -> None:
    def give_up(_words: tuple[object, ...]) -> None:
        raise LookupError

    one = Opening(give_up)
    with pytest.raises(LookupError):
        one.feed(b'data: {"error":{"type":"server_error"}}\n\n')


def test_a_later_error_is_the_streams_own() -> None:
    one, told = opening()
    one.feed(TOKEN)
    one.feed(b'data: {"error":{"type":"server_error"}}\n\n')
    assert told == []


def test_too_much_is_no_opening() -> None:
    one, _ = opening()
    assert one.feed(b": " + b"x" * HELD_MAX_BYTES) != b""
    assert one.over


def test_a_stream_that_ends_in_its_opening_loses_nothing() -> None:
    one, _ = opening()
    one.feed(ROLE + b"data: {")
    assert one.rest() == ROLE + b"data: {"


@given(st.lists(st.sampled_from([*OPENINGS, TOKEN, DELTA]), max_size=8), st.lists(st.integers(1, 60), max_size=40), st.sampled_from([b"\n", b"\r\n"]))
def test_every_byte_goes_on_as_it_came_however_it_is_cut(events: list[bytes], cuts: list[int], eol: bytes) -> None:
    stream = b"".join(events).replace(b"\n", eol)
    one, _ = opening()
    out, at = b"", 0
    for size in [*cuts, len(stream)]:
        out += one.feed(stream[at : at + size])
        at += size
    spoken = any(event in (TOKEN, DELTA) for event in events)
    assert one.over is spoken
    assert out + one.rest() == stream
