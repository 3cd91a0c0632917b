"""Models become plans: what is decided before a request comes, and what of the old ones a reload keeps, shares and gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from routers.flags import Flags
from sessions.queue import Slot, Waiter
from streamgate.catalogue import PICKERS
from streamgate.config.spec import Spec
from streamgate.kept import Kept
from streamgate.observe.metrics import Metrics
from streamgate.pipeline.build import Builder, Built
from streamgate.pipeline.models import ModelPlan
from tests.kit.around import SetFlags, around
from tests.kit.clock import ManualClock
from tests.streamgate.pipeline.models_bench import configured

A, B = ("a", "up"), ("b", "up-b")


class Slots:
    """Shared capacity, in the test's hand."""

    def __init__(self, name: str, limit: int, told: Callable[[int | None], None]) -> None:
        self.name, self.limit, self.tell = name, limit, told
        self.demands: list[tuple[int, int]] = []
        self.is_ended = False

    def demand(self, held: int, waiting: int) -> None:
        self.demands.append((held, waiting))

    def resize(self, limit: int) -> None:
        self.limit = limit

    def end(self) -> None:
        self.is_ended = True


class Works:
    """A builder, what it builds upon, and what it asked for."""

    def __init__(self, *, shares: bool = False) -> None:
        self.clock = ManualClock()
        self.slots: list[Slots] = []
        self.opened: list[SetFlags] = []
        self.closed: list[SetFlags] = []
        parts = replace(around(self.clock), flags=self._flags, share=self._share if shares else None)
        self.kept = Kept()
        self.builder = Builder(kept=self.kept, metrics=Metrics(), clock=self.clock, pickers=PICKERS, around=parts)
        self.config = configured("http://127.0.0.1:9001", "http://127.0.0.1:9002")

    def _share(self, *about: Any) -> tuple[Slots, Callable[[], None]]:
        self.slots.append(Slots(*about))
        return self.slots[-1], self.slots[-1].end

    def _flags(self, _spec: Any) -> tuple[Flags, Callable[[], None]]:
        flags = SetFlags()
        self.opened.append(flags)
        return flags, lambda: self.closed.append(flags)

    def built(self, *, top: Any = None, **model: Any) -> Built:
        """Put in force, as a worker does."""
        config = self.config | (top or {})
        config["models"] = [self.config["models"][0] | model]
        built = self.builder.build(Spec.model_validate(config))
        self.kept.retain(built.keys)
        return built

    def plan(self, **model: Any) -> ModelPlan:
        return self.built(**model).models["tutor"]


def entered(plan: ModelPlan, granted: Callable[[Slot], None] = lambda _slot: None) -> Slot | Waiter:
    return plan.line.enter("f", granted=granted, refused=lambda _fault: None)


# -- what a plan says ------------------------------------------------------------------------------------------------------


def test_a_model_is_laid_out() -> None:
    plan = Works().plan(
        flag="f", default="canary", sticky=["header:x-user", "prompt"], include_usage=False,
        queue={"max_in_flight": 3, "max_waiting": 5, "max_bytes": "1KiB", "max_wait": "7s", "fair_by": "off", "announce": "2s"},
    )  # fmt: skip
    assert (plan.model.name, plan.model.flag, plan.model.default, plan.model.fallback) == ("tutor", "f", "canary", ("canary",))
    assert plan.model.splits["stable"].pairs == (A,)
    assert plan.model.splits["stable"].salt == "f"
    assert set(plan.services) == {"a", "b"} and set(plan.cooldowns) == {A, B}
    assert (plan.line.count.capacity, plan.line.max_waiting, plan.line.max_bytes) == (3, 5, 1024)
    assert (plan.max_wait_s, plan.fair_by, plan.announce_s, plan.include_usage) == (7.0, "off", 2.0, False)
    assert [written for written, _ in plan.sticky] == ["header:x-user", "prompt"]
    assert (plan.hedging, plan.sharing.batches, plan.demand) == (None, None, None)


