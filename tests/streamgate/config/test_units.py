"""What is written is what is meant, and what was read is written back the same."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from streamgate.config import units
from streamgate.config.units import (
    Address,
    format_duration,
    format_size,
    parse_address,
    parse_address_or_off,
    parse_duration,
    parse_duration_or_off,
    parse_network,
    parse_positive_duration,
    parse_size,
    parse_size_or_off,
    parse_whole,
)

ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(max_size=3), max_size=2))
PARSERS = [
    parse_duration,
    parse_duration_or_off,
    parse_positive_duration,
    parse_size,
    parse_size_or_off,
    parse_whole,
    parse_address,
    parse_address_or_off,
    parse_network,
]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2.0), ("1.5s", 1.5), ("5m", 300.0), ("1h", 3600.0), ("0s", 0.0), ("8760h", 31536000.0)],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [5, 5.5, "5", "0.25", 0])
def test_a_bare_number_is_no_duration_and_says_which_to_write(value: object) -> None:
    with pytest.raises(ValueError, match=f'has no unit; write "{value}s"'):
        parse_duration(value)


@pytest.mark.parametrize(
    "value",
    ["", "s", "5 s", "-5s", "5S", "1h30m", "5s\n", "1e3s", "\u0665s", ".5s", "5.s", True, None, [], "1" * 13 + "s"],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="250ms"):
        parse_duration(value)


@pytest.mark.parametrize("text", ["8761h", "530000m", "999999999999s"])
def test_longer_than_a_year_is_a_slip(text: str) -> None:
    with pytest.raises(ValueError, match="longer than a year"):
        parse_duration(text)


@pytest.mark.parametrize("value", [False, "off"])
def test_off_is_told_apart_from_a_duration(value: object) -> None:
    assert parse_duration_or_off(value) is None
    assert parse_size_or_off(value) is None
    assert parse_address_or_off(value) is None
    assert parse_size_or_off("1KiB") == 1024
    assert parse_address_or_off("a:1") == Address("a", 1)
    for parse in (parse_duration, parse_positive_duration, parse_size, parse_address):
        with pytest.raises(ValueError, match="cannot be off"):
            parse(value)


def test_zero_is_a_duration_but_no_timeout() -> None:
    assert parse_duration("0s") == 0
    with pytest.raises(ValueError, match="longer than 0s"):
        parse_positive_duration("0ms")
    with pytest.raises(ValueError, match="write off for no limit"):
        parse_duration_or_off("0h")
    assert parse_duration_or_off("1ms") == 0.001
    assert parse_positive_duration("1ms") == 0.001


@given(number=st.integers(0, 10**9), thousandths=st.integers(0, 999), unit=st.sampled_from(["ms", "s", "m", "h"]))
def test_a_duration_is_written_back_as_it_was_meant(number: int, thousandths: int, unit: str) -> None:
    text = f"{number}.{thousandths:03}{unit}"
    try:
        seconds = parse_duration(text)
    except ValueError as refusal:
        assert "year" in str(refusal)
    else:
        assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.25, "250ms"), (90.0, "90s"), (5400.0, "90m"), (7200.0, "2h"), (None, "off")]
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("64KiB", 65536),
        ("10KB", 10_000),
        ("1MiB", 2**20),
        ("1GiB", 2**30),
        ("2MB", 2_000_000),
        ("3GB", 3 * 10**9),
        ("7B", 7),
        (512, 512),
        ("512", 512),
        (0, 0),
    ],
)
def test_a_size_is_bytes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["64K", "64kib", "-1", -1, "1.5MiB", 1.5, "", None, True, "1 KiB", "1KiB\n", "²KiB"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="64KiB"):
        parse_size(value)


@given(st.integers(0, 2**48))
def test_a_size_is_written_back_as_it_was_meant(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
    assert parse_size(size_bytes) == size_bytes


def test_a_size_is_written_in_its_largest_whole_unit() -> None:
    assert [format_size(size) for size in (0, 1000, 2048, 3 * 2**20, 2**30, None)] == [
        "0B",
        "1000B",
        "2KiB",
        "3MiB",
        "1GiB",
        "off",
    ]


def test_a_whole_number_may_come_as_text() -> None:
    assert [parse_whole(value) for value in (4, "4", "-2")] == [4, 4, -2]


@pytest.mark.parametrize("value", [True, 4.0, "4.0", "", None, "four", "\u0664"])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_whole(value)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("LocalHost:80", "localhost", 80),
        ("[::1]:80", "::1", 80),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("my_host.example.com:1", "my_host.example.com", 1),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.host, address.port) == (host, port)
    assert parse_address(str(address)) == address
    assert parse_address(address) is address


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (8080, "needs a host"),
        ("8080", "needs a host"),
        (":8080", "needs a host"),
        ("*:8080", "needs a host"),
        ("::1:80", "in brackets"),
        ("2001:db8:0:0:0:0:0:1:80", "in brackets"),
        ("[::1:80", "is not an address"),
        ("::1]:80", "is not an address"),
        ("a b:x", "is not an address"),
        ("127.0.0.1", "needs a port"),
        ("localhost", "needs a port"),
        ("[::1]", "needs a port"),
        ("127.0.0.1:", "needs a port"),
        ("127.0.0.1:65536", "needs a port"),
        ("127.0.0.1:http", "needs a port"),
        ("256.0.0.1:80", "is not an address"),
        ("[::g]:80", "is not an address"),
        ("[127.0.0.1]:80", "is not an address"),
        ("a b:80", "is not an address"),
        ("-a:80", "is not an address"),
        ("http://a:80", "is not an address"),
        ("fe80::1", "in brackets"),
        ("a" * 64 + ":80", "is not an address"),
        (True, "is not an address"),
        (None, "is not an address"),
    ],
)
def test_what_is_no_address_says_what_is_missing(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_address(value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback is is_loopback


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_an_address_is_written_back_as_it_was_meant(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1", "0.0.0.0/0"])
def test_a_network_is_a_cidr_or_an_address(text: str) -> None:
    network = parse_network(text)
    assert network == ip_network(text)
    assert parse_network(network) is network


@pytest.mark.parametrize("value", ["10.0.0.1/8", "fd00::1/8", "10.0.0.1/255.0.0.0"])
def test_a_network_with_bits_after_its_prefix_is_a_slip(value: str) -> None:
    with pytest.raises(ValueError, match="bits set after the prefix"):
        parse_network(value)


@pytest.mark.parametrize("value", [5, "localhost", "", "10.0.0.0/33", None, True])
def test_what_is_no_network_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a network"):
        parse_network(value)


@pytest.mark.parametrize("parse", PARSERS)
@settings(deadline=None)
@given(value=ANYTHING)
def test_a_parser_reads_or_refuses_and_never_fails_otherwise(parse: object, value: object) -> None:
    assert callable(parse)
    try:
        parse(value)
    except ValueError as refusal:
        assert str(refusal)
        assert "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (units.Duration, "0s"),
        (units.PositiveDuration, "250ms"),
        (units.DurationOrOff, "off"),
        (units.DurationOrOff, "5m"),
        (units.Size, "64KiB"),
        (units.SizeOrOff, "off"),
        (units.ListenAddress, "[::1]:80"),
        (units.ListenAddressOrOff, "off"),
        (units.ListenAddressOrOff, "a:1"),
        (units.Network, "10.0.0.0/8"),
    ],
)
def test_a_field_is_written_as_it_is_read(kind: Any, text: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert adapter.dump_python(adapter.validate_python(text), mode="json") == text


def test_a_network_keeps_its_family() -> None:
    assert isinstance(parse_network("10.0.0.0/8"), IPv4Network)
    assert isinstance(parse_network("fd00::/8"), IPv6Network)
