"""What may be tried again, when, and within what budget."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.policies.retries import (
    IDEMPOTENT,
    Budget,
    BudgetStatistics,
    Outcome,
    Retries,
    Verdict,
    backoff_s,
    retry_after_s,
)

# --- the budget -------------------------------------------------------------------------------------------------------


def test_three_are_always_allowed_then_a_fifth_of_the_requests() -> None:
    budget = Budget()
    assert [budget.try_withdraw(0.0) for _ in range(4)] == [True, True, True, False]
    for _ in range(15):
        budget.deposit(1.0)
    assert not budget.try_withdraw(1.0)  # 15 requests allow 3
    for _ in range(5):
        budget.deposit(2.0)
    assert [budget.try_withdraw(2.0) for _ in range(2)] == [True, False]
    assert budget.statistics() == BudgetStatistics(requests=20, retries=4, denied=3)


def test_what_lies_ten_seconds_back_counts_no_more() -> None:
    budget = Budget()
    for _ in range(100):
        budget.deposit(0.5)
    assert sum(budget.try_withdraw(5.5) for _ in range(50)) == 20
    assert not budget.try_withdraw(9.9)
    # The requests have left the window, the retries made for them have not.
    assert not budget.try_withdraw(10.0)
    assert budget.statistics() == BudgetStatistics(requests=0, retries=20, denied=32)
    assert [budget.try_withdraw(15.0) for _ in range(4)] == [True, True, True, False]


def test_a_long_silence_forgets_everything() -> None:
    budget = Budget()
    budget.deposit(3.0)
    for _ in range(3):
        assert budget.try_withdraw(3.0)
    assert budget.try_withdraw(1e9)
    assert budget.statistics() == BudgetStatistics(requests=0, retries=1, denied=0)


def test_a_reading_that_is_late_counts_where_the_budget_is() -> None:
    budget = Budget()
    budget.deposit(50.0)
    budget.deposit(49.0)
    assert budget.statistics().requests == 2
    assert budget.try_withdraw(48.0)
    assert budget.statistics().retries == 1


def test_ratio_floor_and_window_can_be_chosen() -> None:
    budget = Budget(ratio=0.5, floor=0, window_s=1.0)
    assert not budget.try_withdraw(0.0)
    for _ in range(4):
        budget.deposit(0.0)
    assert [budget.try_withdraw(0.5) for _ in range(3)] == [True, True, False]
    for _ in range(2):
        budget.deposit(1.0)
    assert not budget.try_withdraw(1.0)
    assert budget.try_withdraw(1.55)


@pytest.mark.parametrize("odd", [{"ratio": -0.1}, {"floor": -1}, {"window_s": 0.0}])
def test_a_budget_of_nothing_sensible_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Budget(**odd)


EVENTS = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 30.0]), st.booleans()), max_size=120)


@given(EVENTS, st.sampled_from([0.0, 0.2, 0.5]), st.integers(0, 3))
def test_the_budget_is_never_overdrawn(events: list[tuple[float, bool]], ratio: float, floor: int) -> None:
    """In any nine tenths of a window no more retries than the whole window's requests pay for."""
    budget = Budget(ratio, floor)
    moments = list(accumulate(step for step, _ in events))
    requests: list[float] = []
    granted: list[float] = []
    for now, (_, retry) in zip(moments, events, strict=True):
        if not retry:
            requests.append(now)
            budget.deposit(now)
        elif budget.try_withdraw(now):
            granted.append(now)
            recent = sum(now - moment < 9.0 for moment in granted)
            paid = sum(now - moment < 10.0 for moment in requests)
            assert recent <= max(floor, paid * ratio)


