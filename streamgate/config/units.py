"""Durations, sizes, whole numbers, addresses and networks as people write them, each alone or as a field's type.

Every parser takes what YAML gives (text, a number, or false for a bare `off`), returns the value in the unit its type
names, and raises a ValueError whose text says what to write instead. What a parser returned, it takes again.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from streamgate.config.sentences import refused

MAX_DURATION_S: Final = 365 * 24 * 3600.0
"""A year. Anything longer is a slip of the unit, or means `off`."""

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h)")
_DURATION_S = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SIZE = re.compile(r"([0-9]{1,15})(B|KB|MB|GB|KiB|MiB|GiB)?")
_SIZE_BYTES = {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"[0-9]{1,5}")
_PORT_MAX = 65535


def is_off(value: object) -> bool:
    """Whether a value means `off`: the word, or the false that YAML 1.1 reads a bare `off` as."""
    return value is False or value == "off"


def parse_duration(value: object) -> float:
    """Seconds of `250ms`, `2s`, `1.5m`, `1h`; 0 to a year. Raises ValueError."""
    if is_off(value):
        raise refused("duration_off")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise refused("duration_unit", value)
    if not isinstance(value, str):
        raise refused("duration", value)
    found = _DURATION.fullmatch(value)
    if found is None:
        raise refused("duration_unit" if _NUMBER.fullmatch(value) else "duration", value)
    seconds = float(Decimal(found[1]) * _DURATION_S[found[2]])
    if seconds > MAX_DURATION_S:
        raise refused("duration_long", value)
    return seconds


def parse_positive_duration(value: object) -> float:
    """As `parse_duration`, and longer than zero. Raises ValueError."""
    if not (seconds := parse_duration(value)):
        raise refused("duration_zero")
    return seconds


def parse_duration_or_off(value: object) -> float | None:
    """Seconds longer than zero, or None for `off`. Raises ValueError."""
    if is_off(value):
        return None
    if not (seconds := parse_duration(value)):
        raise refused("duration_zero_or_off")
    return seconds


def format_duration(seconds: float | None) -> str:
    """The shortest spelling that reads back as the same value: `90m`, `2s`, `250ms`; `off` for None."""
    if seconds is None:
        return "off"
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s"):
        if exact and exact % _DURATION_S[unit] == 0:
            return f"{int(exact / _DURATION_S[unit])}{unit}"
    thousandths = f"{(exact * 1000).normalize():f}"
    return f"{thousandths}ms" if exact else "0s"


def parse_size(value: object) -> int:
    """Bytes of `512`, `64KiB` (1024), `10KB` (1000), up to `GiB`. Raises ValueError."""
    if is_off(value):
        raise refused("size_off")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise refused("size", value)
    return int(found[1]) * _SIZE_BYTES[found[2]]


def parse_size_or_off(value: object) -> int | None:
    """Bytes, or None for `off`. Raises ValueError."""
    return None if is_off(value) else parse_size(value)


def format_size(size_bytes: int | None) -> str:
    """A spelling that reads back as the same value: `64KiB`, `10000B`; `off` for None."""
    if size_bytes is None:
        return "off"
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_BYTES[unit] == 0:
            return f"{size_bytes // _SIZE_BYTES[unit]}{unit}"
    return f"{size_bytes}B"


def parse_whole(value: object) -> int:
    """A whole number, also from text (that is what `${env:…}` gives). true is no number. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    raise refused("whole_number", value)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host (an IP without brackets, or a name) and a port, 0 for any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than `localhost` is taken to be reachable."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """`127.0.0.1:8080`, `[::1]:80`, `localhost:0`. Raises ValueError."""
    if isinstance(value, Address):
        return value
    if is_off(value):
        raise refused("address_off")
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise refused("address", value)
    host, _, port = text.rpartition(":")
    if not host.strip("*") and _is_port(port):
        raise refused("address_host")
    if is_host(f"[{host}]") or is_host(f"[{text}]"):
        raise refused("address_brackets")
    if is_host(text) or (is_host(host) and not _is_port(port)):
        raise refused("address_port")
    if not is_host(host):
        raise refused("address", value)
    return Address(host.strip("[]").lower(), int(port))


def parse_address_or_off(value: object) -> Address | None:
    """An address, or None for `off`. Raises ValueError."""
    return None if is_off(value) else parse_address(value)


def is_host(text: str) -> bool:
    """Whether it can be the host of a URL: an IPv4 address, IPv6 in brackets, or a name (RFC 1123, and `_`)."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return ip_address(text[1:-1]).version == 6  # noqa: PLR2004 - the protocol's own number
        except ValueError:
            return False
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return isinstance(ip_address(text), IPv4Address)
        except ValueError:
            return False
    return _NAME.fullmatch(text.lower()) is not None


