"""What does not fit is told in plain words, once, and hides nothing else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from streamgate.config import spec
from streamgate.config.document import Node
from streamgate.config.problem import Finding, Loc, Place
from streamgate.config.sentences import UNKNOWN
from streamgate.config.shape import Fit, fit
from streamgate.config.spec import Spec
from streamgate.config.yaml_file import parse_document

FOLDER = Path("/etc/streamgate")


def fitted(text: str, data: Any = None, broken: set[Loc] | None = None) -> Fit:
    """The fit of a document; `data` is what its references resolved to."""
    root = parse_document(text, "a.yaml").root
    assert root is not None
    return fit(copy.deepcopy(root.plain() if data is None else data), root, broken=broken or set(), folder=FOLDER)


def told(text: str) -> list[tuple[str, str, str | None]]:
    return [(finding.path, finding.message, finding.suggestion) for finding in fitted(text).findings]


def test_a_sound_document_is_its_spec() -> None:
    result = fitted("services: [{id: a, url: http://a}]\ntelemetry: {records: log}\n")
    assert result.findings == []
    assert result.broken == set()
    assert result.spec == Spec.model_validate(
        {"services": [{"id": "a", "url": "http://a"}], "telemetry": {"records": FOLDER / "log"}}
    )


@pytest.mark.parametrize(
    ("text", "path", "message", "suggestion"),
    [
        ("gatee: {}", "gatee", "unknown key", "gate"),
        ("gate: {admin-token: x}", "gate.admin-token", "unknown key", "admin_token"),
        ("gate: {Workers: 2}", "gate.Workers", "unknown key", "workers"),
        ("gate: {zzz: 2}", "gate.zzz", "unknown key", None),
        ("flag: {}", "flag", "unknown key", "flags"),
        ("services: [{id: a, url: http://a, timout: {}}]", "services[0].timout", "unknown key", "timeouts"),
        (
            "gate: 5",
            "gate",
            "must be a map of keys, such as {key: value}; the keys are: bind, admin, admin_token, ",
            None,
        ),
        ("services: {a: b}", "services", "must be a list; write it in brackets, such as [a, b]", None),
        ("services: [a]", "services[0]", "must be a map of keys", None),
        (
            "services: [{url: http://a}]",
            "services[0].id",
            "this key is required; add it: The name that routes use",
            None,
        ),
        ("services: [{id: 5, url: http://a}]", "services[0].id", "must be text; put quotes around it", None),
        (
            "services: [{id: a, url: http://a, balance: rond_robin}]",
            "services[0].balance",
            "must be one of round_robin, least_in_flight, least_rtt, hash",
            "round_robin",
        ),
        ("gate: {drain: 30}", "gate.drain", '30 has no unit; write "30s" for seconds', None),
        ("gate: {drain: '30'}", "gate.drain", '"30" has no unit; write "30s" for seconds', None),
        ("gate: {workers: 0}", "gate.workers", "must be 1 or more", None),
        ("limits: [x]", "limits", "`limits` is not available in this version; remove it", None),
        ("auth: {providers: [x]}", "auth.providers", "`providers` is not available in this version; remove it", None),
        (
            "routes: [{id: r, match: {paths: [/]}, to: {respond: {status: 200, headers: {a b: c}}}}]",
            'routes[0].to.respond.headers["a b"]',
            '"a b" cannot be a header name',
            None,
        ),
        (
            "routes: [{id: r, match: {paths: [/]}, to: {respond: {status: 200, headers: [c]}}}]",
            "routes[0].to.respond.headers",
            "must be a map of names to values",
            None,
        ),
        (
            "routes: [{id: r, match: {paths: [/]}, to: {respond: {status: 200}}, on_disconnect: detach}]",
            "routes[0].on_disconnect",
            "`detach` is not available in this version",
            None,
        ),
        (
            "routes: [{id: r, match: {paths: [/]}, to: {service: a}, retries: {attempts: 11, on: [conect]}}]",
            "routes[0].retries.attempts",
            "must be 10 or less",
            None,
        ),
    ],
)
def test_a_mistake_is_told_in_plain_words(text: str, path: str, message: str, suggestion: str | None) -> None:
    at, said, meant = told(text)[0]
    assert at == path
    assert said.startswith(message)
    assert meant == suggestion


def test_a_misspelt_key_that_is_required_is_told_once() -> None:
    assert told("services: [{idd: a, url: http://a}]") == [("services[0].idd", "unknown key", "id")]
    assert told("services: [{id: a, urll: http://a}]") == [("services[0].urll", "unknown key", "url")]


def test_a_mistake_below_is_not_told_again_above() -> None:
    assert [path for path, _, _ in told("services: [{id: a, url: ftp://a}]")] == ["services[0].url"]
    assert [path for path, _, _ in told("services: [{id: a, endpoints: [{url: ftp://a}, {url: b}]}]")] == [
        "services[0].endpoints[0].url",
        "services[0].endpoints[1].url",
    ]
    route = "routes: [{id: r, match: {paths: [a, b]}, to: {respond: {status: 1, body: x}}}]"
    assert [path for path, _, _ in told(route)] == [
        "routes[0].match.paths[0]",
        "routes[0].match.paths[1]",
        "routes[0].to.respond.status",
    ]
    assert [path for path, _, _ in told("routes: [{id: r, match: {paths: [/]}, to: {rooms: true}}]")] == ["routes[0].to.rooms"]


def test_a_mistake_in_a_field_does_not_hide_one_of_the_whole() -> None:
    text = "services: [{id: a, timeouts: {idle: 5}}, {id: b, url: http://b, credentials: {header: X-K}, pool: {idle: 1}}]"
    assert sorted(path for path, _, _ in told(text)) == [
        "services[0]",
        "services[0].timeouts.idle",
        "services[1].credentials",
        "services[1].pool.idle",
    ]
    both = "routes: [{id: r, host: a, rewrite: {host: b}, max_body: x, match: {paths: [/]}, to: {respond: {status: 200}}}]"
    assert sorted(path for path, _, _ in told(both)) == ["routes[0]", "routes[0].max_body"]


def test_what_is_sound_is_kept_and_what_is_broken_is_known() -> None:
    text = """
