"""Tenants: sources in order, headers from trusted proxies only, nothing ill-formed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from streamgate.policies.tenants import Tenants


@dataclass
class Asking:
    host: bytes = b"acme.example.com:8080"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def of(sources: list[str], asking: Asking, claims: dict[str, str] | None = None, *, trusted: bool = False) -> str | None:
    return Tenants(sources).of(asking, claims or {}, trusted=trusted)


def test_nobody_without_sources() -> None:
    assert of([], Asking()) is None


def test_the_first_source_that_is_present_decides() -> None:
    sources = ["claim:tenant", "host", "header:x-tenant-id"]
    asking = Asking(headers=[(b"X-Tenant-Id", b"globex")])
    assert of(sources, asking, {"tenant": "Initech"}, trusted=True) == "initech"
    assert of(sources, asking, trusted=True) == "acme"
    assert of(sources[2:], asking, trusted=True) == "globex"


def test_a_client_cannot_name_its_tenant_in_a_header() -> None:
    assert of(["header:x-tenant-id"], Asking(headers=[(b"x-tenant-id", b"globex")])) is None


@pytest.mark.parametrize("lines", [[b"a", b"b"], [b""], [b"-a"], [b"a b"], [b"x" * 64], ["é".encode()]])
def test_an_ill_formed_header_names_nobody(lines: list[bytes]) -> None:
    asking = Asking(headers=[(b"x-tenant-id", line) for line in lines])
    assert of(["header:x-tenant-id"], asking, trusted=True) is None


@pytest.mark.parametrize(
    ("host", "tenant"),
    [(b"acme.example.com", "acme"), (b"ACME.localhost.", "acme"), (b"localhost:80", None), (b"127.0.0.1:80", None), (b"[::1]:80", None), (b"", None)],
)
def test_a_host_names_its_first_label(host: bytes, tenant: str | None) -> None:
    assert of(["host"], Asking(host=host)) == tenant
