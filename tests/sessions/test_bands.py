"""Strict priorities over the turns of flows."""

from dataclasses import dataclass

from sessions.bands import Bands
from sessions.turns import FlowStatistics, Ready


@dataclass(eq=False)
class One:
    number: int
    flow: str
    priority: int
    ready: Ready | None = None


def bands(*came: tuple[str, int]) -> tuple[Bands[One], list[One]]:
    waiting = Bands[One]()
    everybody = [One(number, flow, priority) for number, (flow, priority) in enumerate(came)]
    for one in everybody:
        waiting.add(one)
    return waiting, everybody


def served(waiting: Bands[One]) -> list[int]:
    order: list[int] = []
    while (one := waiting.first(set(), everything=False)) is not None:
        waiting.serve(one, len(order))
        order.append(one.number)
    return order


def test_the_higher_number_goes_first() -> None:
    waiting, _ = bands(("a", 0), ("a", 5), ("b", -1), ("b", 5), ("a", 5), ("c", 0))
    assert waiting.waiting == 6
    assert served(waiting) == [1, 3, 4, 0, 5, 2]
    assert waiting.waiting == 0


def test_a_band_in_which_nobody_can_be_served_lets_the_next_one_go() -> None:
    waiting, everybody = bands(("a", 5), ("b", 0))
    above = everybody[0]
    waiting.remove(above)
    above.ready = lambda: False
    waiting.add(above)
    assert served(waiting) == [1]
    waiting.remove(above)
    assert waiting.waiting == 0
    assert waiting.first(set(), everything=True) is None


def test_a_place_counts_who_is_above() -> None:
    waiting, everybody = bands(("a", 0), ("a", 5), ("b", 0), ("c", 5), ("a", 0))
    assert [waiting.position(one) for one in everybody] == [3, 1, 4, 2, 5]
    assert [waiting.before(one, 0.0) for one in everybody] == [2, 0, 3, 1, 4]
    assert waiting.before_newcomer("z", 9, 0.0) == 0
    assert waiting.before_newcomer("z", 5, 0.0) == 2
    assert waiting.before_newcomer("z", 3, 0.0) == 2
    assert waiting.before_newcomer("z", 0, 0.0) == 4
    assert waiting.before_newcomer("z", -3, 0.0) == 5


def test_who_makes_room_for_a_newcomer() -> None:
    waiting, everybody = bands(("a", 0), ("a", 0), ("a", 0), ("b", 0), ("c", 7))
    assert waiting.to_make_room("a", 0) is None  # the longest flow itself
    assert waiting.to_make_room("b", 0) is everybody[2]
    assert waiting.to_make_room("z", 0) is everybody[2]
    assert waiting.to_make_room("a", 1) is everybody[2]
    assert waiting.to_make_room("z", -1) is None  # all are more urgent
    waiting.remove(everybody[2])
    assert waiting.to_make_room("b", 0) is None  # it would be as long as that one is then: nothing would be fairer
    assert waiting.to_make_room("z", 0) is everybody[1]
    empty, _ = bands()
    assert empty.to_make_room("a", 9) is None


def test_the_longest_flows_are_shown() -> None:
    came = [(f"flow-{number}", 0) for number in range(30)] + [("flow-29", 0), ("up", 1)]
    figures = bands(*came)[0].statistics()
    assert len(figures) == 20
    assert figures[:2] == (FlowStatistics("flow-29", 0, 2, 0), FlowStatistics("up", 1, 1, 0))
