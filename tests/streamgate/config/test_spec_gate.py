"""What may stand under gate, state and telemetry."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from streamgate.config.spec_gate import EdgeLimits, EdgeTimeouts, Gate, State, Telemetry, Tls
from streamgate.config.units import Address


def kinds(model: type[Gate | State | Telemetry | Tls], value: object) -> list[tuple[str, str]]:
    """Where and what kind each mistake is."""
    with pytest.raises(ValidationError) as info:
        model.model_validate(value)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in info.value.errors()]


def test_the_defaults_are_those_of_the_design() -> None:
    gate = Gate()
    assert gate.bind == Address("127.0.0.1", 8080)
    assert gate.admin == Address("127.0.0.1", 8081)
    assert (gate.admin_token, gate.workers, gate.trusted_proxies, gate.drain, gate.tls) == (None, 1, (), 30.0, None)
    assert gate.limits == EdgeLimits.model_validate({"head": 16384, "fields": 100, "target": 8192, "body": "off"})
    assert gate.limits.body is None
    timeouts = EdgeTimeouts()
    assert (timeouts.head, timeouts.body, timeouts.write, timeouts.keep_alive) == (10.0, 30.0, 30.0, 75.0)
    drain = gate.disconnect_drain
    assert (drain.time, drain.bytes, drain.at_once) == (30.0, 16 * 2**20, 64)
    assert State().url == "memory://"
    assert Telemetry().records == "stdout"


def test_everything_can_be_said() -> None:
    gate = Gate.model_validate(
        {
            "bind": "[::1]:80",
            "admin": False,
            "admin_token": "t0ken",
            "workers": "4",
            "trusted_proxies": ["10.0.0.0/8", "::1"],
            "drain": "0s",
            "tls": {"cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem"},
            "limits": {"head": "64KiB", "fields": 1, "target": 1, "body": "1GiB"},
            "timeouts": {"head": "1s", "body": "2s", "write": "3s", "keep_alive": "4s"},
            "disconnect_drain": {"time": "0s", "bytes": 0, "at_once": 0},
        }
    )
    assert gate.bind == Address("::1", 80)
    assert gate.admin is None
    assert gate.admin_token is not None
    assert gate.workers == 4
    assert gate.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert gate.tls == Tls(cert=Path("c.pem"), key=Path("k.pem"), client_ca=Path("ca.pem"))
    assert gate.limits.body == 2**30
    assert "t0ken" not in repr(gate)


@pytest.mark.parametrize(
    ("value", "loc", "kind"),
    [
        ({"workers": 0}, "workers", "greater_than_equal"),
        ({"workers": True}, "workers", "whole_number"),
        ({"bind": False}, "bind", "address_off"),
        ({"admin": None}, "admin", "address"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "trusted_proxies.0", "network_host_bits"),
        ({"trusted_proxies": "10.0.0.0/8"}, "trusted_proxies", "tuple_type"),
        ({"drain": 30}, "drain", "duration_unit"),
        ({"limits": {"head": "65KiB"}}, "limits.head", "size_range"),
        ({"limits": {"head": 0}}, "limits.head", "size_range"),
        ({"limits": {"target": "1MiB"}}, "limits.target", "size_range"),
        ({"limits": {"fields": 0}}, "limits.fields", "greater_than_equal"),
        ({"timeouts": {"head": "off"}}, "timeouts.head", "duration_off"),
        ({"timeouts": {"keep_alive": "0s"}}, "timeouts.keep_alive", "duration_zero"),
        ({"disconnect_drain": {"at_once": -1}}, "disconnect_drain.at_once", "greater_than_equal"),
        ({"tls": {"cert": "c.pem"}}, "tls.key", "missing"),
        ({"tls": {"cert": "c.pem", "key": ""}}, "tls.key", "file_name"),
    ],
)
def test_what_a_gate_cannot_be(value: object, loc: str, kind: str) -> None:
    assert kinds(Gate, value) == [(loc, kind)]


@pytest.mark.parametrize(
    ("url", "is_shared"),
    [
        ("memory://", False),
        ("redis://host:6379/0", True),
        ("redis://:pass@host", True),
        ("rediss://u:p@[::1]:6380/1?timeout=1", True),
        ("unix:///run/redis.sock", True),
    ],
)
def test_state_is_in_memory_or_shared(url: str, *, is_shared: bool) -> None:
    state = State.model_validate({"url": url})
    assert state.url == url
    assert state.is_shared is is_shared
    assert "pass" not in repr(state)


@pytest.mark.parametrize("url", ["memory:", "memory://x", "redis://", "http://a", "unix://a", "redis://a b", "redis://a/b"])
def test_what_state_cannot_be(url: str) -> None:
    assert kinds(State, {"url": url}) == [("url", "state_url")]


@pytest.mark.parametrize(
    ("value", "records"),
    [("stdout", "stdout"), ("stderr", "stderr"), ("off", "off"), (False, "off"), ("log/a.jsonl", Path("log/a.jsonl"))],
)
def test_records_go_to_a_stream_a_file_or_nowhere(value: object, records: object) -> None:
    assert Telemetry.model_validate({"records": value}).records == records


@pytest.mark.parametrize("value", ["", 5, None, True, "a\0"])
def test_where_records_cannot_go(value: object) -> None:
    assert kinds(Telemetry, {"records": value}) == [("records", "records")]
