"""One answer taken apart: each part is what its member would have got alone."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.batch_answers import CannotSplit, should_split, split
from sessions.batch_asks import Ask, ask_of, merged_body
from streamgate.demo.ask import read_ask
from streamgate.demo.dialects import spoken
from streamgate.demo.embeddings import Embedding

PATHS = {"embeddings": b"/v1/embeddings", "completions": b"/v1/completions"}
FIELDS = {"embeddings": "input", "completions": "prompt"}
LISTS = {"embeddings": "data", "completions": "choices"}
STYLES = st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 2}, {"separators": (" , ", "\t: ")}])
KINDS = st.sampled_from(list(PATHS))


def ask(kind: str, inputs: list[str] | str, **more: Any) -> Ask:
    one = ask_of(PATHS[kind], json.dumps({"model": "m", FIELDS[kind]: inputs, **more}).encode(), max_items=99, max_bytes=9_999)
    assert one is not None
    return one


def entry(kind: str, index: int, text: str) -> dict[str, Any]:
    if kind == "embeddings":
        chance = random.Random(text)
        return {"object": "embedding", "index": index, "embedding": [chance.uniform(-1, 1) for _ in range(3)]}
    return {"text": text + '\n"index": 7 \u00e9', "index": index, "logprobs": None, "finish_reason": "stop"}


def answer(kind: str, texts: list[str], *, order: list[int] | None = None, usage: Any = None) -> dict[str, Any]:
    entries = [entry(kind, index, text) for index, text in enumerate(texts)]
    whole = {
        "object": "list",
        LISTS[kind]: [entries[at] for at in order or range(len(texts))],
        "model": "m",
        "note": [1, {"a": 0.10}],
    }
    return whole if usage is None else {**whole, "usage": usage}


INPUTS = st.lists(st.lists(st.text('abc \u00e9"', min_size=1, max_size=6), min_size=1, max_size=3), min_size=1, max_size=6)


@given(KINDS, INPUTS, STYLES, st.randoms(use_true_random=False))
def test_each_gets_to_the_byte_what_it_would_have_got_alone(
    kind: str, inputs: list[list[str]], style: dict[str, Any], chance: random.Random
) -> None:
    asks = [ask(kind, own) for own in inputs]
    texts = [text for own in inputs for text in own]
    order = list(range(len(texts)))
    if len(asks) > 1:
        chance.shuffle(order)
    whole = json.dumps(answer(kind, texts, order=order), **style).encode()
    several = len(texts) > 1
    for own, part in zip(inputs, split(asks, whole), strict=True):
        alone = json.dumps(answer(kind, own), **style).encode()
        assert part == alone if several else json.loads(part) == json.loads(alone)


@given(KINDS, INPUTS, STYLES)
def test_usage_adds_up_and_is_each_ones_own_where_sizes_say_so(
    kind: str, inputs: list[list[str]], style: dict[str, Any]
) -> None:
    asks = [ask(kind, own) for own in inputs]

    def used(own: list[str], weight: int) -> dict[str, int]:
        generated = sum(len(entry(kind, 0, text).get("text", "")) for text in own)
        terms = {"prompt_tokens": weight, "completion_tokens": generated} if generated else {"prompt_tokens": weight}
        return {**terms, "total_tokens": weight + generated}

    texts = [text for own in inputs for text in own]
    whole = answer(kind, texts, usage=used(texts, sum(one.weight for one in asks)))
    parts = split(asks, json.dumps(whole, **style).encode())
    for own, one, part in zip(inputs, asks, parts, strict=True):
        assert json.loads(part) == answer(kind, own, usage=used(own, one.weight))


def test_floats_stay_as_they_were_written() -> None:
    asks = [ask("embeddings", "a"), ask("embeddings", "b")]
    whole = (
        b'{"data":[{"index":1,"embedding":[1e-7,0.10,-0.0]},{"embedding":"AAAA/+==","index":0}],"usage":{"prompt_tokens":2}}'
    )
    assert split(asks, whole) == [
        b'{"data":[{"embedding":"AAAA/+==","index":0}],"usage":{"prompt_tokens":1}}',
        b'{"data":[{"index":0,"embedding":[1e-7,0.10,-0.0]}],"usage":{"prompt_tokens":1}}',
    ]


def test_usage_may_stand_before_the_entries_and_be_null() -> None:
    asks = [ask("embeddings", "a"), ask("embeddings", "b")]
    whole = b'{"usage": null, "data": [{"index":0},{"index":1}], "model": "m"}'
    assert split(asks, whole) == [b'{"usage": null, "data": [{"index":0}], "model": "m"}'] * 2


def test_a_lone_members_answer_is_not_even_read() -> None:
    assert split([ask("embeddings", ["a", "b"])], b"\x00 whatever") == [b"\x00 whatever"]


BROKEN: list[Any] = [
    b"",
    b"null",
    b"[]",
    b'{"data":[{"index":0},{"index":1}]',
    {"data": []},
    {"data": None},
    {"data": {"0": {"index": 0}}},
    {"data": [{"index": 0}]},
    {"data": [{"index": 0}, {"index": 0}]},
    {"data": [{"index": 0}, {"index": 2}]},
    {"data": [{"index": 1}, {"index": 2}]},
    {"data": [{"index": -1}, {"index": 0}]},
    {"data": [{"index": 0}, {"index": 1}, {"index": 2}]},
    {"data": [{"index": 0}, {}]},
    {"data": [{"index": 0}, {"index": "1"}]},
    {"data": [{"index": 0}, {"index": None}]},
    {"data": [{"index": 0}, 1]},
    {"choices": [{"index": 0}, {"index": 1}]},
    {"error": {"message": "no"}},
    {"data": [{"index": 0}, {"index": 1}], "prompt_filter_results": [{"prompt_index": 0}]},
    b'{"data":[{"index":0},{"index":1}],"data":[{"index":0},{"index":1}]}',
    b'{"data":[{"index":0},{"index":1}],"a":' + b"[" * 100_000,
    b'{"data":[{"index":0},{"index":1}],"usage":' + b'{"a":' * 3_000 + b"1" + b"}" * 3_000 + b"}",
]


@pytest.mark.parametrize("whole", BROKEN, ids=range(len(BROKEN)))
def test_what_was_not_asked_for_is_not_split(whole: Any) -> None:
    asks = [ask("embeddings", "a"), ask("embeddings", "b")]
    with pytest.raises(CannotSplit):
        split(asks, whole if isinstance(whole, bytes) else json.dumps(whole).encode())


def test_completions_are_looked_for_in_their_own_list() -> None:
    asks = [ask("completions", "a"), ask("completions", "b")]
    with pytest.raises(CannotSplit):
        split(asks, b'{"data":[{"index":0},{"index":1}]}')
    assert split(asks, b'{"choices":[{"index":0},{"index":1,"text":null}]}') == [
        b'{"choices":[{"index":0}]}',
        b'{"choices":[{"index":0,"text":null}]}',
    ]


@pytest.mark.parametrize("kind", list(PATHS))
@pytest.mark.parametrize("packed", [{}, {"encoding_format": "base64"}])
def test_the_scripted_models_answers_are_their_twins(kind: str, packed: dict[str, str]) -> None:
    inputs = [["one word"], "two words", ["one text", "ten texts"], "six  six"]

    def whole(body: bytes) -> dict[str, Any]:
        asked = read_ask(body)
        return Embedding(asked).whole() if kind == "embeddings" else spoken("/v1/completions", asked, 3, 5).whole()

    asks = [ask(kind, own, **packed) for own in inputs]
    parts = split(asks, json.dumps(whole(merged_body(asks))).encode())
    for one, part in zip(asks, parts, strict=True):
        alone, read = whole(one.body), json.loads(part)
        assert {**read, "usage": None} == {**alone, "usage": None}
        assert read["usage"].keys() == alone["usage"].keys()


def test_statuses_that_one_member_may_be_to_blame_for() -> None:
    assert [status for status in range(400, 600) if should_split(status)] == [400, 413, 422, 500]
