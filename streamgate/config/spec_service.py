"""What a user writes under `services`: an upstream, its addresses, and how it is treated."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainValidator, SecretStr, WithJsonSchema, model_validator

from streamgate.config.section import AT_LEAST_ONE, File, HeaderName, NotEmpty, Secret, Section, Slug, is_token, written
from streamgate.config.sentences import refused
from streamgate.config.units import (
    Duration,
    DurationOrOff,
    PositiveDuration,
    WholeFromZero,
    is_authority,
    is_off,
    parse_whole,
)

_URL = re.compile(r"(https?)://([^/?#]*)([/?#].*)?", re.IGNORECASE | re.DOTALL)


def parse_upstream_url(value: str) -> str:
    """`http://host[:port]`, lower-cased and without the last slash. Raises ValueError, never showing the value."""
    found = _URL.fullmatch(value)
    if found is None:
        raise refused("upstream_url")
    scheme, authority, rest = found.groups()
    if "@" in authority:
        raise refused("upstream_url_userinfo")
    if rest not in (None, "/"):
        raise refused("upstream_url_path")
    if not is_authority(authority) or authority.endswith(":0"):
        raise refused("upstream_url")
    return f"{scheme}://{authority}".lower()


def _hash_key(value: str) -> str:
    kind, _, name = value.partition(":")
    is_named = is_token(name) if kind in {"header", "cookie"} else kind == "query" and name
    if not is_named and value not in {"path", "client_ip"}:
        raise refused("hash_key", value)
    return value.lower() if kind == "header" else value


def _bearer(value: SecretStr) -> SecretStr:
    if re.match(r"(?i)bearer\s", value.get_secret_value()):
        raise refused("bearer_word")
    return value


def _count_or_off(value: object) -> int | None:
    if is_off(value):
        return None
    if (count := parse_whole(value)) < 1:
        raise refused("count_or_off")
    return count


UpstreamUrl = Annotated[str, AfterValidator(parse_upstream_url), WithJsonSchema({"type": "string", "format": "uri"})]
"""Scheme, host and port of an upstream."""

CountOrOff = Annotated[
    int | None,
    PlainValidator(_count_or_off),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["off", False]}]}),
]
"""1, 2, 3 … or None for `off`."""


class EndpointSpec(Section):
    """One address of a service."""

    url: UpstreamUrl
    """http://HOST or https://HOST with an optional :PORT; no path, that is the route's rewrite."""
    weight: WholeFromZero = 1
    """Its share among the endpoints; 0 gives it nothing new; 1 as in nginx and Envoy."""
    region: str | None = None
    """Where it stands, a name of your choosing; unnamed by default."""

    @property
    def is_tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        """The host to connect to, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port to connect to, the scheme's own when none is written."""
        return urlsplit(self.url).port or (443 if self.is_tls else 80)

    @property
    def authority(self) -> str:
        """Host and port as the Host header names them: as written in the URL."""
        return urlsplit(self.url).netloc


class Timeouts(Section):
    """How long an upstream may keep an exchange waiting. On a route, the fields it names win over the service's."""

    connect: PositiveDuration = written("2s")
    """Until a connection stands, TLS included; Envoy allows 5s, a healthy network needs far less."""
    first_byte: DurationOrOff = written("60s")
    """From the request sent to the first byte of the response, or off; 60s as in nginx."""
    idle: DurationOrOff = written("120s")
    """Longest silence inside a response, or off; twice the first byte, because models pause to think."""
    total: DurationOrOff = written("off")
    """The whole exchange, or off; off because a stream may last as long as it says something."""

    def over(self, base: "Timeouts") -> "Timeouts":
        """These, with every field that the document does not name taken from `base`."""
        named = {name: getattr(self, name) for name in self.model_fields_set}
        return base.model_copy(update=named)


class Credentials(Section):
    """What the gateway shows to an upstream: a bearer token, or any header with a secret value."""

    bearer: Annotated[Secret, AfterValidator(_bearer)] | None = None
    """The token of `Authorization: Bearer …`, without the word Bearer."""
    header: HeaderName | None = None
    """The header that carries `value`, such as X-Api-Key."""
    value: Secret | None = None
    """The secret sent in `header`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.bearer is not None, self.header is not None, self.value is not None)
        if given not in {(True, False, False), (False, True, True)}:
            raise refused("credentials")
        return self

    @property
    def as_header(self) -> tuple[str, str]:
        """Name and value of the header to send. The value is the secret itself: never print it."""
        if self.header is not None and self.value is not None:
            return self.header, self.value.get_secret_value()
        return "authorization", f"Bearer {self.bearer.get_secret_value() if self.bearer else ''}"


class PoolLimits(Section):
    """Connections kept open between exchanges."""

    max_idle: WholeFromZero = 64
    """Idle connections kept per endpoint; 64 serves bursts of as many streams, Go keeps 2 per host."""
    idle: Duration = written("55s")
    """How long an idle one is kept; 55s stays below the 60s after which common load balancers close."""


class UpstreamTls(Section):
    """How a service's certificate is checked, and which one it is shown."""

    ca: File | None = None
    """File with the authorities believed, in PEM; the system's own without it."""
    verify: bool = True
    """Whether the certificate is checked at all; false trusts anybody on the way."""
    server_name: str | None = None
    """The name asked for and checked; the host of the URL without it."""
    cert: File | None = None
    """File with the certificate shown to the upstream, in PEM; none by default."""
    key: File | None = None
    """File with its private key; needed with `cert`."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise refused("tls_pair")
        return self


class Service(Section):
    """An upstream that routes name: one address or several that serve alike."""

    id: Slug
    """The name that routes use for it, such as model-a."""
    url: UpstreamUrl | None = None
    """Its address when it has one; otherwise `endpoints`."""
    endpoints: tuple[EndpointSpec, ...] = ()
    """Its addresses when it has several; otherwise `url`."""
    balance: Literal["round_robin", "least_in_flight", "least_rtt", "hash"] = "least_in_flight"
    """How an endpoint is chosen; least_in_flight because streams differ in length a thousandfold."""
    hash_by: Annotated[tuple[Annotated[str, AfterValidator(_hash_key)], ...], NotEmpty, AT_LEAST_ONE] = ("client_ip",)
    """With `balance: hash`: header:NAME, cookie:NAME, query:NAME, path or client_ip; the first present decides."""
    max_in_flight: CountOrOff = written("off")
    """Exchanges an endpoint serves at a time, or off; off because only you know what it bears."""
    timeouts: Timeouts = Field(default_factory=Timeouts)
    """How long it may keep an exchange waiting."""
    credentials: Credentials | None = None
    """What is shown to it; without it, what the client sent."""
    pool: PoolLimits = Field(default_factory=PoolLimits)
    """Connections kept open to it."""
    tls: UpstreamTls | None = None
    """How its certificate is checked, for https only; against the system's authorities without it."""

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.url is None) == (not self.endpoints):
            raise refused("service_address", fields=("url", "endpoints"))
        return self

    @property
    def all_endpoints(self) -> tuple[EndpointSpec, ...]:
        """Its addresses, whether written as `url` or as `endpoints`; never empty."""
        return self.endpoints if self.url is None else (EndpointSpec(url=self.url),)
