"""Prices: amounts as people write them, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamgate.config.spec_prices import AMOUNT_MAX, Price, PriceList, parse_amount


def prices(**listed: Any) -> PriceList:
    return TypeAdapter(PriceList).validate_python(listed)


def kinds(listed: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(PriceList).validate_python(listed)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in caught.value.errors()]


def test_little_has_to_be_said() -> None:
    assert prices(embedder={"input": 0.02})["embedder"] == Price(
        input=0.02, output=0.0, cached_input=None, cache_write=None, currency="USD"
    )


def test_amounts_are_numbers_or_text() -> None:
    one = prices(m={"input": "0.15", "output": 1, "cached_input": 0.075, "cache_write": "0", "currency": "EUR"})["m"]
    assert (one.input, one.output, one.cached_input, one.cache_write, one.currency) == (0.15, 1.0, 0.075, 0.0, "EUR")


def test_a_price_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        prices(m={"input": 1})["m"].input = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", ["gpt-4o-mini", "model-a/gpt-4o", "meta-llama/Llama-3.1-8B", "us.anthropic.claude:0"])
def test_names_are_those_of_models(name: str) -> None:
    assert list(prices(**{name: {"input": 1}})) == [name]


@pytest.mark.parametrize(
    "amount",
    [
        -0.1,
        "-1",
        True,
        None,
        "",
        "1e3",
        ".5",
        "1.",
        "1,5",
        "free",
        float("nan"),
        float("inf"),
        AMOUNT_MAX + 1,
        [],
        "9999999",
        " 1",
    ],
)
def test_what_is_no_amount(amount: Any) -> None:
    assert kinds({"m": {"input": amount}}) == [("m.input", "price")]
    assert kinds({"m": {"input": 1, "output": amount}}) == [("m.output", "price")]


@pytest.mark.parametrize(
    ("listed", "loc", "kind"),
    [
        ({"m": {}}, "m.input", "missing"),
        ({"m": {"input": 1, "per": "1K"}}, "m.per", "extra_forbidden"),
        ({"m": {"input": 1, "currency": "usd"}}, "m.currency", "currency"),
        ({"m": {"input": 1, "currency": "dollars"}}, "m.currency", "currency"),
        ({"m": {"input": 1, "currency": "USDT"}}, "m.currency", "currency"),
        ({"a\nb": {"input": 1}}, "a\nb.[key]", "model_name"),
        ({"m": 1}, "m", "model_type"),
    ],
)
def test_what_a_price_cannot_be(listed: dict[str, Any], loc: str, kind: str) -> None:
    assert kinds(listed) == [(loc, kind)]


@given(st.floats(0, AMOUNT_MAX))
def test_what_was_parsed_is_parsed_again(amount: float) -> None:
    assert parse_amount(parse_amount(amount)) == amount


def test_the_schema_says_what_may_be_written() -> None:
    schema = TypeAdapter(PriceList).json_schema()["$defs"]["Price"]["properties"]
    assert schema["input"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": AMOUNT_MAX}
    assert all(field["description"].endswith(("prompt.", "embeddings.", "omitted.", "converted.")) for field in schema.values())
