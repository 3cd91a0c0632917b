"""What may stand under routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamgate.config.spec_route import (
    Retries,
    Route,
    parse_host_pattern,
    parse_host_policy,
    parse_method,
    parse_path_pattern,
)
from streamgate.config.spec_service import Timeouts


def route(**keys: object) -> Route:
    return Route.model_validate({"id": "r", "match": {"paths": ["/*"]}, "to": {"service": "a"}, **keys})


def kinds(**keys: object) -> list[tuple[str, str]]:
    """Where and what kind each mistake is."""
    with pytest.raises(ValidationError) as info:
        route(**keys)
    return [(".".join(map(str, error["loc"])), error["type"]) for error in info.value.errors()]


def test_the_defaults_are_those_of_the_design() -> None:
    one = route()
    assert (one.match.methods, one.match.hosts, one.on_disconnect, one.rewrite) == ((), (), "cancel", None)
    assert (one.host_policy, one.encoded_slash, one.max_body) == ("upstream", "reject", None)
    assert one.retries == Retries(attempts=2, on=("connect", "reset"))
    assert route(retries={"attempts": 1}).retries.on == ("connect", "reset")


@pytest.mark.parametrize("text", ["/", "/*", "/v1/*", "/v1/models", "/a%20b", "/~x/"])
def test_a_path_is_exact_or_everything_below(text: str) -> None:
    assert parse_path_pattern(text) == text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v1", "path_slash"),
        ("", "path_slash"),
        ("*", "path_slash"),
        ("/v1*", "path_star"),
        ("/*/a", "path_star"),
        ("/a/**", "path_star"),
        ("/a/*/*", "path_star"),
        ("/a b", "path_characters"),
        ("/a?b", "path_characters"),
        ("/a#b", "path_characters"),
        ("/a;b", "path_characters"),
        ("/caf\xe9", "path_characters"),
        ("/%zz", "path_characters"),
        ("/a/../b", "path_dots"),
        ("/./*", "path_dots"),
    ],
)
def test_what_is_no_path(text: str, kind: str) -> None:
    assert kinds(match={"paths": [text]}) == [("match.paths.0", kind)]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("a.example", "a.example"),
        ("A.Example.", "a.example"),
        ("*.Example.com", "*.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_host_is_lower_case(text: str, host: str) -> None:
    assert parse_host_pattern(text) == host
    assert parse_host_pattern(host) == host


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a.example:8080", "host_port"),
        ("*.a.example:1", "host_port"),
        ("*", "host"),
        ("*.", "host"),
        ("a.*.b", "host"),
        ("http://a", "host"),
        ("", "host"),
        ("a/b", "host"),
        ("caf\xe9.example", "host"),
        ("*.[::1]", "host"),
    ],
)
def test_what_is_no_host(text: str, kind: str) -> None:
    assert kinds(match={"paths": ["/"], "hosts": [text]}) == [("match.hosts.0", kind)]


def test_methods_are_written_in_capitals() -> None:
    assert [parse_method(text) for text in ("GET", "M-SEARCH", "X1")] == ["GET", "M-SEARCH", "X1"]
    assert kinds(match={"paths": ["/"], "methods": ["get"]}) == [("match.methods.0", "method_case")]
    assert kinds(match={"paths": ["/"], "methods": ["G T", ""]}) == [
        ("match.methods.0", "method"),
        ("match.methods.1", "method"),
    ]


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_and_reads_the_same_again(text: str) -> None:
    for parse in (parse_path_pattern, parse_host_pattern, parse_method, parse_host_policy):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert parse(value) == value


@pytest.mark.parametrize(
    ("keys", "loc", "kind"),
    [
        ({"match": {}}, "match.paths", "missing"),
        ({"match": {"paths": []}}, "match.paths", "list_empty"),
        ({"match": {"paths": "/v1"}}, "match.paths", "tuple_type"),
        ({"to": {}}, "to", "target"),
        ({"to": {"service": "a", "respond": {"status": 200}}}, "to", "target"),
        ({"to": {"models": "yes"}}, "to.models", "literal_error"),
        ({"to": {"models": True, "service": "a"}}, "to", "target"),
        ({"priority": 11}, "priority", "less_than_equal"),
        ({"to": {"rooms": True}}, "to.rooms", "not_available"),
        ({"to": {"respond": {}}}, "to.respond.status", "missing"),
        ({"to": {"respond": {"status": 199}}}, "to.respond.status", "status"),
        ({"to": {"respond": {"status": 600}}}, "to.respond.status", "status"),
        ({"to": {"respond": {"status": 204, "body": "x"}}}, "to.respond", "respond_body"),
        ({"to": {"respond": {"status": 200, "headers": {"a": "b\r\nc"}}}}, "to.respond.headers.a", "header_value"),
        ({"to": {"respond": {"status": 200, "headers": {"a b": "c"}}}}, "to.respond.headers.a b.[key]", "header_name"),
        ({"on_disconnect": "detach"}, "on_disconnect", "not_available"),
        ({"on_disconnect": "stay"}, "on_disconnect", "literal_error"),
        ({"rewrite": {"strip_prefix": "api"}}, "rewrite.strip_prefix", "prefix"),
        ({"rewrite": {"add_prefix": "/"}}, "rewrite.add_prefix", "prefix_root"),
        ({"rewrite": {"host": "a b"}}, "rewrite.host", "host_policy"),
        ({"host": "http://a"}, "host", "host_policy"),
        ({"host": "a", "rewrite": {"host": "a"}}, "", "host_policy_twice"),
        ({"encoded_slash": "decode"}, "encoded_slash", "literal_error"),
        ({"retries": {"attempts": 11}}, "retries.attempts", "less_than_equal"),
        ({"retries": {"attempts": -1}}, "retries.attempts", "greater_than_equal"),
        ({"retries": {"on": ["timeout"]}}, "retries.on.0", "literal_error"),
        ({"retries": {"on": [404]}}, "retries.on.0", "literal_error"),
        ({"max_body": "big"}, "max_body", "size"),
        ({"auth": {"any": ["x"]}}, "auth", "not_available"),
        ({"limits": ["x"]}, "limits", "not_available"),
        ({"claims_to_headers": {"a": "b"}}, "claims_to_headers", "not_available"),
        ({"cors": {"origins": []}}, "cors", "not_available"),
    ],
)
def test_what_a_route_cannot_be(keys: dict[str, object], loc: str, kind: str) -> None:
    assert kinds(**keys) == [(loc, kind)]


def test_a_route_may_answer_by_itself() -> None:
    one = route(to={"respond": {"status": "200", "body": "hi", "headers": {"X-A": "b"}}, "models": False})
    assert one.to.respond is not None
    assert (one.to.respond.status, one.to.respond.body, one.to.respond.headers) == (200, "hi", {"X-A": "b"})
    assert one.to.service is None


@pytest.mark.parametrize("status", [204, 205, 304])
def test_a_status_without_a_body_is_answered_without_one(status: int) -> None:
    answer = route(to={"respond": {"status": status}}).to.respond
    assert answer is not None
    assert answer.status == status


@pytest.mark.parametrize(
    ("keys", "policy"),
    [
        ({}, "upstream"),
        ({"host": "preserve"}, "preserve"),
        ({"host": "upstream"}, "upstream"),
        ({"rewrite": {"host": "Api.Example:8443"}}, "api.example:8443"),
        ({"rewrite": {"add_prefix": "/a"}}, "upstream"),
        ({"host": "a.example", "rewrite": {"add_prefix": "/a"}}, "a.example"),
    ],
)
def test_the_host_policy_is_written_on_the_route_or_inside_rewrite(keys: dict[str, object], policy: str) -> None:
    assert route(**keys).host_policy == policy


def test_what_is_tried_again_are_faults_and_statuses() -> None:
    retries = route(retries={"attempts": 0, "on": ["connect", 502, "503", 429]}).retries
    assert retries.faults == {"connect"}
    assert retries.statuses == {502, 503, 429}


def test_the_timeouts_of_a_route_win_over_those_of_its_service() -> None:
    base = Timeouts.model_validate({"idle": "5s", "total": "9s"})
    both = route(timeouts={"total": False}).timeouts_over(base)
    assert (both.idle, both.total) == (5.0, None)


@pytest.mark.parametrize(
    ("keys", "gate_limit", "limit"),
    [
        ({}, 100, 100),
        ({}, None, None),
        ({"max_body": None}, 100, 100),
        ({"max_body": "1KiB"}, 100, 1024),
        ({"max_body": 0}, 100, 0),
        ({"max_body": "off"}, 100, None),
        ({"max_body": False}, 100, None),
    ],
)
def test_a_body_limit_is_the_routes_or_the_gates(keys: dict[str, object], gate_limit: int | None, limit: int | None) -> None:
    assert route(**keys).max_body_bytes(gate_limit) == limit


@pytest.mark.parametrize(("value", "written"), [(None, None), ("off", "off"), (False, "off"), ("2KiB", "2KiB"), (5, "5B")])
def test_a_body_limit_is_written_as_it_is_read(value: object, written: object) -> None:
    assert route(max_body=value).model_dump(mode="json")["max_body"] == written
