"""The manual clock is a Clock, and moves by command alone."""

import pytest

from streamgate.clock import Clock
from tests.kit.clock import ManualClock


def test_time_moves_by_what_it_is_told() -> None:
    clock: Clock = ManualClock(now=10, wall=100)
    assert (clock.now(), clock.wall(), clock.now()) == (10, 100, 10)
    assert isinstance(clock, ManualClock)
    assert clock.advance(2.5) == 12.5
    assert (clock.now(), clock.wall()) == (12.5, 102.5)


def test_time_never_goes_back() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="cannot go back by 1 s"):
        clock.advance(-1)


def test_chance_repeats_itself_by_seed() -> None:
    one, same, other = ManualClock(seed=3), ManualClock(seed=3), ManualClock(seed=4)
    assert [one.random(), one.token(4)] == [same.random(), same.token(4)]
    assert other.token(8) != one.token(8)
    assert 0 <= other.random() < 1
