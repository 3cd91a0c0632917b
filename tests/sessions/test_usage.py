"""Usage as it goes by: the upstream's own numbers on every recorded stream, however it is cut."""

from __future__ import annotations

import base64
import json
import random
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessions.usage import HELD_MAX_BYTES, Usage, UsageTap, usage_of_body
from tests.kit.corpora import corpus

Row = dict[str, Any]
Numbers = dict[str, int | None]


def rows() -> Iterator[Row]:
    for name in ("recorded-a.jsonl", "recorded-b.jsonl", "reframed-events.jsonl"):
        for line in (corpus("llm-streams") / name).read_text().splitlines():
            row = json.loads(line)
            row["bytes"] = base64.b64decode(row["body_b64"]) if row.get("body_b64") else row["body"].encode()
            yield row


def tapped(pieces: Iterable[bytes], *, complete: bool = True, input_bytes: int | None = None) -> Usage:
    tap = UsageTap()
    for piece in pieces:
        tap.feed(piece)
    return tap.result(complete=complete, input_bytes=input_bytes)


def cuts(body: bytes, chance: random.Random) -> Iterator[list[bytes]]:
    """All at once, between CR and LF, inside characters, between line ends, at random, in small pieces."""
    yield [body]
    yield [part for part in re.split(rb"(?<=\r)(?=\n)", body) if part]
    yield [part for part in re.split(rb"(?<=[\xc2-\xf4])", body) if part]
    yield [part for part in re.split(rb"(?<=\n)(?=\n)", body) if part]
    for many in (20, 400):
        places = sorted(chance.sample(range(1, len(body)), min(many, len(body) - 1)))
        yield [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]


