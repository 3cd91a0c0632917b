"""What an upstream would get: the gateway's own head, without what opens doors."""

from __future__ import annotations

import pytest

from streamgate.exchange import Exchange
from streamgate.headers import Networks, Peer
from streamgate.pipeline.explaining.upstream import HIDDEN, upstream_of
from tests.streamgate.pipeline.explaining.stand import Stand

PEER = Peer("192.0.2.1", tls=False, trusted=Networks())


def told(*headers: tuple[str, str], hidden: tuple[str, ...] = (), route: dict[str, object] | None = None) -> dict[str, str]:
    stand = Stand(services={"a": {"credentials": {"header": "x-mine", "value": "s3cret"}}}, route=route)
    exchange = Exchange(
        method=b"POST", path=b"/v1/x", query=b"q=1", host=b"gate", http10=False, started_at=0.0,
        headers=[(name.encode(), value.encode()) for name, value in headers],
    )  # fmt: skip
    plan = next(entry.plan for entry in stand.built.routes.rows())
    service = stand.model.services["a"]
    found = upstream_of(exchange, plan, service, service.pool.endpoints[0], peer=PEER, pseudonym=b"gate", length=7, hidden=hidden)
    assert "s3cret" not in str(found)
    return {**{name.lower(): value for name, value in found.pop("headers")}, **found}


def test_the_head() -> None:
    found = told(("X-Extra", "1"), route={"rewrite": {"strip_prefix": "/v1", "add_prefix": "/in"}})
    assert (found["method"], found["target"], found["host"], found["host_is"]) == ("POST", "/in/x?q=1", "a.example", "the endpoint's own")
    assert (found["x-extra"], found["content-length"], found["via"]) == ("1", "7", "1.1 gate")
    assert found["x-mine"] == HIDDEN


@pytest.mark.parametrize(
    "name",
    ["Authorization", "Cookie", "X-Api-Key", "api-key", "x-goog-api-key", "X-Auth-Token", "x-amz-security-token", "X-Client-Secret", "X-Session-Id"],
)
def test_what_opens_something_is_hidden(name: str) -> None:
    assert told((name, "s3cret"))[name.lower()] == HIDDEN


def test_what_is_asked_to_be_hidden_is_too() -> None:
    assert told(("X-User", "s3cret"), hidden=("x-user",))["x-user"] == HIDDEN


def test_whose_host_it_is() -> None:
    assert told(route={"host": "preserve"})["host_is"] == "the client's"
    named = told(route={"host": "other.example"})
    assert (named["host"], named["host_is"]) == ("other.example", "the route's")
