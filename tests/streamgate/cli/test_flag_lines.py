"""Flags as lines: what a look at a file shows, and what has changed since the one before."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamgate.cli.flag_lines import TITLES, Breakage, as_json_flag, plain, row, told
from streamgate.config.flag_document import FlagDocument
from streamgate.config.flag_file import Change

NOW = 1_700_000_000.0
TS = "2023-11-14T22:13:20Z"
CHANGE = Change("2023-11-14T22:00:00.000Z", "ann", "host", "f", "a", "b")


def document(f: dict[str, Any] | None = None, **others: dict[str, Any]) -> FlagDocument:
    sound = {"state": "ENABLED", "variants": {"a": "A", "b": 5}, "defaultVariant": "a"}
    rules = {"$evaluators": others.pop("evaluators", {})}
    flags = {key: {**sound, **more} for key, more in ({} if f is None else {"f": f} | others).items()}
    return FlagDocument(json.dumps({"flags": flags, **rules}).encode(), "flags.json")


def lines(before: FlagDocument | None, after: FlagDocument, *changes: Change) -> list[str]:
    return [str(line).removeprefix(f"{TS} ") for line in told(before, after, {one.key: one for one in changes}, NOW)]


def test_a_row_has_a_cell_for_every_title() -> None:
    flag = document({"targeting": {"if": [True, "a"]}}).flag("f")
    assert row(flag, CHANGE) == ["f", "ENABLED", "a", "A", "a, b", "yes", "2023-11-14T22:00:00Z by ann"]
    assert row(document({"defaultVariant": "b"}).flag("f"), None) == ["f", "ENABLED", "b", "5", "a, b", "no", ""]
    assert row(document({"defaultVariant": None}).flag("f"), None)[2:4] == ["none", ""]
    assert len(TITLES) == len(row(flag, None))


def test_a_flag_for_programs() -> None:
    assert as_json_flag(document({}).flag("f"), CHANGE) == {
        "key": "f", "line": 1, "state": "ENABLED", "default": "a", "variants": {"a": "A", "b": 5}, "rules": False,
        "last_change": {"ts": "2023-11-14T22:00:00.000Z", "who": "ann", "before": "a", "after": "b"},
    }  # fmt: skip
    assert as_json_flag(document({}).flag("f"), None)["last_change"] is None


def test_at_the_beginning_everything_is_told_as_it_stands() -> None:
    found = document({}, g={"state": "DISABLED"}, h={"targeting": {"var": "x"}}, i={"defaultVariant": None})
    assert lines(None, found) == ["f: a", "g: a (DISABLED)", "h: a, with rules", "i: none"]
    assert str(next(told(None, found, {}, NOW))) == f"{TS} f: a"


def test_what_changed_is_told_and_what_did_not_is_not() -> None:
    before = document({}, g={})
    assert lines(before, document({}, g={})) == []
    assert lines(before, document({"defaultVariant": "b"}, g={})) == ["f: a -> b"]
    assert lines(before, document({"defaultVariant": "b"}, g={}), CHANGE) == ["f: a -> b by ann"]
    assert lines(document({"defaultVariant": "b"}, g={}), before, CHANGE) == ["f: b -> a"], "that was somebody else"
    assert lines(before, document({"defaultVariant": None}, g={})) == ["f: a -> none"]
    assert lines(before, document({"state": "DISABLED"}, g={})) == ["f: state ENABLED -> DISABLED"]
    assert lines(before, document({"variants": {"a": "A2"}}, g={})) == ["f: value A -> A2"]
    assert lines(before, document({"targeting": {"var": "x"}}, g={})) == ["f: other rules"]
    assert lines(before, document({"targeting": {}}, g={})) == []
    assert lines(before, document({})) == ["g: gone"]
    assert lines(document({}), before) == ["g: new, a"]
    assert lines(before, document()) == ["f: gone", "g: gone"]


def test_rules_that_are_shared_change_the_flags_that_refer_to_them() -> None:
    refers = {"targeting": {"$ref": "x"}}
    before, after = (document(refers, g={}, h={"targeting": {"var": "x"}}, evaluators={"x": {"var": name}}) for name in "ab")
    assert lines(before, after) == ["f: other rules"]


def test_what_is_wrong_is_news_once_and_not_at_the_first_look() -> None:
    looks = [None, "half", None, "a", "a", "a", "b", "b", "b", None, "b", "b", None]
    breakage = Breakage()
    assert [breakage.news(look) for look in looks] == [
        None, None, None, None, "a", None, None, "b", None, None, None, "b", None,
    ]  # fmt: skip


@given(st.text())
def test_nothing_a_terminal_would_obey_is_printed(text: str) -> None:
    assert plain(text).isprintable()
    if text.isprintable():
        assert plain(text) == text
