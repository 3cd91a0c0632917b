"""What may go on to another candidate, and who pays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.policies.fallback import (
    TRIGGERS,
    Budget,
    Fallbacks,
    FallbackStatistics,
    Outcome,
    Trigger,
    Verdict,
    in_band,
    may_have_generated,
)
from streamgate.policies.retries import Budget as RetryBudget

FACTS: dict[str, Any] = {"attempt": 1, "candidates_left": True, "generated": False}

GOES_ON: list[tuple[Outcome, str]] = [
    ("connect", "connect"),
    ("reset", "reset"),
    ("first_byte", "first_byte"),
    ("truncated", "truncated"),
    ("in_band", "in_band"),
    (429, "rate_limited"),
    *((status, "5xx") for status in (500, 502, 503, 504, 520, 529)),
]
NEVER: list[Outcome] = [400, 404, 405, 408, 409, 410, 413, 415, 418, 422, 451, 501, 505, 508, 200, 301, 600, 499]


class Purse:
    """Pays so often, and counts."""

    def __init__(self, paid: int) -> None:
        self.paid = paid
        self.deposits = 0

    def deposit(self, now: float) -> None:
        self.deposits += 1

    def try_withdraw(self, now: float) -> bool:
        self.paid -= 1
        return self.paid >= 0


def decide(outcome: Outcome, rule: Fallbacks | None = None, **facts: Any) -> Verdict:
    return (rule or Fallbacks(Purse(99))).decide(outcome, 0.0, **{**FACTS, **facts})


def refused(reason: str) -> Verdict:
    return Verdict(go_on=False, reason=reason)


@pytest.mark.parametrize(("outcome", "reason"), GOES_ON)
def test_what_another_target_may_do_better(outcome: Outcome, reason: str) -> None:
    assert decide(outcome) == Verdict(go_on=True, reason=reason)


@pytest.mark.parametrize("outcome", NEVER)
def test_what_another_target_would_answer_alike(outcome: Outcome) -> None:
    assert decide(outcome, our_credentials=True) == refused("not_listed")


@pytest.mark.parametrize("outcome", ["cancelled", "own_limit"])
def test_a_client_that_left_and_our_own_limits_end_it(outcome: Outcome) -> None:
    assert decide(outcome) == refused(str(outcome))


@pytest.mark.parametrize("outcome", [401, 402, 403])
def test_a_key_that_is_dead_is_only_ours_to_replace(outcome: Outcome) -> None:
    assert decide(outcome) == refused("not_listed")
    assert decide(outcome, our_credentials=True) == Verdict(go_on=True, reason="credentials")


def test_the_classes_can_be_chosen() -> None:
    assert {reason for _, reason in GOES_ON} | {"credentials"} == TRIGGERS
    on: frozenset[Trigger] = frozenset({"connect", "5xx"})
    rule = Fallbacks(Purse(9), on=on)
    assert {reason for outcome, reason in GOES_ON if decide(outcome, rule).go_on} == on


def test_four_attempts_in_all_and_two_when_the_client_repeats_itself() -> None:
    assert [decide("connect", attempt=attempt).go_on for attempt in (1, 2, 3, 4)] == [True, True, True, False]
    assert decide("connect", attempt=4) == refused("attempts_spent")
    assert [decide("connect", attempt=attempt, client_retries=1).go_on for attempt in (1, 2)] == [True, False]
    one = Fallbacks(Purse(9), attempts_max=1)
    assert decide("connect", one) == decide("connect", one, client_retries=2) == refused("attempts_spent")
    with pytest.raises(ValueError, match="give 1 for no fallback"):
        Fallbacks(Purse(9), attempts_max=0)


def test_it_needs_somewhere_to_go_and_time() -> None:
    assert decide("connect", candidates_left=False) == refused("no_candidate")
    assert decide("connect", remaining_s=0.0) == refused("deadline")
    assert decide("connect", remaining_s=0.1).go_on


def test_a_duplicate_is_counted_and_paid_for_and_nothing_else_is() -> None:
    purse = Purse(2)
    rule = Fallbacks(purse)
    rule.deposit(0.0)
    assert decide("first_byte", rule, generated=True) == Verdict(go_on=True, reason="first_byte", duplicate=True)
    assert decide("connect", rule).go_on
    assert decide("reset", rule, generated=True).duplicate
    assert decide("first_byte", rule, generated=True) == refused("budget")
    assert decide(503, rule).go_on
    for facts in ({"candidates_left": False}, {"remaining_s": 0.0}, {"attempt": 4}):
        assert not decide("first_byte", rule, generated=True, **facts).go_on
    assert rule.statistics() == FallbackStatistics(went_on=4, duplicates=2, denied=1)
    assert (purse.deposits, purse.paid) == (1, -1)  # asked three times, and only when all else allowed it


def test_the_retries_budget_is_one() -> None:
    budget: Budget = RetryBudget()
    rule = Fallbacks(budget)
    for _ in range(100):
        rule.deposit(0.0)
    assert sum(decide("first_byte", rule, generated=True).go_on for _ in range(100)) == 20
    assert rule.statistics().denied == 80


@pytest.mark.parametrize(
    ("outcome", "sent", "took_s", "expected"),
    [
        ("connect", False, 9.0, False),
        ("reset", False, 9.0, False),
        ("reset", True, 0.0, True),
        ("first_byte", True, 0.0, True),
        ("truncated", True, 0.0, True),
        ("in_band", True, 0.0, True),
        (500, True, 1.0, False),
        (500, True, 1.1, True),
        (502, True, 1.1, True),
        (504, True, 60.0, True),
        (503, True, 60.0, False),
        (529, True, 60.0, False),
        (429, True, 60.0, False),
        (401, True, 60.0, False),
    ],
)
def test_what_may_have_been_generated_already(outcome: Outcome, sent: bool, took_s: float, expected: bool) -> None:
    assert may_have_generated(outcome, sent=sent, took_s=took_s) == expected


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ((None, "invalid_request_error"), 400),
        (("context_length_exceeded", "invalid_request_error"), 400),
        (("rate_limit_exceeded", "tokens"), 429),
        ((None, "overloaded_error"), 529),
        ((None, "authentication_error"), 401),
        (("invalid_api_key", "invalid_request_error"), 401),
        ((None, "billing_error"), 402),
        (("content_filter", None), 400),
        (("content_policy_violation", "image_generation_user_error"), 400),
        (("model_not_found", "invalid_request_error"), 404),
        ((None, "request_too_large"), 413),
        ((None, "rate_limit_error"), 429),
        (("insufficient_quota", "insufficient_quota"), 429),
        ((None, "timeout_error"), 504),
        ((None, "api_error"), "in_band"),
        ((None, "server_error"), "in_band"),
        ((), "in_band"),
        ((502, None), 502),
        ((400, "overloaded_error"), 400),
        ((599, None), 599),
        ((399, "overloaded_error"), 529),
        ((600, None), "in_band"),
        ((404, "whatever"), 404),
        ((12, "not_found_error"), 404),
        ((True, "permission_error"), 403),
        ((["x"], {"y": 1}), "in_band"),
    ],
)
def test_an_error_inside_a_stream_is_what_its_words_say(words: tuple[object, ...], outcome: Outcome) -> None:
    assert in_band(*words) == outcome


@given(
    outcome=st.sampled_from([outcome for outcome, _ in GOES_ON] + NEVER + ["cancelled", "own_limit", 401, 403]),
    attempt=st.integers(1, 6),
    candidates_left=st.booleans(),
    generated=st.booleans(),
    client_retries=st.integers(0, 3),
    our_credentials=st.booleans(),
    remaining_s=st.floats(-1, 10),
    paid=st.integers(0, 1),
)
def test_a_verdict_keeps_its_promises(outcome: Outcome, paid: int, **facts: Any) -> None:
    rule = Fallbacks(Purse(paid))
    verdict = decide(outcome, rule, **facts)
    counted = rule.statistics()
    if not verdict.go_on:
        assert verdict == refused(verdict.reason)
        assert (counted.went_on, counted.duplicates) == (0, 0)
        assert counted.denied == (verdict.reason == "budget")
        return
    assert verdict.reason in TRIGGERS
    assert facts["candidates_left"]
    assert facts["remaining_s"] > 0
    assert facts["attempt"] < (2 if facts["client_retries"] else 4)
    assert outcome not in NEVER
    assert facts["our_credentials"] or outcome not in {401, 403}
    assert verdict.duplicate == facts["generated"]
    assert paid or not verdict.duplicate
    assert counted == FallbackStatistics(went_on=1, duplicates=facts["generated"], denied=0)
