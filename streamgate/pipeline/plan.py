"""What a route does to an exchange, compiled when configuration is loaded: a route pays only for what it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from routers.pools import Endpoint, Pool
from sessions.relay import Limits
from streamgate.errors import Answer
from streamgate.exchange import Exchange
from streamgate.observe.metrics import RouteMetrics, ServiceMetrics
from streamgate.pipeline.connections import Keeper
from streamgate.policies.retries import Budget, Retries


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """A service as an exchange meets it: whom to pick, how to connect, what to say who we are."""

    id: str
    pool: Pool
    keepers: Mapping[Endpoint, Keeper]
    connect_s: float | None
    credentials: bytes = field(repr=False)
    withheld: frozenset[bytes]
    budget: Budget
    metrics: ServiceMetrics


@dataclass(frozen=True, slots=True)
class Plan:
    """A route, compiled. Exactly one of ``service`` and ``respond`` is set.

    ``host`` None: the endpoint's own authority; b"": the client's; anything else: that. ``key`` is what ``balance: hash`` hashes.
    """

    route: str
    service: ServicePlan | None
    respond: Answer | None
    limits: Limits
    drains: bool
    strip: bytes | None
    add: bytes | None
    host: bytes | None
    retries: Retries
    key: Callable[[Exchange], bytes | None] | None
    keep_encoded_slash: bool
    max_body_bytes: int | None
    metrics: RouteMetrics
    number: int
    """Of the snapshot this plan belongs to."""
