"""From a head to an exchange with a plan: host and path, who is asking, ids, dialects, and what is recorded of a refusal."""

from typing import Any

import pytest

from streamgate.edge.enter import Entry, Gateway, dialect_of
from streamgate.edge.guard import HeadLimits, read_head
from streamgate.errors import Fault, NoRoute
from streamgate.exchange import Dialect
from streamgate.headers import Networks, Peer
from tests.kit.clock import ManualClock
from tests.kit.inside import Told, gateway_of

UP = {"id": "up", "url": "http://127.0.0.1:1"}


def gateway(*routes: dict[str, Any], **gate: Any) -> Gateway:
    found = [{"to": {"service": "up"}, **route} for route in routes] or [
        {"id": "all", "match": {"paths": ["/*"]}, "to": {"service": "up"}}
    ]
    return gateway_of({"gate": gate, "services": [UP], "routes": found}, ManualClock())


def enter(
    one: Gateway,
    target: str = "/x",
    *lines: str,
    host: str | None = "gate.example",
    version: str = "1.1",
    peer: str = "192.0.2.1",
) -> Entry:
    fields = [f"Host: {host}"] * (host is not None) + list(lines)
    data = "\r\n".join([f"GET {target} HTTP/{version}", *fields, "", ""]).encode("latin-1")
    return one.enter(read_head(data, HeadLimits()), Peer(peer, tls=False, trusted=one.trusted))


@pytest.mark.parametrize(
    ("host", "route"),
    [
        ("only.example", "one"),
        ("ONLY.Example", "one"),
        ("only.example:8443", "one"),
        ("only.example.:80", "one"),
        ("a.wild.example:1", "wild"),
        ("wild.example", "any"),
        ("[::1]:80", "six"),
        ("[::1]", "six"),
        ("[::2]:80", "any"),
        ("", "any"),
        (None, "any"),
    ],
)
def test_a_route_is_found_by_host_without_port(host: str | None, route: str) -> None:
    one = gateway(
        {"id": "one", "match": {"paths": ["/x"], "hosts": ["only.example"]}},
        {"id": "wild", "match": {"paths": ["/x"], "hosts": ["*.wild.example"]}},
        {"id": "six", "match": {"paths": ["/x"], "hosts": ["[::1]"]}},
        {"id": "any", "match": {"paths": ["/x"]}},
    )
    assert enter(one, host=host, version="1.0").plan.route == route


def test_an_absolute_target_says_the_host() -> None:
    one = gateway({"id": "one", "match": {"paths": ["/x"], "hosts": ["only.example"]}})
    entry = enter(one, "http://only.example:80/x?q", host=None, version="1.0")
    assert (entry.exchange.host, entry.exchange.path, entry.exchange.query) == (b"only.example", b"/x", b"q")
    with pytest.raises(Fault) as caught:
        enter(one, "http://only.example/x", host="other.example")
    assert caught.value.status == 400


def test_routes_see_the_canonical_path_and_so_does_the_upstream() -> None:
    one = gateway({"id": "admin", "match": {"paths": ["/admin/*"]}}, {"id": "all", "match": {"paths": ["/*"]}})
    for target in ("/admin/x", "/a/../admin/x", "/%61dmin/x", "//admin//x", "/./admin/x"):
        entry = enter(one, target)
        assert (entry.plan.route, entry.exchange.path, entry.exchange.pattern) == ("admin", b"/admin/x", "/admin/*")


def test_an_encoded_slash_is_a_routes_choice() -> None:
    one = gateway(
        {"id": "keep", "match": {"paths": ["/keep/*"]}, "encoded_slash": "keep"}, {"id": "all", "match": {"paths": ["/*"]}}
    )
    assert enter(one, "/keep/a%2fb").exchange.path == b"/keep/a%2Fb"
    with pytest.raises(Fault) as caught:
        enter(one, "/other/a%2fb")
    assert (caught.value.status, caught.value.close) == (400, True)