@given(EVENTS)
def test_the_budget_agrees_with_counting_slots(events: list[tuple[float, bool]]) -> None:
    budget = Budget()
    now = 0.0
    requests: list[int] = []
    granted: list[int] = []
    for step, retry in events:
        now += step
        seen = [slot for slot in requests if slot > int(now) - 10]
        spent = [slot for slot in granted if slot > int(now) - 10]
        if retry:
            allowed = len(spent) < max(3, len(seen) // 5)
            assert budget.try_withdraw(now) is allowed
            granted += [int(now)] * allowed
        else:
            budget.deposit(now)
            requests.append(int(now))


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_the_pause_doubles_up_to_a_quarter_second() -> None:
    longest = [backoff_s(attempt, lambda: 1.0) for attempt in range(1, 7)]
    assert longest == [0.025, 0.05, 0.1, 0.2, 0.25, 0.25]
    assert backoff_s(10_000, lambda: 1.0) == 0.25
    assert backoff_s(3, lambda: 0.5) == 0.05
    assert backoff_s(3, lambda: 0.0) == 0.0


NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"Retry-After", b"3")], 3.0),
        ([(b"retry-after", b" 1.5\t")], 1.5),
        ([(b"RETRY-AFTER", b"0")], 0.0),
        ([(b"Retry-After", b"Wed, 04 Mar 2026 05:06:17 GMT")], 10.0),
        ([(b"Retry-After", b"Wednesday, 04-Mar-26 05:06:17 GMT")], 10.0),
        ([(b"Retry-After", b"Wed Mar  4 05:06:17 2026")], 10.0),
        ([(b"Retry-After", b"Wed, 04 Mar 2026 05:06:17 -0000")], 10.0),
        ([(b"Retry-After", b"Wed, 04 Mar 2026 05:06:00 GMT")], 0.0),  # past
        ([(b"Retry-After", b"3"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"Retry-After-Ms", b"1500.5")], 1.5005),
        ([(b"retry-after-ms", b"soon"), (b"Retry-After", b"2")], 2.0),
        ([(b"Retry-After", b"2"), (b"Retry-After", b"9")], 2.0),
        ([(b"Retry-After", b"soon"), (b"Retry-After", b"9")], 9.0),
        ([(b"Retry-After", b"-1")], None),
        ([(b"Retry-After", b"+1")], None),
        ([(b"Retry-After", b"nan")], None),
        ([(b"Retry-After", b"inf")], None),
        ([(b"Retry-After", b"1e3")], None),
        ([(b"Retry-After", b"1_0")], None),
        ([(b"Retry-After", b"")], None),
        ([(b"Retry-After", b"\xff")], None),
        ([(b"Retry-After", b"Wed, 99 Mar 2026 05:06:17 GMT")], None),
        ([(b"X-Retry-After", b"3")], None),
    ],
)
def test_retry_after_in_every_shape(headers: list[tuple[bytes, bytes]], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


def test_a_date_without_a_zone_is_utc_wherever_we_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "XXX-9")
        time.tzset()
        seconds = retry_after_s([(b"Retry-After", b"Wed Mar  4 05:06:17 2026")], NOW)
    time.tzset()
    assert seconds == 10.0


@given(st.binary(max_size=40) | st.from_regex(r"[A-Z][a-z]{2},? [0-9 :A-Za-z+-]{0,30}", fullmatch=True).map(str.encode))
def test_any_value_is_a_wait_or_nothing(value: bytes) -> None:
    seconds = retry_after_s([(b"Retry-After", value)], NOW)
    assert seconds is None or 0.0 <= seconds < float("inf")


