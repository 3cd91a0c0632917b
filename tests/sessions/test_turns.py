"""Whose turn it is within a priority: fair across flows, in order within one, blocked by nobody, in bounded time."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.turns import FLOWS_LOOKED_AT, QUEUES_LOOKED_AT, FlowStatistics, Ready, Turns


@dataclass(eq=False)
class One:
    number: int
    flow: str
    ready: Ready | None = None


class Asked:
    """What makes some ready, or not, and how often it was asked."""

    def __init__(self, *, says: bool = False) -> None:
        self.says = says
        self.times = 0

    def __call__(self) -> bool:
        self.times += 1
        return self.says


def line(flows: str, ready: Callable[[int], Ready | None] = lambda number: None) -> tuple[Turns[One], list[One]]:
    turns = Turns[One]()
    everybody = [One(number, flow, ready(number)) for number, flow in enumerate(flows)]
    for one in everybody:
        turns.add(one)
    return turns, everybody


def served(turns: Turns[One], most: int = 10**6) -> str:
    order = []
    while len(order) < most and (one := turns.first(set(), everything=False)) is not None:
        turns.serve(one, len(order))
        order.append(one.flow)
    return "".join(order)


@pytest.mark.parametrize(
    ("came", "order"),
    [("aaaa", "aaaa"), ("aaaabb", "ababaa"), ("aaabcc", "abcaca"), ("abab", "abab"), ("baab", "baba"), ("", "")],
)
def test_each_flow_has_one_turn_a_round(came: str, order: str) -> None:
    assert served(line(came)[0]) == order


@given(st.text("abcde", max_size=60))
def test_within_a_flow_it_is_first_come_first_served_and_nobody_waits_longer_than_a_round(came: str) -> None:
    turns, everybody = line(came)
    left = Counter(came)
    last = dict.fromkeys(came, 0)
    numbers: dict[str, list[int]] = {flow: [] for flow in came}
    for grant in range(len(everybody)):
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, grant)
        numbers[one.flow].append(one.number)
        assert grant - last[one.flow] <= len(last)
        last[one.flow] = grant
        left[one.flow] -= 1
    assert turns.waiting == 0
    assert not +left
    assert all(seen == sorted(seen) for seen in numbers.values())


def test_idleness_earns_nothing_and_leaving_gains_nothing() -> None:
    turns, everybody = line("aabb")
    assert served(turns, 1) == "a"
    again = One(9, "c")
    turns.add(again)
    turns.remove(again)
    turns.add(again)
    leaves = everybody[1]
    turns.remove(leaves)
    turns.add(leaves)  # a gives up its turn by it, and goes behind c
    assert served(turns) == "bcab"


def test_who_cannot_be_served_blocks_nobody_and_keeps_its_place() -> None:
    busy = Asked()
    turns, _ = line("aaabb", lambda number: busy if number in {0, 1, 3} else None)
    assert served(turns) == "ab"  # the third of a and the second of b
    assert turns.waiting == 3
    turns.add(One(7, "a"))
    busy.says = True
    order = []
    while (one := turns.first(set(), everything=False)) is not None:
        turns.serve(one, 0)
        order.append((one.flow, one.number))
    assert order == [("a", 0), ("b", 3), ("a", 1), ("a", 7)]


def test_what_said_no_is_not_asked_again() -> None:
    busy = Asked()
    turns, _ = line("abcabc" * 4, lambda number: busy)
    shut: set[Ready] = set()
    assert turns.first(shut, everything=False) is None
    assert turns.first(shut, everything=False) is None
    assert busy.times == 1
    assert shut == {busy}


@pytest.mark.parametrize("flows", [FLOWS_LOOKED_AT, 50 * FLOWS_LOOKED_AT])
def test_a_bounded_number_of_flows_is_looked_at_and_in_time_each(flows: int) -> None:
    asked = [Asked() for _ in range(flows)]
    turns = Turns[One]()
    for number, ready in enumerate(asked):
        turns.add(One(number, str(number), ready))
    for _ in range(-(-flows // FLOWS_LOOKED_AT)):
        before = sum(one.times for one in asked)
        assert turns.first(set(), everything=False) is None
        assert sum(one.times for one in asked) - before <= 2 * FLOWS_LOOKED_AT
    assert all(one.times for one in asked)
    assert asked[0].times == -(-flows // FLOWS_LOOKED_AT)  # who has waited longest is looked at each time


def test_a_bounded_number_behind_the_first_of_a_flow_is_looked_at_and_in_time_each() -> None:
    asked = [Asked() for _ in range(100)]
    turns, _ = line("a" * 100, lambda number: asked[number])
    times = -(-100 // QUEUES_LOOKED_AT)
    for _ in range(times):
        before = sum(one.times for one in asked)
        assert turns.first(set(), everything=False) is None
        assert sum(one.times for one in asked) - before <= 2 * QUEUES_LOOKED_AT
    assert all(one.times for one in asked)
    asked[77].says = asked[78].says = True
    found = turns.first(set(), everything=True)
    assert found is not None
    assert found.number == 77


def test_a_line_of_one_that_is_busy_does_not_hide_those_behind_it() -> None:
    """The usual case: few targets, and all who want the same ask with the same."""
    busy, free = Asked(), Asked(says=True)
    turns, _ = line("a" * 1000, lambda number: busy if number < 999 else free)
    found = turns.first(set(), everything=False)
    assert found is not None
    assert found.number == 999
    assert busy.times == 1


# --- how many have their turn before ----------------------------------------------------------------------------------


@given(st.text("abcd", min_size=1, max_size=40), st.integers(0, 40), st.data())
def test_ahead_is_how_many_are_served_before_where_no_flow_has_ended(came: str, rounds: int, data: st.DataObject) -> None:
    turns, everybody = line(came)
    fewest = min(Counter(came).values())
    for grant in range(min(rounds, len(set(came)) * (fewest - 1))):
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, grant)
        everybody.remove(one)
    chosen = data.draw(st.sampled_from(everybody))
    ahead = turns.ahead(chosen.flow, turns.depth(chosen))
    for before in range(len(everybody)):
        one = turns.first(set(), everything=False)
        assert one is not None
        if one is chosen:
            assert ahead == before
            break
        turns.serve(one, 0)


@given(st.text("abcd", max_size=40), st.sampled_from("abcde"))
def test_ahead_of_a_newcomer(came: str, flow: str) -> None:
    turns, everybody = line(came)
    ahead = turns.ahead(flow, None)
    newcomer = One(99, flow)
    turns.add(newcomer)
    assert turns.ahead(flow, turns.depth(newcomer)) == ahead
    for before in range(len(everybody) + 1):
        one = turns.first(set(), everything=False)
        assert one is not None
        if one is newcomer:
            assert ahead == before
            break
        turns.serve(one, 0)


def test_ahead_stays_close_where_flows_have_come_and_gone() -> None:
    chance = random.Random(5)
    turns = Turns[One]()
    everybody: list[One] = []
    for number in range(4000):
        if len(everybody) < 60:
            one = One(number, chance.choice("abcdefghijkl"))
            turns.add(one)
            everybody.append(one)
        if chance.random() < 0.5:
            one = chance.choice(everybody)
            turns.remove(one)
        else:
            found = turns.first(set(), everything=False)
            assert found is not None
            one = found
            turns.serve(one, number)
        everybody.remove(one)
    guesses = {one: turns.ahead(one.flow, turns.depth(one)) for one in everybody}
    for before in range(len(guesses)):
        one = turns.first(set(), everything=False)
        assert one is not None
        assert abs(guesses[one] - before) <= 6  # half of the flows
        turns.serve(one, 0)


def test_ahead_in_a_crowd_of_flows_is_guessed_from_how_far_back_one_stands() -> None:
    chance = random.Random(5)
    turns, everybody = line("".join(chr(200 + number) for number in range(400)) * 3)
    for number in range(150):
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, number)
        everybody.remove(one)
    assert all(turns.ahead(one.flow, turns.depth(one)) == place for place, one in enumerate(everybody[:250]))
    for one in chance.sample(everybody, 300):
        turns.remove(one)
        everybody.remove(one)
    guesses = {one: turns.ahead(one.flow, turns.depth(one)) for one in everybody}
    for before in range(len(everybody)):
        found = turns.first(set(), everything=False)
        assert found is not None
        assert abs(guesses[found] - before) <= 100  # a quarter of the flows
        turns.serve(found, 0)


def simulated(turns: Turns[One], chosen: One, refill: Callable[[int], str]) -> int:
    """How many are served before `chosen`, if those of `refill` come after each that is served."""
    for before in range(10**6):
        one = turns.first(set(), everything=False)
        assert one is not None
        if one is chosen:
            return before
        turns.serve(one, before)
        for flow in refill(before):
            turns.add(One(10**6 + before, flow))
    raise AssertionError


def warm(turns: Turns[One], rounds: int) -> None:
    """So many rounds with everybody replaced by another of the same flow."""
    for grant in range(rounds):
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, grant)
        turns.add(One(10**4 + grant, one.flow))


def test_one_deep_in_a_long_flow_is_overtaken_by_those_who_keep_coming() -> None:
    turns, _ = line("a" * 100 + "bcde" * 3)
    warm(turns, 40)
    chosen = One(10**5, "a")
    guess = turns.before("a", None, 0, 1.0)
    turns.add(chosen)
    true = simulated(turns, chosen, lambda before: "bcde"[before % 4])
    assert true > 3 * turns.waiting  # who counts only those who wait now is far off
    assert guess == pytest.approx(true, rel=0.2)


def test_where_nobody_keeps_coming_those_who_wait_are_all_there_are() -> None:
    turns, _ = line("a" * 100 + "bcde" * 3)
    warm(turns, 40)
    chosen = One(10**5, "a")
    guess = turns.before("a", None, 0, 0.0)
    turns.add(chosen)
    assert guess == pytest.approx(simulated(turns, chosen, lambda before: ""), abs=4)


def test_one_is_expected_to_be_served_as_seldom_as_its_flow_was_of_late() -> None:
    turns, _ = line("a" * 100)
    for grant in range(0, 160, 4):  # three of others, of a higher priority perhaps, between any two of it
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, grant)
    assert turns.before("a", None, 0, 1.0) == pytest.approx(4 * 60)
    assert turns.before("a", None, 0, 0.0) == 60
    for grant in range(160, 200):
        one = turns.first(set(), everything=False)
        assert one is not None
        turns.serve(one, grant)
    assert turns.before("a", None, 0, 1.0) == pytest.approx(20, rel=0.01)


def test_before_counts_who_waits_above() -> None:
    turns, everybody = line("aab")
    assert turns.before("z", None, 5, 1.0) == 5 + 2
    assert turns.before("a", turns.depth(everybody[0]), 5, 1.0) == 5


# --- who makes room, figures ------------------------------------------------------------------------------------------


def test_the_last_of_the_longest_flow_is_known() -> None:
    busy = Asked()
    turns, everybody = line("abaacb", lambda number: busy if number == 3 else None)
    assert (turns.longest(), turns.length("a"), turns.length("c"), turns.length("z")) == (3, 3, 1, 0)
    assert turns.last_of_longest() is everybody[3]
    turns.remove(everybody[3])
    turns.remove(everybody[0])
    assert turns.longest() == 2
    assert turns.last_of_longest() is everybody[5]
    assert served(turns) == "abcb"  # one of a flow that leaves does not cost the flow its turn
    assert turns.longest() == 0


def test_figures_of_each_flow() -> None:
    turns, _ = line("aab")
    served(turns, 2)
    assert turns.statistics(4) == [FlowStatistics("a", 4, 1, 1)]
    served(turns)
    assert turns.statistics(4) == []