def singly(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


# -- the oracle: every event parsed, and read by the rules of its provider -----------------------------------------------


def frames(body: bytes) -> Iterator[Any]:
    at = 0
    while at < len(body):
        total, headers = struct.unpack(">II", body[at : at + 8])
        value = json.loads(body[at + 12 + headers : at + total - 4])
        yield json.loads(base64.b64decode(value["bytes"])) if "bytes" in value else value
        at += total


def events(row: Row) -> list[Any]:
    if "amazon.eventstream" in row["content_type"]:
        return list(frames(row["bytes"]))
    if "event-stream" not in row["content_type"]:
        return [json.loads(line) for line in row["bytes"].splitlines() if line.strip()]
    found: list[Any] = []
    data: list[str] = []
    for line in re.split("\r\n|\r|\n", row["bytes"].decode() + "\n\n"):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            try:
                found.append(json.loads("\n".join(data)))
            except ValueError:
                found.append("\n".join(data))
            data = []
    return found


def dig(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def last(found: list[Any], *path: str) -> Any:
    return next((value for event in reversed(found) if (value := dig(event, *path))), None)


def plain(usage: Any, given: str, made: str) -> Numbers:
    return {
        "input": dig(usage, f"{given}_tokens"),
        "output": dig(usage, f"{made}_tokens"),
        "total": dig(usage, "total_tokens"),
        "cached": dig(usage, f"{given}_tokens_details", "cached_tokens"),
        "reasoning": dig(usage, f"{made}_tokens_details", "reasoning_tokens"),
    }


def of_chat(found: list[Any]) -> Numbers | None:
    usage = last(found, "usage") or last(found, "x_groq", "usage")
    return usage and plain(usage, "prompt", "completion")


def of_responses(found: list[Any]) -> Numbers | None:
    usage = last(found, "response", "usage")
    return usage and plain(usage, "input", "output")


def of_anthropic(found: list[Any]) -> Numbers:
    merged: dict[str, Any] = {}
    for event in found:
        merged |= dig(event, "message", "usage") or dig(event, "usage") or {}
    return {
        "input": merged["input_tokens"],
        "output": merged["output_tokens"],
        "cached": merged.get("cache_read_input_tokens"),
        "written": merged.get("cache_creation_input_tokens"),
        "reasoning": dig(merged, "output_tokens_details", "thinking_tokens"),
    }


def of_gemini(found: list[Any]) -> Numbers:
    said = [usage for event in found if (usage := dig(event, "usageMetadata")) and "promptTokenCount" in usage]
    if said:
        usage = said[-1]
        numbers = {
            "input": usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0),
            "output": usage.get("candidatesTokenCount", usage.get("responseTokenCount", 0))
            + usage.get("thoughtsTokenCount", 0),
            "reasoning": usage.get("thoughtsTokenCount"),
            "total": usage["totalTokenCount"],
        }
    else:
        usage = last(found, "interaction", "usage")
        numbers = {
            "input": usage["total_input_tokens"] + usage["total_tool_use_tokens"],
            "output": usage["total_output_tokens"] + usage["total_thought_tokens"],
            "reasoning": usage["total_thought_tokens"],
            "total": usage["total_tokens"],
            "cached": usage["total_cached_tokens"],
        }
    assert numbers["input"] + numbers["output"] == numbers["total"], "what we take for its parts makes up the provider's total"
    return numbers


def of_bedrock(found: list[Any]) -> Numbers | None:
    metrics = last(found, "amazon-bedrock-invocationMetrics")
    if metrics:
        return {"input": metrics["inputTokenCount"], "output": metrics["outputTokenCount"]}
    titan = next((event for event in reversed(found) if "totalOutputTextTokenCount" in event), None)
    if titan:
        return {"input": int(titan["inputTextTokenCount"]), "output": int(titan["totalOutputTextTokenCount"])}
    usage = last(found, "usage") or last(found, "metadata", "usage")
    if usage is None:
        return None
    return {"input": usage["inputTokens"], "output": usage["outputTokens"], "total": usage["totalTokens"]}


def of_cohere(found: list[Any]) -> Numbers:
    units = last(found, "delta", "usage", "billed_units") or last(found, "response", "meta", "billed_units")
    return {"input": units["input_tokens"], "output": units["output_tokens"]}


def of_ollama(found: list[Any]) -> Numbers:
    return {"input": found[-1].get("prompt_eval_count"), "output": found[-1]["eval_count"]}


def of_watsonx(found: list[Any]) -> Numbers:
    results = [event["results"][0] for event in found]
    return {"input": results[0]["input_token_count"], "output": results[-1]["generated_token_count"]}


RULES = {
    "anthropic": of_anthropic, "anthropic.messages": of_anthropic,
    "openai.responses": of_responses, "azure": of_responses,
    "gemini.generate": of_gemini, "google": of_gemini,
    "bedrock.converse": of_bedrock, "bedrock.invoke": of_bedrock, "amazon-bedrock": of_bedrock,
    "ollama.chat": of_ollama, "ollama.generate": of_ollama, "us-south.ml.cloud.ibm.com": of_watsonx,
    "cohere": of_cohere,
}  # fmt: skip


def truth(row: Row) -> Numbers | None:
    """What the provider says in the end; None where it says nothing."""
    rule = RULES.get(row["api"]) or RULES.get(row["provider"]) or of_chat
    return rule(events(row))


def numbers(usage: Usage) -> Numbers:
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "total": usage.total_tokens,
        "cached": usage.cached_input_tokens,
        "written": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
    }


def test_usage_of_every_recorded_stream_is_the_upstreams_own() -> None:
    told = 0
    for row in rows():
        expected, usage = truth(row), tapped([row["bytes"]])
        if expected is None:
            assert usage.estimated, row["id"]
            continue
        told += 1
        ours = numbers(usage)
        assert {name: ours[name] for name, number in expected.items() if number is not None} == {
            name: number for name, number in expected.items() if number is not None
        }, row["id"]
        assert not usage.estimated, row["id"]
    assert told > 250


