"""Whose patience ends first, with those gone dropped."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sessions.deadlines import Deadlines


@dataclass(eq=False)
class Patient:
    number: int
    deadline: float
    waiting: bool = True


def test_the_soonest_of_those_who_wait() -> None:
    deadlines = Deadlines[Patient]()
    assert deadlines.next() is None
    late, soon, also = Patient(1, 9.0), Patient(2, 3.0), Patient(3, 3.0)
    for one in (late, soon, also):
        deadlines.add(one)
    assert deadlines.next() is soon
    assert deadlines.next() is soon
    soon.waiting = False
    assert deadlines.next() is also
    also.waiting = late.waiting = False
    assert deadlines.next() is None
    assert len(deadlines) == 0


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.booleans())))
def test_they_end_in_order(drawn: list[tuple[float, bool]]) -> None:
    deadlines = Deadlines[Patient]()
    everybody = [Patient(number, deadline) for number, (deadline, _) in enumerate(drawn)]
    for one in everybody:
        deadlines.add(one)
    for one, (_, leaves) in zip(everybody, drawn, strict=True):
        one.waiting = not leaves
    ended = []
    while (one := deadlines.next()) is not None:
        one.waiting = False
        ended.append(one.deadline)
    assert ended == sorted(deadline for deadline, leaves in drawn if not leaves)


def test_they_end_in_order_after_those_gone_were_dropped() -> None:
    deadlines = Deadlines[Patient]()
    everybody = [Patient(number, float(number * 37 % 101)) for number in range(200)]
    for one in everybody:
        deadlines.add(one)
    for one in everybody[::2] + everybody[1::4]:
        one.waiting = False
    deadlines.shrink(50)
    assert len(deadlines) == 50
    ended = []
    while (one := deadlines.next()) is not None:
        one.waiting = False
        ended.append(one.deadline)
    assert ended == sorted(one.deadline for one in everybody[3::4])


def test_those_gone_are_never_many_more_than_those_who_wait() -> None:
    deadlines = Deadlines[Patient]()
    kept = [Patient(number, 1e9) for number in range(100)]
    for one in kept:
        deadlines.add(one)
    for number in range(100, 5000):
        one = Patient(number, float(number))
        deadlines.add(one)
        one.waiting = False
        deadlines.shrink(len(kept))
        assert len(deadlines) <= 2 * len(kept) + 65
    for one in kept:
        assert deadlines.next() is one
        one.waiting = False
