"""How fast a line is served: at rest, at the start, when the model changes, when it stalls."""

import random
from collections.abc import Callable
from heapq import heappop, heappush

import pytest

from sessions.rate import ServiceRate
from streamgate.lease import Count, Lease


class Served:
    """All slots of a line in use, always, each for as long as `hold_s` says; time is the simulation's."""

    def __init__(self, capacity: int, hold_s: Callable[[], float]) -> None:
        self.count = Count(capacity)
        self.rate = ServiceRate(self.count, 0.0)
        self.hold_s = hold_s
        self.now = 0.0
        self._ends: list[tuple[float, int, Lease]] = []
        while self.count.held < capacity:
            self._take()

    def _take(self) -> None:
        self.rate.arrives()
        self.rate.takes(self.now)
        heappush(self._ends, (self.now + self.hold_s(), self.count.taken, self.count.take()))

    def run(self, releases: int) -> None:
        for _ in range(releases):
            self.now, _, lease = heappop(self._ends)
            self.rate.returns(self.now)
            lease.release()
            self._take()

    @property
    def hold(self) -> float | None:
        return self.rate.hold_s(self.now)


@pytest.mark.parametrize("capacity", [1, 8, 64])
@pytest.mark.parametrize(
    "hold_s",
    [
        lambda chance: lambda: 2.0,
        lambda chance: lambda: chance.expovariate(0.5),
        lambda chance: lambda: chance.choice([0.2] * 9 + [18.2]),  # many short answers, a few long ones
    ],
    ids=["equal", "exponential", "two kinds"],
)
def test_in_a_steady_state_it_is_the_mean(capacity: int, hold_s: Callable[[random.Random], Callable[[], float]]) -> None:
    served = Served(capacity, hold_s(random.Random(7)))
    served.run(10 * (capacity + 8))
    seen = []
    for _ in range(4000):
        served.run(1)
        seen.append(served.hold or 0.0)
    assert sum(seen) / len(seen) == pytest.approx(2.0, rel=0.15)
    assert sum(1.0 < one < 4.0 for one in seen) >= 0.75 * len(seen)
    assert served.rate.per_s(served.now) == pytest.approx(capacity / (served.hold or 0.0))


@pytest.mark.parametrize("capacity", [1, 8, 64])
def test_at_the_start_nothing_is_known_until_each_slot_came_back(capacity: int) -> None:
    served = Served(capacity, lambda: 2.0)
    fewest = max(8, capacity)
    served.run(fewest - 1)
    assert served.hold is None
    assert served.rate.per_s(served.now) is None
    assert served.rate.wait_s(0, served.now) is None
    served.run(1)
    assert served.hold == pytest.approx(2.0, rel=0.25)


def test_short_answers_that_come_back_first_do_not_make_it_look_fast() -> None:
    lengths = iter([0.1] * 16 + [100.0] * 1000)
    served = Served(16, lambda: next(lengths))
    served.run(16)
    served.now += 50.0
    assert (served.hold or 0.0) > 25.0  # nothing has come back since, and that says something


@pytest.mark.parametrize("capacity", [1, 8, 64])
@pytest.mark.parametrize(("before_s", "after_s"), [(1.0, 10.0), (10.0, 1.0)])
def test_it_follows_a_change(capacity: int, before_s: float, after_s: float) -> None:
    chance, mean = random.Random(3), [before_s]
    served = Served(capacity, lambda: chance.expovariate(1.0) * mean[0])
    served.run(20 * (capacity + 8))
    mean[0] = after_s
    served.run(12 * (capacity + 8))
    assert after_s / 2 < (served.hold or 0.0) < after_s * 2


def test_idle_time_is_not_counted() -> None:
    count = Count(4)
    rate = ServiceRate(count, 0.0)
    now = 0.0
    for _ in range(20):
        rate.takes(now)
        lease = count.take()
        assert lease is not None
        now += 3.0
        rate.returns(now)
        lease.release()
        now += 1000.0
    assert rate.hold_s(now) == pytest.approx(3.0)
    assert rate.per_s(now) == pytest.approx(4 / 3.0)


def test_slots_that_are_held_at_the_same_time_count_each() -> None:
    count = Count(2)
    rate = ServiceRate(count, 0.0)
    for begins in range(0, 1000, 10):
        held = []
        for take_at, return_at in ((0.0, None), (1.0, None), (None, 3.0), (None, 6.0)):
            if take_at is not None:
                rate.takes(begins + take_at)
                held.append(count.take())
            elif return_at is not None and (lease := held.pop(0)) is not None:
                rate.returns(begins + return_at)
                lease.release()
    assert rate.hold_s(1000.0) == pytest.approx((3.0 + 5.0) / 2, rel=0.02)


def test_refill_is_how_many_come_for_each_that_is_served() -> None:
    count = Count(1)
    rate = ServiceRate(count, 0.0)
    assert rate.refill == 0.0
    for turn in range(100):
        if turn % 4 == 0:
            rate.arrives()
        rate.returns(float(turn))
    assert rate.refill == pytest.approx(0.25, abs=0.05)
    for turn in range(100):
        rate.arrives()
        rate.arrives()
        rate.returns(100.0 + turn)
    assert rate.refill == 1.0


def test_the_wait_is_for_so_many_slots_to_come_back() -> None:
    served = Served(8, lambda: 2.0)
    served.run(80)
    hold = served.hold
    assert hold is not None
    assert served.rate.wait_s(0, served.now) == pytest.approx(hold / 8)
    assert served.rate.wait_s(15, served.now) == pytest.approx(16 * hold / 8)
    served.count.resize(4)  # four must come back before the first is served
    assert served.rate.wait_s(0, served.now) == pytest.approx(5 * hold / 4)
    served.count.resize(9)  # a slot is free: whoever waits then waits for something else
    assert served.rate.wait_s(0, served.now) is None
    served.count.resize(0)
    assert served.rate.wait_s(0, served.now) is None


def test_without_a_capacity_it_serves_what_it_holds() -> None:
    served = Served(8, lambda: 2.0)
    served.run(80)
    served.count.resize(None)
    assert served.rate.per_s(served.now) == pytest.approx(8 / (served.hold or 0.0))
    assert served.rate.wait_s(0, served.now) is None


def test_answers_that_take_no_time_have_no_rate() -> None:
    served = Served(2, lambda: 0.0)
    served.run(20)
    assert served.hold == 0.0
    assert served.rate.per_s(served.now) is None
    assert served.rate.wait_s(5, served.now) == 0.0
