"""What a user writes under `gate`, `state` and `telemetry`."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from streamgate.config.section import File, Secret, Section, in_folder, written
from streamgate.config.sentences import refused
from streamgate.config.spec_flags import parse_ofrep_url
from streamgate.config.units import (
    Duration,
    ListenAddress,
    ListenAddressOrOff,
    Network,
    PositiveDuration,
    Size,
    SizeOrOff,
    WholeFromOne,
    WholeFromZero,
    format_size,
    is_off,
)

HEAD_MAX_BYTES = 64 * 1024
"""A request head larger than this serves nobody: peers stop at 8 to 64 KiB."""

_STATE_URL = re.compile(r"memory://|rediss?://[^\s/?#]+(?:/[0-9]*)?(?:\?\S*)?|unix:///\S+")


def _head_size(value: int) -> int:
    if not 1 <= value <= HEAD_MAX_BYTES:
        raise refused("size_range", low="1B", high=format_size(HEAD_MAX_BYTES))
    return value


def _state_url(value: str) -> str:
    if _STATE_URL.fullmatch(value) is None:
        raise refused("state_url")
    return value


def _records(value: object, info: ValidationInfo) -> Path | str:
    if is_off(value):
        return "off"
    if not isinstance(value, (str, Path)) or not str(value).strip() or "\0" in str(value):
        raise refused("records")
    return str(value) if value in {"stdout", "stderr"} else in_folder(Path(value), info)


def _collector(value: object) -> str | None:
    if value is None or is_off(value):
        return None
    try:
        return parse_ofrep_url(str(value))
    except ValueError:
        raise refused("collector_url") from None


class Tls(Section):
    """The certificate the data port shows."""

    cert: File
    """File with the certificate chain in PEM, own certificate first."""
    key: File
    """File with the private key in PEM."""
    client_ca: File | None = None
    """File with the authorities whose client certificates are demanded; without it none is asked for."""


class EdgeLimits(Section):
    """How large a request may be before it is refused."""

    head: Annotated[Size, AfterValidator(_head_size)] = written("16KiB")
    """Bytes of request line and headers together, at most 64KiB; 16KiB as in Node.js."""
    fields: WholeFromOne = 100
    """Header fields of a request; 100 as in Envoy and Apache."""
    target: Annotated[Size, AfterValidator(_head_size)] = written("8KiB")
    """Bytes of the request target (path and query), at most 64KiB; 8KiB as in Apache and nginx."""
    body: SizeOrOff = written("off")
    """Bytes of a request body, or off; off because bodies are streamed and never kept."""


class EdgeTimeouts(Section):
    """How long a client may keep a connection waiting."""

    head: PositiveDuration = written("10s")
    """From the first byte of a request to the end of its head; 10s as in H2O."""
    body: PositiveDuration = written("30s")
    """Longest silence inside a request body; nginx allows 60s."""
    write: PositiveDuration = written("30s")
    """Longest time a client may take nothing of a response; nginx allows 60s."""
    keep_alive: PositiveDuration = written("75s")
    """Longest silence between two requests of a connection; 75s as in nginx."""


class DisconnectDrain(Section):
    """How much of a response is still read, for a route with `on_disconnect: drain`, after its client left."""

    time: Duration = written("30s")
    """How long an upstream is still read; as long as `gate.drain`."""
    bytes: Size = written("16MiB")
    """How much of it is still read."""
    at_once: WholeFromZero = 64
    """How many such streams there may be at a time; one more is cancelled."""


class Gate(Section):
    """The process: where it listens, whom it believes, what it bears."""

    bind: ListenAddress = written("127.0.0.1:8080")
    """HOST:PORT of the data port, port 0 for any free one; loopback, so that nothing is open by default."""
    admin: ListenAddressOrOff = written("127.0.0.1:8081")
    """HOST:PORT of the admin port, or off; anything but loopback needs `admin_token`."""
    admin_token: Secret | None = None
    """The bearer token that the admin port asks for; none by default, which is enough on loopback."""
    workers: WholeFromOne = 1
    """Processes that share the data port; more than one needs a `state.url` they can share."""
    trusted_proxies: tuple[Network, ...] = ()
    """Networks whose Forwarded and X-Forwarded-* headers are believed; nobody by default."""
    drain: Duration = written("30s")
    """How long open streams may finish on shutdown or reload; 30s as Kubernetes grants a pod."""
    tls: Tls | None = None
    """The certificate of the data port; plain HTTP without it."""
    limits: EdgeLimits = Field(default_factory=EdgeLimits)
    """How large a request may be."""
    timeouts: EdgeTimeouts = Field(default_factory=EdgeTimeouts)
    """How long a client may keep a connection waiting."""
    disconnect_drain: DisconnectDrain = Field(default_factory=DisconnectDrain)
    """What `on_disconnect: drain` may cost."""


class State(Section):
    """What is shared between workers and machines, and where."""

    url: Annotated[str, AfterValidator(_state_url)] = Field(default="memory://", repr=False)
    """memory:// for one process, redis://, rediss:// or unix:// for several; memory:// needs nothing else to run."""

    @property
    def is_shared(self) -> bool:
        """Whether several processes see the same state."""
        return self.url != "memory://"


class Telemetry(Section):
    """What is told about each exchange, and to whom."""

    records: Annotated[
        Literal["stdout", "stderr", "off"] | Path,
        PlainValidator(_records),
        WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"const": False}]}),
    ] = "stdout"
    """Where one line of JSON per exchange goes: stdout, stderr, off or a file; stdout as twelve-factor programs do."""
    spans: Annotated[
        str | None,
        PlainValidator(_collector),
        WithJsonSchema({"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}, {"const": False}]}),
    ] = None
    """http://HOST:PORT of an OpenTelemetry collector (OTLP over HTTP) that one span per exchange goes to; none by default."""
