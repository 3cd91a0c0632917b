"""Where members stand: what is replaced there is what a parser reads, and nothing else moves."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamgate import json_span
from streamgate.json_span import MEMBERS_MAX, find, members
from tests.kit.corpora import corpus

TEXTS = st.text(alphabet=st.sampled_from('ab"\\/{}[],: \n\té€😀\x7f\u2028')) | st.sampled_from(["model", "stream_options"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=6)
INDENTS = st.sampled_from([None, 0, 2, "\t"])


def read(body: bytes) -> list[tuple[str, bytes]]:
    return [(key, body[begin:end]) for key, begin, end in members(body)]


@given(OBJECTS, INDENTS, st.booleans())
@example({"model": "m", "messages": [{"model": "other", "content": '","model":"x"'}], "n": -1.5e-7}, None, True)
def test_members_are_those_of_a_parser(value: dict[str, Any], indent: Any, ascii_only: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert [(key, json.loads(written)) for key, written in read(body)] == list(value.items())


@given(OBJECTS, INDENTS, st.booleans(), st.data())
def test_a_value_put_in_that_place_is_the_only_change(value: dict[str, Any], indent: Any, ascii_only: bool, data: Any) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    for key in value:
        if sum(other.casefold() == key.casefold() for other in value) > 1:
            continue
        place = find(body, key)
        assert place is not None
        changed = body[: place[0]] + b'["new"]' + body[place[1] :]
        assert json.loads(changed) == value | {key: ["new"]}
        assert list(json.loads(changed)) == list(value)


@given(st.binary(max_size=40) | st.lists(st.sampled_from([*'{}[]",:\\ \n01-.e', '"a"', "true", "null", "\x00"])).map(
    lambda parts: ("{" + "".join(parts) + "}").encode()))  # fmt: skip
@example(b'{"a":01}')
@example(b'{"a":1,}')
@example(b'{"a" 1}')
@example(b'{"a":[1}')
@example(b'{"a":{"b":]}}')
@example(b'{"a":"\n"}')
@example(b'{"a":1}}')
@example(b"{'a':1}")
@example(b'{"a":[1 /*"*/ ],"b":2 /*"*/}')
@example(b'\xef\xbb\xbf{"a":1}')
@example('{"a":1}'.encode("utf-16-le"))
@example('{"a":1}'.encode("utf-16-be"))
def test_what_a_parser_refuses_is_refused(body: bytes) -> None:
    try:
        value = json.loads(body.decode())  # decoded here, since json.loads would guess UTF-16
    except UnicodeDecodeError:
        return  # values in another encoding are passed on unjudged
    except ValueError:
        value = None
    if isinstance(value, dict):
        assert {key: json.loads(written) for key, written in read(body)} == value
        return
    with pytest.raises(ValueError, match=r"^the body is no JSON object: .+ expected at byte \d+$"):
        read(body)


@pytest.mark.parametrize(
    ("body", "at", "expected"),
    [
        (b"", 0, "{"),
        (b"[1]", 0, "{"),
        (b"  null", 2, "{"),
        (b"{", 1, '"'),
        (b'{"a":1,}', 7, '"'),
        (b'{"a" 1}', 5, ":"),
        (b'{"a":}', 5, "a JSON value"),
        (b'{"a":[1,]}', 8, "a JSON value"),
        (b'{"a":"secret', 5, "a JSON value"),
        (b'{"a":{"b":1 "c"}}', 12, "a JSON value"),
        (b'{"a":1 "b":2}', 7, "a comma or a closing brace"),
        (b'{"a":1', 6, "a comma or a closing brace"),
        (b'{"a":1} x', 8, "the end"),
        (b'{"\xff":1}', 1, "a key in UTF-8"),
        (b'{"a":[' + b"1" * 5_000 + b"]}", 5, "a JSON value"),
    ],
)
def test_the_message_names_the_place_and_nothing_that_stands_there(body: bytes, at: int, expected: str) -> None:
    with pytest.raises(ValueError) as told:
        read(body)
    assert str(told.value) == f"the body is no JSON object: {expected} expected at byte {at}"
    assert told.value.__suppress_context__ or told.value.__context__ is None
    assert not hasattr(told.value, "doc")


def test_escaped_keys_are_the_keys_they_mean() -> None:
    assert read(rb'{"mod\u0065l":"x"}') == [("model", b'"x"')]
    assert read('{"größe":1,"\\ud83d\\ude00":2}'.encode()) == [("größe", b"1"), ("😀", b"2")]
    assert find(rb'{"a":1,"mod\u0065l":"x"}', "model") == (20, 23)


def test_only_top_level_members_are_found() -> None:
    body = rb'{"a":{"model":"x"},"b":[{"model":"y"}],"c":"{\"model\":\"z\"}", "user" : "u" }'
    assert find(body, "model") is None
    assert find(body, "user") == (body.index(b'"u"'), body.index(b'"u"') + 3)
    assert [key for key, _ in read(body)] == ["a", "b", "c", "user"]
    assert read(b" {} ") == []


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"a","model":"b"}',
        rb'{"model":"a","x":{},"mod\u0065l":"b"}',
        rb'{"model":"a","Model":"b"}',
        rb'{"MODEL":"a","model":"b"}',
        '{"model":"a","ſtream":0,"stream":1}'.encode(),
    ],
)
def test_what_servers_would_read_differently_is_refused(body: bytes) -> None:
    key = "stream" if b"stream" in body else "model"
    with pytest.raises(ValueError, match=f"^the key '{key}' stands in the body 2 times; send it once$"):
        find(body, key)
    find(body, "other")


def test_a_key_of_another_case_is_another_key() -> None:
    assert find(b'{"Model":"a"}', "model") is None


def test_hostile_bodies_end_early() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        read(b'{"a":' + b"[" * 1_000_000)
    many = b"{" + b'"a":1,' * (MEMBERS_MAX - 1) + b'"a":[]}'
    assert len(read(many)) == MEMBERS_MAX
    with pytest.raises(ValueError, match="more than 1000 members"):
        read(many[:-1] + b',"a":1}')


def test_requests_of_real_clients_have_the_members_a_parser_sees() -> None:
    bodies = set()
    for name in ("recorded-a.jsonl", "recorded-b.jsonl"):
        for line in (corpus("llm-streams") / name).read_text().splitlines():
            body = json.loads(line)["request_body"]
            if isinstance(body, str) and body.startswith("{"):
                bodies.add(body.encode())
            elif isinstance(body, dict):
                bodies.add(json.dumps(body, ensure_ascii=False).encode())
    assert len(bodies) > 100
    for body in bodies:
        assert {key: json.loads(written) for key, written in read(body)} == json.loads(body)


def test_it_stands_on_the_standard_library_alone() -> None:
    with open(json_span.__file__) as source:
        imported = set(re.findall(r"^(?:import|from) (\w+)", source.read(), re.MULTILINE))
    assert imported == {"__future__", "json", "re", "collections", "typing"}
