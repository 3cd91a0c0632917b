"""Every dialect says the same words, streamed or whole, and ends as its clients expect."""

import json
from typing import Any

import pytest
from sse_starlette import ServerSentEvent

from streamgate.demo.ask import Ask
from streamgate.demo.dialects import DONE, PATHS, Stream, event, spoken
from streamgate.demo.script import words

CHAT, COMPLETION, RESPONSES, MESSAGES = PATHS


def data(events: list[ServerSentEvent]) -> list[Any]:
    return [each.data if each.data == DONE else json.loads(str(each.data)) for each in events]


def streamed(answer: Stream) -> list[Any]:
    tokens = [each for position in range(answer.length()) for each in answer.token(position)]
    return data([*answer.opening(), *tokens, *answer.closing()])


def text_of(path: str, chunks: list[Any]) -> str:
    """The text of a stream's first choice, put together as that dialect's SDK does."""
    found = []
    for chunk in chunks:
        if path == CHAT and chunk != DONE and chunk["choices"]:
            found.append(chunk["choices"][0]["delta"].get("content", ""))
        if path == COMPLETION and chunk != DONE and chunk["choices"] and chunk["choices"][0]["index"] == 0:
            found.append(chunk["choices"][0]["text"])
        if path == RESPONSES and chunk["type"] == "response.output_text.delta":
            found.append(chunk["delta"])
        if path == MESSAGES and chunk["type"] == "content_block_delta":
            found.append(chunk["delta"]["text"])
    return "".join(found)


def whole_text(path: str, body: Any) -> Any:
    match path:
        case "/v1/chat/completions":
            return body["choices"][0]["message"]["content"]
        case "/v1/completions":
            return body["choices"][0]["text"]
        case "/v1/responses":
            return body["output"][0]["content"][0]["text"]
        case _:
            return body["content"][0]["text"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tokens", [0, 1, 30])
def test_streamed_and_whole_are_the_same_words(path: str, tokens: int) -> None:
    expected = "".join(words(3, tokens))
    assert text_of(path, streamed(spoken(path, Ask(), 3, tokens))) == expected
    assert whole_text(path, spoken(path, Ask(), 3, tokens).whole()) == expected


@pytest.mark.parametrize(
    ("path", "finished", "cut_short"),
    [
        (CHAT, "stop", "length"),
        (COMPLETION, "stop", "length"),
        (RESPONSES, "completed", "incomplete"),
        (MESSAGES, "end_turn", "max_tokens"),
    ],
)
def test_the_clients_own_limit_shortens_the_answer_and_says_so(path: str, finished: str, cut_short: str) -> None:
    def ending(ask: Ask) -> tuple[int, str]:
        answer = spoken(path, ask, 0, 8)
        last = streamed(answer)[-1 if path == RESPONSES else -2]
        if path in {CHAT, COMPLETION}:
            return answer.length(), last["choices"][0]["finish_reason"]
        return answer.length(), last["response"]["status"] if path == RESPONSES else last["delta"]["stop_reason"]

    assert ending(Ask()) == ending(Ask(limit=8)) == (8, finished)
    assert ending(Ask(limit=5)) == (5, cut_short)


def test_usage_comes_in_a_chunk_of_its_own_only_when_asked_for() -> None:
    plain = streamed(spoken(CHAT, Ask(), 0, 2))
    assert not any("usage" in chunk for chunk in plain[:-1])
    *before, counted, done = streamed(spoken(CHAT, Ask(usage=True, prompts=("a b c",)), 0, 2))
    assert done == DONE
    assert counted["choices"] == []
    assert counted["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert all(chunk["usage"] is None for chunk in before)


def test_every_prompt_of_a_completion_gets_its_own_answer_wherever_it_stands() -> None:
    together = spoken(COMPLETION, Ask(prompts=("one", "two")), 0, 9).whole()["choices"]
    alone = spoken(COMPLETION, Ask(prompts=("two",)), 0, 9).whole()["choices"]
    assert together[0]["text"] != together[1]["text"] == alone[0]["text"]
    indexes = [chunk["choices"][0]["index"] for chunk in streamed(spoken(COMPLETION, Ask(prompts=("a", "b")), 0, 1))[:-1]]
    assert indexes == [0, 1, 0, 1]


def test_responses_number_and_name_their_events_throughout() -> None:
    answer = spoken(RESPONSES, Ask(), 0, 3)
    events = [*answer.opening(), *answer.token(0), *answer.closing()]
    chunks = data(events)
    assert [chunk["sequence_number"] for chunk in chunks] == list(range(len(chunks)))
    assert [each.event for each in events] == [chunk["type"] for chunk in chunks]


@pytest.mark.parametrize("path", PATHS)
def test_errors_in_a_stream_and_as_a_status_are_the_dialects_own(path: str) -> None:
    answer = spoken(path, Ask(), 0, 3)
    (fault,) = answer.fault()
    (told,) = data([fault])
    if path == MESSAGES:
        assert (fault.event, told["error"]["type"]) == ("error", "overloaded_error")
        assert answer.refusal(500)["type"] == "error"
    elif path == RESPONSES:
        assert (fault.event, told["response"]["status"]) == ("response.failed", "failed")
    else:
        assert (fault.event, told["error"]["type"]) == (None, "server_error")
    assert "error" in answer.refusal(429)


def test_the_same_ask_gets_the_same_bytes() -> None:
    for path in PATHS:
        one, two = (spoken(path, Ask(), 7, 20) for _ in range(2))
        assert streamed(one) == streamed(two)


def test_events_are_sent_as_utf8_with_single_newlines() -> None:
    assert event({"a": "é"}, "n").encode() == 'event: n\ndata: {"a":"é"}\n\n'.encode()


def test_a_path_of_no_dialect_is_a_keyerror() -> None:
    with pytest.raises(KeyError):
        spoken("/v1/other", Ask(), 0, 1)