def test_what_the_upstream_does_not_say_is_not_made_up() -> None:
    for row in rows():
        expected, usage, found = truth(row), tapped([row["bytes"]]), events(row)
        if expected is None:
            assert numbers(usage) | {"output": None} == dict.fromkeys(numbers(usage)), row["id"]
        for name, told in (
            ("cach", usage.cached_input_tokens),
            ("cach", usage.cache_write_tokens),
            ("eason", usage.reasoning_tokens),
        ):
            assert told is None or name in str(found) or "hought" in str(found) or "hinking" in str(found), row["id"]


def test_it_does_not_depend_on_the_cut() -> None:
    chance = random.Random(7)
    for row in rows():
        whole = tapped([row["bytes"]])
        for cut in cuts(row["bytes"], chance):
            assert tapped(cut) == whole, row["id"]


def test_it_does_not_depend_on_the_cut_byte_by_byte() -> None:
    small = [row for row in rows() if len(row["bytes"]) < 20_000]
    assert len(small) > 150
    for row in small:
        assert tapped(singly(row["bytes"])) == tapped([row["bytes"]]), row["id"]


def test_a_stream_that_breaks_anywhere_has_the_same_usage_however_it_is_cut() -> None:
    chance = random.Random(11)
    for row in rows():
        body = row["bytes"]
        for _ in range(4):
            prefix = body[: chance.randrange(1, len(body))]
            whole = tapped([prefix], complete=False, input_bytes=40)
            assert whole.input_tokens is not None
            for cut in cuts(prefix, chance) if len(prefix) > 1 else ():
                assert tapped(cut, complete=False, input_bytes=40) == whole, row["id"]


def test_model_and_answer_are_named_as_the_first_events_name_them() -> None:
    named = 0
    for row in rows():
        places = ("response", "message", "interaction")
        found = events(row)
        names = (*((place, "model") for place in places), ("model",), ("modelVersion",), ("model_id",))
        models = [model for event in found for name in names if (model := dig(event, *name))]
        usage = tapped([row["bytes"]])
        if models:
            named += 1
            assert usage.model == models[0], row["id"]
        if row["api"] == "openai.responses":
            assert usage.response_id == next(dig(e, "response", "id") for e in found if dig(e, "response", "id")), row["id"]
        elif row["api"] == "openai.chat":
            assert usage.response_id == next((e["id"] for e in found if dig(e, "id")), None), row["id"]
    assert named > 200


# -- streams that were cut, or never reported -------------------------------------------------------------------------------