@given(st.datetimes(datetime(1990, 1, 1), datetime(2068, 1, 1), timezones=st.just(UTC)))
def test_a_date_is_as_far_off_as_it_is(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    date = format_datetime(moment, usegmt=True).encode()
    assert retry_after_s([(b"Retry-After", date)], NOW) == max(0.0, moment.timestamp() - NOW)


# --- the verdict ------------------------------------------------------------------------------------------------------

RULE = Retries(attempts=2, on=frozenset({"connect", "reset", 429, 503}))


def decide(rule: Retries = RULE, **facts: Any) -> Verdict:
    ordinary: dict[str, Any] = {
        "method": b"GET",
        "attempt": 1,
        "outcome": 503,
        "body_replayable": True,
        "other_endpoint": True,
        "random": lambda: 0.5,
    }
    return rule.decide(**ordinary | facts)


def refused(reason: str) -> Verdict:
    return Verdict(retry=False, wait_s=0.0, reason=reason)


def test_by_default_lost_connections_are_retried_twice_and_no_status_is() -> None:
    rule = Retries()
    assert decide(rule, outcome="reset").retry
    assert decide(rule, outcome="connect").retry
    assert decide(rule, outcome="reset", attempt=2).retry
    assert decide(rule, outcome="reset", attempt=3) == refused("attempts_spent")
    assert decide(rule, outcome=503) == refused("not_listed")


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PATCH"])
@pytest.mark.parametrize("replayable", [True, False])
def test_where_nothing_was_sent_any_method_goes_elsewhere_at_once(method: bytes, replayable: bool) -> None:
    verdict = decide(method=method, outcome="connect", body_replayable=replayable)
    assert verdict == Verdict(retry=True, wait_s=0.0, reason="connect", elsewhere=True)
    alone = decide(method=method, outcome="connect", body_replayable=replayable, other_endpoint=False)
    assert alone == refused("no_other_endpoint")


@pytest.mark.parametrize("outcome", ["reset", 503])
def test_what_may_have_had_its_effect_is_repeated_only_if_that_is_harmless(outcome: Outcome) -> None:
    reason = "reset" if outcome == "reset" else "status"
    for method in IDEMPOTENT:
        assert decide(method=method, outcome=outcome) == Verdict(retry=True, wait_s=0.0125, reason=reason)
    for method in (b"POST", b"PATCH", b"CONNECT", b"get"):
        assert decide(method=method, outcome=outcome) == refused("not_idempotent")
    assert decide(method=b"POST", outcome=outcome, idempotent=True).retry
    assert decide(outcome=outcome, body_replayable=False) == refused("body_not_replayable")
    assert decide(outcome=outcome, other_endpoint=False).retry  # the same endpoint will do


def test_the_idempotent_methods_are_those_of_the_rfc() -> None:
    assert {b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"} == IDEMPOTENT


def test_only_listed_outcomes_and_so_many_attempts() -> None:
    assert decide(outcome=500) == refused("not_listed")
    assert decide(Retries(on=frozenset({503})), outcome="connect") == refused("not_listed")
    assert decide(attempt=2).wait_s == 0.025
    assert decide(attempt=3) == refused("attempts_spent")
    assert decide(Retries(attempts=0, on=RULE.on)) == refused("attempts_spent")


def test_the_deadline_includes_the_wait() -> None:
    assert decide(remaining_s=0.0125) == refused("deadline")
    assert decide(remaining_s=0.013).retry
    assert decide(remaining_s=0.0, outcome="connect") == refused("deadline")
    assert decide(remaining_s=-1.0, random=lambda: 0.0) == refused("deadline")


def test_a_short_retry_after_is_waited_for_with_jitter_behind_it() -> None:
    assert decide(retry_after_s=2.0) == Verdict(retry=True, wait_s=2.0125, reason="status")
    assert decide(retry_after_s=0.0) == Verdict(retry=True, wait_s=0.0125, reason="status")


@pytest.mark.parametrize(("asked", "remaining"), [(2.1, 60.0), (1.0, 1.0), (1.0, 1.0125), (1.99, 2.0), (3600.0, 1e9)])
def test_a_long_retry_after_is_not_waited_for(asked: float, remaining: float) -> None:
    elsewhere = Verdict(retry=True, wait_s=0.0125, reason="status", elsewhere=True)
    assert decide(retry_after_s=asked, remaining_s=remaining) == elsewhere
    assert decide(retry_after_s=asked, remaining_s=remaining, other_endpoint=False) == refused("retry_after")


@given(
    method=st.sampled_from([b"GET", b"POST", b"PUT"]),
    attempt=st.integers(1, 4),
    outcome=st.sampled_from(["connect", "reset", 429, 500, 503]),
    body_replayable=st.booleans(),
    other_endpoint=st.booleans(),
    idempotent=st.booleans(),
    retry_after_s=st.none() | st.floats(0, 10),
    remaining_s=st.floats(-1, 10) | st.just(float("inf")),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_verdict_keeps_its_promises(draw: float, **facts: Any) -> None:
    verdict = decide(random=lambda: draw, **facts)
    if not verdict.retry:
        assert verdict == refused(verdict.reason)
        return
    assert facts["attempt"] <= 2
    assert facts["outcome"] in RULE.on
    assert 0.0 <= verdict.wait_s <= 2.25
    assert verdict.wait_s < facts["remaining_s"]
    assert facts["other_endpoint"] or not verdict.elsewhere
    if facts["outcome"] == "connect":
        assert verdict.wait_s == 0.0
        assert verdict.elsewhere
    else:
        assert facts["body_replayable"]
        assert facts["idempotent"] or facts["method"] != b"POST"
        assert verdict.elsewhere or verdict.wait_s >= (facts["retry_after_s"] or 0.0)
