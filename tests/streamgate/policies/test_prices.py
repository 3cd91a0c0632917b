"""What tokens cost: each kind at its price, what is unknown at none."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.config.spec_prices import Price
from streamgate.policies.prices import Cost, Prices


class Used(NamedTuple):
    fresh_input_tokens: int | None = None
    billed_output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None


PRICES = Prices({
    "mini": Price(input=0.15, output=0.60, cached_input=0.075, cache_write=0.30),
    "plain": Price(input=2.0, output=4.0, currency="EUR"),
    "dear/plain": Price(input=20.0),
})  # fmt: skip


@pytest.mark.parametrize(
    ("model", "used", "cost"),
    [
        ("mini", Used(1_000_000, 1_000_000), 0.75),
        ("mini", Used(10, 20, 1_000, 100), (10 * 0.15 + 20 * 0.60 + 1_000 * 0.075 + 100 * 0.30) / 1_000_000),
        ("plain", Used(10, 20, 1_000, 100), (1_110 * 2.0 + 20 * 4.0) / 1_000_000),  # the cache costs what input costs
        ("mini", Used(1, None), 0.15e-6),
        ("mini", Used(None, 1), 0.6e-6),
        ("mini", Used(0, 0), 0.0),
        ("mini", Used(), None),
        ("mini", Used(cached_input_tokens=9), None),
        ("unknown", Used(1, 1), None),
    ],
)
def test_each_kind_of_token_has_its_price(model: str, used: Used, cost: float | None) -> None:
    assert PRICES.cost(model, used) == (None if cost is None else pytest.approx(cost, rel=1e-12))


def test_a_service_may_have_a_price_of_its_own() -> None:
    assert PRICES.charge("plain", Used(1_000_000, 9), "dear") == Cost(20.0, "USD")
    assert PRICES.charge("plain", Used(1_000_000, 0), "cheap") == Cost(2.0, "EUR")
    assert PRICES.charge("plain", Used(1_000_000, 0)) == Cost(2.0, "EUR")
    assert PRICES.charge("unknown", Used(1, 1), "dear") is None
    assert Prices({}).cost("mini", Used(1, 1)) is None


COUNTS = st.none() | st.integers(0, 10**9)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_a_cost_is_never_negative_and_more_tokens_never_cost_less(
    fresh: int | None, out: int | None, read: int | None, written: int | None
) -> None:
    cost = PRICES.cost("mini", Used(fresh, out, read, written))
    more = PRICES.cost("mini", Used((fresh or 0) + 1, out, read, written))
    assert (cost is None) is (fresh is None and out is None)
    assert more is not None
    assert 0.0 <= (cost or 0.0) < more