def test_other_methods_are_named() -> None:
    one = gateway({"id": "post", "match": {"paths": ["/x"], "methods": ["POST", "PUT"]}})
    with pytest.raises(Fault) as caught:
        enter(one)
    assert (caught.value.status, caught.value.headers) == (405, ((b"Allow", b"POST, PUT"),))
    with pytest.raises(NoRoute):
        enter(one, "/y")
    with pytest.raises(NoRoute):
        enter(one, "*")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([], False),
        (["a.B_c-9"], True),
        (["a b"], False),
        ([""], False),
        (["a", "a"], False),
        (["a" * 128], True),
        (["a" * 129], False),
    ],
)
def test_request_ids(given: list[str], taken: bool) -> None:
    one = gateway()
    entry = enter(one, "/x", *[f"X-Request-ID: {value}" for value in given])
    assert (entry.exchange.request_id == given[0].encode()) if taken else entry.exchange.request_id.startswith(b"test-")


def test_ids_are_never_given_twice() -> None:
    one = gateway()
    assert len({enter(one).exchange.request_id for _ in range(100)}) == 100


def test_a_trace_is_joined_or_begun() -> None:
    one = gateway()
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    joined = enter(one, "/x", f"traceparent: {parent}", "tracestate: v=1").exchange
    assert joined.trace_id == "a" * 32
    assert joined.traceparent.startswith(b"00-" + b"a" * 32 + b"-")
    assert joined.span_id != "b" * 16
    begun = enter(one).exchange
    assert begun.trace_id != joined.trace_id
    assert enter(one, "/x", "traceparent: rubbish").exchange.trace_id not in {"", "rubbish"}


def test_the_client_is_the_peer_unless_a_trusted_proxy_says_otherwise() -> None:
    one = gateway(trusted_proxies=["192.0.2.0/24"])
    lines = ["X-Forwarded-For: 203.0.113.9, 192.0.2.7"]
    assert enter(one, "/x", *lines, peer="192.0.2.1").exchange.client_address == "203.0.113.9"
    assert enter(one, "/x", *lines, peer="198.51.100.1").exchange.client_address == "198.51.100.1"
    one.trusted = Networks()
    assert enter(one, "/x", *lines, peer="192.0.2.1").exchange.client_address == "192.0.2.1"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        (b"/v1/chat/completions", Dialect.OPENAI),
        (b"/openai/deployments/x/chat/completions", Dialect.OPENAI),
        (b"/v1/embeddings", Dialect.OPENAI),
        (b"/v1/completions", Dialect.OPENAI),
        (b"/v1/models", Dialect.OPENAI),
        (b"/v1/responses", Dialect.RESPONSES),
        (b"/v1/messages", Dialect.ANTHROPIC),
        (b"/v1/messages/", Dialect.PROBLEM),
        (b"/messages", Dialect.PROBLEM),
        (b"/", Dialect.PROBLEM),
        (b"/x/v1/chat/completionsx", Dialect.PROBLEM),
    ],
)
def test_dialects(path: bytes, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect


def test_a_refusal_is_counted_and_recorded_without_its_content() -> None:
    one = gateway({"id": "a", "match": {"paths": ["/a"]}})
    head = read_head(b"GET /secret?token=1 HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n", HeadLimits())
    peer = Peer("192.0.2.1", tls=False, trusted=one.trusted)
    one.refused(head, NoRoute(), b"mine", peer, 999.0)
    assert isinstance(one.records, Told)
    (record,) = one.records.seen
    assert (record.status, record.route, record.method, record.path, record.request_id) == (404, "_none", "GET", "-", "mine")
    assert (record.client, record.duration_ms) == ("192.0.2.0/24", 1000.0)
    assert "secret" not in repr(record)
    assert "token" not in repr(record)


def test_methods_are_few_labels() -> None:
    """A client that makes methods up makes no series."""
    one = gateway()
    peer = Peer("192.0.2.1", tls=False, trusted=one.trusted)
    for method in (b"GET", b"MKCOL", b"PROPFIND", b"REPORT"):
        head = read_head(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n", HeadLimits())
        one.refused(head, NoRoute(), b"x", peer, 0.0)
    assert {method for method, _ in one.metrics.route("_none").requests} == {"GET", "OTHER"}