def is_authority(text: str) -> bool:
    """Whether it is a host with an optional port, as a Host header carries it."""
    host, colon, port = text.rpartition(":")
    return is_host(text) or bool(colon and is_host(host) and _is_port(port))


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """`10.0.0.0/8`, `fd00::/8`, or one address. Bits after the prefix are a slip, and refused. Raises ValueError."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    try:
        network = ip_network(value, strict=False) if isinstance(value, str) else None
    except ValueError:
        network = None
    if network is None:
        raise refused("network", value)
    if ip_address(str(value).partition("/")[0]) != network.network_address:
        raise refused("network_host_bits", value)
    return network


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) <= _PORT_MAX


def _written(pattern: str, examples: list[str], *, off: bool = False, number: bool = False) -> WithJsonSchema:
    choices: list[dict[str, Any]] = [{"type": "string", "pattern": f"^{pattern}$", "examples": examples}]
    if number:
        choices.append({"type": "integer", "minimum": 0})
    if off:
        choices.append({"enum": ["off", False]})
    return WithJsonSchema(choices[0] if len(choices) == 1 else {"anyOf": choices})


_AS_DURATION = PlainSerializer(format_duration, when_used="json")
_AS_SIZE = PlainSerializer(format_size, when_used="json")
_DURATION_PATTERN = r"[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h)"
_SIZE_PATTERN = r"[0-9]{1,15}(B|KB|MB|GB|KiB|MiB|GiB)?"
_ADDRESS_PATTERN = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}"
_DURATIONS = ["250ms", "2s", "5m", "1h"]
_SIZES = ["64KiB", "10MB"]
_ADDRESSES = ["127.0.0.1:8080", "[::1]:80"]

Duration = Annotated[float, PlainValidator(parse_duration), _AS_DURATION, _written(_DURATION_PATTERN, _DURATIONS)]
"""Seconds, zero allowed."""
PositiveDuration = Annotated[
    float, PlainValidator(parse_positive_duration), _AS_DURATION, _written(_DURATION_PATTERN, _DURATIONS)
]
"""Seconds, longer than zero."""
DurationOrOff = Annotated[
    float | None, PlainValidator(parse_duration_or_off), _AS_DURATION, _written(_DURATION_PATTERN, _DURATIONS, off=True)
]
"""Seconds longer than zero, or None for `off`."""
Size = Annotated[int, PlainValidator(parse_size), _AS_SIZE, _written(_SIZE_PATTERN, _SIZES, number=True)]
"""Bytes."""
SizeOrOff = Annotated[
    int | None, PlainValidator(parse_size_or_off), _AS_SIZE, _written(_SIZE_PATTERN, _SIZES, number=True, off=True)
]
"""Bytes, or None for `off`."""
ListenAddress = Annotated[Address, PlainValidator(parse_address), PlainSerializer(str), _written(_ADDRESS_PATTERN, _ADDRESSES)]
"""An Address."""
ListenAddressOrOff = Annotated[
    Address | None,
    PlainValidator(parse_address_or_off),
    PlainSerializer(lambda address: "off" if address is None else str(address)),
    _written(_ADDRESS_PATTERN, _ADDRESSES, off=True),
]
"""An Address, or None for `off`."""
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(parse_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "fd00::/8"]}),
]
"""An IPv4Network or IPv6Network."""
WholeFromZero = Annotated[int, Field(ge=0), BeforeValidator(parse_whole)]
"""0, 1, 2 …"""
WholeFromOne = Annotated[int, Field(ge=1), BeforeValidator(parse_whole)]
"""1, 2, 3 …"""
