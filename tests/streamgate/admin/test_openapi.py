"""The description of the API: OpenAPI's own form, and true of what is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from streamgate.admin.models import models_seen
from streamgate.admin.openapi import DOCUMENT
from tests.streamgate.pipeline.explaining.stand import CHAT, Stand

SOURCE = {"config": {"source": "f", "hash": "h"}, "worker": 7}


def holds(name: str, told: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(json.dumps(told)))]
    assert errors == []


def test_it_is_whole() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    text = json.dumps(DOCUMENT)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(DOCUMENT["components"]["schemas"])
    for path in DOCUMENT["paths"].values():
        for operation in path.values():
            assert {"operationId", "summary", "responses"} <= set(operation)


QUESTIONS: list[tuple[Any, list[tuple[str, str]], dict[str, str]]] = [
    ({}, [], {}),
    ({"stream": True}, [("x-session-id", "k")], {}),
    ({"previous_response_id": "r"}, [], {"path": "/v1/responses"}),
    (None, [], {}),
    (None, [], {"path": "/v1/models", "method": "GET"}),
    (b"x", [], {}),
    (None, [], {"path": "/nowhere"}),
    (None, [], {"path": "/%00"}),
    (None, [], {"path": "/s/x", "method": "GET"}),
]


@pytest.mark.parametrize(("body", "headers", "where"), QUESTIONS)
@pytest.mark.parametrize("flag", ["f", None])
async def test_explanations_are_as_described(body: Any, headers: list[tuple[str, str]], where: dict[str, str], flag: str | None) -> None:
    routes = [
        {"id": "llm", "match": {"paths": ["/v1/*"]}, "to": {"models": True}},
        {"id": "s", "match": {"paths": ["/s/*"]}, "to": {"service": "a"}},
    ]
    stand = Stand(sticky=["header:x-session-id"], default="canary", fallback=["stable"], flag=flag, top={"routes": routes})
    stand.cool("a", "up")
    holds("Explanation", await stand.explain(body, *headers, **where) | SOURCE)


async def test_who_waits_is_as_described() -> None:
    stand = Stand(queue={"max_in_flight": 1}, top={"auth": {"tenant": {"from": ["host"]}}})
    stand.model.line.count.take()
    found = await stand.explain({})
    assert found["model"]["queue"]["verdict"] == "waits"
    holds("Explanation", found | SOURCE)


@pytest.mark.parametrize("model", [{}, {"hedge": {"after": "1s"}, "batch": {}, "queue": {"max_in_flight": 1}}])
def test_models_are_as_described(model: dict[str, Any]) -> None:
    stand = Stand(**model)
    for _ in range(3):
        stand.model.line.enter("x", granted=lambda _slot: None, refused=lambda _fault: None)
    stand.cool("a", "up")
    holds("Models", {"worker": 7, **models_seen(stand.built, stand.clock.now())})


def test_a_request_is_as_described() -> None:
    schema = DOCUMENT["components"]["schemas"]["Request"]
    for example in schema["examples"]:
        holds("Request", example)
    holds("Request", {"method": "GET", "url": CHAT, "headers": [["a", "b"]], "client": "::1", "body": "text"})
    assert not Draft202012Validator(schema).is_valid({"method": "GET"})
    assert not Draft202012Validator(schema).is_valid({"method": "GET", "url": "/", "headers": [["a"]]})
    assert not Draft202012Validator(schema).is_valid({"method": "GET", "url": "/", "other": 1})
