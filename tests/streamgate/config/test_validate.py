"""Every check between sections: what it tells, where, and what it lets pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamgate.config.spec import Spec
from streamgate.config.validate import cross_check

if TYPE_CHECKING:
    from pathlib import Path

    from streamgate.config.problem import Finding


def route(name: str, *paths: str, to: str | None = None, **keys: Any) -> dict[str, Any]:
    """A route to a service, or one that answers by itself."""
    match = {"paths": list(paths or ("/*",)), **keys.pop("match", {})}
    return {
        "id": name,
        "match": match,
        "to": {"respond": {"status": 200}} if to is None else {"service": to},
        **keys,
    }


def service(name: str, **keys: Any) -> dict[str, Any]:
    address = {} if "endpoints" in keys else {"url": "http://a"}
    return {"id": name, **address, **keys}


def findings(document: dict[str, Any], missing: str = "") -> tuple[Finding, ...]:
    def why_unreadable(path: Path) -> str | None:
        return "no such file" if path.name == missing else None

    return cross_check(Spec.model_validate(document), why_unreadable=why_unreadable)


def told(document: dict[str, Any], missing: str = "") -> list[tuple[str, str]]:
    """Path and severity of everything that is told."""
    return [(finding.path, finding.severity) for finding in findings(document, missing)]


def only(document: dict[str, Any]) -> Finding:
    [finding] = findings(document)
    return finding


SOUND = {"services": [service("a")], "routes": [route("r", to="a")]}


def gate(**keys: Any) -> dict[str, Any]:
    return {**SOUND, "gate": keys}


def test_a_sound_configuration_has_no_findings() -> None:
    assert findings(SOUND) == ()


def test_several_workers_need_a_state_they_can_share() -> None:
    finding = only(gate(workers=2))
    assert finding.path == "gate.workers"
    assert "state.url" in finding.message
    assert findings({**gate(workers=2), "state": {"url": "redis://h"}}) == ()
    assert findings(gate(workers=1)) == ()


@pytest.mark.parametrize("admin", ["0.0.0.0:9", "[::]:9", "10.0.0.1:9", "gate.example:9"])
def test_an_admin_port_that_others_can_reach_needs_a_token(admin: str) -> None:
    finding = only(gate(admin=admin))
    assert finding.path == "gate.admin"
    assert "gate.admin_token" in finding.message
    assert findings(gate(admin=admin, admin_token="t0ken")) == ()


@pytest.mark.parametrize("admin", ["127.0.0.1:9", "[::1]:9", "localhost:9", "off"])
def test_an_admin_port_on_this_machine_needs_none(admin: str) -> None:
    assert findings(gate(admin=admin)) == ()


def test_data_and_admin_have_ports_of_their_own() -> None:
    finding = only(gate(bind="127.0.0.1:9", admin="127.0.0.1:9"))
    assert finding.path == "gate.admin"
    assert "gate.bind" in finding.message
    assert findings(gate(bind="127.0.0.1:0", admin="127.0.0.1:0")) == ()
    assert findings(gate(bind="127.0.0.1:9", admin="off")) == ()


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_certificate_file_of_the_gate_can_be_read(name: str) -> None:
    document = gate(tls={"cert": "cert", "key": "key", "client_ca": "client_ca"})
    assert findings(document) == ()
    [finding] = findings(document, missing=name)
    assert finding.path == f"gate.tls.{name}"
    assert "no such file" in finding.message


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_a_certificate_file_of_a_service_can_be_read(name: str) -> None:
    one = service("a", url="https://a", tls={"ca": "ca", "cert": "cert", "key": "key"})
    document = {**SOUND, "services": [one]}
    assert findings(document) == ()
    assert told(document, missing=name) == [(f"services[0].tls.{name}", "error")]


def test_an_id_is_given_once() -> None:
    document = {
        "services": [service("a"), service("b"), service("a")],
        "routes": [route("r", "/1", to="a"), route("r", "/2", to="b"), route("r", "/3", to="a")],
    }
    assert told(document) == [("services[2].id", "error"), ("routes[1].id", "error"), ("routes[2].id", "error")]
    assert 'services[0] has the id "a" already' in findings(document)[0].message
    assert findings(document)[0].reads == (("services", 0, "id"),)


def test_a_service_and_a_route_may_share_an_id() -> None:
    assert findings({"services": [service("a")], "routes": [route("a", to="a")]}) == ()


def test_a_route_leads_to_a_service_that_is_there() -> None:
    document = {"services": [service("model-a"), service("other")], "routes": [route("r", to="model-b")]}
    assert only(document).path == "routes[0].to.service"
    assert only(document).suggestion == "model-a"
    assert only(document).reads == (("services", 0, "id"), ("services", 1, "id"))
    none = only({"routes": [route("r", to="a")]})
    assert none.suggestion is None
    assert none.reads == (("services",),)


def test_what_hides_a_value_hides_it_everywhere() -> None:
    spec = Spec.model_validate(
        {
            "services": [service("hush-a"), service("hush-a")],
            "routes": [route("r", to="hush-b", rewrite={"strip_prefix": "/hush"}, match={"paths": ["/x"]})],
        }
    )
    hidden = cross_check(spec, why_unreadable=lambda _: None, shown=lambda _loc, _text: "(hidden)")
    assert len(hidden) == 3
    assert not any("hush" in f"{finding.message}{finding.suggestion}" for finding in hidden)


@pytest.mark.parametrize(
    ("first", "second", "is_dead"),
    [
        ({}, {}, True),
        ({"paths": ["/a"]}, {"paths": ["/a/*"]}, False),
        ({"methods": ["GET", "PUT"]}, {"methods": ["PUT", "GET"]}, True),
        ({"methods": ["GET", "PUT"]}, {"methods": ["PUT"]}, True),
        ({"methods": ["GET"]}, {"methods": ["HEAD"]}, True),
        ({"methods": ["GET"]}, {"methods": ["GET", "PUT"]}, False),
        ({"methods": ["HEAD"]}, {"methods": ["GET"]}, False),
        ({"methods": ["GET"]}, {}, False),
        ({}, {"methods": ["GET"]}, False),
        ({"hosts": ["a", "b"]}, {"hosts": ["b", "a"]}, True),
        ({"hosts": ["a", "b"]}, {"hosts": ["B"]}, True),
        ({"hosts": ["a"]}, {"hosts": ["a", "b"]}, False),
        ({"hosts": ["*.a"]}, {"hosts": ["a"]}, False),
        ({"hosts": ["a"]}, {}, False),
        ({}, {"hosts": ["a"]}, False),
    ],
)
def test_a_route_that_can_never_win_is_told(first: dict[str, Any], second: dict[str, Any], *, is_dead: bool) -> None:
    document = {"routes": [route("one", match=first), route("two", match=second)]}
    assert told(document) == ([("routes[1].match.paths[0]", "error")] if is_dead else [])


def test_a_route_may_be_shadowed_by_several() -> None:
    document = {
        "routes": [
            route("one", match={"hosts": ["a"]}),
            route("two", match={"hosts": ["b"]}),
            route("three", "/x", "/*", match={"hosts": ["a", "b"], "paths": ["/x", "/*"]}),
        ]
    }
    finding = only(document)
    assert finding.path == "routes[2].match.paths[1]"
    assert "routes[0] and routes[1]" in finding.message
    assert finding.reads == (("routes", 0, "match"), ("routes", 1, "match"), ("routes", 2, "match"))


def test_a_path_twice_in_one_route_is_told() -> None:
    finding = only({"routes": [route("one", "/a", "/b", "/a")]})
    assert finding.path == "routes[0].match.paths[2]"
    assert "stands twice" in finding.message


def test_hash_by_needs_balance_hash() -> None:
    with_hash_by = {**SOUND, "services": [service("a", hash_by=["path"])]}
    assert only(with_hash_by).path == "services[0].hash_by"
    assert only(with_hash_by).on_key
    assert findings({**SOUND, "services": [service("a", hash_by=["path"], balance="hash")]}) == ()
    assert findings({**SOUND, "services": [service("a", balance="hash")]}) == ()


def test_tls_is_for_https_only() -> None:
    plain = {**SOUND, "services": [service("a", tls={})]}
    assert only(plain).path == "services[0].tls"
    mixed = service("a", endpoints=[{"url": "https://a"}, {"url": "http://b"}], tls={})
    assert told({**SOUND, "services": [mixed]}) == [("services[0].tls", "error")]
    assert findings({**SOUND, "services": [service("a", url="https://a", tls={})]}) == ()


def test_an_endpoint_stands_once_and_one_has_weight() -> None:
    twice = service("a", endpoints=[{"url": "http://a"}, {"url": "http://b"}, {"url": "http://A/"}])
    assert told({**SOUND, "services": [twice]}) == [("services[0].endpoints[2].url", "error")]
    idle = service("a", endpoints=[{"url": "http://a", "weight": 0}])
    assert told({**SOUND, "services": [idle]}) == [("services[0].endpoints", "warning")]


@pytest.mark.parametrize(
    ("paths", "prefix", "is_so"),
    [
        (["/api/*"], "/api", True),
        (["/api"], "/api", True),
        (["/api/v1/x"], "/api", True),
        (["/*"], "/api", True),
        (["/api/*"], "/api/v1", True),
        (["/x", "/api/*"], "/api", True),
        (["/api/v2/*"], "/api", True),
        (["/apiary/*"], "/api", False),
        (["/apiary"], "/api", False),
        (["/v1/*"], "/api", False),
        (["/api"], "/api/v1", False),
        (["/ap/*"], "/api", False),
    ],
)
def test_what_is_stripped_begins_a_path_of_the_route(paths: list[str], prefix: str, *, is_so: bool) -> None:
    document = {"routes": [route("r", *paths, rewrite={"strip_prefix": prefix})]}
    assert told(document) == ([] if is_so else [("routes[0].rewrite.strip_prefix", "error")])


def test_a_service_no_route_uses_is_a_warning() -> None:
    document = {"services": [service("a"), service("b")], "routes": [route("r", to="a")]}
    assert told(document) == [("services[1].id", "warning")]


def test_no_routes_are_a_warning_and_the_only_one() -> None:
    assert told({"services": [service("a")]}) == [("routes", "warning")]


def test_no_retries_for_something_is_fine() -> None:
    assert findings({**SOUND, "routes": [route("r", to="a", retries={"attempts": 0, "on": [502]})]}) == ()


PATHS = st.lists(st.sampled_from(["/a", "/b", "/a/*"]), min_size=1, max_size=2, unique=True)
MATCHES = st.fixed_dictionaries(
    {"paths": PATHS},
    optional={
        "methods": st.lists(st.sampled_from(["GET", "PUT"]), max_size=2, unique=True),
        "hosts": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
    },
)


@settings(deadline=None)
@given(st.lists(MATCHES, min_size=1, max_size=4))
def test_a_route_repeated_is_dead_in_every_path(matches: list[dict[str, Any]]) -> None:
    routes = [route(f"r{number}", match=match) for number, match in enumerate([*matches, matches[0]])]
    last = len(matches)
    dead = {path for path, _ in told({"routes": routes})}
    assert dead >= {f"routes[{last}].match.paths[{number}]" for number in range(len(matches[0]["paths"]))}
    assert not any(path.startswith("routes[0]") for path in dead)
