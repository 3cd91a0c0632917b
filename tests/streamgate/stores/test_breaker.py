"""Whether Redis is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamgate.stores.breaker import Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(3, 1.0)
    for _ in range(3):
        assert breaker.try_pass(now)
        breaker.failed(now)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3, 1.0)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
        assert breaker.state == "closed"
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.try_pass(0.0)
    breaker.failed(0.0)
    assert (breaker.state, breaker.try_pass(0.0)) == ("open", False)


def test_one_call_finds_out_when_its_time_is_over() -> None:
    breaker = opened()
    assert not breaker.try_pass(0.999)
    assert breaker.try_pass(1.0)
    assert breaker.state == "half_open"
    assert not breaker.try_pass(1.0)
    breaker.succeeded()
    assert (breaker.state, breaker.try_pass(1.0)) == ("closed", True)
    breaker.failed(1.0)
    assert breaker.state == "closed"  # counted anew


def test_one_failure_of_that_call_opens_it_again() -> None:
    breaker = opened()
    assert breaker.try_pass(1.5)
    breaker.failed(1.55)
    assert not breaker.try_pass(2.5)
    assert breaker.try_pass(2.55)


def test_a_call_that_never_tells_does_not_keep_it_half_open_for_ever() -> None:
    breaker = opened()
    assert breaker.try_pass(1.0)
    assert not breaker.try_pass(1.9)
    assert breaker.try_pass(2.0)


@given(st.lists(st.tuples(st.floats(0, 0.4), st.booleans()), max_size=60))
def test_a_dead_redis_is_asked_at_most_once_a_second(steps: list[tuple[float, bool]]) -> None:
    now, passed = 0.0, []
    breaker = opened(now)
    for pause, tells in steps:
        now += pause
        if breaker.try_pass(now):
            passed.append(now)
            if tells:
                breaker.failed(now)
    assert all(later - earlier >= 1.0 for earlier, later in zip([0.0, *passed], passed, strict=False))


@pytest.mark.parametrize(("failures", "open_s"), [(0, 1.0), (3, 0.0), (-1, 1.0)])
def test_numbers_that_make_none_are_refused(failures: int, open_s: float) -> None:
    with pytest.raises(ValueError, match="use positive numbers"):
        Breaker(failures, open_s)