def writes(event: Any) -> bool:
    """Does an event of one of the three dialects carry output, by its structure?"""
    kind = dig(event, "type") or ""
    if kind == "content_block_delta" or (kind.startswith("response.") and kind.endswith(".delta")):
        return True
    parts = ("content", "text", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call")
    return any((choice.get("delta") or choice).get(part) for choice in dig(event, "choices") or [] for part in parts)


def counted(row: Row) -> bool:
    return "event-stream" in row["content_type"] and (row["api"] in {"openai.chat", "openai.responses", "anthropic.messages"})


def test_streams_without_usage_are_counted_by_their_events() -> None:
    silent = [row for row in rows() if row["api"] in {"openai.chat", "openai.completions"} and truth(row) is None]
    silent = [row for row in silent if row["provider"] != "writer"]  # events of {"value": …}
    assert len(silent) > 45
    for row in silent:
        usage = tapped([row["bytes"]])
        assert usage.output_tokens == sum(map(writes, events(row))), row["id"]
        assert usage.estimated


def test_a_cut_stream_counts_what_was_delivered() -> None:
    chance = random.Random(3)
    exact = 0
    for row in filter(counted, rows()):
        ends = [found.end() for found in re.finditer(rb"\n\n|\r\n\r\n", row["bytes"])]
        for end in chance.sample(ends, min(4, len(ends))):
            prefix = row["bytes"][:end]
            usage = tapped([prefix], complete=False)
            if not usage.estimated:
                continue
            delivered = sum(map(writes, events(row | {"bytes": prefix})))
            if (said := last(events(row | {"bytes": prefix}), "message", "usage", "output_tokens") or 0) > delivered:
                assert usage.output_tokens == said, row["id"]
            elif usage.output_tokens == delivered:
                exact += 1
            else:  # deltas that say something else than words: annotations, empty ones
                assert usage.output_tokens is not None
                assert delivered < usage.output_tokens <= delivered + 40, row["id"]
    assert exact > 500


def sse(*datas: str, end: str = "\n\n") -> bytes:
    return "".join(f"data: {data}{end}" for data in datas).encode()


def chunk(text: str = "", extra: str = "") -> str:
    delta = json.dumps({"content": text}) if text else "{}"
    return f'{{"id":"chatcmpl-1","model":"m-1","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]{extra}}}'


ROLE = '{"id":"chatcmpl-1","model":"m-1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}'
USAGE = '{"id":"chatcmpl-1","model":"m-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}'


def test_usage_is_committed_when_it_is_seen() -> None:
    stream = sse(ROLE, *map(chunk, "abcd"), USAGE)
    reported = Usage(9, 4, 13, model="m-1", response_id="chatcmpl-1")
    assert tapped([stream], complete=False) == reported  # the client left before [DONE]
    assert tapped([stream.removesuffix(b"\n\n")], complete=False) == reported
    cut = tapped([stream[:-8]], complete=False)
    assert cut == Usage(None, 4, model="m-1", response_id="chatcmpl-1", estimated=True)
    assert tapped([stream[:-8]], complete=False, input_bytes=37).input_tokens == 10


def test_an_explicit_zero_is_taken_as_it_is() -> None:
    zero = USAGE.replace("9", "0").replace('_tokens":4', '_tokens":0').replace("13", "0")
    usage = tapped([sse(ROLE, *map(chunk, "abcd"), zero, "[DONE]")], input_bytes=400)
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.estimated) == (0, 0, 0, False)


def test_cumulative_usage_counts_with_what_came_after_it() -> None:
    said = [
        chunk(text, f',"usage":{{"prompt_tokens":9,"completion_tokens":{n},"total_tokens":{9 + n}}}')
        for n, text in enumerate("abcdefgh", 1)
    ]
    assert tapped([sse(*said)], complete=False) == Usage(9, 8, 17, model="m-1", response_id="chatcmpl-1")
    later = sse(*said, chunk("i"), chunk("j"))
    assert tapped([later], complete=False) == Usage(9, 10, 19, model="m-1", response_id="chatcmpl-1", estimated=True)
    assert tapped([later], complete=True).output_tokens == 8  # the upstream has had its last word
    assert tapped(singly(later), complete=False) == tapped([later], complete=False)