def test_hedging_and_batches_where_they_are_asked_for() -> None:
    plan = Works().plan(hedge={"after": "2s", "share": "10%"}, batch={"window": "3ms", "max_items": 4})
    assert plan.hedging is not None
    assert (plan.hedging.after_s, plan.hedging.share) == (2.0, 0.1)
    assert plan.sharing.batches is not None


def test_the_depth_of_the_line_is_told_at_a_scrape() -> None:
    plan = Works().plan(queue={"max_in_flight": 1})
    entered(plan)
    entered(plan)
    assert plan.metrics.depth() == 1


# -- what a reload keeps ---------------------------------------------------------------------------------------------------


def test_what_is_in_flight_is_counted_over_a_reload() -> None:
    works = Works()
    before = works.plan(queue={"max_in_flight": 2}, hedge={"after": "2s"})
    slots = [entered(before), entered(before)]
    waiting = entered(before)
    assert isinstance(waiting, Waiter)
    after = works.plan(queue={"max_in_flight": 1}, hedge={"after": "2s"})
    kept = ("line", "loads", "sharing", "hedging", "metrics")
    assert all(getattr(before, name) is getattr(after, name) for name in kept)
    assert after.cooldowns[A] is before.cooldowns[A]
    assert (after.line.count.held, after.line.count.capacity) == (2, 1)
    slots[0].release()  # type: ignore[union-attr]
    assert waiting.waiting  # one too many is still there
    slots[1].release()  # type: ignore[union-attr]
    assert not waiting.waiting


def test_a_higher_limit_serves_who_waits_at_once() -> None:
    works = Works()
    before = works.plan(queue={"max_in_flight": 1})
    entered(before)
    waiter = entered(before)
    works.plan(queue={"max_in_flight": "off"})
    assert isinstance(waiter, Waiter) and not waiter.waiting


def test_a_model_of_another_name_begins_anew_and_other_hedging_too() -> None:
    works = Works()
    before = works.plan(hedge={"after": "2s"})
    after = works.plan(hedge={"after": "3s"})
    assert before.hedging is not after.hedging
    batches = works.plan(batch={"window": "3ms"}).sharing.batches
    assert batches is not None
    assert works.plan(batch={"window": "3ms"}, hedge={"after": "2s"}).sharing.batches is batches
    assert works.plan(batch={"window": "4ms"}).sharing.batches is not batches
    assert works.plan().sharing.batches is None
    other = works.built(name="other").models["other"]
    assert other.line is not before.line
    assert works.plan().line is not before.line  # it was gone meanwhile


# -- who waits for an endpoint ---------------------------------------------------------------------------------------------


BOUNDED = {"max_in_flight": 1}


def bounded(works: Works, **model: Any) -> ModelPlan:
    services = [one | BOUNDED for one in works.config["services"]]
    return works.built(top={"services": services}, **model).models["tutor"]


def test_only_where_endpoints_are_bounded_somebody_may_wait_for_one() -> None:
    works = Works()
    plan = works.plan()
    assert set(plan.ready.values()) == {None}
    assert [service.lines for service in plan.services.values()] == [[], []]
    plan = bounded(works)
    assert [service.lines for service in plan.services.values()] == [[plan.line], [plan.line]]


def test_a_request_that_began_before_a_reload_serves_who_waits_since() -> None:
    """It holds its service as that was then."""
    works = Works()
    before = works.plan()
    (endpoint,) = before.services["a"].keepers
    lease = endpoint.count.take()
    assert lease is not None
    after = bounded(works)
    waiter = after.line.enter("f", granted=lambda _slot: None, refused=lambda _fault: None, ready=after.ready["stable"])
    assert isinstance(waiter, Waiter)
    lease.release()
    before.services["a"].pump()
    assert not waiter.waiting


def test_a_service_that_is_bounded_no_more_has_nobody_waiting() -> None:
    works = Works()
    before = bounded(works)
    works.plan()
    assert before.services["a"].lines == []


