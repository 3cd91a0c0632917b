"""The whole language: what a user may write, each key with its default and a sentence on what it does.

Everything here is frozen. Durations are seconds, sizes bytes, `off` is None. The sections live beside this file, one
for each top-level key; they are named here so that a reader needs one import.
"""

from pydantic import Field

from streamgate.config.section import Later, Section
from streamgate.config.spec_auth import Auth, Tenant
from streamgate.config.spec_flags import Flags
from streamgate.config.spec_gate import DisconnectDrain, EdgeLimits, EdgeTimeouts, Gate, State, Telemetry, Tls
from streamgate.config.spec_model import Batch, Hedge, Model, Queue, SplitTarget
from streamgate.config.spec_prices import Price
from streamgate.config.spec_route import Match, Respond, Retries, Rewrite, Route, Target
from streamgate.config.spec_service import Credentials, EndpointSpec, PoolLimits, Service, Timeouts, UpstreamTls

__all__ = [
    "Auth",
    "Batch",
    "Credentials",
    "DisconnectDrain",
    "EdgeLimits",
    "EdgeTimeouts",
    "EndpointSpec",
    "Flags",
    "Gate",
    "Hedge",
    "Match",
    "Model",
    "PoolLimits",
    "Price",
    "Queue",
    "Respond",
    "Retries",
    "Rewrite",
    "Route",
    "Service",
    "Spec",
    "SplitTarget",
    "State",
    "Target",
    "Telemetry",
    "Tenant",
    "Timeouts",
    "Tls",
    "UpstreamTls",
]


class Spec(Section):
    """The configuration of a gate."""

    gate: Gate = Field(default_factory=Gate)
    """The process: where it listens, whom it believes, what it bears."""
    state: State = Field(default_factory=State)
    """What is shared between workers and machines, and where."""
    services: tuple[Service, ...] = ()
    """The upstreams that routes name."""
    routes: tuple[Route, ...] = ()
    """Which requests go where."""
    telemetry: Telemetry = Field(default_factory=Telemetry)
    """What is told about each exchange, and to whom."""
    models: tuple[Model, ...] = ()
    """What clients ask for by name, and who answers for it."""
    flags: Flags | None = None
    """Who decides which split of a model a request gets; nobody by default: always the model's `default`."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """What tokens cost, by MODEL or SERVICE/MODEL; without it nothing is charged."""
    auth: Auth = Field(default_factory=Auth)
    """Whom a request belongs to."""
    limits: Later = None
    """Not available in this version."""
    rooms: Later = None
    """Not available in this version."""
    media: Later = None
    """Not available in this version."""
    plugins: Later = None
    """Not available in this version."""
    canary: Later = None
    """Not available in this version."""
