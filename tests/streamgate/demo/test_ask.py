"""A request body is read for what changes the answer, in every dialect's way of saying it."""

import json
from typing import Any

import pytest

from streamgate.demo.ask import Ask, BadAskError, read_ask


def asked(**body: Any) -> Ask:
    return read_ask(json.dumps(body).encode())


def test_an_empty_object_is_a_plain_ask() -> None:
    assert asked() == Ask()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_each_dialects_maximum_is_the_limit(name: str) -> None:
    assert asked(**{name: 3}).limit == 3


def test_usage_is_asked_for_by_name_only() -> None:
    assert asked(stream_options={"include_usage": True}).usage
    assert not asked(stream_options={"include_usage": False}).usage
    assert not asked(stream_options=None).usage


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        ({"messages": [{"role": "user", "content": "a b"}, {"content": [{"type": "text", "text": "c"}]}]}, ("a b c",)),
        ({"prompt": "one two"}, ("one two",)),
        ({"prompt": ["one", "two"]}, ("one", "two")),
        ({"prompt": [1, 2, 3]}, ("1 2 3",)),
        ({"prompt": [[1], [2, 3]]}, ("1", "2 3")),
        ({"input": "x"}, ("x",)),
        ({"input": [{"role": "user", "content": "x y"}]}, ("x y",)),
        ({"input": []}, ("",)),
        ({"messages": None}, ("",)),
    ],
)
def test_prompts_of_every_shape_are_found(body: dict[str, Any], prompts: tuple[str, ...]) -> None:
    ask = asked(**body)
    assert ask.prompts == prompts
    assert ask.prompt_tokens() == sum(len(prompt.split()) for prompt in prompts)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"stream":"yes"}', "stream"),
        (b'{"model":3}', "model"),
        (b'{"max_tokens":0}', "limit"),
        (b'{"dimensions":100000}', "dimensions"),
    ],
)
def test_a_body_that_cannot_be_answered_is_refused_with_its_reason(raw: bytes, why: str) -> None:
    with pytest.raises(BadAskError, match=why):
        read_ask(raw)
