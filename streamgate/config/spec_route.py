"""What a user writes under `routes`: which requests, where to, and what is changed on the way."""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from streamgate.config.section import (
    AT_LEAST_ONE,
    HeaderName,
    HeaderValue,
    Later,
    NotEmpty,
    Prefix,
    Section,
    Slug,
    StatusWord,
    has_dots,
    is_path,
    is_token,
)
from streamgate.config.sentences import refused
from streamgate.config.spec_model import ModelsTarget
from streamgate.config.spec_service import Timeouts
from streamgate.config.units import format_size, is_authority, is_host, is_off, parse_size, parse_whole

Fault: TypeAlias = Literal["connect", "reset"]
Reason: TypeAlias = Literal["connect", "reset", 429, 500, 502, 503, 504]
"""What an attempt may end in that another one may mend."""

_ATTEMPTS_MAX: Final = 10
MODELS_BODY_BYTES: Final = 32 * 1024 * 1024
"""A prompt is kept until it is answered; 32 MiB is Anthropic's own bound, images included."""
_BODILESS: Final = frozenset({204, 205, 304})
"""RFC 9110 §15.3.5, §15.3.6, §15.4.5."""


def parse_path_pattern(value: str) -> str:
    """A path, exact or ending in `/*` for everything below. Raises ValueError."""
    if not value.startswith("/"):
        raise refused("path_slash", value)
    if not is_path(value):
        raise refused("path_characters", value)
    if "*" in value.removesuffix("/*"):
        raise refused("path_star", value)
    if has_dots(value):
        raise refused("path_dots", value)
    return value


def parse_method(value: str) -> str:
    """A method's name, in capitals: methods are case-sensitive (RFC 9110 §9.1). Raises ValueError."""
    if not is_token(value):
        raise refused("method", value)
    if value != value.upper():
        raise refused("method_case", value)
    return value


def parse_host_pattern(value: str) -> str:
    """A host, or `*.` and a host for every name below it; lower-cased, without the root's dot. Raises ValueError."""
    name = value.lower().removesuffix(".")
    host = name.removeprefix("*.")
    if not is_host(host) or (host != name and host.startswith("[")):
        raise refused("host_port" if is_authority(host) and not is_host(host) else "host", value)
    return name


def parse_host_policy(value: str) -> str:
    """`upstream`, `preserve`, or the host with an optional port to send, lower-cased. Raises ValueError."""
    if not is_authority(value):
        raise refused("host_policy")
    return value.lower()


def _body_limit(value: object) -> int | Literal["off"] | None:
    if value is None:
        return None
    return "off" if is_off(value) else parse_size(value)


def _on_disconnect(value: object) -> object:
    if value == "detach":
        raise refused("not_available", name="detach")
    return value


def _status(value: object) -> int:
    status = parse_whole(value)
    if not 200 <= status <= 599:  # noqa: PLR2004 - the bounds of final statuses, RFC 9110 §15
        raise refused("status")
    return status


HostPolicy = Annotated[str, AfterValidator(parse_host_policy)]
"""What the Host header of an upstream request says."""
BodyLimit = Annotated[
    int | Literal["off"] | None,
    PlainValidator(_body_limit),
    PlainSerializer(lambda limit: format_size(limit) if isinstance(limit, int) else limit, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "integer", "minimum": 0}, {"const": False}]}),
]
"""Bytes, `off`, or None for the gate's."""


class Match(Section):
    """Which requests a route takes: any of its paths, with any of its methods, at any of its hosts."""

    paths: Annotated[tuple[Annotated[str, AfterValidator(parse_path_pattern)], ...], NotEmpty, AT_LEAST_ONE]
    """Paths that begin with a slash; exact, or ending in /* for everything below."""
    methods: tuple[Annotated[str, AfterValidator(parse_method)], ...] = ()
    """Methods in capitals; any when empty, which is the default."""
    hosts: tuple[Annotated[str, AfterValidator(parse_host_pattern)], ...] = ()
    """Hosts without port, exact or *.example.com; any when empty, which is the default."""


