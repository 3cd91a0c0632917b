"""What is in flight, and that it is forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from routers.loads import Held, Loads, LoadsStatistics, Pair

A, B = ("a", "m"), ("b", "m")


def test_each_target_and_each_key_on_it_is_counted() -> None:
    loads = Loads()
    assert (loads.held(A), loads.held_by(A, "ann")) == (0, 0)
    leases = [loads.take(A, "ann"), loads.take(A, "ann"), loads.take(A, "bob"), loads.take(A, None), loads.take(B, "ann")]
    assert (loads.held(A), loads.held(B)) == (4, 1)
    assert [loads.held_by(A, key) for key in ("ann", "bob", "eve")] == [2, 1, 0]
    assert loads.held_by(B, "ann") == 1
    leases[0].release()
    assert (loads.held(A), loads.held_by(A, "ann")) == (3, 1)


def test_a_lease_is_given_back_once_and_by_its_block() -> None:
    loads = Loads()
    keep = loads.take(A, "ann")
    with loads.take(A, "ann") as lease:
        assert loads.held_by(A, "ann") == 2
        assert not lease.released
    lease.release()
    assert lease.released
    assert (loads.held(A), loads.held_by(A, "ann")) == (1, 1)
    with pytest.raises(KeyError), loads.take(A, "ann"):
        raise KeyError
    assert loads.held(A) == 1
    keep.release()
    assert loads.held(A) == 0


def test_what_is_gone_is_forgotten_and_nobody_is_named() -> None:
    loads = Loads()
    lease, other = loads.take(A, "secret-user"), loads.take(A, None)
    before = loads.statistics()
    assert before == LoadsStatistics(held={A: 2}, keys={A: 1})
    assert "secret-user" not in repr(before)
    lease.release()
    assert loads.statistics() == LoadsStatistics(held={A: 1}, keys={A: 0})
    other.release()
    assert loads.statistics() == LoadsStatistics(held={}, keys={})
    assert before.held == {A: 2}


class Flights(RuleBasedStateMachine):
    """Any order of taking, releasing and releasing again agrees with counting on fingers."""

    out = Bundle("out")
    back = Bundle("back")

    def __init__(self) -> None:
        super().__init__()
        self.loads = Loads()
        self.fingers: Counter[tuple[Pair, str | None]] = Counter()

    @rule(target=out, pair=st.sampled_from([A, B]), key=st.sampled_from(["x", "y", None]))
    def take(self, pair: Pair, key: str | None) -> tuple[Held, Pair, str | None]:
        self.fingers[pair, key] += 1
        return self.loads.take(pair, key), pair, key

    @rule(target=back, flight=consumes(out))
    def release(self, flight: tuple[Held, Pair, str | None]) -> Held:
        lease, pair, key = flight
        lease.release()
        self.fingers[pair, key] -= 1
        return lease

    @rule(lease=back)
    def release_again(self, lease: Held) -> None:
        lease.release()

    @invariant()
    def counts_are_what_is_out(self) -> None:
        for pair in (A, B):
            assert self.loads.held(pair) == sum(number for (where, _), number in self.fingers.items() if where == pair)
            for key in ("x", "y"):
                assert self.loads.held_by(pair, key) == self.fingers[pair, key]
        kept = self.loads.statistics()
        assert all(kept.held.values())
        assert set(kept.held) == {pair for (pair, _), number in self.fingers.items() if number}


TestFlights = Flights.TestCase
