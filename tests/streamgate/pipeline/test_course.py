"""Who is asked, and who next: what is held while that lasts, and what a failure and an answer say about a target."""

from __future__ import annotations

from typing import Any

import pytest

from routers.pools import Endpoint
from streamgate.errors import NoHealthyUpstream, Overloaded
from streamgate.pipeline.course import Course
from streamgate.prompt import Prompt
from tests.kit.clock import ManualClock
from tests.streamgate.pipeline.models_bench import ModelsBench, unheard

A, B = ("a", "up"), ("b", "up-b")


class Way:
    """A course of one request; ``fails`` is its attempt's end, ``answers`` its first byte."""

    def __init__(self, bench: ModelsBench | None = None, *, split: str = "stable", key: str | None = None, **model: Any) -> None:
        self.bench = bench or unheard(ManualClock(), **model)
        self.clock: Any = self.bench.clock
        self.model = self.bench.model
        self.prompt = Prompt("tutor", "chat", stream=True)
        self.course = Course(self.model, self.prompt, split=split, key=key, clock=self.clock)
        self.tried: list[Endpoint] = []

    def reserves(self) -> str:
        return self.course.reserve(self.tried).id

    def fails(self, outcome: Any = "reset", **facts: Any) -> bool:
        endpoint = self.course.endpoint()
        if endpoint is not None:
            self.tried.append(endpoint)
        return self.course.goes_on(outcome, **{"attempt": 1, "took_s": 0.0, "other_endpoint": False, **facts})

    def answers(self, wait_s: float | None = None) -> None:
        self.course.answered(wait_s)

    def held(self) -> dict[str, int]:
        counts = {
            "loads": sum(self.model.loads.statistics().held.values()),
            "endpoints": sum(one.count.held for service in self.model.services.values() for one in service.keepers),
            "probes": sum(one._probes.held for one in self.model.cooldowns.values()),
        }
        return {name: count for name, count in counts.items() if count}


def limited(bench: ModelsBench, at_a_time: int) -> None:
    """Each endpoint takes no more."""
    for service in bench.model.services.values():
        for one in service.keepers:
            one.count.resize(at_a_time)


def cool(way: Way, pair: tuple[str, str], outcome: Any = "reset", times: int = 3, wait_s: float | None = None) -> None:
    for _ in range(times):
        way.model.cooldowns[pair].failed(way.clock.now(), outcome, wait_s)


# -- what is held ----------------------------------------------------------------------------------------------------------


def test_a_target_is_held_until_it_is_released_its_endpoint_until_it_is_taken() -> None:
    way = Way(key="u1")
    assert way.reserves() == "a"
    assert way.held() == {"loads": 1, "endpoints": 1}
    assert way.model.loads.held_by(A, "u1") == 1
    endpoint = way.course.endpoint()
    assert endpoint is not None
    assert way.held() == {"loads": 1}
    assert way.course.endpoint() is None
    for _ in range(2):
        way.course.release()
    assert way.held() == {}


def test_what_was_reserved_and_not_taken_is_given_back_too() -> None:
    way = Way()
    way.reserves()
    way.course.release()
    assert way.held() == {}


def test_going_on_moves_what_is_held() -> None:
    way = Way()
    way.reserves()
    assert way.fails()
    assert way.reserves() == "b"
    assert (way.model.loads.held(A), way.model.loads.held(B)) == (0, 1)
    way.course.release()
    assert way.held() == {}


def test_nothing_is_held_where_nobody_has_room() -> None:
    way = Way(fallback=[])
    limited(way.bench, 0)
    with pytest.raises(Overloaded):
        way.reserves()
    assert way.held() == {}


def test_notes_say_who_is_asked() -> None:
    way = Way(split="canary")
    way.reserves()
    assert (way.prompt.split, way.prompt.service, way.prompt.routed) == ("canary", "b", "up-b")
    assert way.model.metrics.choices == {("canary", "b", "turn"): 1}


# -- who is next -----------------------------------------------------------------------------------------------------------


def test_a_failure_leads_to_the_fallback_and_then_to_nobody() -> None:
    way = Way()
    way.reserves()
    assert way.fails("connect")
    assert way.prompt.fallbacks == 1
    assert way.reserves() == "b"
    assert not way.fails(500, attempt=2)
    assert way.prompt.fallbacks == 1
    assert way.model.metrics.fallbacks == {"connect": 1}


@pytest.mark.parametrize("status", [400, 404, 422])
def test_the_requests_own_fault_leads_nowhere(status: int) -> None:
    way = Way()
    way.reserves()
    assert not way.fails(status)


def test_another_endpoint_of_the_target_goes_before_another_target() -> None:
    way = Way(services={"url": None, "endpoints": [{"url": "http://127.0.0.1:9001"}, {"url": "http://127.0.0.1:9002"}]})
    way.reserves()
    assert way.fails("reset", other_endpoint=True)
    (first,) = way.tried
    (second,) = set(way.model.services["a"].keepers) - {first}
    leases = [second.count.take() for _ in range(5)]  # busy as it is
    assert way.reserves() == "a"
    assert way.course.endpoint() is second
    way.tried.append(second)
    assert way.reserves() == "a"  # all were tried: once more
    assert way.course.endpoint() is first
    assert len(leases) == 5


