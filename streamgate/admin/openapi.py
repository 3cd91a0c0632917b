"""`GET /api/v1/openapi.json`: what the admin port's API takes and tells, as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
YES_OR_NO: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
SHARE: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}


def _or_none(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _record(optional: Schema | None = None, /, **members: Schema) -> Schema:
    """An object with these members and no others."""
    properties = members | (optional or {})
    return {"type": "object", "properties": properties, "required": list(members), "additionalProperties": False}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TARGET: Final = _record(
    service=TEXT, model=TEXT, weight=COUNT, requested_share=SHARE, effective_share=SHARE, in_flight=COUNT, has_room=YES_OR_NO,
    cooling=_or_none(_record(for_s=NUMBER, reason={"enum": ["asked", "broken"]})),
)  # fmt: skip
_SPLIT: Final = _record(name=TEXT, targets=_list(_ref("Target")))
_TIMEOUTS: Final = _record(connect=TEXT, first_byte=TEXT, idle=TEXT, total=TEXT)
_REQUEST: Final = {
    **_record(
        {
            "headers": {
                "description": "Its fields, by name or as pairs; Host may be among them.",
                "anyOf": [
                    {"type": "object", "additionalProperties": TEXT},
                    _list({"type": "array", "prefixItems": [TEXT, TEXT], "minItems": 2, "maxItems": 2}),
                ],
            },
            "body": {
                "description": "A text stands for its bytes; anything else is the body as it is written here. Without one, "
                "a request to the models is followed as far as that."
            },
            "client": {"type": "string", "description": "The address it would come from.", "default": "127.0.0.1"},
        },
        method=TEXT,
        url={"type": "string", "description": "A path, or http://HOST/PATH."},
    ),
    "examples": [
        {
            "method": "POST",
            "url": "/v1/chat/completions",
            "headers": {"x-session-id": "s-1"},
            "body": {"model": "tutor", "stream": True, "messages": [{"role": "user", "content": "Hello"}]},
        }
    ],
}
_ENDPOINT: Final = _record(
    id=TEXT, url=TEXT, weight=COUNT, region=_or_none(TEXT), max_in_flight=_or_none(COUNT), in_flight=COUNT, verdict=TEXT,
)  # fmt: skip
_SERVICE: Final = _record(
    {"timeouts": _TIMEOUTS}, id=TEXT, balance=TEXT, hash_by=_or_none(_list(TEXT)), endpoints=_list(_ENDPOINT),
)  # fmt: skip
_ROUTE: Final = _record(
    {
        "on_disconnect": TEXT, "timeouts": _TIMEOUTS,
        "retries": _record(attempts=COUNT, after={"type": "object", "additionalProperties": TEXT}),
        "priority": {"type": "integer"}, "single_flight": YES_OR_NO, "summary": YES_OR_NO,
    },
    id=TEXT, pattern=TEXT, encoded_slash=TEXT, max_body=TEXT, client_address=TEXT,
)  # fmt: skip
_FLAG: Final = _record(
    key=TEXT, context=_list(_record(**{"name": TEXT, "from": TEXT})), provider=_or_none(TEXT), value=_or_none(TEXT),
    variant=_or_none(TEXT), reason=_or_none(TEXT), error=_or_none(TEXT), problem=_or_none(TEXT),
)  # fmt: skip
_TURN: Final = _record(
    verdict={"enum": ["at once", "waits", "refused"]}, because=TEXT, position=_or_none(COUNT), predicted_wait_s=_or_none(NUMBER),
    patience=TEXT, patience_from=TEXT, flow=TEXT, priority={"type": "integer"}, max_in_flight=_or_none(COUNT), max_waiting=COUNT,
    max_bytes=TEXT, max_wait=TEXT, fair_by=TEXT, announce=TEXT, shared=YES_OR_NO,
    state=_record(held=COUNT, capacity=_or_none(COUNT), waiting=COUNT, waiting_bytes=COUNT, rate_per_s=_or_none(NUMBER)),
)  # fmt: skip
_VERDICT: Final = _record(would=YES_OR_NO, because=TEXT)
_HOW: Final = {"enum": ["sticky", "turn", "moved", "spilled", "pinned", "cooling"]}
_ASKED_MODEL: Final = _record(
    name=TEXT, operation=TEXT, stream=YES_OR_NO, tenant=_or_none(_record(**{"name": TEXT, "from": TEXT})),
    sticky=_record(**{"from": _or_none(TEXT), "sources": _list(TEXT)}), flag=_or_none(_FLAG),
    split=_record(
        name=TEXT, why={"enum": ["no_flag", "flag", "unset", "unknown"]}, because=TEXT, targets=_list(_ref("Target")),
    ),
    continues=_or_none(_record(known=YES_OR_NO)),
    target=_or_none(_record(service=_or_none(TEXT), model=_or_none(TEXT), split=TEXT, how=_HOW, because=TEXT)),
    order=_list(_record(split=TEXT, how=_HOW, targets=_list(_record(service=TEXT, model=TEXT, share=SHARE)))),
    fallback=_record(attempts=COUNT, because=TEXT, splits=_list(TEXT), after=_list(TEXT)), queue=_TURN,
    sharing=_record(batch=_VERDICT, flight=_VERDICT, hedge=_VERDICT),
    usage=_or_none(_record(asked_upstream=YES_OR_NO, because=TEXT)),
)  # fmt: skip
_UPSTREAM: Final = _record(
    {"body_bytes": COUNT, "model": TEXT}, method=TEXT, target=TEXT, host=TEXT, host_is=TEXT, headers=_list(_list(TEXT)),
)  # fmt: skip
_EXPLANATION: Final = _record(
    {
        "answer": _record(status=COUNT, headers={"type": "object", "additionalProperties": TEXT}, body_bytes=COUNT),
        "route": _ROUTE,
        "model": _ASKED_MODEL,
        "models": _list(_record(name=TEXT, flag=_or_none(TEXT), default=TEXT, splits=_list(_SPLIT))),
        "service": _SERVICE,
        "services": _list(_SERVICE),
        "upstream": _or_none(_UPSTREAM),
    },
    request=_record(method=TEXT, target=TEXT, host=_or_none(TEXT), client=TEXT),
    live=YES_OR_NO,
    outcome={"enum": ["relayed", "answered", "refused", "depends"]},
    matched=YES_OR_NO,
    path=_or_none(TEXT),
    query=_or_none(TEXT),
    dialect=_or_none(TEXT),
    refusal=_or_none(_record(status=COUNT, code=TEXT, message=TEXT)),
    candidates=_list(
        _record(route=TEXT, host=_or_none(TEXT), path=TEXT, methods=_list(TEXT), chosen=YES_OR_NO, reason=TEXT),
    ),
    config=_record(source=TEXT, hash=TEXT),
    worker=COUNT,
)  # fmt: skip
_FLAGS: Final = _record(
    provider={"enum": ["flagd", "ofrep"]}, is_ready=YES_OR_NO, flags=_or_none(COUNT), refreshes=COUNT, problems=COUNT,
    problem=_or_none(TEXT), stale=COUNT, kept=COUNT,
)  # fmt: skip
_QUEUE: Final = _record(
    max_waiting=_or_none(COUNT), max_bytes=_or_none(COUNT), max_wait_s=NUMBER, fair_by=TEXT, shared=YES_OR_NO, waiting=COUNT,
    waiting_bytes=COUNT, held=COUNT, capacity=_or_none(COUNT), served=COUNT, left=COUNT, expired=COUNT,
    refused={"type": "object", "additionalProperties": COUNT}, rate_per_s=_or_none(NUMBER),
    flows=_list(_record(flow=TEXT, priority={"type": "integer"}, waiting=COUNT, served=COUNT)),
)  # fmt: skip
_MODEL: Final = _record(
    name=TEXT, flag=_or_none(TEXT), default=TEXT, fallback=_list(TEXT), sticky=_list(TEXT), splits=_list(_SPLIT),
    unknown_values={"type": "object", "additionalProperties": COUNT}, queue=_QUEUE,
    fallbacks=_record(went_on=COUNT, duplicates=COUNT, denied=COUNT),
    hedging=_or_none(
        _record(after_s=NUMBER, share=SHARE, calls=COUNT, hedges=COUNT, refused_busy=COUNT, refused_share=COUNT),
    ),
    batches=_or_none(
        _record(flying=COUNT, waiting=COUNT, keys=COUNT, joined=COUNT, calls=COUNT, lone=COUNT, apart=COUNT),
    ),
    flights=_record(flying=COUNT, riding=COUNT, started=COUNT, shared=COUNT),
)  # fmt: skip
_PROBLEM: Final = _record(
    type=TEXT, title=TEXT, status=COUNT, detail=TEXT, code=TEXT, request_id=TEXT, retryable=YES_OR_NO,
)  # fmt: skip


def _answers(schema: Schema, *refusals: int) -> Schema:
    whys = {400: "The request cannot be explained; its detail says what to send", 401: "The admin token is missing or wrong",
            403: "The Host names another machine", 413: "More than 1MiB was sent", 415: "It was not sent as JSON"}  # fmt: skip
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    return {
        "200": {"description": "As it stands now", "content": {"application/json": {"schema": schema}}},
        **{str(status): {"description": whys[status], "content": problem} for status in refusals},
    }


DOCUMENT: Final[Schema] = {
    "openapi": "3.1.0",
    "info": {
        "title": "streamgate admin",
        "version": "1",
        "description": "What one worker is about to do and how it stands. Answered on loopback, or to the admin token.",
    },
    "security": [{}, {"token": []}],
    "paths": {
        "/api/v1/explain": {
            "post": {
                "operationId": "explain",
                "summary": "What would happen to a request now, and why. It is not sent; no turn, lease or count is taken.",
                "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Request")}}},
                "responses": _answers(_ref("Explanation"), 400, 401, 403, 413, 415),
            }
        },
        "/api/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "Every model: shares, cooldowns, its line, what was tried again and shared. Counts are this worker's.",
                "responses": _answers(_ref("Models"), 401, 403),
            }
        },
        "/api/v1/openapi.json": {
            "get": {"operationId": "openapi", "summary": "This document.", "responses": _answers({"type": "object"}, 401, 403)}
        },
    },
    "components": {
        "schemas": {
            "Request": _REQUEST,
            "Explanation": _EXPLANATION,
            "Models": _record(worker=COUNT, flags=_or_none(_FLAGS), models=_list(_MODEL)),
            "Target": _TARGET,
            "Problem": _PROBLEM,
        },
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
}
"""The description. Objects name all their members, so that a client can be made of it."""
