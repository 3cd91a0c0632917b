"""Who may share a call."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.batch_asks import Ask, ask_of, merged_body
from tests.kit.corpora import corpus

EMBEDDINGS, COMPLETIONS = b"/v1/embeddings", b"/v1/completions"


def read(
    path: bytes, body: bytes | dict[str, Any], *, max_items: int = 8, max_bytes: int = 2_048, scope: str | None = None
) -> Ask | None:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask_of(path, written, max_items=max_items, max_bytes=max_bytes, scope=scope)


def ask(path: bytes, body: bytes | dict[str, Any], **bounds: Any) -> Ask:
    one = read(path, body, **bounds)
    assert one is not None
    return one


INPUTS = [
    ("hello", (b'"hello"',), 7),
    (["a", "bc"], (b'"a"', b'"bc"'), 7),
    ('a "quoted" \u00e9 text', (b'"a \\"quoted\\" \\u00e9 text"',), 26),
    ([1, 22, 333], (b"[1, 22, 333]",), 3),
    ([[1, 2], [3]], (b"[1, 2]", b"[3]"), 3),
]


@pytest.mark.parametrize(("value", "items", "weight"), INPUTS)
@pytest.mark.parametrize(("path", "field"), [(EMBEDDINGS, "input"), (COMPLETIONS, "prompt")])
def test_inputs_are_kept_as_written(path: bytes, field: str, value: Any, items: tuple[bytes, ...], weight: int) -> None:
    one = ask(path, {"model": "m", field: value})
    assert one.items == items
    assert one.weight == weight
    assert one.kind == path.decode().rpartition("/")[2]


@pytest.mark.parametrize(
    "value", ["", [], [""], ["a", ""], [[]], [[1], []], [1, "a"], ["a", 1], [[1], 2], [1.5], [True], None, 3, {}, [None], [{}]]
)
@pytest.mark.parametrize(("path", "field"), [(EMBEDDINGS, "input"), (COMPLETIONS, "prompt")])
def test_what_servers_refuse_or_read_otherwise_goes_alone(path: bytes, field: str, value: Any) -> None:
    assert read(path, {"model": "m", field: value}) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"input":"a"', b'{"model":"m"}', b'{"input":"a","input":"b"}', b'{"input":"a","Input":"b"}',
        b'{"model":"m","MODEL":"m","input":"a"}', b'{"input":"\xff"}', b'{"input":' + b"[" * 1_500 + b"]" * 1_500 + b"}",
    ],
)  # fmt: skip
def test_a_body_that_readers_may_read_differently_goes_alone(body: bytes) -> None:
    assert read(EMBEDDINGS, body, max_bytes=10_000) is None


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/responses", b"/v1/embeddings/", b"/v1/models"])
def test_other_paths_go_alone(path: bytes) -> None:
    assert read(path, {"model": "m", "input": "a", "prompt": "a"}) is None


def test_only_small_ones_share() -> None:
    body = json.dumps({"model": "m", "input": "a"}).encode()
    assert read(EMBEDDINGS, body, max_bytes=len(body))
    assert read(EMBEDDINGS, body, max_bytes=len(body) - 1) is None
    assert read(EMBEDDINGS, {"input": ["a"] * 7}, max_items=8)
    assert read(EMBEDDINGS, {"input": ["a"] * 8}, max_items=8) is None


ALONE = [{"n": 2}, {"best_of": 3}, {"echo": True}, {"suffix": "x"}, {"seed": 7}, {"seed": 0}, {"n": "1"}, {"n": 1.0}]
TOGETHER = [
    {"n": 1},
    {"n": None},
    {"best_of": 1},
    {"echo": False},
    {"suffix": None},
    {"suffix": ""},
    {"seed": None},
    {"stream": True},
]


@pytest.mark.parametrize("extra", ALONE)
def test_completions_that_are_numbered_or_drawn_otherwise_go_alone(extra: dict[str, Any]) -> None:
    assert read(COMPLETIONS, {"prompt": "a", **extra}) is None
    assert read(EMBEDDINGS, {"input": "a", **extra})  # means nothing there


@pytest.mark.parametrize("extra", TOGETHER)
def test_other_completions_share(extra: dict[str, Any]) -> None:
    assert read(COMPLETIONS, {"prompt": "a", **extra})


def key(body: dict[str, Any], path: bytes = EMBEDDINGS, scope: str | None = None) -> Any:
    return ask(path, body, scope=scope).key


def test_whatever_differs_but_the_input_parts_them() -> None:
    base = {"model": "m", "input": "a", "user": "u"}
    assert key(base) == key({"user": "u", "input": ["b", "c"], "model": "m"})
    others = [
        key({**base, "model": "n"}),
        key({**base, "user": "v"}),
        key({**base, "dimensions": 8}),
        key({**base, "dimensions": 8.0}),
        key({**base, "input": [1, 2]}),
        key({**base, "stream_options": {"a": 1}}),
        key({"model": "m", "input": "a"}),
        key(base, scope="tenant"),
        key({**base, "prompt": "a"}, path=COMPLETIONS),
        key({"prompt": "a", "model": "m", "user": "u"}, path=COMPLETIONS),
    ]
    assert len({key(base), *others}) == 11


PARAMETERS = st.dictionaries(
    st.sampled_from(["model", "user", "dimensions", "x"]), st.integers(0, 2) | st.text(max_size=3), max_size=4
)
TEXTS = st.text(min_size=1, max_size=6)


@given(PARAMETERS, st.lists(st.lists(TEXTS, min_size=1, max_size=3) | TEXTS, min_size=1, max_size=6), st.integers(0, 4))
def test_merged_everybodys_inputs_stand_in_order_and_all_else_once(
    parameters: dict[str, Any], inputs: list[Any], at: int
) -> None:
    asks = []
    for value in inputs:
        body = list(parameters.items())
        body.insert(min(at, len(body)), ("input", value))
        asks.append(ask(EMBEDDINGS, dict(body), max_bytes=10_000))
    assert len({one.key for one in asks}) == 1
    merged = json.loads(merged_body(asks))
    flat = [text for value in inputs for text in ([value] if isinstance(value, str) else value)]
    expected = inputs[0] if len(inputs) == 1 else flat
    assert merged == {**parameters, "input": expected}
    assert list(merged) == list(json.loads(asks[0].body))


def test_merged_every_byte_stays() -> None:
    one = ask(COMPLETIONS, b'{ "temperature" : 0.50,\n"prompt": "\\u00e9" , "model":"m"}')
    two = ask(COMPLETIONS, b'{"model":"m","temperature":0.50,"prompt":["b" , "\xc3\xa9"]}')
    assert one.key == two.key
    assert merged_body([one, two]) == b'{ "temperature" : 0.50,\n"prompt": ["\\u00e9","b","\xc3\xa9"] , "model":"m"}'
    assert merged_body([two]) == two.body


def test_recorded_requests_of_real_clients_share_with_themselves() -> None:
    seen = 0
    for line in (corpus("benign-llm-requests") / "requests.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (path := row["path"].encode()) not in {EMBEDDINGS, COMPLETIONS}:
            continue
        one = ask(path, row["body"].encode(), max_bytes=10_000)
        merged = json.loads(merged_body([one, one]))
        body = json.loads(row["body"])
        field = "input" if path == EMBEDDINGS else "prompt"
        value = body[field] if isinstance(body[field], list) else [body[field]]
        assert merged == {**body, field: value * 2}
        seen += 1
    assert seen > 10
