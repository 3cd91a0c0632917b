"""Models become plans: splits laid out, lines and cooldowns found again, everything a request to a model will ask decided before."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from routers.flags import Flags
from routers.loads import Loads, Pair
from routers.models import Model, Models
from routers.splits import Split, Target
from sessions.queue import Line
from sessions.relay import Limits
from streamgate.clock import Clock
from streamgate.config.spec import Flags as FlagsSpec
from streamgate.config.spec import Hedge, Spec
from streamgate.config.spec import Model as ModelSpec
from streamgate.config.spec_route import Route
from streamgate.kept import Kept
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.models import ModelsMetrics
from streamgate.pipeline.ask import sticky_source
from streamgate.pipeline.models import ModelPlan, ModelsPlan, Standing
from streamgate.pipeline.plan import ServicePlan
from streamgate.pipeline.prompting import Prompting
from streamgate.pipeline.sharing import Sharing
from streamgate.policies.cooldowns import Cooldown
from streamgate.policies.fallback import Fallbacks
from streamgate.policies.hedging import Hedging
from streamgate.policies.prices import Prices
from streamgate.policies.retries import Budget
from streamgate.policies.tenants import Tenants
from streamgate.stores.answers import Answers

T = TypeVar("T")


class Slots(Protocol):
    """Where a line has its capacity from, when it is shared with other workers."""

    def demand(self, held: int, waiting: int) -> None: ...
    def resize(self, limit: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Around:
    """What models are built with, the same for a worker's life.

    ``share`` makes the capacity of a line that all workers share, given its name, its limit and who is told of it, together with
    what ends it; None where one worker is alone. ``flags`` opens where flags come from, together with what closes it.
    """

    clock: Clock
    cells: ModelsMetrics
    gen_ai: GenAi
    answers: Answers
    share: Callable[[str, int, Callable[[int | None], None]], tuple[Slots, Callable[[], None]]] | None
    flags: Callable[[FlagsSpec], tuple[Flags, Callable[[], None]]]


class _Capacity:
    """A line's limit: its own, or its part of a shared one; follows the configuration."""

    __slots__ = ("_end", "_line", "_name", "_share", "slots")

    def __init__(self, name: str, line: Line, around: Around) -> None:
        self._name = name
        self._line = line
        self._share = around.share
        self._end: Callable[[], None] | None = None
        self.slots: Slots | None = None

    def follow(self, limit: int | None) -> None:
        """Hold to ``limit`` from now on."""
        if limit is None or self._share is None:
            self.retire()
            self._line.resize(limit)
        elif self.slots is None:
            self.slots, self._end = self._share(self._name, limit, self._line.resize)
        else:
            self.slots.resize(limit)

    def retire(self) -> None:
        """Give a shared part back. Who waits in the line is served, one by one at least: nobody else will give it any room."""
        if self._end is not None:
            self._end()
            self._line.resize(max(1, self._line.count.limit))
        self.slots = self._end = None

    def demand(self) -> None:
        """Say what is in use and wanted."""
        if self.slots is not None:
            self.slots.demand(self._line.count.held, self._line.waiting)