gate: {workers: 2, drain: 5}
services: [{id: a, url: nix, balance: hash}, x]
routes: [{id: r, match: {paths: [/x]}}]
"""
    result = fitted(text)
    assert result.spec.gate.workers == 2
    assert result.spec.gate.drain == 30.0
    assert result.spec.services[0].id == "a"
    assert result.spec.services[0].balance == "hash"
    assert result.spec.routes[0].match.paths == ("/x",)
    assert len(result.spec.services) == 2
    assert result.is_sound(Finding(("gate", "workers"), "x"))
    assert result.is_sound(Finding(("services", 0, "id"), "x"))
    assert not result.is_sound(Finding(("gate", "drain"), "x"))
    assert not result.is_sound(Finding(("services", 0, "balance"), "x", reads=(("services", 0, "url"),)))
    assert not result.is_sound(Finding(("services", 1, "id"), "x"))
    assert not result.is_sound(Finding(("routes", 0, "to", "service"), "x"))


def test_what_contradicts_is_taken_out_and_the_rest_is_kept() -> None:
    text = """
services: [{id: a, balance: hash}, {id: b, url: http://b, endpoints: [{url: http://c}]}]
routes: [{id: r, encoded_slash: keep, host: a, rewrite: {host: b}, match: {paths: [/]}, to: {service: a}}]
"""
    result = fitted(text)
    assert [finding.path for finding in result.findings] == ["services[0]", "services[1]", "routes[0]"]
    assert [(one.id, one.balance) for one in result.spec.services] == [("a", "hash"), ("b", "least_in_flight")]
    [route] = result.spec.routes
    assert (route.id, route.encoded_slash, route.to.service, route.host) == ("r", "keep", "a", None)


def test_a_key_misspelt_does_not_hide_a_mistake_in_the_right_one() -> None:
    assert [path for path, _, _ in told("gate: {drian: 1s, drain: 5}")] == ["gate.drian", "gate.drain"]


def test_two_broken_services_do_not_share_a_stand_in() -> None:
    result = fitted("services: [x, y]\nroutes: [x, {id: r, match: {paths: [/]}, to: {service: 5}}]\n")
    assert [one.url for one in result.spec.services] == ["http://unreadable.invalid"] * 2
    assert [path.path for path in result.findings] == [
        "services[0]",
        "services[1]",
        "routes[0]",
        "routes[1].to.service",
    ]


def test_what_is_known_to_be_broken_is_not_told() -> None:
    text = "services: [{id: a, url: '${env:NIX}'}]"
    result = fitted(text, broken={("services", 0, "url")})
    assert result.findings == []
    assert not result.is_sound(Finding(("services", 0, "url"), "x"))


def test_what_a_reference_gave_is_not_shown() -> None:
    text = """
gate: {drain: '${env:D}', bind: 'x${env:D}', workers: '${env:D}'}
services: [{id: '${env:D}', url: '${env:D}'}]
"""
    value = "HUSH5"
    data = {
        "gate": {"drain": value, "bind": f"x{value}", "workers": value},
        "services": [{"id": value, "url": value}],
    }
    result = fitted(text, data)
    messages = [finding.message for finding in result.findings]
    assert len(messages) == 5
    assert not any("HUSH" in message or "hush" in message for message in messages)
    assert any('"${env:D}" is not a duration' in message for message in messages)
    assert any("as its reference resolves" in message for message in messages)


def test_a_choice_that_a_reference_gave_is_not_suggested_from() -> None:
    text = "services: [{id: a, url: http://a, balance: '${env:B}'}]"
    [finding] = fitted(text, {"services": [{"id": "a", "url": "http://a", "balance": "rond_robin"}]}).findings
    assert finding.suggestion is None


def test_a_document_that_would_not_end_is_as_good_as_empty() -> None:
    root = parse_document("services: [x]\ngate: {workers: 2}\n", "a.yaml").root
    assert root is not None
    result = fit(root.plain(), root, broken=set(), folder=FOLDER, rounds=1)
    assert [finding.path for finding in result.findings] == ["services[0]"]
    assert result.spec == Spec()
    assert not result.is_sound(Finding(("gate", "workers"), "x"))


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda below: st.one_of(st.lists(below, max_size=2), st.dictionaries(st.text(max_size=5), below, max_size=2)),
    max_leaves=4,
)


def _section(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Documents with the right keys and anything under them."""
    keys = {name: st.one_of(JUNK, _below(info.annotation)) for name, info in model.model_fields.items()}
    return st.fixed_dictionaries({}, optional=keys)


def _below(annotation: Any) -> st.SearchStrategy[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return st.deferred(lambda: _section(annotation))
    inner = [_below(arg) for arg in get_args(annotation) if arg is not type(None)]
    if "tuple" in str(annotation):
        return st.lists(st.one_of(inner), max_size=2) if inner else JUNK
    return st.one_of(inner) if inner else JUNK


def _node(value: Any) -> Node:
    place = Place("a.yaml", 1, 1)
    if isinstance(value, dict):
        return Node({key: _node(item) for key, item in value.items()}, place)
    return Node(tuple(map(_node, value)) if isinstance(value, list) else value, place)


@settings(deadline=None)
@given(_section(Spec))
def test_any_document_is_fitted_or_told_in_sentences_of_our_own(document: dict[str, Any]) -> None:
    result = fit(copy.deepcopy(document), _node(document), broken=set(), folder=FOLDER)
    assert () not in result.broken
    if not result.findings:
        assert result.spec == Spec.model_validate(document, context={"folder": FOLDER})
    for finding in result.findings:
        assert finding.message != UNKNOWN
        assert "Input should be" not in finding.message
        assert not result.is_sound(finding)
    assert len({(finding.path, finding.message) for finding in result.findings}) == len(result.findings)


def test_every_section_of_the_language_is_reached_by_that_test() -> None:
    assert {name for name in spec.__all__ if name != "Spec"} <= set(Spec.model_json_schema()["$defs"])
