"""A lease is counted once and uncounted once, whatever is done to it."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from streamgate.lease import Count, CountStatistics, Lease


def taken(count: Count) -> Lease:
    lease = count.take()
    assert lease is not None
    return lease


def test_a_full_count_gives_nothing_until_one_is_released() -> None:
    count = Count(2)
    first, second = taken(count), taken(count)
    assert count.take() is None
    first.release()
    assert count.held == 1
    third = taken(count)
    assert count.take() is None
    second.release()
    third.release()
    assert count.held == 0


def test_releasing_twice_uncounts_once() -> None:
    count = Count(3)
    lease, other = taken(count), taken(count)
    before = lease.released
    lease.release()
    lease.release()
    assert (before, lease.released, other.released) == (False, True, False)
    assert count.held == 1


def test_without_a_capacity_there_is_always_room() -> None:
    count = Count()
    leases = [taken(count) for _ in range(1000)]
    assert count.held == 1000
    assert count.capacity is None
    for lease in leases:
        lease.release()
    assert count.held == 0


def test_a_capacity_of_zero_gives_nothing() -> None:
    assert Count(0).take() is None


def test_a_block_releases_on_the_way_out_also_when_it_fails() -> None:
    count = Count(1)
    with taken(count) as lease:
        held, released = count.held, lease.released
    assert (held, released) == (1, False)
    assert lease.released
    with pytest.raises(KeyError), taken(count):
        raise KeyError
    assert count.held == 0


def test_a_block_may_release_early() -> None:
    count = Count(1)
    with taken(count) as lease:
        lease.release()
        assert count.held == 0
        again = taken(count)
    assert count.held == 1
    again.release()


def test_shrinking_revokes_nothing_and_admits_nobody_until_there_is_room() -> None:
    count = Count(3)
    leases = [taken(count) for _ in range(3)]
    count.resize(1)
    assert count.capacity == 1
    assert count.held == 3
    leases[0].release()
    leases[1].release()
    assert count.take() is None
    leases[2].release()
    assert count.take() is not None


def test_growing_admits_at_once() -> None:
    count = Count(1)
    held = taken(count)
    count.resize(2)
    assert count.take() is not None
    count.resize(None)
    assert count.take() is not None
    held.release()


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 up"):
        Count(-1)


def test_statistics_are_a_record_of_the_moment() -> None:
    count = Count(1)
    lease = taken(count)
    count.take()
    before = count.statistics()
    lease.release()
    assert before == CountStatistics(held=1, capacity=1, taken=1, refused=1)
    assert count.statistics() == CountStatistics(held=0, capacity=1, taken=1, refused=1)
    assert Count().statistics().capacity is None


class Permits(RuleBasedStateMachine):
    """Any order of taking, releasing, releasing again and resizing agrees with counting on fingers."""

    held = Bundle("held")
    spent = Bundle("spent")

    def __init__(self) -> None:
        super().__init__()
        self.count = Count(2)
        self.capacity: int | None = 2
        self.out: set[int] = set()
        self.number = 0

    @rule(target=held)
    def take(self) -> tuple[int, Lease | None]:
        lease = self.count.take()
        full = self.capacity is not None and len(self.out) >= self.capacity
        assert (lease is None) is full
        self.number += 1
        if lease is not None:
            self.out.add(self.number)
        return self.number, lease

    @rule(target=spent, permit=consumes(held))
    def release(self, permit: tuple[int, Lease | None]) -> tuple[int, Lease | None]:
        number, lease = permit
        if lease is not None:
            lease.release()
            assert lease.released
            self.out.remove(number)
        return permit

    @rule(permit=spent)
    def release_again(self, permit: tuple[int, Lease | None]) -> None:
        lease = permit[1]
        if lease is not None:
            lease.release()

    @rule(capacity=st.none() | st.integers(0, 4))
    def resize(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.count.resize(capacity)

    @invariant()
    def held_is_what_is_out(self) -> None:
        assert self.count.held == len(self.out)
        assert self.count.statistics().capacity == self.capacity


TestPermits = Permits.TestCase
