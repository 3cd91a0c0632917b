"""What is sent to be explained: read strictly, and what is wrong said in words that help."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.admin.asking import asked_of


def of(**sent: Any) -> Any:
    return asked_of(json.dumps({"method": "POST", "url": "/x", **sent}).encode(), "gate:80")


def test_a_whole_one() -> None:
    asked = of(url="http://h.example/x?y", headers={"A": "1", "B": "2"}, body={"a": 1}, client="2001:db8::1")
    assert (asked.method, asked.target, asked.client, asked.body) == ("POST", "/x?y", "2001:db8::1", b'{"a": 1}')
    assert asked.headers == (("Host", "h.example"), ("A", "1"), ("B", "2"), ("Content-Length", "8"))


def test_the_least() -> None:
    asked = of()
    assert (asked.headers, asked.client, asked.body) == ((("Host", "gate:80"),), "127.0.0.1", None)


def test_fields_as_pairs_may_come_twice() -> None:
    assert of(headers=[["A", "1"], ["a", "2"]]).headers == (("Host", "gate:80"), ("A", "1"), ("a", "2"))


@pytest.mark.parametrize(
    ("written", "body"),
    [
        (b'{ "model" :"m","model":1.50, "n":1e400 }', b'{ "model" :"m","model":1.50, "n":1e400 }'),
        (b'"{\\"model\\": \\"\\u00e9\\"}"', '{"model": "é"}'.encode()),
        (b'""', b""),
        (b"null", None),
        (b"[1]", b"[1]"),
        (b"7", b"7"),
    ],
)
def test_a_body_is_what_is_written(written: bytes, body: bytes | None) -> None:
    assert asked_of(b'{"method":"POST","url":"/x","body":' + written + b"}", "gate").body == body


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no request to be explained"),
        (b"\xff\xfe", "no request to be explained"),
        (b"[]", "Expected `object`"),
        (b"null", "Expected `object`"),
        (b'{"method":"GET"}', "required field `url`"),
        (b'{"method":"GET","url":"/","user":"s3cret"}', "unknown field `user`"),
        (b'{"method":1,"url":"/"}', r"Expected `str`, got `int` - at `\$.method`"),
        (b'{"method":"GET","url":"/","headers":[["a"]]}', "length 2"),
        (b'{"method":"GET","url":"/","headers":{"a":1}}', "Expected `str`"),
        (b'{"method":"GET","url":"/","body":' + DEEP + b"}", "recursion"),
        (b'{"method":"GET","url":"/","body":"\xff"}', "no request to be explained"),
        (b'{"method":"GET","url":"x"}', "write a path"),
        (b'{"method":"GET","url":"/","headers":{"a b":"c"}}', "without blanks"),
        (b'{"method":"GET","url":"/","headers":{"a":"c\\r\\nd: e"}}', "of one line"),
        (b'{"method":"GET","url":"/","client":"10.0.0.0/8"}', "is no address"),
        (b'{"method":"GET","url":"/","headers":{"content-length":"9"},"body":"x"}', "leave the header out"),
    ],
)
def test_what_is_wrong_says_what_to_send(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as told:
        asked_of(data, "gate")
    assert len(str(told.value)) < 600
    assert "s3cret" not in str(told.value)
    assert 'send {"method"' in str(told.value) or "cannot be explained" in str(told.value)


def test_a_name_of_any_length_is_cut() -> None:
    with pytest.raises(ValueError, match="unknown field") as told:
        of(**{"x" * 100_000: 1})
    assert len(str(told.value)) < 600


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=60), st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), lambda inner: st.dictionaries(
    st.sampled_from(["method", "url", "headers", "body", "client", "x"]), inner), max_leaves=6).map(lambda value: json.dumps(value).encode())))
def test_whatever_is_sent_is_read_or_refused(data: bytes) -> None:
    try:
        asked_of(data, "gate")
    except ValueError as error:
        assert str(error)