def test_ready_is_who_has_a_healthy_target_with_room_or_none_at_all() -> None:
    works = Works()
    plan = bounded(works, splits={"stable": [{"service": "a"}, {"service": "b"}, {"service": "a", "model": "x", "weight": 0}]}, fallback=[])
    ready = plan.ready["stable"]
    assert ready is not None and ready()
    leases = {name: endpoint.count.take() for name, service in plan.services.items() for endpoint in service.keepers}
    assert not ready()
    leases["b"].release()  # type: ignore[union-attr]  # it has room
    assert ready()
    plan.cooldowns["b", "tutor"].failed(works.clock.now(), 429, 9.0)
    assert not ready()
    plan.cooldowns["a", "tutor"].failed(works.clock.now(), 429, 9.0)
    assert ready()  # whoever asks finds out at once
    works.clock.advance(10.0)
    assert ready()


# -- capacity that is shared -----------------------------------------------------------------------------------------------


def test_capacity_may_be_a_part_of_what_all_workers_have() -> None:
    works = Works(shares=True)
    plan = works.plan(queue={"max_in_flight": 4})
    (slots,) = works.slots
    assert (slots.name, slots.limit) == ("tutor", 4)
    slots.tell(2)
    assert plan.line.count.capacity == 2
    entered(plan)
    assert plan.demand is not None
    plan.demand()
    assert slots.demands == [(1, 0)]


def test_it_follows_the_configuration_and_is_given_back() -> None:
    works = Works(shares=True)
    plan = works.plan(queue={"max_in_flight": 4})
    works.plan(queue={"max_in_flight": 6})
    (slots,) = works.slots
    assert (slots.limit, slots.is_ended) == (6, False)
    after = works.plan(queue={"max_in_flight": "off"})
    assert (slots.is_ended, after.demand, after.line.count.capacity) == (True, None, None)
    assert plan.demand is not None
    plan.demand()  # who began before tells nobody any more
    assert slots.demands == []
    works.plan(queue={"max_in_flight": 2})
    assert len(works.slots) == 2
    works.built(name="other")
    assert works.slots[1].is_ended


def test_who_waits_at_a_model_that_is_gone_is_served() -> None:
    works = Works(shares=True)
    plan = works.plan(queue={"max_in_flight": 2})
    works.slots[0].tell(0)  # others have it all
    waiters = [entered(plan), entered(plan)]
    works.built(name="other")
    assert [one.waiting for one in waiters if isinstance(one, Waiter)] == [False, True]


# -- flags -----------------------------------------------------------------------------------------------------------------


def models_of(built: Built) -> Any:
    return built.routes.match(b"", b"/v1/chat/completions", b"POST").plan.models  # type: ignore[union-attr]


def test_flags_are_opened_once_and_closed_when_they_come_from_elsewhere() -> None:
    works = Works()
    first = models_of(works.built(flag="f"))
    assert models_of(works.built(flag="g")).flags is first.flags
    works.built(top={"flags": {"provider": "flagd", "file": "/elsewhere.json"}})
    assert (works.opened[0], works.closed) == (first.flags, [first.flags])
    works.built(top={"flags": None})
    assert len(works.closed) == len(works.opened) == 2


def test_a_route_leads_to_all_models_with_deadlines_by_service() -> None:
    works = Works()
    services = works.config["services"]
    services[1]["timeouts"] = {"first_byte": "9s"}
    route = works.config["routes"][0] | {"priority": 3, "single_flight": True, "summary": True, "timeouts": {"idle": "11s"}}
    models = models_of(works.built(top={"routes": [route]}))
    assert {name: (one.first_byte_s, one.idle_s) for name, one in models.limits.items()} == {"a": (30.0, 11.0), "b": (9.0, 11.0)}
    assert (models.priority, models.single_flight, models.summary, models.created) == (3, True, True, 1_750_000_000)
    assert (models.nobody.id, models.models.names()) == ("", ("tutor",))
