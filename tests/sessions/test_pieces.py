"""Pieces of JSON by their places, judged by the standard library's reader."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.pieces import NotPieces, Span, asked, index_span, items, members, renumbered, replaced, selection

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=6)
STYLES = st.sampled_from(
    [
        {},
        {"separators": (",", ":")},
        {"indent": 2},
        {"indent": "\t"},
        {"ensure_ascii": False},
        {"separators": (" ,\r\n", "\t:  ")},
    ]
)


def written(value: Any, style: dict[str, Any]) -> bytes:
    return json.dumps(value, **style).encode("utf-8", "surrogatepass")


@given(OBJECTS, STYLES, st.sampled_from([b"", b" ", b"\r\n\t"]))
def test_every_member_is_where_it_is(value: dict[str, Any], style: dict[str, Any], around: bytes) -> None:
    text = around + written(value, style) + around
    for read in (members, asked):
        try:
            found = read(text)
        except NotPieces:
            assert read is asked  # two names that differ in case only
            assert len({name.casefold() for name in value}) < len(value)
            continue
        assert list(found) == list(value)
        assert {name: json.loads(text[slice(*span)]) for name, span in found.items()} == value
        assert all(
            text[span.start - 1 : span.start] in b' \t\n\r":' and not text[slice(*span)].isspace() for span in found.values()
        )


@given(st.lists(VALUES, max_size=6), STYLES)
def test_every_item_is_where_it_is(value: list[Any], style: dict[str, Any]) -> None:
    text = written(value, style)
    assert [json.loads(text[slice(*span)]) for span in items(text)] == value


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"1", b"{", b'{"a":1', b'{"a":1}x', b'{"a":1,}', b'{"a" 1}', b'{"a":x}', b'{"a":1}{"b":2}',
        b'{"a":1,"a":1}', b'{"a":1,"a":12}', b'{"a":12,"a":1}', b'{"a":"x","a":"xy"}', b'{"a":"xy","a":"x"}',
        b'{"a":{"a":1},"a":1}', b'{"a":1,"\\u0061":2}', b'{"b":0,"a":1,"a":1,"c":2}', b'{"\xff":1}',
    ],
)  # fmt: skip
def test_what_is_no_object_or_names_a_member_twice_is_refused(text: bytes) -> None:
    for read in (members, asked):
        with pytest.raises(NotPieces):
            read(text)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1", b"[1,]", b"[1]2", b"[" * 100_000])
def test_what_is_no_array_is_refused(text: bytes) -> None:
    with pytest.raises(NotPieces):
        items(text)


def test_depth_is_refused_not_suffered() -> None:
    for read in (members, asked):
        with pytest.raises(NotPieces):
            read(b'{"a":' * 100_000)


def test_a_request_is_refused_where_a_name_differs_in_case_only_or_bytes_are_no_characters() -> None:
    for body in (b'{"model":"a","Model":"b"}', b'{"model":"\xff"}'):
        assert members(body)
        with pytest.raises(NotPieces):
            asked(body)


def test_other_bytes_stand_in_the_places_and_everything_else_stays() -> None:
    assert replaced(b"abcdefg", {Span(4, 6): b"-", Span(1, 2): b"BBB"}) == b"aBBBcd-g"
    assert replaced(b"abc", {}) == b"abc"


@given(st.lists(VALUES, min_size=1, max_size=5), STYLES, st.data())
def test_a_selection_is_written_as_the_whole_was(value: list[Any], style: dict[str, Any], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(value) - 1), min_size=1, unique=True))
    text = written(value, style)
    spans = items(text)
    own = selection(text, spans, [text[slice(*spans[at])] for at in chosen])
    if len(value) > 1 or len(chosen) == 1:
        assert own == written([value[at] for at in chosen], style)


RENUMBERED = [
    (b'{"index":3}', b'{"index":0}'),
    (b'{ "a" : 1, "index" :\t12 , "b": [] }', b'{ "a" : 1, "index" :\t0 , "b": [] }'),
    (b'{"text":"\\"index\\": 5","index":3}', b'{"text":"\\"index\\": 5","index":0}'),
    (b'{"text":"index","index":3}', b'{"text":"index","index":0}'),
    (b'{"logprobs":{"index":9},"index":3}', b'{"logprobs":{"index":9},"index":0}'),
    (b'{"a\\"index":9,"inde\\u0078":3}', b'{"a\\"index":9,"inde\\u0078":0}'),
    (b'{"a\\"index":9,"index":3}', b'{"a\\"index":9,"index":0}'),
    (b'{"logprobs":{"index":9},"\\u0069ndex":3}', b'{"logprobs":{"index":9},"\\u0069ndex":0}'),
    (b'{"index":-1}', b'{"index":0}'),
    (b'{"text":"\\u00e9","index":3}', b'{"text":"\\u00e9","index":0}'),
]


@pytest.mark.parametrize(("entry", "expected"), RENUMBERED)
def test_the_index_of_the_entry_itself_is_another(entry: bytes, expected: bytes) -> None:
    assert renumbered(entry, 0) == expected


@pytest.mark.parametrize("entry", [b"{}", b'{"text":"index"}', b'{"text":"\\u0041"}', b"[]"])
def test_an_entry_without_an_index_is_refused(entry: bytes) -> None:
    with pytest.raises(NotPieces):
        renumbered(entry, 0)


@given(OBJECTS, st.integers(0, 99), STYLES)
def test_a_plain_look_finds_the_one_index_or_says_that_it_cannot(
    value: dict[str, Any], index: int, style: dict[str, Any]
) -> None:
    text = written({**value, "index": index}, style)
    span = index_span(text)
    if span is not None:
        assert text[slice(*span)] == b"%d" % index
        assert span == members(text)["index"]
