"""The configured models as an exchange meets them: compiled by ``pipeline.build``, asked by ``pipeline.prompting``.

What must outlive a reload (lines, loads, cooldowns, budgets) is found in ``kept`` under the model's name; the rest is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from routers.flags import Flags
from routers.loads import Loads, Pair
from routers.models import Model, Models
from sessions.queue import Line
from sessions.relay import Limits
from streamgate.errors import Answer
from streamgate.exchange import Exchange
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.models import ModelMetrics
from streamgate.pipeline.ask import Source, listed
from streamgate.pipeline.plan import ServicePlan
from streamgate.policies.cooldowns import Cooldown
from streamgate.policies.fallback import Fallbacks
from streamgate.policies.hedging import Hedging
from streamgate.policies.prices import Prices
from streamgate.policies.tenants import Tenants
from streamgate.stores.answers import Answers

if TYPE_CHECKING:
    from streamgate.pipeline.plan import Plan
    from streamgate.pipeline.prompting import Prompting
    from streamgate.pipeline.sharing import Sharing
    from streamgate.pipeline.upstream import Kit, Link, RequestBody


class Standing:
    """What is known about a model's targets now; ``routers.models`` asks."""

    __slots__ = ("_cooldowns", "_services")

    def __init__(self, services: Mapping[str, ServicePlan], cooldowns: Mapping[Pair, Cooldown]) -> None:
        self._services = services
        self._cooldowns = cooldowns

    def has_room(self, pair: Pair) -> bool:
        """Has any endpoint of the target's service room for one more?"""
        return self._services[pair[0]].pool.has_other(())

    def cools_until(self, pair: Pair) -> float:
        """When it may be asked again; in the past, or 0, where it may."""
        return self._cooldowns[pair].until


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One configured model. ``sticky`` are its sources as written, with their readers; ``announce_s`` None does not announce.

    ``ready`` says, by split, whether a request for it could be served right now; None where nothing but the line limits it.
    ``demand`` is told when somebody enters or leaves the line, where its capacity is shared with other workers.
    """

    model: Model
    services: Mapping[str, ServicePlan]
    standing: Standing
    cooldowns: Mapping[Pair, Cooldown]
    loads: Loads
    line: Line
    ready: Mapping[str, Callable[[], bool] | None]
    demand: Callable[[], None] | None
    sticky: tuple[tuple[str, Source], ...]
    fair_by: str
    max_wait_s: float
    announce_s: float | None
    fallbacks: Fallbacks
    hedging: Hedging | None
    include_usage: bool
    sharing: Sharing
    metrics: ModelMetrics


@dataclass(frozen=True, slots=True)
class ModelsPlan:
    """What a route with ``to: {models: true}`` leads to. ``limits`` are the deadlines by service; ``created`` is when it was built."""

    route: str
    prompting: Callable[[Exchange, Plan, ModelsPlan, Link, RequestBody, Kit], Prompting]
    """Makes what serves one request."""
    models: Models
    plans: Mapping[str, ModelPlan]
    limits: Mapping[str, Limits]
    nobody: ServicePlan
    """Stands where a service will stand once one is chosen."""
    flags: Flags | None
    tenants: Tenants
    prices: Prices
    gen_ai: GenAi
    answers: Answers
    priority: int
    single_flight: bool
    summary: bool
    created: int
    listings: dict[bool, Answer] = field(default_factory=dict)

    def own_answer(self, exchange: Exchange) -> Answer | None:
        """The list of models, or one of them, in the asker's dialect; None where the path asks for something else."""
        name = listed(exchange.path)
        if name is None or exchange.method not in {b"GET", b"HEAD"}:
            return None
        theirs = any(key.lower() == b"anthropic-version" for key, _ in exchange.headers)
        if name:
            return _answer(_entry(name, self.created, theirs=theirs)) if self.models.known(name) else None
        if theirs not in self.listings:
            self.listings[theirs] = _answer(_listing(self.models.names(), self.created, theirs=theirs))
        return self.listings[theirs]


def _entry(name: str, created: int, *, theirs: bool) -> dict[str, object]:
    """One model as OpenAI's API lists it, or Anthropic's."""
    if theirs:
        return {"type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, "object": "model", "created": created, "owned_by": "streamgate"}


def _listing(names: tuple[str, ...], created: int, *, theirs: bool) -> dict[str, object]:
    entries = [_entry(name, created, theirs=theirs) for name in names]
    if theirs:
        return {"data": entries, "has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {"object": "list", "data": entries}


def _answer(document: dict[str, object]) -> Answer:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Answer(200, ((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")), body)