def test_the_same_target_goes_on_though_it_is_anothers_turn() -> None:
    endpoints = [{"url": "http://127.0.0.1:9001"}, {"url": "http://127.0.0.1:9002"}]
    bench = unheard(ManualClock(), services={"url": None, "endpoints": endpoints}, splits={"stable": [{"service": "a"}, {"service": "b"}]}, fallback=[])
    for _ in range(8):
        way = Way(bench)
        first = way.reserves()
        assert way.fails("connect", other_endpoint=True)
        assert way.reserves() == first
        way.course.release()


def test_but_not_where_a_quota_is_spent() -> None:
    way = Way()
    way.reserves()
    assert way.fails(429, other_endpoint=True)
    assert way.reserves() == "b"


def test_what_may_have_been_generated_already_is_counted() -> None:
    way = Way()
    for _ in range(30):
        way.model.fallbacks.deposit(way.clock.now())
    way.reserves()
    assert way.fails("first_byte")
    assert (way.prompt.duplicates, way.model.metrics.duplicates) == (1, {"first_byte": 1})


def test_who_alone_can_answer_is_asked_and_nobody_after() -> None:
    way = Way()
    way.course.pin(B)
    assert way.reserves() == "b"
    assert way.prompt.sticky == "pinned"
    assert not way.fails()
    way = Way()
    way.course.pin(("gone", "x"))  # configured no more
    assert way.reserves() == "a"


def test_who_is_asked_already_is_avoided() -> None:
    way = Way()
    way.course.avoid([A])
    assert way.reserves() == "b"


def test_whether_there_is_another_that_could_be_asked_now() -> None:
    way = Way()
    way.reserves()
    assert way.course.has_other(A)
    cool(way, B)
    assert not way.course.has_other(A)
    way = Way()
    way.reserves()
    limited(way.bench, 0)
    assert not way.course.has_other(A)


def test_before_anybody_was_asked_nothing_goes_on() -> None:
    assert not Way().fails()


# -- what is said about targets --------------------------------------------------------------------------------------------


def test_failures_in_a_row_cool_a_target_and_an_answer_ends_that() -> None:
    bench = unheard(ManualClock())
    for _ in range(3):
        way = Way(bench)
        way.reserves()
        way.fails("connect")
        way.course.release()
    assert bench.model.standing.cools_until(A) > bench.clock.now()
    assert Way(bench).reserves() == "b"
    way = Way(bench)
    way.course.pin(A)
    way.reserves()
    way.answers()
    assert bench.model.standing.cools_until(A) == 0.0


@pytest.mark.parametrize("outcome", [500, 503, "in_band"])
def test_an_error_that_is_given_for_want_of_a_better_is_no_sign_of_health(outcome: Any) -> None:
    bench = unheard(ManualClock(), fallback=[])
    for _ in range(3):
        way = Way(bench)
        way.reserves()
        assert not way.fails(outcome)
        way.answers()  # it is given: its first byte comes
        way.course.release()
    assert bench.model.standing.cools_until(A) > bench.clock.now()


def test_an_answer_may_be_the_last_for_a_while() -> None:
    way = Way()
    way.reserves()
    way.answers(wait_s=7.0)
    assert way.model.standing.cools_until(A) == way.clock.now() + 7.0


def test_an_answer_after_a_failure_elsewhere_is_a_success() -> None:
    way = Way()
    cool(way, B, times=2)
    way.reserves()
    way.fails()
    way.reserves()
    way.answers()
    assert way.model.cooldowns[B].statistics().in_a_row == 0
    assert way.model.cooldowns[A].statistics().in_a_row == 1


# -- when all cool down ----------------------------------------------------------------------------------------------------


def test_one_finds_out_whether_a_broken_target_is_well_the_others_are_told_when_to_come() -> None:
    bench = unheard(ManualClock(), fallback=[])
    first = Way(bench)
    cool(first, A)
    assert first.reserves() == "a"
    assert first.held() == {"loads": 1, "endpoints": 1, "probes": 1}
    other = Way(bench)
    with pytest.raises(NoHealthyUpstream) as refused:
        other.reserves()
    assert refused.value.retry_after_s == pytest.approx(3.0)
    other.course.release()
    first.answers()
    assert first.held() == {"loads": 1, "endpoints": 1}
    first.course.release()
    assert Way(bench).reserves() == "a"


@pytest.mark.parametrize("end", ["fails", "release"])
def test_however_the_finding_out_ends_another_may_then(end: str) -> None:
    bench = unheard(ManualClock(), fallback=[])
    way = Way(bench)
    cool(way, A)
    way.reserves()
    way.fails() if end == "fails" else way.course.release()
    assert "probes" not in way.held()
    assert Way(bench).reserves() == "a"


def test_a_full_target_that_cools_gives_the_right_to_find_out_back() -> None:
    way = Way(fallback=[])
    cool(way, A)
    limited(way.bench, 0)
    with pytest.raises((Overloaded, NoHealthyUpstream)):
        way.reserves()
    way.course.release()
    assert way.held() == {}
