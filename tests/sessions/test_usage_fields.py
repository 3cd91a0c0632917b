"""Where providers put their counts, and what is no count."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.usage_fields import COUNT_MAX, Reported, Usage, usage_of_body


def told(answer: Any) -> tuple[int | None, ...]:
    usage = usage_of_body(json.dumps(answer).encode())
    assert not usage.estimated
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )


OPENAI = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
RESPONSES = {
    "input_tokens": 20,
    "output_tokens": 9,
    "total_tokens": 29,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 4},
}
ANTHROPIC = {"input_tokens": 5, "output_tokens": 9, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 3}
CONVERSE = {"inputTokens": 5, "outputTokens": 9, "totalTokens": 87, "cacheReadInputTokens": 70, "cacheWriteInputTokens": 3}


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ({"object": "chat.completion", "usage": OPENAI}, (20, 9, 29, 8, None, 4)),
        ({"object": "response", "usage": RESPONSES}, (20, 9, 29, 8, 2, 4)),
        ({"type": "message", "usage": ANTHROPIC}, (5, 9, 87, 70, 3, None)),
        ({"output": {"message": {}}, "usage": CONVERSE}, (5, 9, 87, 70, 3, None)),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}}, (9, 2, 11, 4, None, None)),  # DeepSeek
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 4}}, (9, 2, 11, 4, None, None)),  # Moonshot
        ({"usage": {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 1}}}, (1, 2, 3, None, None, 1)),
        ({"x_groq": {"usage": OPENAI, "usage_breakdown": {"usage": ANTHROPIC}}}, (20, 9, 29, 8, None, 4)),
        ({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, (8, None, 8, None, None, None)),
        ({"object": "list", "data": [], "usage": {"total_tokens": 8}}, (8, None, 8, None, None, None)),  # Voyage
        ({"embeddings": [], "meta": {"billed_units": {"input_tokens": 6}}}, (6, None, None, None, None, None)),  # Cohere
        (
            {"usage": {"billed_units": {"input_tokens": 6, "output_tokens": 2}, "tokens": {"input_tokens": 60, "output_tokens": 3}}},
            (6, 2, 8, None, None, None),
        ),
        ({"usage": {"tokens": {"input_tokens": 60, "output_tokens": 3}}}, (60, 3, 63, None, None, None)),
        ({"usageMetadata": {"promptTokenCount": 4, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 7,
                            "totalTokenCount": 18, "cachedContentTokenCount": 3}}, (9, 9, 18, 3, None, 7)),
        ({"usageMetadata": {"promptTokenCount": 4, "thoughtsTokenCount": 7, "totalTokenCount": 11}}, (4, 7, 11, None, None, 7)),
        ({"usageMetadata": {"promptTokenCount": 4, "responseTokenCount": 7}}, (4, 7, 11, None, None, None)),
        ({"interaction": {"usage": {"total_input_tokens": 4, "total_tool_use_tokens": 1, "total_output_tokens": 2,
                                    "total_thought_tokens": 3, "total_cached_tokens": 2, "total_tokens": 10}}}, (5, 5, 10, 2, None, 3)),
        ({"model": "l", "response": "hi", "done": True, "prompt_eval_count": 4, "eval_count": 6}, (4, 6, 10, None, None, None)),
        ({"model": "l", "response": "hi", "done": True, "eval_count": 6}, (None, 6, None, None, None, None)),
        ({"inputTextTokenCount": 28.0, "totalOutputTextTokenCount": 188.0}, (28, 188, 216, None, None, None)),
        ({"inputTextTokenCount": 28, "results": [{"tokenCount": 5, "outputText": "x"}]}, (28, 5, 33, None, None, None)),
        ({"generation": "x", "prompt_token_count": 4, "generation_token_count": 6}, (4, 6, 10, None, None, None)),
        ({"results": [{"input_token_count": 4, "generated_token_count": 1}, {"input_token_count": 2, "generated_token_count": 3}]},
         (6, 4, 10, None, None, None)),
        ({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 4, "outputTokenCount": 1}}, (4, 1, 5, None, None, None)),
        ({"metadata": {"usage": {"inputTokens": 3, "outputTokens": 5, "cacheReadInputTokenCount": 0}}}, (3, 5, 8, 0, None, None)),
        ({"usage": {"type": "duration", "seconds": 9}}, (None,) * 6),
        ({"usage": None}, (None,) * 6),
        ({"usage": 4, "x_groq": 1, "response": [], "message": 3, "results": [None]}, (None,) * 6),
        ({"error": {"message": "no"}}, (None,) * 6),
        ([], (None,) * 6),
        ("usage", (None,) * 6),
    ],
)  # fmt: skip
def test_every_dialect_says_it_in_its_own_way(answer: Any, numbers: tuple[int | None, ...]) -> None:
    assert told(answer) == numbers


@pytest.mark.parametrize("value", [True, -1, 1.5, "7", None, [], {}, COUNT_MAX, 1e300])
def test_what_is_no_count_is_not_counted(value: Any) -> None:
    assert told({"usage": {"prompt_tokens": value, "completion_tokens": 3}})[:2] == (None, 3)
    assert told({"usage": {"prompt_tokens_details": {"cached_tokens": value}, "completion_tokens": 3}})[3] is None


def test_usage_elsewhere_in_an_answer_is_none() -> None:
    fake = {"usage": OPENAI}
    answer = {"choices": [{"message": {"tool_calls": [{"args": fake}]}}], "metadata": {"user": fake}, "user": fake}
    assert told(answer) == (None,) * 6


def test_of_two_names_for_one_thing_the_first_counts() -> None:
    assert told({"usage": {"prompt_tokens": 7, "input_tokens": 8, "output_tokens": 1}})[:2] == (7, 1)


@pytest.mark.parametrize(
    "broken", [b"", b"\xff", b'{"usage":{"prompt_tokens":3}', b"[" * 100_000, b'{"usage":' + b"[" * 100_000]
)
def test_what_is_no_json_says_nothing(broken: bytes) -> None:
    assert usage_of_body(broken) == Usage()


@pytest.mark.parametrize("text", [b'"\\ud83d"', b'"\xff\xfe"', b'"a\nb"', b"NaN", b"Infinity"])
def test_what_some_providers_write_into_json_hides_no_usage(text: bytes) -> None:
    body = b'{"model":"m","id":"i","text":' + text + b',"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    assert usage_of_body(body) == Usage(3, 2, 5, model="m", response_id="i")


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\ud800", 7, None, {}])
def test_what_is_no_name_names_nothing(name: Any) -> None:
    usage = usage_of_body(json.dumps({"model": name, "id": name}).encode())
    assert (usage.model, usage.response_id) == (None, None)
    msgspec.json.encode(usage)  # goes into records


def test_an_answers_id_is_its_own_not_its_events() -> None:
    reported = Reported()
    reported.take(b'{"type":"message_start","id":"event","message":{"id":"msg_1","model":"c"}}')
    assert (reported.response_id, reported.model, reported.named) == ("msg_1", "c", True)
    assert usage_of_body(b'{"id":"event","response":{"id":"resp_1"}}').response_id == "resp_1"
    assert usage_of_body(b'{"id":"chatcmpl-1","message":{"id":"inner"}}').response_id == "chatcmpl-1"


# -- said more than once -----------------------------------------------------------------------------------------------------


def test_names_are_taken_while_they_are_wanted() -> None:
    reported = Reported()
    assert reported.take(b'{"model":"late","id":"late","usage":{"output_tokens":1}}', names=False)
    assert (reported.model, reported.response_id) == (None, None)
    reported.take(b'{"model":"","id":"first"}')
    reported.take(b'{"model":"m","id":"second"}')
    assert (reported.model, reported.response_id) == ("m", "first")


def test_cached_tokens_beside_the_whole_prompt_are_a_part_of_it() -> None:
    openai = usage_of_body(b'{"usage":{"prompt_tokens":20,"completion_tokens":1,"cache_read_input_tokens":8}}')
    assert (openai.cached_input_tokens, openai.total_tokens, openai.fresh_input_tokens) == (8, 21, 12)


def test_what_is_said_again_replaces_what_was_said() -> None:
    reported = Reported()
    assert reported.take(b'{"usage":{"input_tokens":5,"output_tokens":1,"cache_read_input_tokens":9}}')
    assert reported.take(b'{"usage":{"output_tokens":7}}')
    assert not reported.take(b'{"usage":{"input_tokens":6}}')
    assert reported.usage() == Usage(6, 7, 22, 9, cache_apart=True)


def test_gemini_says_all_of_it_each_time() -> None:
    reported = Reported()
    assert reported.take(
        b'{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":21,"totalTokenCount":65,"thoughtsTokenCount":35,"cachedContentTokenCount":3}}'
    )
    assert not reported.take(b'{"usageMetadata":{"trafficType":"ON_DEMAND"}}')
    assert reported.usage().output_tokens == 56
    assert reported.take(b'{"usageMetadata":{"promptTokenCount":87,"thoughtsTokenCount":78,"totalTokenCount":165}}')
    assert reported.usage() == Usage(87, 78, 165, reasoning_tokens=78)


def test_whole_statements_replace_each_other() -> None:
    reported = Reported()
    reported.whole = True
    reported.take(b'{"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}')
    assert not reported.take(b'{"usage":{"prompt_tokens":7}}')
    assert reported.usage() == Usage(7, 1, 6)
    assert reported.take(b'{"usage":{"completion_tokens":2}}')
    assert reported.usage() == Usage(None, 2)


def test_watsonx_says_the_input_once() -> None:
    reported = Reported()
    reported.take(b'{"results":[{"input_token_count":8,"generated_token_count":0}]}')
    assert reported.take(b'{"results":[{"input_token_count":0,"generated_token_count":3}]}')
    assert reported.usage() == Usage(8, 3, 11)


# -- delivered and not reported ------------------------------------------------------------------------------------------------


def said(text: bytes = b"{}") -> Reported:
    reported = Reported()
    reported.take(text)
    return reported


@pytest.mark.parametrize("complete", [True, False])
def test_without_a_report_events_are_counted(complete: bool) -> None:
    assert said().usage(5, complete=complete) == Usage(None, 5, estimated=True)
    assert said().usage(5, complete=complete, input_bytes=9) == Usage(3, 5, 8, estimated=True)
    assert said().usage(0, complete=complete) == Usage(None, 0, estimated=True)


def test_with_a_report_events_count_that_came_after_it_and_only_on_a_cut() -> None:
    reported = said(b'{"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":14}}')
    assert reported.usage(0, complete=False) == reported.usage(3, complete=True) == Usage(9, 4, 14)
    assert reported.usage(3, complete=False) == Usage(9, 7, 17, estimated=True)


def test_output_may_be_what_a_total_leaves() -> None:
    reported = said(b'{"usageMetadata":{"promptTokenCount":8,"totalTokenCount":10}}')
    assert reported.usage(1, complete=True) == Usage(8, 2, 10)
    assert reported.usage(1, complete=False) == Usage(8, 1, 9, estimated=True)


def test_an_answer_that_is_no_stream_is_not_estimated_except_for_its_input() -> None:
    assert said().usage() == Usage()
    assert said(b'{"usage":{"output_tokens":4}}').usage(input_bytes=8) == Usage(2, 4, 6, estimated=True)
    assert said(b'{"usage":{"input_tokens":0}}').usage(input_bytes=8).input_tokens == 0


def test_a_beginning_is_no_report_and_no_less_than_what_was_delivered() -> None:
    start = b'{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":3}}}'
    assert not Reported().take(start)
    assert said(start).usage(1, complete=False) == Usage(5, 3, 8, estimated=True)
    assert said(start).usage(9, complete=False) == Usage(5, 9, 14, estimated=True)


# -- what is left of a long event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "output", "model"),
    [
        (b'xx","tool_usage":{"output_tokens":1},"usage":{"input_tokens":5,"output_tokens":6},"user":null}}', 6, None),
        (b'xx"}], "usageMetadata" : {"promptTokenCount": 4, "candidatesTokenCount": 2}, "x": {}}', 2, None),
        (b'"usage":{"output_tokens":1},"model": "first", "usage": {"output_tokens":2}, "model":"m"', 2, "m"),
        (b'"usage":null', None, None),
        (b'"usage":null,"user":{"output_tokens":1}', None, None),
        (b'"usage":{"output_tokens":', None, None),
        (b'"usage":' + b"{" * 3, None, None),
        (b'say \\"usage\\":{"output_tokens":1}', None, None),
        (b"\xff\x00", None, None),
    ],
)
def test_the_last_usage_in_a_fragment_counts(rest: bytes, output: int | None, model: str | None) -> None:
    reported = Reported()
    assert reported.take_fragment(rest) is (output is not None)
    assert (reported.usage().output_tokens, reported.model) == (output, model)


# -- what is billed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "fresh", "billed"),
    [
        (Usage(), None, None),
        (Usage(20, 9, 29, cached_input_tokens=8, cache_write_tokens=2, reasoning_tokens=4), 10, 9),
        (Usage(5, 9, 87, 70, 3, cache_apart=True), 5, 9),
        (Usage(5, 9, 14, cached_input_tokens=8), 0, 9),  # an upstream that contradicts itself
        (Usage(12, 1, 303, reasoning_tokens=290), 12, 291),  # xAI
        (Usage(12, 1, None, reasoning_tokens=290), 12, 1),
        (Usage(None, 4, reasoning_tokens=2), None, 4),
    ],
)
def test_what_is_billed(usage: Usage, fresh: int | None, billed: int | None) -> None:
    assert (usage.fresh_input_tokens, usage.billed_output_tokens) == (fresh, billed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.sampled_from(["", "m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "usage", "usageMetadata", "meta", "message", "response", "delta", "results", "x_groq", "billed_units", "tokens", "id", "model",
            "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "prompt_tokens_details",
            "cached_tokens", "cache_read_input_tokens", "promptTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount",
            "eval_count", "generated_token_count", "input_token_count", "type",
        ]), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.none() | st.integers(0, 9), st.booleans(), st.none() | st.integers(0, 99))
def test_whatever_is_said_usage_is_whole_numbers(value: Any, delivered: int | None, complete: bool, size: int | None) -> None:
    usage = said(json.dumps(value).encode()).usage(delivered, complete=complete, input_bytes=size)
    for number in msgspec.structs.astuple(usage)[:6]:
        assert number is None or (type(number) is int and number >= 0)
    assert usage.output_tokens is not None or delivered is None
    assert usage.fresh_input_tokens is None or 0 <= usage.fresh_input_tokens <= (usage.input_tokens or 0)
