"""Models: names, splits that exist, sticky sources, shares, announcements."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from streamgate.config.spec_model import Model, Queue, parse_share, parse_sticky


def model(**keys: Any) -> Model:
    return Model.model_validate({"name": "tutor", "splits": {"stable": [{"service": "a"}]}, **keys})


def kinds(**keys: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        model(**keys)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in caught.value.errors()]


def test_little_has_to_be_said() -> None:
    one = model()
    assert (one.default_split, one.flag, one.sticky, one.fallback, one.batch, one.hedge) == ("stable", None, (), (), None, None)
    assert (one.queue.max_in_flight, one.queue.max_wait, one.queue.announce, one.queue.fair_by) == (None, 30.0, None, "tenant")
    assert one.splits["stable"][0].weight == 1


def test_the_first_split_is_the_default_unless_one_is_named() -> None:
    splits = {"stable": [{"service": "a"}], "canary": [{"service": "b"}]}
    assert model(splits=splits).default_split == "stable"
    assert model(splits=splits, default="canary").default_split == "canary"


@pytest.mark.parametrize(
    ("keys", "loc", "kind"),
    [
        ({"name": ""}, "name", "model_name"),
        ({"name": 'a"b'}, "name", "model_name"),
        ({"name": "x" * 201}, "name", "model_name"),
        ({"splits": {}}, "splits", "splits_empty"),
        ({"flag": "a b"}, "flag", "flag_key"),
        ({"splits": {"stable": []}}, "splits.stable", "list_empty"),
        ({"splits": {"stable": [{"service": "a", "weight": -1}]}}, "splits.stable.0.weight", "greater_than_equal"),
        ({"default": "gone"}, "", "split_unknown"),
        ({"fallback": ["gone"]}, "", "split_unknown"),
        ({"sticky": ["claims:sub"]}, "sticky.0", "sticky"),
        ({"sticky": ["header:"]}, "sticky.0", "sticky"),
        ({"sticky": ["body:a b"]}, "sticky.0", "sticky"),
        ({"queue": {"max_in_flight": 0}}, "queue.max_in_flight", "count_or_off"),
        ({"queue": {"fair_by": "header:x"}}, "queue.fair_by", "literal_error"),
        ({"batch": {"max_items": 0}}, "batch.max_items", "greater_than_equal"),
        ({"hedge": {"after": "300ms", "share": "50%"}}, "hedge.share", "share"),
        ({"hedge": {}}, "hedge.after", "missing"),
    ],
)
def test_what_a_model_cannot_be(keys: dict[str, object], loc: str, kind: str) -> None:
    assert kinds(**keys) == [(loc, kind)]


@pytest.mark.parametrize("source", ["header:X-Session-Id", "cookie:sid", "body:metadata.user_id", "claim:sub", "prompt"])
def test_where_a_sticky_key_may_come_from(source: str) -> None:
    kept = source.lower() if source.startswith("header") else source
    assert parse_sticky(source) == kept


def test_shares_are_written_in_percent() -> None:
    assert parse_share("5%") == 0.05
    assert parse_share(parse_share("2.5%")) == 0.025
    for wrong in ("5", "0%", "21%", 5, "-1%", 0.5):
        with pytest.raises(ValueError, match="must be a part"):
            parse_share(wrong)


@pytest.mark.parametrize(("given", "seconds"), [("off", None), (False, None), (True, 1.0), ("on", 1.0), ("2s", 2.0)])
def test_announcing_is_off_or_as_often_as_it_says(given: object, seconds: float | None) -> None:
    assert Queue.model_validate({"announce": given}).announce == seconds
