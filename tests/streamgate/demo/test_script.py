"""A script is read from three places, and a key nobody knows is never overlooked."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.demo.script import BadScriptError, Script, read_script, words


def test_the_body_wins_over_the_header_and_the_header_over_the_query() -> None:
    query = {"tokens": "1", "delay_ms": "1", "seed": "1", "unrelated": "x"}
    script = read_script(query, ["tokens=2, delay_ms=2.5", "cut_after=4"], {"tokens": 3})
    assert script == Script(tokens=3, delay_ms=2.5, seed=1, cut_after=4)


def test_nothing_asked_is_a_plain_answer() -> None:
    assert read_script({}, [], None) == read_script({"beta": "true"}, ["", " , "], {}) == Script()


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ("token=3", None, "unknown script key 'token'; known are tokens"),
        ("tokens", None, "'tokens' is not key=value"),
        ("tokens=many", None, r"Expected `int`.*tokens"),
        ("tokens=-1", None, r">= 0.*tokens"),
        ("status=200", None, r">= 400.*status"),
        ("chunk_bytes=0", None, r">= 1.*chunk_bytes"),
        ("", {"stall": 1}, "unknown script key 'stall'"),
        ("", ["tokens"], '"script" must be an object'),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_reason(header: str, body: Any, why: str) -> None:
    with pytest.raises(BadScriptError, match=why):
        read_script({}, [header], body)


def test_a_query_may_hold_anything_but_not_a_bad_value() -> None:
    with pytest.raises(BadScriptError, match="seed"):
        read_script({"seed": "x"}, [])


def test_the_harshest_ending_wins() -> None:
    everything = Script(cut_after=2, stall_after=2, error_after=2, end_after=2)
    assert everything.ending(2) == "cut"
    assert everything.ending(1) is None
    assert Script(stall_after=0, error_after=0).ending(0) == "stall"
    assert Script(error_after=0, end_after=0).ending(0) == "error"
    assert Script(end_after=0).ending(0) == "end"


@given(st.integers(), st.integers(0, 200), st.text(max_size=8))
def test_the_same_words_come_again_and_a_longer_answer_begins_with_the_shorter(seed: int, count: int, about: str) -> None:
    tokens = words(seed, count, about)
    assert len(tokens) == count
    assert tokens == words(seed, count + 50, about)[:count]
    text = "".join(tokens)
    assert text == text.lstrip()
    assert "  " not in text


def test_words_differ_by_seed_and_by_prompt() -> None:
    assert len({tuple(words(seed, 40, about)) for seed in range(5) for about in ("", "a", "b")}) == 15


def test_words_leave_ascii_within_a_short_text() -> None:
    assert not "".join(words(0, 60)).isascii()