def parsed(pieces: Iterable[bytes]) -> tuple[int, Usage]:
    """How many JSON texts were parsed for a stream, and its usage."""
    calls = 0

    def watch(_frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "c_call" and getattr(argument, "__name__", "") == "json_decode"

    tap = UsageTap()
    sys.setprofile(watch)
    try:
        for piece in pieces:
            tap.feed(piece)
        usage = tap.result(complete=True)
    finally:
        sys.setprofile(None)
    return calls, usage


def test_usage_of_null_in_every_event_is_parsed_at_none() -> None:
    stream = [sse(ROLE), *[sse(chunk("a", ',"usage":null'))] * 400, sse(USAGE)]
    calls, usage = parsed(stream)
    assert (usage.output_tokens, usage.estimated) == (4, False)
    assert calls == 2  # the first event, and the one with the counts


def test_where_every_event_says_it_all_few_are_parsed() -> None:
    said = [sse(chunk("a", f',"usage":{{"prompt_tokens":9,"completion_tokens":{n}}}')) for n in range(1, 401)]
    calls, usage = parsed([sse(ROLE), *said])
    assert (usage.output_tokens, usage.estimated) == (400, False)
    assert calls < 50  # those of the first look, and one for each further one


def test_a_stream_that_names_nothing_is_not_asked_forever() -> None:
    nameless = sse('{"choices":[{"delta":{"content":"a"}}]}')
    calls, usage = parsed([nameless] * 400)
    assert (usage.output_tokens, usage.model) == (400, None)
    assert calls <= 8
    tap = UsageTap()
    tap.feed(nameless * 40)
    assert tap._by_mark  # and its events are counted by a literal search
    calls, usage = parsed([sse('{"text":"a"}')] * 400)
    assert (usage.output_tokens, usage.model) == (400, None)
    assert calls <= 8


def test_the_usage_of_a_chat_is_said_whole() -> None:
    first = ',"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":3}}'
    then = chunk("b", ',"usage":{"prompt_tokens":6,"completion_tokens":2}')
    for pieces in ([sse(ROLE, chunk("a", first), then)], [sse(ROLE), *[sse(chunk("a", first))] * 40, sse(then)]):
        assert tapped(pieces) == Usage(6, 2, 8, model="m-1", response_id="chatcmpl-1")


def test_a_delta_that_was_cut_was_not_delivered() -> None:
    stream = sse(ROLE, *map(chunk, "abc"))
    assert tapped([stream], complete=False).output_tokens == 3
    assert tapped([stream[:-12]], complete=False).output_tokens == 2


def test_after_a_long_event_events_are_counted_again() -> None:
    long = b"data: " + b"x" * 1_000 + b"\n"
    tap = UsageTap()
    for piece in (
        sse(ROLE),
        *[long] * 600,
        b"\n",
        *[sse(chunk("a"))] * 40,
        b"data: ",
        *[b"x" * 1_000] * 250,
        b"\n\n",
        sse(chunk("b")),
    ):
        tap.feed(piece)
    assert tap.result(complete=False).output_tokens == 41
    assert not tap._broken  # the second is not too long


ANTHROPIC = [
    (
        '{"type":"message_start","message":{"id":"msg_1","model":"c-1","usage":{"input_tokens":5,"cache_read_input_tokens":70,'
        '"cache_creation_input_tokens":3,"output_tokens":2}}}'
    ),
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    *(f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}' for text in "abcdef"),
    '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":17}}',
    '{"type":"message_stop"}',
]


def test_anthropics_first_event_says_only_where_the_output_begins() -> None:
    whole = tapped([sse(*ANTHROPIC)])
    assert whole == Usage(5, 17, 95, 70, 3, None, "c-1", "msg_1", cache_apart=True)
    assert tapped([sse(*ANTHROPIC[:9])], complete=False) == whole
    cut = tapped([sse(*ANTHROPIC[:8])], complete=False)
    assert (cut.input_tokens, cut.output_tokens, cut.estimated) == (5, 6, True)
    assert tapped([sse(*ANTHROPIC[:3])], complete=False).output_tokens == 2  # it said two, one event has come


def test_pings_and_comments_before_the_first_event_change_nothing() -> None:
    ping = b': connecting\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    assert tapped([ping + sse(*ANTHROPIC)]) == tapped([sse(*ANTHROPIC)])
    assert tapped([b"\xef\xbb\xbf" + sse(*ANTHROPIC)]) == tapped([sse(*ANTHROPIC)])
    assert tapped([b": PROCESSING\n\n" * 30 + sse(ROLE, chunk("a"), USAGE)]).output_tokens == 4


def test_usage_that_a_model_was_made_to_write_is_none() -> None:
    fake = {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    call = {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": json.dumps(fake)}, "args": fake}]}}]} | {"x": fake}
    usage = tapped([sse(ROLE, USAGE, json.dumps(call), "[DONE]")])
    assert (usage.input_tokens, usage.output_tokens) == (9, 4)


def test_the_last_event_may_lack_its_empty_line() -> None:
    assert tapped([sse(*ANTHROPIC[:9]).rstrip(b"\n")]).output_tokens == 17


def test_an_event_over_several_lines_is_read_as_one() -> None:
    spread = b"data: " + json.dumps(json.loads(USAGE), indent=1).encode().replace(b"\n", b"\ndata: ") + b"\n\n"
    assert tapped([sse(ROLE, chunk("a")) + spread]).output_tokens == 4


# -- long events, and what is no event stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [HELD_MAX_BYTES // 2, HELD_MAX_BYTES + 100, 3 * HELD_MAX_BYTES])
@pytest.mark.parametrize("piece", [1_400, 70_000, 10**9])
def test_an_event_too_long_to_keep_still_gives_its_usage(size: int, piece: int) -> None:
    usage = {"input_tokens": 50, "output_tokens": 7, "total_tokens": 57, "input_tokens_details": {"cached_tokens": 20}}
    made = {
        "id": "resp_1",
        "model": "r-1",
        "output": ["x" * size],
        "tool_usage": {"image": {"output_tokens": 1}},
        "usage": usage,
    }
    created = {"type": "response.created", "response": {"id": "resp_1", "model": "r-1", "usage": None}}
    completed = {"type": "response.completed", "response": made | {"user": None}}
    body = sse(*map(json.dumps, (created, completed, {"type": "response.output_text.delta", "delta": "x"})))
    told = tapped(body[at : at + piece] for at in range(0, len(body), piece))
    assert told == Usage(50, 7, 57, 20, model="r-1", response_id="resp_1")


def test_many_events_cut_in_two_are_no_long_event() -> None:
    body = sse(ROLE, *[chunk("a" * 700)] * 2_000)
    for piece in (100, 1_030):
        assert tapped((body[at : at + piece] for at in range(0, len(body), piece)), complete=False).output_tokens == 2_000


def test_little_is_kept_of_a_long_event() -> None:
    tap = UsageTap()
    for _ in range(4_000):
        tap.feed(b"data: x" * 200)
    assert sum(map(len, tap._held)) <= HELD_MAX_BYTES


ANSWER = {
    "id": "a-1",
    "model": "m-1",
    "choices": [{"message": {"content": "x"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_that_is_no_stream_is_read_too(indent: int | None) -> None:
    body = json.dumps(ANSWER, indent=indent).encode()
    for cut in ([body], singly(body), [body + b"\n"]):
        assert tapped(cut) == usage_of_body(body) == Usage(3, 2, 5, model="m-1", response_id="a-1")
    silent = json.dumps({"id": "a-1", "choices": []}, indent=indent).encode()
    assert tapped([silent]) == Usage(response_id="a-1")


def test_a_long_answer_is_read_from_its_end() -> None:
    embedding = {
        "object": "list",
        "data": [{"embedding": [0.123] * 100_000}],
        "model": "e-1",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    for body in (json.dumps(embedding).encode(), json.dumps(embedding, indent=1).encode()):
        assert len(body) > 2 * HELD_MAX_BYTES
        assert tapped(body[at : at + 4_000] for at in range(0, len(body), 4_000)) == Usage(8, None, 8, model="e-1")


def test_geminis_stream_without_events_is_one_array() -> None:
    items = [
        {"candidates": [], "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": n, "totalTokenCount": 4 + n}}
        for n in (1, 2, 3)
    ]
    body = json.dumps(items, indent=2).encode()
    assert tapped(singly(body)) == Usage(4, 3, 7)
    assert tapped([json.dumps(items).encode()]) == Usage(4, 3, 7)


def test_gemini_reports_no_output_where_there_is_none() -> None:
    blocked = '{"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8},"modelVersion":"g-1","responseId":"r"}'
    assert tapped([sse(blocked)]) == Usage(8, 0, 8, model="g-1", response_id="r")


def frame(payload: bytes, headers: bytes = b"") -> bytes:
    return struct.pack(">III", 16 + len(headers) + len(payload), len(headers), 0) + headers + payload + b"\0\0\0\0"


def test_frames_are_counted_until_usage_comes() -> None:
    delta = frame(b'{"contentBlockIndex":0,"delta":{"text":"a"}}', b"\x0b:event-type\x07\x00\x11contentBlockDelta")
    stop = frame(b'{"stopReason":"end_turn"}', b"\x0b:event-type\x07\x00\x0bmessageStop")
    usage = frame(b'{"usage":{"inputTokens":3,"outputTokens":9,"totalTokens":12}}')
    assert tapped([delta * 5 + stop], complete=False) == Usage(None, 5, estimated=True)
    assert tapped(singly(delta * 5 + stop + usage)) == Usage(3, 9, 12)
    inner = frame(json.dumps({"bytes": base64.b64encode(b'{"outputText":"abc"}').decode(), "p": "ab"}).encode())
    assert tapped([inner * 3], complete=False).output_tokens == 3
    assert tapped([frame(b'{"bytes":"***"}') + usage]) == Usage(3, 9, 12)


@pytest.mark.parametrize("head", [(3, 0), (HELD_MAX_BYTES + 1, 0), (40, 30), (16, 2**32 - 1)])
def test_frames_that_are_none_are_read_no_further(head: tuple[int, int]) -> None:
    usage = frame(b'{"usage":{"inputTokens":3,"outputTokens":9,"totalTokens":12}}')
    tap = UsageTap()
    more = frame(b'{"usage":{"inputTokens":3,"outputTokens":10,"totalTokens":13}}')
    for piece in (usage, struct.pack(">III", *head, 0), b"\0" * 28, more, b"\0" * 4_000, more):
        tap.feed(piece)
    assert tap.result(complete=True).output_tokens == 9
    assert not tap._held


# -- any stream, any cut -------------------------------------------------------------------------------------------------------

LINE_ENDS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n\r\n", "\n\n\n"])
GEMINI = '{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":2,"totalTokenCount":6}}'
DATAS = st.sampled_from([
    ROLE, USAGE, chunk("a"), chunk("é😀"), chunk("a", ',"usage":null'), chunk('"_tokens":'), chunk(), "[DONE]", "", "{", "text", '"\\ud800"',
    chunk("c", ',"usage":{"prompt_tokens":1,"completion_tokens":7}'), chunk("a", ',"usage":{"prompt_tokens":2}'), GEMINI, *ANTHROPIC,
    '{"type":"response.created","response":{"id":"resp_1","model":"r-1","usage":null}}',
    '{"type":"response.output_text.delta","delta":"a"}',
    '{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6}}}',
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(DATAS, LINE_ENDS), max_size=40), st.data(), st.booleans(), st.sampled_from([b"", b"\xef\xbb\xbf", b"\n"])
)
def test_any_stream_has_one_usage(events: list[tuple[str, str]], data: Any, complete: bool, start: bytes) -> None:
    body = start + b"".join(f"data: {text}{end}".encode() for text, end in events)
    body = body[: data.draw(st.integers(0, len(body)) | st.just(len(body)), "end")]
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=30), "cuts"))
    cut = [body[start:stop] for start, stop in zip([0, *places], [*places, len(body)], strict=True)]
    whole = tapped([body], complete=complete)
    assert tapped(cut, complete=complete) == whole
    assert tapped(singly(body), complete=complete) == whole


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.lists(st.sampled_from([b"{", b"}", b"[", b"\n", b"\r", b"data:", b'"usage":', b'"_tokens":', b"\0", b"1"])).map(b"".join),
       st.integers(1, 50))  # fmt: skip
@example(b'data: {"usage":' + b"[" * 100_000 + b"]\n\n", 1_000)
@example(b'{"usage":{"prompt_tokens":' + b"9" * 5_000 + b"}}", 1_000)
def test_no_bytes_can_break_it(body: bytes, piece: int) -> None:
    usage = tapped(body[at : at + piece] for at in range(0, len(body), piece))
    assert usage == tapped([body])
    assert all(number is None or number >= 0 for number in numbers(usage).values())
