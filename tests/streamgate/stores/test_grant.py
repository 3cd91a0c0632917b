"""What a worker believes it may use."""

from __future__ import annotations

import pytest

from streamgate.stores.grant import GIVE_SPARE, GIVE_UNUSED, NO_HURRY, Answer, Ask, Grant

TTL_S = 5.0


def grant(limit: int = 8, workers: int = 2, now: float = 0.0) -> Grant:
    return Grant(limit, workers, now, ttl_s=TTL_S, patience_s=1.0)


def joined(granted: int = 4, target: int = 4, press: int = NO_HURRY, held: int = 0, waiting: int = 0, live: int = 2) -> Grant:
    one = grant()
    one.demand(held, waiting)
    one.ask()
    one.answered(Answer(granted, target, press, live), 0.0)
    return one


# --- from nothing to something -------------------------------------------------------------------------------------------


def test_a_new_one_has_nothing_and_asks_for_what_is_wanted() -> None:
    one = grant()
    assert (one.capacity, one.is_due, one.is_alone) == (0, True, False)
    assert one.demand(0, 3)
    assert one.ask() == Ask(held=0, keep=0, want=3)
    assert not one.is_due
    one.answered(Answer(4, 5, NO_HURRY, 2), 0.0)
    assert (one.capacity, one.granted, one.live) == (4, 4, 2)


def test_without_an_answer_it_goes_on_alone_when_its_patience_is_over() -> None:
    one = grant()
    one.ask()
    one.failed()
    one.expire(0.99)
    assert (one.is_alone, one.capacity, one.left_s(0.99)) == (False, 0, pytest.approx(0.01))
    one.expire(1.0)
    assert (one.is_alone, one.capacity, one.granted, one.left_s(1.0)) == (True, 4, 0, float("inf"))
    assert not one.demand(4, 10)


@pytest.mark.parametrize(("limit", "workers", "live", "alone"), [(8, 2, 2, 4), (8, 3, 2, 2), (8, 2, 5, 1), (1, 4, 1, 1), (9, 1, 1, 9)])
def test_alone_it_has_an_equal_part_among_those_configured_or_seen(limit: int, workers: int, live: int, alone: int) -> None:
    one = grant(limit, workers)
    one.answered(Answer(1, 1, NO_HURRY, live), 0.0)
    one.expire(100.0)
    assert one.capacity == alone


# --- asking --------------------------------------------------------------------------------------------------------------


def test_redis_hears_when_the_last_room_is_taken_and_not_before() -> None:
    one = joined()
    assert [one.demand(held, 0) for held in (1, 2, 3, 4)] == [False, False, False, True]
    assert one.ask() == Ask(held=4, keep=4, want=4)
    assert not one.demand(4, 0)


def test_more_waiting_is_no_news_where_fairness_already_limits() -> None:
    one = joined(granted=4, target=4, press=GIVE_UNUSED, held=4, waiting=6)
    assert not one.demand(4, 100)
    assert not one.is_short
    assert one.is_wanting


def test_more_waiting_is_news_where_what_was_asked_for_has_been_given() -> None:
    one = joined(granted=4, target=6, held=4, waiting=0)
    assert one.is_short
    assert one.demand(4, 1)
    one.ask()
    assert not one.is_due


# --- giving back ---------------------------------------------------------------------------------------------------------


def test_spare_capacity_is_kept_while_nobody_needs_it_and_given_at_the_next_question() -> None:
    one = joined(granted=8, target=4)
    assert (one.capacity, one.is_due) == (4, False)
    assert one.ask() == Ask(held=0, keep=4, want=0)


def test_what_is_above_the_target_goes_back_at_once_when_somebody_has_no_room() -> None:
    one = joined(granted=8, target=4, press=GIVE_SPARE, held=1)
    assert one.is_due
    assert one.ask() == Ask(held=1, keep=4, want=1)


def test_what_is_not_used_goes_back_at_once_when_more_is_wanted_than_there_is() -> None:
    one = joined(granted=4, target=4, press=GIVE_UNUSED, held=4)
    assert not one.is_due
    assert one.demand(3, 0)
    assert one.ask() == Ask(held=3, keep=3, want=3)
    assert one.capacity == 3


