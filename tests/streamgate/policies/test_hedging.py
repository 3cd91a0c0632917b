"""A second copy only where it is cheap, and only so often."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.policies.hedging import Hedging, HedgingStatistics


def test_twenty_calls_pay_for_one() -> None:
    hedging = Hedging(1.5)
    assert (hedging.after_s, hedging.share) == (1.5, 0.05)
    assert not hedging.may_hedge(0.0, 0.0, 0)
    for number in range(1, 61):
        hedging.deposit(number / 10)
        assert hedging.may_hedge(number / 10, 0.0, 0) == (number % 20 == 0)
    assert hedging.statistics() == HedgingStatistics(calls=60, hedges=3, refused_busy=0, refused_share=58)


@pytest.mark.parametrize(("busy", "waiting", "allowed"), [(0.0, 0, True), (0.8, 0, True), (0.81, 0, False), (0.0, 1, False)])
def test_it_is_off_under_load(busy: float, waiting: int, allowed: bool) -> None:
    hedging = Hedging(1.0, share=1.0)
    hedging.deposit(0.0)
    assert hedging.may_hedge(0.0, busy, waiting) == allowed
    assert hedging.statistics().refused_busy == (not allowed)
    assert hedging.may_hedge(0.0, 0.0, 0) != allowed  # a refusal costs nothing


def test_what_lies_a_minute_back_counts_no_more() -> None:
    hedging = Hedging(1.0, share=0.5)
    for _ in range(4):
        hedging.deposit(0.0)
    assert hedging.may_hedge(59.9, 0.0, 0)
    assert not hedging.may_hedge(60.0, 0.0, 0)
    assert hedging.statistics() == HedgingStatistics(calls=0, hedges=1, refused_busy=0, refused_share=1)
    for _ in range(4):
        hedging.deposit(61.0)
    assert [hedging.may_hedge(61.0, 0.0, 0) for _ in range(2)] == [True, False]
    hedging.deposit(1e9)
    hedging.deposit(1.0)  # a reading that is late
    assert hedging.statistics() == HedgingStatistics(calls=2, hedges=0, refused_busy=0, refused_share=2)


def test_a_share_of_nothing_hedges_nothing() -> None:
    hedging = Hedging(1.0, share=0.0)
    for _ in range(1000):
        hedging.deposit(0.0)
    assert not hedging.may_hedge(0.0, 0.0, 0)


@pytest.mark.parametrize(("after_s", "share"), [(0.0, 0.05), (-1.0, 0.05), (float("nan"), 0.05), (1.0, -0.1), (1.0, 1.1)])
def test_what_makes_no_sense_is_refused(after_s: float, share: float) -> None:
    with pytest.raises(ValueError, match="make no hedging"):
        Hedging(after_s, share)


STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 4.0, 30.0]), st.integers(0, 30)), max_size=60)


@given(STEPS, st.sampled_from([0.05, 0.2, 0.5]))
def test_never_more_than_the_share_in_all_and_in_any_minute(steps: list[tuple[float, int]], share: float) -> None:
    hedging = Hedging(1.0, share)
    events: list[tuple[float, int, int]] = []
    for now, (_, calls) in zip(accumulate(step for step, _ in steps), steps, strict=True):
        for _ in range(calls):
            hedging.deposit(now)
        hedges = 0
        while hedging.may_hedge(now, 0.0, 0):
            hedges += 1
        events.append((now, calls, hedges))
        recent = [(called, hedged) for at, called, hedged in events if at > now - 55.0]
        minute = [(called, hedged) for at, called, hedged in events if at > now - 60.0]
        if hedges:  # calls leave the window before the hedges they paid for
            assert sum(hedged for _, hedged in recent) <= share * sum(called for called, _ in minute) + 1e-9
        assert sum(hedged for *_, hedged in events) <= share * sum(called for _, called, _ in events) + 1e-9