class ModelsBuilder:
    """Makes the plans of models for one worker, over state that outlives them."""

    def __init__(self, kept: Kept, around: Around) -> None:
        self._kept = kept
        self._around = around

    def plans(self, spec: Spec, services: Mapping[str, ServicePlan], keys: set[Hashable]) -> dict[str, ModelPlan]:
        """Every model of a configuration, by name."""
        for service in services.values():
            service.lines.clear()
        return {one.name: self._plan(one, services, keys) for one in spec.models}

    def _plan(self, spec: ModelSpec, services: Mapping[str, ServicePlan], keys: set[Hashable]) -> ModelPlan:
        around = self._around
        splits = [
            Split(name, [Target(one.service, one.model, one.weight) for one in targets], model=spec.name, flag=spec.flag)
            for name, targets in spec.splits.items()
        ]
        model = Model(spec.name, splits, default=spec.default_split, flag=spec.flag, fallback=spec.fallback, sticky=spec.sticky)
        pairs = {pair for split in splits for pair in split.pairs}
        cooldowns = {pair: self._found(keys, ("cooldown", *pair), Cooldown) for pair in pairs}
        standing = Standing(services, cooldowns)
        line = self._line(spec, keys)
        capacity = self._found(keys, ("capacity", spec.name), lambda: _Capacity(spec.name, line, around), _Capacity.retire)
        capacity.follow(spec.queue.max_in_flight)
        bounded = {pair[0] for pair in pairs if any(one.count.capacity is not None for one in services[pair[0]].pool.endpoints)}
        for service in bounded:
            services[service].lines.append(line)
        metrics = around.cells.model(spec.name)
        metrics.depth = lambda: line.waiting
        hedge = spec.hedge
        return ModelPlan(
            model=model,
            services={pair[0]: services[pair[0]] for pair in pairs},
            standing=standing,
            cooldowns=cooldowns,
            loads=self._found(keys, ("loads", spec.name), Loads),
            line=line,
            ready={split.name: _ready(split, standing, around.clock) if bounded else None for split in splits},
            demand=capacity.demand if capacity.slots is not None else None,
            sticky=tuple((written, sticky_source(written)) for written in spec.sticky),
            fair_by=spec.queue.fair_by,
            max_wait_s=spec.queue.max_wait,
            announce_s=spec.queue.announce,
            fallbacks=Fallbacks(self._found(keys, ("duplicates", spec.name), Budget)),
            hedging=None if hedge is None else self._hedging(spec.name, hedge, keys),
            include_usage=spec.include_usage,
            sharing=self._sharing(spec, keys),
            metrics=metrics,
        )

    def _hedging(self, name: str, hedge: Hedge, keys: set[Hashable]) -> Hedging:
        return self._found(keys, ("hedging", name, hedge.after, hedge.share), lambda: Hedging(hedge.after, hedge.share))

    def _line(self, spec: ModelSpec, keys: set[Hashable]) -> Line:
        line = self._found(keys, ("line", spec.name), lambda: Line(self._around.clock.now))
        line.max_waiting = spec.queue.max_waiting
        line.max_bytes = spec.queue.max_bytes
        return line

    def _sharing(self, spec: ModelSpec, keys: set[Hashable]) -> Sharing:
        sharing = self._found(keys, ("sharing", spec.name), lambda: Sharing(self._around.cells.model(spec.name)))
        batch = spec.batch
        sharing.follow(
            window_s=None if batch is None else batch.window,
            max_items=0 if batch is None else batch.max_items,
            max_bytes=0 if batch is None else batch.max_bytes,
            adds_usage=spec.include_usage,
        )
        return sharing

    def _found(self, keys: set[Hashable], key: Hashable, make: Callable[[], T], retire: Callable[[T], None] | None = None) -> T:
        keys.add(key)
        return self._kept.get(key, make, retire=retire)

    def route(
        self, route: Route, spec: Spec, plans: Mapping[str, ModelPlan], limits: Mapping[str, Limits], nobody: ServicePlan,
        keys: set[Hashable],
    ) -> ModelsPlan:  # fmt: skip
        """What a route leads to that leads to the models."""
        flags = None
        if spec.flags is not None:
            key = ("flags", spec.flags.model_dump_json())
            keys.add(key)
            flags = self._kept.get(key, partial(_opened, self._around, spec.flags), retire=_Opened.close).flags
        return ModelsPlan(
            route=route.id,
            prompting=Prompting,
            models=Models(plan.model for plan in plans.values()),
            plans=plans,
            limits=limits,
            nobody=nobody,
            flags=flags,
            tenants=Tenants(spec.auth.tenant.sources),
            prices=Prices(spec.prices),
            gen_ai=self._around.gen_ai,
            answers=self._around.answers,
            priority=route.priority,
            single_flight=route.single_flight,
            summary=route.summary,
            created=int(self._around.clock.wall()),
        )


@dataclass(frozen=True, slots=True)
class _Opened:
    flags: Flags
    close_it: Callable[[], None]

    def close(self) -> None:
        self.close_it()


def _opened(around: Around, spec: FlagsSpec) -> _Opened:
    return _Opened(*around.flags(spec))


def _ready(split: Split, standing: Standing, clock: Clock) -> Callable[[], bool]:
    """Could a request for this split be served now? While all its targets cool down, whoever asks finds that out at once."""
    pairs: tuple[Pair, ...] = tuple(pair for target, pair in zip(split.targets, split.pairs, strict=True) if target.weight)

    def ready() -> bool:
        now = clock.now()
        well = [pair for pair in pairs if standing.cools_until(pair) <= now]
        return not well or any(standing.has_room(pair) for pair in well)

    return ready