def test_what_is_held_is_never_given_and_what_is_waited_for_is_not_taken_before_it_is_granted() -> None:
    one = joined(granted=8, target=4, press=GIVE_UNUSED, held=8, waiting=5)
    assert (one.capacity, one.is_due) == (4, False)
    assert one.demand(7, 5)
    assert one.ask() == Ask(held=7, keep=7, want=12)
    assert one.capacity == 4


def test_who_waited_is_taken_to_hold_what_was_offered_until_it_is_told() -> None:
    one = joined(granted=4, target=4, waiting=6)
    one.heard(1, GIVE_UNUSED)
    assert not one.is_due  # all four may be in use
    assert one.ask() == Ask(held=4, keep=4, want=6)
    one.demand(2, 0)
    assert one.is_due
    assert one.ask() == Ask(held=2, keep=2, want=2)


def test_nobody_is_taken_to_hold_what_nobody_waited_for() -> None:
    one = joined(granted=4, target=4)
    one.heard(1, GIVE_UNUSED)
    assert one.ask() == Ask(held=0, keep=0, want=0)


def test_own_demand_goes_before_an_old_target() -> None:
    one = joined(granted=8, target=4)
    assert one.demand(4, 2)
    assert one.ask() == Ask(held=6, keep=6, want=6)  # those who wait are let in now
    assert one.capacity == 6


def test_what_is_heard_counts_until_the_next_answer() -> None:
    one = joined(granted=4, target=4)
    one.heard(1, GIVE_UNUSED)
    assert one.is_due
    assert one.ask().keep == 0
    one.answered(Answer(2, 2, NO_HURRY, 2), 1.0)
    assert one.capacity == 2


def test_alone_nothing_is_heard() -> None:
    one = grant()
    one.expire(1.0)
    one.heard(8, GIVE_UNUSED)
    assert (one.capacity, one.is_due, one.is_short) == (4, False, False)


# --- when an answer does not come ----------------------------------------------------------------------------------------


def test_a_question_that_was_lost_counts_as_answered_with_the_least() -> None:
    one = joined(granted=8, target=2, held=1)
    one.ask()
    one.failed()
    assert (one.granted, one.capacity) == (2, 2)
    one.demand(2, 5)
    assert one.ask() == Ask(held=2, keep=2, want=7)


def test_the_grant_stays_until_nine_tenths_of_its_time_counted_from_the_question() -> None:
    one = joined(granted=6, target=6, held=5)
    one.ask()
    one.answered(Answer(6, 6, NO_HURRY, 2), 10.0)
    for _ in range(3):
        one.ask()
        one.failed()
    one.expire(14.49)
    assert (one.capacity, one.is_alone) == (6, False)
    one.expire(14.5)
    assert (one.capacity, one.is_alone) == (4, True)


def test_coming_back_it_claims_what_it_holds_and_no_more() -> None:
    one = grant()
    one.expire(1.0)
    one.demand(3, 2)
    assert one.ask() == Ask(held=3, keep=3, want=5)
    assert one.capacity == 4  # nothing was promised yet
    one.failed()
    assert one.capacity == 4
    one.demand(4, 1)
    one.answered(Answer(3, 5, NO_HURRY, 2), 2.0)
    assert (one.is_alone, one.capacity) == (False, 3)


# --- another limit -------------------------------------------------------------------------------------------------------


def test_a_lower_limit_holds_at_once_and_a_higher_one_when_it_is_granted() -> None:
    one = joined(granted=8, target=8, held=8)
    one.resize(3)
    assert one.capacity == 3
    assert one.ask() == Ask(held=8, keep=8, want=8)
    one.resize(20)
    assert one.capacity == 3
    one.answered(Answer(12, 12, NO_HURRY, 2), 0.0)
    assert one.capacity == 12


def test_an_answer_to_the_limit_of_before_is_cut() -> None:
    one = joined()
    one.ask()
    one.resize(2)
    one.answered(Answer(8, 8, NO_HURRY, 1), 0.0)
    assert one.capacity == 2


def test_alone_another_limit_is_another_part() -> None:
    one = grant()
    one.expire(1.0)
    one.resize(20)
    assert one.capacity == 10


@pytest.mark.parametrize("numbers", [{"limit": 0}, {"workers": 0}, {"ttl_s": 0.0}, {"patience_s": -1.0}])
def test_numbers_must_be_positive(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Grant(**{"limit": 1, "workers": 1, "now": 0.0, "ttl_s": 1.0, "patience_s": 1.0, **numbers})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give a number from 1 up"):
        grant().resize(0)
