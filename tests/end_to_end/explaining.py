"""Asking a running gateway what it would do, and what an answer says that it did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.end_to_end.models_stage import CHAT, Stage
from tests.kit.client import RawClient, Response

BOTH = {"stable": [{"service": "a", "model": "up", "weight": 3}, {"service": "b", "model": "up-b", "weight": 2}], "canary": [{"service": "b"}]}
"""Splits of the model ``tutor``: five parts to two services, or all to one."""


async def explain(models: Stage, body: Any = None, *lines: str, path: str = CHAT) -> dict[str, Any]:
    """What the worker says to a request for ``tutor``, its fields as a client would write them."""
    headers = [[name, value.strip()] for name, _, value in (line.partition(":") for line in lines)]
    if not any(name == "Host" for name, _ in headers):
        headers.append(["Host", "gate"])
    whole = {"model": "tutor", "messages": [{"role": "user", "content": "hi"}], **(body or {})}
    sent = json.dumps({"method": "POST", "url": path, "headers": headers, "body": whole}).encode()
    head = f"POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    async with await RawClient.open(models.gateway.admin_port) as client:
        response = await client.ask(head.encode() + sent)
    assert response.status == 200, response.body
    found: dict[str, Any] = json.loads(response.body)
    return found


async def seen(models: Stage) -> dict[str, Any]:
    """The model ``tutor`` as the worker shows it."""
    status, body = await asyncio.to_thread(models.gateway.admin, "/api/v1/models")
    assert status == 200
    [model] = json.loads(body)["models"]
    found: dict[str, Any] = model
    return found


def became(response: Response) -> tuple[str | None, ...]:
    """(split, service, upstream's model, variant, reason) of an answer."""
    return tuple(response.header(f"x-streamgate-{name}") for name in ("split", "service", "routed-model", "variant", "reason"))


def foretold(found: dict[str, Any]) -> tuple[str | None, ...]:
    """The same, as it was told."""
    model = found["model"]
    return (model["target"]["split"], model["target"]["service"], model["target"]["model"], model["flag"]["variant"], model["flag"]["reason"])


async def home_of(models: Stage, service: str) -> str:
    """The field of a key whose own target is at ``service``."""
    for number in range(100):
        line = f"X-Session-Id: home-{number}"
        target = (await explain(models, {}, line))["model"]["target"]
        if (target["service"], target["how"]) == (service, "sticky"):
            return line
    raise AssertionError(f"no key is at home at {service}")
