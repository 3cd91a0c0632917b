"""What an upstream would get: the head that the gateway would write, secrets hidden."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from routers.pools import Endpoint
from streamgate.exchange import Exchange
from streamgate.headers import Peer
from streamgate.pipeline.heads import request_head
from streamgate.pipeline.plan import Plan, ServicePlan

HIDDEN: Final = "(hidden)"
_SECRET: Final = re.compile(r"auth|cookie|key|secret|token|passw|credential|signature|session", re.IGNORECASE)
"""In the names of headers: what they hold opens something, or tells who somebody is."""


def upstream_of(  # noqa: PLR0913  # what a head is made of, and what of it is hidden
    exchange: Exchange, plan: Plan, service: ServicePlan, endpoint: Endpoint, *, peer: Peer, pseudonym: bytes,
    length: int | None, hidden: Collection[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Method, target and fields as they would be sent. The values of secrets are not shown, nor those of ``hidden`` (lower-case)."""
    sent = request_head(exchange, plan, service, endpoint, peer=peer, pseudonym=pseudonym, length=length)
    first, *lines = sent.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    fields = [line.partition(": ")[::2] for line in lines]
    own = {name.decode() for name in service.withheld} | set(hidden)

    def shown(name: str, value: str) -> str:
        return HIDDEN if name.lower() in own or _SECRET.search(name) else value

    return {
        "method": method,
        "target": target,
        "host": next(value for name, value in fields if name == "Host"),
        "host_is": {None: "the endpoint's own", b"": "the client's"}.get(plan.host, "the route's"),
        "headers": [[name, shown(name, value)] for name, value in fields if name != "Host"],
    }