class Respond(Section):
    """An answer the gateway gives by itself."""

    status: Annotated[int, PlainValidator(_status), WithJsonSchema({"type": "integer", "minimum": 200, "maximum": 599})]
    """The status, 200 to 599."""
    body: str = ""
    """The body, as text; empty by default."""
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Headers of the answer; none by default beside those that frame it."""

    @model_validator(mode="after")
    def _no_body_where_none_may_be(self) -> Self:
        if self.body and self.status in _BODILESS:
            raise refused("respond_body", fields=("status", "body"))
        return self


class Target(Section):
    """Where a route leads: exactly one of these."""

    service: str | None = None
    """The id of a service."""
    respond: Respond | None = None
    """An answer the gateway gives by itself."""
    models: ModelsTarget = None
    """true: the models of the configuration, by the name that the request asks for."""
    rooms: Later = None
    """Not available in this version."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.service, self.respond, self.models].count(None) != 2:  # noqa: PLR2004  # all but one
            raise refused("target", fields=("service", "respond", "models", "rooms"))
        return self


class Rewrite(Section):
    """What is changed in the path and the Host header on the way to a service."""

    strip_prefix: Prefix | None = None
    """Taken from the front of the path, where it stands as whole segments; nothing by default."""
    add_prefix: Prefix | None = None
    """Put in front of the path, after stripping; nothing by default."""
    host: HostPolicy | None = None
    """The same as `host` on the route."""


class Retries(Section):
    """When another endpoint is tried, before anything has reached the client and for idempotent methods only."""

    attempts: Annotated[int, Field(ge=0, le=_ATTEMPTS_MAX), BeforeValidator(parse_whole)] = 2
    """Tries after the first, 0 to 10; 2 because more only multiply an outage."""
    on: tuple[Annotated[Reason, StatusWord], ...] = ("connect", "reset")
    """What is tried again: connect, reset, 429, 500, 502, 503, 504; by default what no upstream has worked on."""

    @property
    def statuses(self) -> frozenset[int]:
        """The statuses that are tried again."""
        return frozenset(reason for reason in self.on if isinstance(reason, int))

    @property
    def faults(self) -> frozenset[Fault]:
        """The faults of a connection that are tried again."""
        return frozenset(reason for reason in self.on if not isinstance(reason, int))


class Route(Section):
    """Which requests go where, and how."""

    id: Slug
    """The name that metrics, records and errors use for it."""
    match: Match
    """Which requests it takes."""
    to: Target
    """Where they go."""
    on_disconnect: Annotated[Literal["cancel", "drain"], BeforeValidator(_on_disconnect)] = "cancel"
    """When the client has left: cancel the upstream, or drain its response; cancel, so that nobody pays for it."""
    rewrite: Rewrite | None = None
    """What is changed on the way; nothing by default."""
    host: HostPolicy | None = None
    """The Host header sent on: upstream (the endpoint's own, the default), preserve (the client's), or a name."""
    encoded_slash: Literal["reject", "keep"] = "reject"
    """What becomes of %2F in a path: refused, since peers disagree on what it means, or passed on as it is."""
    retries: Retries = Field(default_factory=Retries)
    """When another endpoint is tried."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """Timeouts that win over the service's, field by field; none by default."""
    single_flight: bool = False
    """For models: identical deterministic requests share one generation, each with its own stream; off by default."""
    summary: bool = False
    """For models: end a stream with a comment that tells tokens, cost, waits and who answered; off by default."""
    priority: Annotated[int, Field(ge=-10, le=10), BeforeValidator(parse_whole)] = 0
    """For models: who is served first where requests wait, -10 to 10, higher first; 0."""
    max_body: BodyLimit = None
    """Bytes of a request body, or off; the gate's limit by default, and 32MiB for models, whose bodies are kept."""
    auth: Later = None
    """Not available in this version."""
    limits: Later = None
    """Not available in this version."""
    claims_to_headers: Later = None
    """Not available in this version."""
    cors: Later = None
    """Not available in this version."""

    @model_validator(mode="after")
    def _one_host_policy(self) -> Self:
        if self.host is not None and self.rewrite is not None and self.rewrite.host is not None:
            raise refused("host_policy_twice", fields=("host", "rewrite"))
        return self

    @property
    def host_policy(self) -> str:
        """`upstream`, `preserve`, or the host to send."""
        return self.host or (self.rewrite.host if self.rewrite else None) or "upstream"

    def timeouts_over(self, base: Timeouts) -> Timeouts:
        """The timeouts of an exchange on this route with a service whose own are `base`."""
        return self.timeouts.over(base)

    def max_body_bytes(self, gate_limit_bytes: int | None) -> int | None:
        """The body limit on this route in bytes, None for no limit, given that of the gate."""
        if self.max_body is None:
            kept = MODELS_BODY_BYTES if self.to.models else None
            return kept if gate_limit_bytes is None else gate_limit_bytes
        return None if self.max_body == "off" else self.max_body
