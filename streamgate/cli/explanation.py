"""What would happen to one request, found by the gateway's own stages and without sending anything.

The same code that serves reads the head, spells the path, finds the plan and writes the upstream's head, so that what is said
here is what would happen. Nothing connects; endpoints count as idle and reachable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from routers.paths import BadTarget, Candidate, Routes, canonical, split_target
from routers.pools import Endpoint, Picker
from sessions.registry import Registry
from streamgate.catalogue import FLAGS
from streamgate.clock import SystemClock
from streamgate.config.load import Loaded
from streamgate.config.spec import Gate, Route, Service
from streamgate.config.units import format_duration, format_size
from streamgate.edge.enter import Entry, Gateway, dialect_of
from streamgate.edge.guard import Head, HeadLimits, read_head, unfinished
from streamgate.errors import Fault, TooLarge
from streamgate.exchange import Exchange
from streamgate.headers import Networks, Peer
from streamgate.kept import Kept
from streamgate.lease import Count
from streamgate.observe.gen_ai import GenAi
from streamgate.observe.metrics import Metrics
from streamgate.observe.models import ModelsMetrics
from streamgate.observe.records import Records
from streamgate.pipeline.build import Builder
from streamgate.pipeline.build_models import Around
from streamgate.pipeline.heads import request_head
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.upstream import Kit
from streamgate.stores.answers import Answers
from streamgate.tasks import Tasks

HIDDEN: Final = "(hidden)"
_SECRETS: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "api-key"})
_PSEUDONYM: Final = b"streamgate"

Pickers = Mapping[str, Callable[[Callable[[], float]], Picker]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: what a client would put on the wire, and the address it would come from."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    """Host among them."""
    client: str = "127.0.0.1"

    def wire(self) -> bytes:
        """Its head in bytes."""
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def explained(loaded: Loaded, asked: Asked, pickers: Pickers) -> dict[str, Any]:
    """Everything there is to say, ready for JSON. `outcome` is `relayed`, `answered` or `refused`; `matched` whether a route
    takes the request.
    """
    clock = SystemClock()
    around = Around(
        clock=clock, cells=ModelsMetrics(), gen_ai=GenAi(), answers=Answers(tasks=Tasks(lambda _name, _error: None)), share=None,
        flags=lambda flags: (FLAGS[flags.provider](flags, clock.now, lambda _problem: None), lambda: None),
    )  # fmt: skip
    built = Builder(kept=Kept(), metrics=Metrics(), clock=clock, pickers=pickers, around=around).build(loaded.spec)
    gateway = _gateway(built.routes, loaded.spec.gate)
    gate = loaded.spec.gate
    found: dict[str, Any] = {
        "request": {"method": asked.method, "target": asked.target, "host": _host(asked), "client": asked.client},
        "outcome": "refused",
        "matched": False,
        "path": None,
        "query": None,
        "dialect": None,
        "refusal": None,
        "candidates": [],
    }
    try:
        wire = asked.wire()
        limits = gateway.head_limits
        if len(wire) > limits.head_bytes:
            unfinished(wire, limits)
        head = read_head(wire, limits)
        peer = Peer(asked.client, tls=gate.tls is not None, trusted=gateway.trusted)
        _read_target(found, head, built.routes)
        entry = gateway.enter(head, peer)
        found["matched"] = True
        _add_route(found, entry, loaded)
        if head.length and entry.plan.max_body_bytes is not None and head.length > entry.plan.max_body_bytes:
            raise TooLarge("The request body is larger than this route takes", status=413)
    except Fault as fault:
        found["refusal"] = {"status": fault.status, "code": fault.code, "message": fault.message}
        return found
    plan = entry.plan
    if plan.service is None:
        found["outcome"] = "answered"
        found["answer"] = _answer(plan)
    else:
        found["outcome"] = "relayed"
        _add_service(found, entry.exchange, plan, plan.service, head, peer, loaded)
    return found


def _gateway(routes: Routes[Plan], gate: Gate) -> Gateway:
    kit = Kit(
        clock=SystemClock(), registry=Registry(), tasks=Tasks(lambda _name, _error: None), drains=Count(), drain_bytes=0,
        drain_s=0.0, pseudonym=_PSEUDONYM, settle=lambda _exchange, _plan, _bytes: None,
    )  # fmt: skip
    gateway = Gateway(kit=kit, metrics=Metrics(), records=Records(None), worker=b"explain")
    gateway.routes = routes
    gateway.head_limits = HeadLimits(gate.limits.head, gate.limits.target, gate.limits.fields)
    gateway.trusted = Networks(gate.trusted_proxies)
    return gateway


def _host(asked: Asked) -> str | None:
    return next((value for name, value in asked.headers if name.lower() == "host"), None)


def _read_target(found: dict[str, Any], head: Head, routes: Routes[Plan]) -> None:
    """Path, query and what every route says to them, as far as the target can be read."""
    try:
        target = split_target(head.target, head.host or None)
        path = target.path if head.target == b"*" else canonical(target.path, keep_encoded_slash=True)
    except BadTarget:
        return  # the gateway's own stage says why
    found["path"] = path.decode("ascii")
    found["query"] = None if target.query is None else target.query.decode("ascii")
    found["dialect"] = dialect_of(path).value
    candidates = routes.explain(target.authority or head.host, path, head.method)
    found["candidates"] = [_candidate(one) for one in candidates]


def _candidate(one: Candidate[Plan]) -> dict[str, Any]:
    entry = one.entry
    return {
        "route": entry.plan.route,
        "host": entry.host,
        "path": entry.pattern,
        "methods": list(entry.methods),
        "chosen": one.chosen,
        "reason": one.reason,
    }


def _add_route(found: dict[str, Any], entry: Entry, loaded: Loaded) -> None:
    plan = entry.plan
    found["route"] = {
        "id": plan.route,
        "pattern": entry.exchange.pattern,
        "encoded_slash": "keep" if plan.keep_encoded_slash else "reject",
        "max_body": format_size(plan.max_body_bytes),
        "client_address": entry.exchange.client_address,
    }
    route = next(one for one in loaded.spec.routes if one.id == plan.route)
    service = next((one for one in loaded.spec.services if one.id == route.to.service), None)
    if service is not None:
        found["route"] |= {
            "on_disconnect": route.on_disconnect,
            "timeouts": _timeouts(route, service),
            "retries": _retries(entry.exchange, plan),
        }


def _timeouts(route: Route, service: Service) -> dict[str, str]:
    timeouts = route.timeouts_over(service.timeouts)
    return {name: format_duration(getattr(timeouts, name)) for name in ("connect", "first_byte", "idle", "total")}


def _retries(exchange: Exchange, plan: Plan) -> dict[str, Any]:
    others = plan.service is not None and len([one for one in plan.service.pool.endpoints if one.weight]) > 1
    verdicts = {}
    for outcome in sorted(plan.retries.on, key=str):
        verdict = plan.retries.decide(
            method=exchange.method, attempt=1, outcome=outcome, body_replayable=True, other_endpoint=others, random=lambda: 0.5
        )
        verdicts[str(outcome)] = "tried again" if verdict.retry else verdict.reason
    return {"attempts": plan.retries.attempts, "after": verdicts}


def _answer(plan: Plan) -> dict[str, Any]:
    answer = plan.respond
    if answer is None:
        return {"status": 204, "headers": {}, "body_bytes": 0}
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return {"status": answer.status, "headers": headers, "body_bytes": len(answer.body)}


def _add_service(  # noqa: PLR0917  # what the stages before have found
    found: dict[str, Any], exchange: Exchange, plan: Plan, service: ServicePlan, head: Head, peer: Peer, loaded: Loaded
) -> None:
    spec = next(one for one in loaded.spec.services if one.id == service.id)
    key = plan.key(exchange) if plan.key is not None else None
    picked = service.pool.pick(0.0, key)
    found["service"] = {
        "id": service.id,
        "balance": spec.balance,
        "hash_by": list(spec.hash_by) if spec.balance == "hash" else None,
        "endpoints": [
            {
                "id": one.id,
                "url": written.url,
                "weight": one.weight,
                "region": one.region,
                "max_in_flight": one.count.capacity,
                "verdict": _verdict(one, picked, spec.balance, count=len(service.pool.endpoints)),
            }
            for one, written in zip(service.pool.endpoints, spec.all_endpoints, strict=True)
        ],
    }
    if picked is None:
        found["outcome"] = "refused"
        found["refusal"] = {"status": 503, "code": "no_healthy_upstream", "message": "Every endpoint has weight 0"}
        return
    sent = request_head(exchange, plan, service, picked, peer=peer, pseudonym=_PSEUDONYM, length=head.length)
    first, *lines = sent.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    fields = [line.partition(": ")[::2] for line in lines]
    own = {name.decode() for name in service.withheld}
    found["upstream"] = {
        "method": method,
        "target": target,
        "host": next(value for name, value in fields if name == "Host"),
        "host_is": {None: "the endpoint's own", b"": "the client's"}.get(plan.host, "the route's"),
        "headers": [[name, HIDDEN if name.lower() in _SECRETS | own else value] for name, value in fields if name != "Host"],
    }


def _verdict(endpoint: Endpoint, picked: Endpoint | None, balance: str, *, count: int) -> str:
    if not endpoint.weight:
        return "never picked: weight 0"
    if count == 1 or (balance == "hash" and endpoint is picked):
        return "picked"
    return "not for this key, unless the picked one is full or away" if balance == "hash" else "may be picked"
