"""What a route does to an exchange, compiled when configuration is loaded: a route pays only for what it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from routers.pools import Endpoint, Pool
from sessions.queue import Line
from sessions.relay import Limits
from streamgate.errors import Answer
from streamgate.exchange import Exchange
from streamgate.observe.metrics import RouteMetrics, ServiceMetrics
from streamgate.pipeline.connections import Keeper
from streamgate.policies.retries import Budget, Retries

if TYPE_CHECKING:
    from streamgate.pipeline.models import ModelsPlan


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
    lines: list[Line] = field(default_factory=list)
    """Where requests may wait for one of its endpoints to have room; the same list as long as the service is configured."""

    def pump(self) -> None:
        """One of its endpoints may have room: serve who waits for that."""
        for line in self.lines:
            if line.waiting:
                line.pump()


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
    models: ModelsPlan | None = None
    """Where the route leads to the models; ``service`` is nobody's then, until one is chosen."""
