"""The JSON Schema says yes where the gateway does, and mostly no where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from streamgate.config import spec
from streamgate.config.schema import SCHEMA_ID, json_schema
from streamgate.config.yaml_file import EXAMPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = """\
gate:
  bind: 0.0.0.0:0
  admin: off
  admin_token: "${file:token}"
  workers: 2
  trusted_proxies: [10.0.0.0/8]
  drain: 0s
  tls: {cert: c, key: k, client_ca: a}
  limits: {head: 32KiB, fields: 10, target: 1000, body: 10MB}
  timeouts: {head: 1s, body: 1m, write: 250ms, keep_alive: 1h}
  disconnect_drain: {time: 1s, bytes: 1MiB, at_once: 0}
state: {url: redis://h}
services:
  - id: a
    endpoints: [{url: http://a, weight: 0, region: eu}]
    balance: hash
    hash_by: [header:x]
    max_in_flight: 4
    timeouts: {connect: 2s, first_byte: off, idle: "off", total: 1.5h}
    credentials: {bearer: "${env:K}"}
    pool: {max_idle: 0, idle: 1s}
    tls: {ca: x, verify: false, server_name: n, cert: c, key: k}
routes:
  - id: r
    match: {paths: ["/*"], methods: [GET], hosts: ["*.a"]}
    to: {service: a}
    on_disconnect: drain
    rewrite: {strip_prefix: /a, add_prefix: /b, host: preserve}
    host: null
    encoded_slash: keep
    retries: {attempts: 0, on: [connect, 502]}
    timeouts: {total: 5s}
    max_body: 64KiB
    auth: {}
    limits: []
telemetry: {records: false}
models: []
auth: {}
"""


def problems(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema())
    return sorted(error.json_path for error in validator.iter_errors(yaml.safe_load(text.replace(" on:", " 'on':"))))


def sections(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for below in schema.values():
            yield from sections(below)
    elif isinstance(schema, list):
        for below in schema:
            yield from sections(below)


def test_it_is_a_json_schema_with_a_name() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == SCHEMA_ID
    assert schema["title"] == "streamgate configuration"
    assert schema["description"]


def test_every_key_of_every_section_is_described() -> None:
    schema = json_schema()
    found = list(sections(schema))
    assert len(found) == len(spec.__all__)
    for section in found:
        assert section["additionalProperties"] is False
        for name, key in section["properties"].items():
            named = schema["$defs"].get(key.get("$ref", "").removeprefix("#/$defs/"), {})
            assert key.get("description") or named.get("description"), name


def test_defaults_are_written_as_people_would() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["Timeouts"]["properties"]["connect"]["default"] == "2s"
    assert definitions["Timeouts"]["properties"]["total"]["default"] == "off"
    assert definitions["EdgeLimits"]["properties"]["head"]["default"] == "16KiB"
    assert definitions["Gate"]["properties"]["bind"]["default"] == "127.0.0.1:8080"


@pytest.mark.parametrize("text", [FULL, EXAMPLE, "{}", "gate: {workers: '${env:W}', drain: '${env:D}'}"])
def test_what_the_gateway_takes_fits(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("gatee: {}", "$"),
        ("gate: {bind: 8080}", "$.gate.bind"),
        ("gate: {workers: 0}", "$.gate.workers"),
        ("gate: {workers: two}", "$.gate.workers"),
        ("gate: {drain: 30}", "$.gate.drain"),
        ("gate: {drain: off}", "$.gate.drain"),
        ("gate: {limits: {head: 16K}}", "$.gate.limits.head"),
        ("auth: {any: [x]}", "$.auth"),
        ("services: [{url: http://a}]", "$.services[0]"),
        ("services: [{id: A, url: http://a}]", "$.services[0].id"),
        ("services: [{id: a, balance: random}]", "$.services[0].balance"),
        ("services: [{id: a, max_in_flight: 0}]", "$.services[0].max_in_flight"),
        ("routes: [{id: r, to: {service: a}, match: {paths: []}}]", "$.routes[0].match.paths"),
        (
            "routes: [{id: r, to: {respond: {status: 100}}, match: {paths: [/]}}]",
            "$.routes[0].to.respond.status",
        ),
        (
            "routes: [{id: r, to: {service: a}, match: {paths: [/]}, retries: {attempts: 11}}]",
            "$.routes[0].retries.attempts",
        ),
    ],
)
def test_what_the_gateway_refuses_does_not_fit(text: str, path: str) -> None:
    [found] = problems(text)
    assert found.startswith(path) or path.startswith(found)
