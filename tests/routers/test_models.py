"""From a name and a flag's value to the targets that may be tried, in order."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.loads import Loads, Pair
from routers.models import OTHER, Candidates, Model, Models, ModelStatistics, UnknownModel, Way
from routers.splits import Choice, Split, Target, fractional

INF = float("inf")


def split(name: str, *targets: str, model: str = "tutor") -> Split:
    """Targets as `service` or `service*weight`."""
    parsed = [target.partition("*") for target in targets]
    return Split(name, [Target(service, None, int(weight or 1)) for service, _, weight in parsed], model=model, flag="flag")


def tutor(*splits: Split, **facts: Any) -> Model:
    named = {"default": "stable", "flag": "flag", **facts}
    return Model("tutor", splits or (split("stable", "a"), split("canary", "a*9", "b")), **named)


class Known:
    """What is known about targets, as services."""

    def __init__(self, *, full: str = "", **cooling: float) -> None:
        self.full = full
        self.cooling = cooling

    def has_room(self, pair: Pair) -> bool:
        return pair[0] not in self.full

    def cools_until(self, pair: Pair) -> float:
        return self.cooling.get(pair[0], 0.0)


def candidates(model: Model, known: Known, first: str = "stable", key: str | None = "ann") -> Candidates:
    return Candidates(model, first, key=key, standing=known, loads=Loads(), random=Random(1).random)


def course(found: Candidates, now: float = 0.0) -> list[Choice]:
    """Every choice, if each one fails."""
    choices: list[Choice] = []
    while (choice := found.next([choice.pair for choice in choices], now)) is not None:
        choices.append(choice)
    return choices


def services(choices: list[Choice]) -> str:
    return "".join(choice.target.service for choice in choices)


# --- the way ----------------------------------------------------------------------------------------------------------


def test_a_flags_value_names_the_split() -> None:
    model = tutor()
    assert model.decide("canary") == Way("canary", "flag")
    assert model.decide("stable") == Way("stable", "flag")
    assert model.decide(None) == Way("stable", "unset")
    assert tutor(flag=None).decide(None) == Way("stable", "no_flag")
    assert model.statistics() == ModelStatistics(name="tutor", unknown={})


def test_an_unknown_value_falls_to_the_default_and_is_counted() -> None:
    model = tutor()
    for value in ("cannary", "cannary", "", "x" * 1000):
        assert model.decide(value) == Way("stable", "unknown")
    assert model.statistics().unknown == {"cannary": 2, "": 1, "x" * 64: 1}


def test_the_count_of_unknown_values_is_bounded() -> None:
    model = tutor()
    for number in range(1000):
        model.decide(f"value-{number}")
    model.decide("value-3")
    before = model.statistics()
    assert len(before.unknown) == 33
    assert (before.unknown["value-3"], before.unknown[OTHER]) == (2, 968)
    model.decide("later")
    assert before.unknown[OTHER] == 968


def test_a_model_that_refers_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no split 'stabel' \(did you mean 'stable'\?\); its splits are: stable, canary"):
        tutor(default="stabel")
    with pytest.raises(ValueError, match="no split 'zzz'; its splits are"):
        tutor(fallback=["canary", "zzz"])


def test_what_was_compiled_is_at_hand() -> None:
    model = tutor(fallback=["canary"], sticky=("a source",))
    assert (model.name, model.flag, model.default, model.fallback) == ("tutor", "flag", "stable", ("canary",))
    assert model.sticky == ("a source",)
    assert list(model.splits) == ["stable", "canary"]


def test_a_pinned_target_is_found_wherever_it_is() -> None:
    model = tutor(split("stable", "a", "b*0"), split("canary", "b", "c"))
    assert model.pinned(("b", "tutor")) == Choice("stable", 1, Target("b", None, 0), ("b", "tutor"), "pinned")
    assert model.pinned(("c", "tutor")) == Choice("canary", 1, Target("c"), ("c", "tutor"), "pinned")
    assert model.pinned(("c", "other")) is None


# --- the candidates ---------------------------------------------------------------------------------------------------


def test_first_the_split_then_its_others_then_the_fallbacks_and_nobody_twice() -> None:
    model = tutor(
        split("stable", "a", "b", "c"), split("spare", "b", "d"), split("last", "a", "e"), fallback=["spare", "stable", "last"]
    )
    found = course(candidates(model, Known()))
    assert services(found[:1]) == "abc"[fractional(("flag", "ann"), [1, 1, 1])]
    assert set(services(found[:3])) == set("abc")
    assert services(found[3:]) == "de"
    assert [choice.split for choice in found] == ["stable"] * 3 + ["spare", "last"]
    assert [choice.how for choice in found[:3]] == ["sticky", "moved", "moved"]


def test_the_same_service_under_another_name_is_another_target() -> None:
    one = Split("stable", [Target("a", "large"), Target("a", "small"), Target("a", "tutor")], model="tutor")
    other = Split("spare", [Target("a", "large"), Target("a")], model="tutor")
    found = course(candidates(tutor(one, other, fallback=["spare"]), Known()))
    assert sorted(choice.pair for choice in found) == [("a", "large"), ("a", "small"), ("a", "tutor")]


def test_without_a_key_the_second_attempts_do_not_disturb_the_turns() -> None:
    model = tutor(split("stable", "a", "b"))
    firsts = []
    for _ in range(1000):
        found = course(candidates(model, Known(), key=None))
        assert sorted(services(found)) == ["a", "b"]
        firsts.append(found[0].target.service)
    assert abs(firsts.count("a") - 500) <= 2


def test_what_cools_is_passed_over_until_it_has_cooled() -> None:
    model = tutor(split("stable", "a"), split("spare", "b"), fallback=["spare"])
    found = candidates(model, Known(a=10.0))
    assert services(course(found, 9.9)) == "ba"
    assert services(course(found, 10.0)) == "ab"


def test_when_all_are_cooling_the_soonest_to_be_back_is_used() -> None:
    model = tutor(split("stable", "a", "b"), split("spare", "c", "d*0"), fallback=["spare"])
    found = course(candidates(model, Known(a=30.0, b=20.0, c=25.0, d=1.5)), now=1.0)
    assert services(found) == "bca"
    assert [(choice.split, choice.how) for choice in found] == [
        ("stable", "cooling"),
        ("spare", "cooling"),
        ("stable", "cooling"),
    ]
    assert services(course(candidates(model, Known(a=9.0, b=9.0, c=9.0)))) == "abc"  # of equals the first
    assert services(course(candidates(model, Known(full="b", a=30.0, b=20.0, c=25.0)), now=1.0)) == "ca"


def test_being_full_is_no_failure_and_is_waited_for() -> None:
    model = tutor(split("stable", "a"), split("spare", "b"), fallback=["spare"])
    found = candidates(model, Known(full="a"))
    assert found.next((), 0.0) is None
    assert found.full
    choice = found.next([("x", "tutor")], 0.0)  # something has failed before
    assert choice is not None
    assert choice.target.service == "b"
    assert not found.full


def test_a_full_target_is_passed_over_for_its_sibling() -> None:
    model = tutor(split("stable", "a", "b"), split("spare", "c"), fallback=["spare"])
    assert services(course(candidates(model, Known(full="a")))) == "bc"
    assert services(course(candidates(model, Known(full="b")))) == "ac"


def test_a_fallback_that_is_full_is_waited_for_rather_than_asking_what_cools() -> None:
    model = tutor(split("stable", "a"), split("spare", "b"), fallback=["spare"])
    found = candidates(model, Known(full="b", a=5.0))
    assert found.next((), 0.0) is None
    assert found.full
    choice = found.next([("x", "tutor")], 0.0)
    assert choice is not None
    assert (choice.target.service, choice.how) == ("a", "cooling")
    assert not found.full


@pytest.mark.parametrize("known", [Known(), Known(full="a"), Known(a=9.0)])
def test_where_nothing_is_left_waiting_does_not_help(known: Known) -> None:
    found = candidates(tutor(split("stable", "a", "z*0")), known)
    assert found.next([("a", "tutor")], 0.0) is None
    assert not found.full


def test_what_is_full_and_cools_is_not_waited_for() -> None:
    model = tutor(split("stable", "a"), split("spare", "b"), fallback=["spare"])
    found = candidates(model, Known(full="a", a=5.0))
    assert services(course(found)) == "b"
    alone = candidates(tutor(split("stable", "a")), Known(full="a", a=5.0))
    assert alone.next((), 0.0) is None
    assert not alone.full


def test_after_a_failure_only_full_targets_are_left() -> None:
    found = candidates(tutor(split("stable", "a", "b")), Known(full="b"))
    assert found.next([("a", "tutor")], 0.0) is None
    assert found.full


TARGETS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), min_size=1, max_size=4)


@given(
    st.lists(TARGETS, min_size=1, max_size=3),
    st.sets(st.sampled_from("abcd")),
    st.dictionaries(st.sampled_from("abcd"), st.floats(0, 20)),
    st.none() | st.text(max_size=5),
)
def test_every_course_ends_and_keeps_its_promises(
    described: list[list[tuple[str, int]]], full: set[str], cooling: dict[str, float], key: str | None
) -> None:
    splits = [split(f"s{number}", *(f"{one}*{weight}" for one, weight in each)) for number, each in enumerate(described)]
    model = tutor(*splits, default="s0", fallback=[one.name for one in splits])
    known, now = Known(full="".join(full), **cooling), 10.0
    found = candidates(model, known, "s0", key)
    choices = course(found, now)
    left = {one for each in described for one, weight in each if weight}
    for choice in choices:
        service = choice.target.service
        assert service in left  # of some weight, and never twice
        assert choice.target.weight
        assert service not in full
        ready = {one for one in left - full if cooling.get(one, 0.0) <= now}
        assert (choice.how == "cooling") == (service not in ready)
        if choice.how == "cooling":
            assert not ready
            assert cooling[service] == min(cooling[one] for one in left - full)
        left.remove(service)
    assert left <= full or (found.full and not choices)


# --- the models -------------------------------------------------------------------------------------------------------


def test_models_are_found_by_name() -> None:
    one, other = tutor(), Model("helper", [split("stable", "a", model="helper")], default="stable")
    models = Models([one, other])
    assert models.get("tutor") is one
    assert (models.known("helper"), models.known("Helper")) == (True, False)
    assert models.names() == ("tutor", "helper")
    assert (list(models), len(models)) == ([one, other], 2)


def test_a_near_miss_is_suggested() -> None:
    models = Models([tutor(), Model("helper", [split("stable", "a")], default="stable")])
    with pytest.raises(UnknownModel, match="There is no model 'tutr'; did you mean 'tutor'") as caught:
        models.get("tutr")
    assert caught.value.suggestion == "tutor"
    with pytest.raises(UnknownModel, match="no model 'gpt-9'; GET /v1/models lists") as caught:
        models.get("gpt-9")
    assert caught.value.suggestion is None


def test_a_long_name_is_neither_compared_nor_repeated() -> None:
    models = Models([tutor(), Model("y" * 300, [split("stable", "a")], default="stable")])
    with pytest.raises(UnknownModel) as caught:
        models.get("y" * 299)
    assert caught.value.suggestion is None
    assert len(str(caught.value)) < 150
    with pytest.raises(UnknownModel) as caught:
        Models([]).get("\x1b[31m")
    assert "\x1b" not in str(caught.value)
