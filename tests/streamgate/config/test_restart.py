"""Which changes wait for a restart, and which do not."""

from __future__ import annotations

from typing import Any

import pytest

from streamgate.config.restart import restart_needed
from streamgate.config.spec import Spec

TLS = {"cert": "c.pem", "key": "k.pem"}


def spec(gate: dict[str, Any] | None = None, **top: Any) -> Spec:
    return Spec.model_validate({"gate": gate or {}, **top})


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ({}, {"bind": "127.0.0.1:9"}, ["gate.bind"]),
        ({}, {"admin": "127.0.0.1:9"}, ["gate.admin"]),
        ({}, {"admin": "off"}, ["gate.admin"]),
        ({"admin": "off"}, {"admin": "127.0.0.1:9"}, ["gate.admin"]),
        ({}, {"workers": 2, "bind": "127.0.0.1:9"}, ["gate.bind", "gate.workers"]),
        ({}, {"tls": TLS}, ["gate.tls"]),
        ({"tls": TLS}, {}, ["gate.tls"]),
        ({"tls": TLS}, {"tls": TLS | {"client_ca": "a.pem"}}, ["gate.tls.client_ca"]),
        ({"tls": TLS}, {"tls": {"cert": "other.pem", "key": "other.key"}}, []),
        ({}, {"admin_token": "t"}, []),
        ({}, {"drain": "1s", "limits": {"body": "1B"}, "timeouts": {"head": "1s"}, "trusted_proxies": ["10.0.0.0/8"]}, []),
        ({"bind": "127.0.0.1:8080"}, {}, []),
    ],
)
def test_what_sockets_and_processes_were_begun_with(before: dict[str, Any], after: dict[str, Any], wanted: list[str]) -> None:
    assert restart_needed(spec(before), spec(after)) == wanted


def test_records_go_where_they_went() -> None:
    assert restart_needed(spec(), spec(telemetry={"records": "stderr"})) == ["telemetry.records"]


def test_services_and_routes_never_wait() -> None:
    services = [{"id": "a", "url": "http://a"}]
    routes = [{"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "a"}}]
    assert restart_needed(spec(), spec(services=services, routes=routes)) == []
