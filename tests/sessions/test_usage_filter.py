"""The chunk nobody but the meter asked for: asked for, taken out again, and nothing else touched."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessions.usage_filter import HELD_MAX_BYTES, UsageFilter, with_include_usage
from tests.kit.corpora import corpus

# -- the request -------------------------------------------------------------------------------------------------------------

ASKED = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"model":"m","stream":true}', b"{" + ASKED + b',"model":"m","stream":true}'),
        (b' {\n  "model": "m"\n}\n', b" {" + ASKED + b',\n  "model": "m"\n}\n'),
        (b"{}", b"{" + ASKED + b"}"),
        (b"{ \n}", b"{" + ASKED + b" \n}"),
        (b'{"stream_options":{}}', b"{" + ASKED + b"}"),
        (b'{"stream_options": null, "n":1}', b'{"stream_options": {"include_usage":true}, "n":1}'),
        (
            b'{"stream_options":{"include_obfuscation":false}}',
            b'{"stream_options":{"include_usage":true,"include_obfuscation":false}}',
        ),
        (b'{"stream_options":{"a":1, "include_usage" : false}}', b'{"stream_options":{"a":1, "include_usage" : true}}'),
        (b'{"stream_options":{"include_usage":null}}', b'{"stream_options":{"include_usage":true}}'),
        (rb'{"stream_opti\u006fns":{"include_usage":false}}', rb'{"stream_opti\u006fns":{"include_usage":true}}'),
        (b'{"x":{"stream_options":{"include_usage":true}}}', b"{" + ASKED + b',"x":{"stream_options":{"include_usage":true}}}'),
        (b'{"messages":"}{\\"stream_options\\":1"}', b"{" + ASKED + b',"messages":"}{\\"stream_options\\":1"}'),
        (b'{"stream_options":{"include_usage":true}}', None),
        (b'{"stream_options":{"include_usage":"yes"}}', None),
        (b'{"stream_options":7}', None),
        (b'{"stream_options":[{}]}', None),
    ],
)
def test_usage_is_asked_for_once(body: bytes, asked: bytes | None) -> None:
    assert with_include_usage(body) == asked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"stream_options":',
        b'{"stream_options":{},"stream_options":{}}',
        b'{"stream_options":{"include_usage":0,"include_usage":1}}',
    ],
)
def test_a_body_that_two_servers_would_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="the body"):
        with_include_usage(body)


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
BODIES = st.dictionaries(st.sampled_from(["model", "stream", "é", "x"]) | st.text(max_size=4), VALUES, max_size=4)
OPTIONS = st.dictionaries(st.sampled_from(["include_usage", "include_obfuscation"]), st.none() | st.booleans(), max_size=2)


@given(BODIES, st.none() | OPTIONS, st.sampled_from([None, 2]))
def test_only_that_one_option_changes(body: dict[str, Any], options: dict[str, Any] | None, indent: int | None) -> None:
    body = {key: value for key, value in body.items() if key.casefold() != "stream_options"}
    if options is not None:
        body["stream_options"] = options
    written = json.dumps(body, indent=indent, ensure_ascii=False).encode()
    asked = with_include_usage(written)
    if asked is None:
        assert (options or {}).get("include_usage") is True
        return
    assert json.loads(asked) == body | {"stream_options": (options or {}) | {"include_usage": True}}
    pieces = re.split(rb'"stream_options":\{"include_usage":true\},?|"include_usage":true,?|true', asked)
    assert all(piece in written for piece in pieces)


# -- the answer -----------------------------------------------------------------------------------------------------------------

USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
TEXT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a \\"_tokens\\":[]"}}],"usage":null}'
PLAIN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}]}'
AZURE = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}'
DONE = b"data: [DONE]"


def filtered(pieces: Iterable[bytes]) -> bytes:
    kept = UsageFilter()
    return b"".join([*map(kept.feed, pieces), kept.flush()])


def singly(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])
def test_the_chunk_is_taken_out_and_nothing_else(end: bytes) -> None:
    stream = end.join([AZURE, PLAIN, TEXT, b": ping", USAGE, DONE, b""])
    rest = end.join([AZURE, PLAIN, TEXT, b": ping", DONE, b""])
    assert filtered([stream]) == filtered(singly(stream)) == rest
    assert filtered(stream.splitlines(keepends=True)) == rest


@pytest.mark.parametrize(
    "event",
    [
        AZURE,
        b'data: {"choices":[],"prompt_filter_results":[]}',
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}',
        b'data: {"choices":[],"usage":null}',
        b'data: {"choices":[],"usage":[{"x_tokens":1}]}',
        b'data: {"choices":[],"usage":null,"x_tokens":1}',
        b'data: {"choices":[{"x":{"choices":[],"usage":{"x_tokens":1}}}]}',
        b'data: {"usage":{"x_tokens":1},"x":[]}',
        b'data: [{"choices":[],"usage":{"x_tokens":1}}]',
        b'data: "{\\"choices\\":[],\\"usage\\":{}}"',
        b'data: {"choices":[],"usage":{"x_tokens":1}',
        b'data: {"choices":[],"usage":{"x_tokens":1}}}',
        b': {"choices":[],"usage":{"x_tokens":1}}',
        b'event: {"choices":[],"usage":{"x_tokens":1}}',
        b"data: " + b"[" * 60_000,
        b"",
    ],
)
def test_what_is_not_that_chunk_stays(event: bytes) -> None:
    stream = PLAIN + b"\n\n" + event + b"\n\n" + DONE + b"\n\n"
    assert filtered([stream]) == stream
    assert filtered([stream[:-2]]) == stream[:-2]


@pytest.mark.parametrize(
    "event",
    [
        USAGE,
        USAGE.replace(b"data: ", b"data:"),
        b"event: message\nid: 7\n" + USAGE,
        USAGE.replace(b",", b",\ndata: "),
        USAGE.replace(b'"choices":[]', b'"choices" : []'),
    ],
)
def test_the_chunk_is_known_however_it_is_written(event: bytes) -> None:
    assert filtered([PLAIN + b"\n\n" + event + b"\n\n" + DONE + b"\n\n"]) == PLAIN + b"\n\n" + DONE + b"\n\n"


def test_a_chunk_without_its_last_empty_line_is_taken_out_too() -> None:
    for end in (b"", b"\n", b"\r\n", b"\r"):
        assert filtered([PLAIN + b"\n\n" + USAGE + end]) == PLAIN + b"\n\n"


def test_only_an_event_that_has_not_ended_is_held() -> None:
    kept = UsageFilter()
    assert kept.feed(PLAIN + b"\n\n" + TEXT[:20]) == PLAIN + b"\n\n"
    assert kept.feed(TEXT[20:]) == b""
    assert kept.feed(b"\n") == b""
    assert kept.feed(b"\n") == TEXT + b"\n\n"
    assert kept.feed(PLAIN + b"\r\r") == PLAIN + b"\r\r"  # an LF that follows would be a part of what was said
    assert kept.feed(b"\n" + USAGE + b"\n\n") == b"\n"
    assert kept.feed(b"data: half") == b""
    assert kept.flush() == b"data: half"
    assert kept.flush() == b""
    assert kept.feed(USAGE + b"\n\n") == b""


def test_a_long_event_is_let_go() -> None:
    kept = UsageFilter()
    half = b'data: {"choices":[],"usage":{"x_tokens":1},"x":"' + b"x" * HELD_MAX_BYTES
    assert kept.feed(half) == half
    assert kept.feed(b'"}') == b'"}'
    assert kept.feed(b"\n") == b""  # the end may have begun
    assert kept.feed(b'data: {"choices":[],"usage":{"x_tokens":1}}') == b'\ndata: {"choices":[],"usage":{"x_tokens":1}}'
    assert kept.feed(b"\n\n" + USAGE + b"\n") == b"\n\n"
    assert kept.feed(b"\n" + DONE) == b""
    assert kept.flush() == DONE


def test_what_follows_a_long_event_is_read_again() -> None:
    long = b'data: {"x":"' + b"x" * HELD_MAX_BYTES
    for rest in (b'"}\n' + USAGE + b"\n\n", b'"}\n\n', b'"}\r\n\r\n', b"\n\n"):
        kept = UsageFilter()
        assert kept.feed(long) == long
        assert kept.feed(rest) == rest
        assert kept.feed(USAGE + b"\n\n") == b""
    kept = UsageFilter()
    assert kept.feed(long) + kept.flush() == long
    assert kept.feed(USAGE + b"\n\n") == b""


def test_the_rest_of_a_dropped_line_end_is_dropped() -> None:
    kept = UsageFilter()
    assert kept.feed(USAGE + b"\r\n\r") == b""
    assert kept.feed(b"") == b""
    assert kept.feed(b"\n" + PLAIN + b"\n\n") == PLAIN + b"\n\n"


def test_no_more_than_its_bound_is_held() -> None:
    kept = UsageFilter()
    passed = b"".join(kept.feed(b"data: [] " * 100) for _ in range(1_000))
    assert 1_000 * 900 - len(passed) <= HELD_MAX_BYTES


# -- any stream, any cut ----------------------------------------------------------------------------------------------------------


def by_whole_events(body: bytes) -> bytes:
    """The same by splitting the whole text into events, blank lines and all."""
    kept = []
    for event in re.findall(rb"[\r\n]+|(?:[^\r\n]+(?:\r\n|\r|\n|$))+(?:\r\n|\r|\n)?", body):
        lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
        try:
            value = json.loads(b"\n".join(lines))
        except ValueError:
            value = None
        extra = isinstance(value, dict) and value.get("choices") == [] and isinstance(value.get("usage"), dict)
        if not extra or len(event.strip(b"\r\n")) > HELD_MAX_BYTES:
            kept.append(event)
    return b"".join(kept)


ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\r", b"\n\r", b"\n", b"\r", b"\r\n", b"\n\n\n", b""])
EVENTS = st.sampled_from([USAGE, TEXT, PLAIN, AZURE, DONE, b": c", b"data:", b"x[]", b"id: 1\n" + USAGE])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(EVENTS, ENDS), max_size=12), st.data())
def test_removing_as_it_goes_is_removing_whole_events(events: list[tuple[bytes, bytes]], data: Any) -> None:
    body = b"".join(event + end for event, end in events)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20), "cuts"))
    cut = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
    assert filtered(cut) == by_whole_events(body)
    assert filtered(singly(body)) == by_whole_events(body)


@settings(max_examples=60, deadline=None)
@given(st.integers(-3, 3), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]), st.integers(1, HELD_MAX_BYTES + 10))
@example(0, b"\r\n\r\n", HELD_MAX_BYTES + 1)
@example(0, b"\r\n\r\n", HELD_MAX_BYTES + 3)
def test_the_bound_does_not_depend_on_the_cut(over: int, end: bytes, at: int) -> None:
    event = USAGE[:-1] + b',"x":"' + b"x" * (HELD_MAX_BYTES - len(USAGE) - 7 + over) + b'"}'
    assert len(event) == HELD_MAX_BYTES + over
    body = event + end + DONE + end
    assert filtered([body[:at], body[at:]]) == filtered([body]) == (body if over > 0 else DONE + end)


def test_recorded_streams_lose_that_chunk_and_nothing_else() -> None:
    chance = random.Random(5)
    lost = 0
    for name in ("recorded-a.jsonl", "recorded-b.jsonl"):
        for line in (corpus("llm-streams") / name).read_text().splitlines():
            row = json.loads(line)
            if row["api"] not in {"openai.chat", "openai.completions"}:
                continue
            body = row["body"].encode()
            kept = by_whole_events(body)
            lost += kept != body
            places = sorted(chance.sample(range(1, len(body)), 30))
            cut = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
            assert filtered([body]) == filtered(cut) == kept, row["id"]
            if len(body) < 5_000:
                assert filtered(singly(body)) == kept, row["id"]
    assert lost > 25
