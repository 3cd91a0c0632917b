"""The order of targets: the router's own, with nobody's turn taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers.loads import Held, Loads, Pair
from routers.models import Candidates
from streamgate.pipeline.explaining.course import Course, course_of
from tests.streamgate.pipeline.explaining.stand import Stand

THREE = [{"service": one, "weight": weight} for one, weight in zip("abc", (5, 3, 2), strict=True)]


def told(stand: Stand, split: str = "stable", key: str | None = None) -> list[tuple[str, str, list[tuple[Pair, float]]]]:
    course = course_of(stand.model, split, key, None, stand.clock.now())
    return [(step.split, step.how, [(pair, round(share, 3)) for pair, share in step.targets]) for step in course.steps]


def test_without_a_key_targets_come_together_with_their_shares() -> None:
    stand = Stand(fallback=["canary"])
    assert told(stand) == [("stable", "turn", [(("a", "up"), 1.0)]), ("canary", "turn", [(("a", "tutor"), 0.75), (("b", "up-b"), 0.25)])]
    assert told(Stand(fallback=["stable"]), "canary")[-1] == ("stable", "turn", [(("a", "up"), 1.0)])


def test_a_target_of_two_splits_is_tried_once() -> None:
    stand = Stand(splits={"stable": [{"service": "a"}], "more": [{"service": "a"}, {"service": "b"}]}, fallback=["more"])
    assert told(stand)[1] == ("more", "turn", [(("b", "tutor"), 1.0)])


def test_the_same_target_twice_in_a_split_has_both_shares() -> None:
    stand = Stand(splits={"stable": [{"service": "a", "weight": 1}, {"service": "b", "weight": 2}, {"service": "a", "weight": 1}]})
    assert told(stand) == [("stable", "turn", [(("a", "tutor"), 0.5), (("b", "tutor"), 0.5)])]


def test_the_cooling_come_last_the_soonest_first() -> None:
    stand = Stand(splits={"stable": THREE})
    stand.cool("a", "tutor", for_s=50.0)
    stand.cool("b", "tutor", for_s=40.0)
    assert told(stand) == [
        ("stable", "turn", [(("c", "tutor"), 1.0)]), ("stable", "cooling", [(("b", "tutor"), 1.0)]), ("stable", "cooling", [(("a", "tutor"), 1.0)]),
    ]  # fmt: skip


def test_one_that_is_pinned_is_alone() -> None:
    stand = Stand(fallback=["canary"])
    stand.cool("b", "up-b")
    choice = stand.model.model.pinned(("b", "up-b"))
    course = course_of(stand.model, "stable", "key", choice, stand.clock.now())
    assert [(step.how, step.targets) for step in course.steps] == [("pinned", ((("b", "up-b"), 1.0),))]


@pytest.mark.parametrize("key", [None, "key"])
def test_a_full_target_is_waited_for(key: str | None) -> None:
    stand = Stand(services={"a": {"max_in_flight": 1}}, fallback=["canary"])
    stand.model.services["a"].pool.endpoints[0].count.take()
    course = course_of(stand.model, "stable", key, None, stand.clock.now())
    assert course.full
    assert course.first is not None
    assert course.first.targets == ((("a", "up"), 1.0),), "who is asked once there is room"


def test_nobody_is_left() -> None:
    stand = Stand(splits={"stable": [{"service": "a", "weight": 0}]})
    assert course_of(stand.model, "stable", None, None, 0.0) == Course(())


def real(stand: Stand, split: str, key: str | None, loads: Loads) -> list[tuple[Pair, str]]:
    """What the router does with a request whose every attempt fails."""
    candidates = Candidates(
        stand.model.model, split, key=key, standing=stand.model.standing, loads=loads, random=stand.clock.random
    )  # fmt: skip
    tried: list[Pair] = []
    seen: list[tuple[Pair, str]] = []
    while (choice := candidates.next(tried, stand.clock.now())) is not None:
        tried.append(choice.pair)
        seen.append((choice.pair, choice.how))
    return seen


@st.composite
def stands(draw: Any) -> Stand:
    target = st.fixed_dictionaries({"service": st.sampled_from("abc"), "weight": st.integers(0, 3)})
    names = ["stable", "one", "two"]
    splits = {name: draw(st.lists(target, min_size=1, max_size=4)) for name in names}
    services = {one: {"max_in_flight": 1} for one in draw(st.sets(st.sampled_from("abc")))}
    stand = Stand(services=services, splits=splits, fallback=draw(st.lists(st.sampled_from(names), max_size=3, unique=True)))
    for pair in draw(st.sets(st.sampled_from(sorted(stand.model.cooldowns)))):
        stand.cool(*pair, for_s=draw(st.sampled_from([10.0, 20.0, 30.0])))
    for service in draw(st.sets(st.sampled_from(sorted(services)))) if services else ():
        if service in stand.model.services:
            stand.model.services[service].pool.endpoints[0].count.take()
    return stand


@settings(max_examples=150, deadline=None)
@given(stands(), st.sampled_from(["stable", "one", "two"]), st.sampled_from([None, "k1", "k2", "k3"]), st.integers(0, 20))
def test_it_is_what_the_router_does(stand: Stand, split: str, key: str | None, own: int) -> None:
    held: list[Held] = []
    if key is not None:
        held = [stand.model.loads.take(pair, key) for pair in sorted(stand.model.cooldowns)[:1] for _ in range(own)]
    course = course_of(stand.model, split, key, None, stand.clock.now())
    seen = real(stand, split, key, stand.model.loads)
    if course.full:
        assert not seen
        return
    if key is not None:
        assert [(step.targets[0][0], step.how) for step in course.steps] == seen
        return
    at = 0
    for step in course.steps:
        pairs = {pair for pair, _ in step.targets}
        assert {pair for pair, _ in seen[at : at + len(pairs)]} == pairs
        assert {how for _, how in seen[at : at + len(pairs)]} == {step.how}
        assert sum(share for _, share in step.targets) == pytest.approx(1.0)
        at += len(pairs)
    assert at == len(seen)
    assert len(held) == (0 if key is None else own)


def test_asking_takes_nobody_s_turn() -> None:
    asked, left_alone = (Stand(splits={"stable": THREE}) for _ in range(2))
    orders = []
    for stand in (asked, left_alone):
        split, loads = stand.model.model.splits["stable"], stand.model.loads
        order = []
        for number in range(200):
            if stand is asked:
                for key in (None, f"k{number}"):
                    course_of(stand.model, "stable", key, None, stand.clock.now())
            choice = split.pick(None, lambda _index: True, loads, stand.clock.random)
            assert choice is not None
            order.append(choice.pair)
        orders.append(order)
        assert loads.statistics().held == {}
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 3
