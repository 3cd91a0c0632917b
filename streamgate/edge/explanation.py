"""What would happen to one request, found by the gateway's own stages and without sending anything.

The same code that serves reads the head, spells the path, finds the plan and writes the upstream's head, so that what is said
here is what would happen. It passes them with a gateway of its own, which has the routes of the real one and no counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routers.paths import BadTarget, Candidate, canonical, split_target
from sessions.registry import Registry
from streamgate.clock import Clock
from streamgate.config.spec import Gate, Route, Service, Spec
from streamgate.config.units import format_duration, format_size
from streamgate.edge.enter import Entry, Gateway, dialect_of
from streamgate.edge.guard import Head, HeadLimits, read_head, unfinished
from streamgate.errors import Answer, Fault, Looped, NoHealthyUpstream, Overloaded, TooLarge
from streamgate.exchange import Exchange
from streamgate.headers import Networks, Peer, via_loops
from streamgate.lease import Count
from streamgate.observe.metrics import Metrics
from streamgate.observe.records import Records
from streamgate.pipeline.build import Built
from streamgate.pipeline.explaining.ask import Question, refusal
from streamgate.pipeline.explaining.ask import explained as explained_ask
from streamgate.pipeline.explaining.asked import Asked
from streamgate.pipeline.explaining.endpoints import endpoints_of
from streamgate.pipeline.explaining.upstream import upstream_of
from streamgate.pipeline.plan import Plan, ServicePlan
from streamgate.pipeline.upstream import Kit
from streamgate.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Scene:
    """The gateway that is asked about. ``is_live``: it serves, so that loads, cooldowns, lines and flags are those of now."""

    spec: Spec
    built: Built
    clock: Clock
    pseudonym: bytes
    is_live: bool


async def explained(asked: Asked, scene: Scene) -> dict[str, Any]:
    """Everything there is to say, ready for JSON. `outcome` is `relayed`, `answered`, `refused`, or `depends` (on a body that was not
    given); `matched` whether a route takes the request.
    """
    found: dict[str, Any] = {
        "request": {"method": asked.method, "target": asked.target, "host": _host(asked), "client": asked.client},
        "live": scene.is_live,
        "outcome": "refused",
        "matched": False,
        "path": None,
        "query": None,
        "dialect": None,
        "refusal": None,
        "candidates": [],
    }
    try:
        await _follow(found, asked, scene)
    except Fault as fault:
        found["refusal"] = refusal(fault)
    return found


async def _follow(found: dict[str, Any], asked: Asked, scene: Scene) -> None:
    """Through the stages, in their order. Raises the Fault that a stage ends in."""
    gate = scene.spec.gate
    gateway = _gateway(scene, gate)
    wire, limits = asked.wire(), gateway.head_limits
    if len(wire) > limits.head_bytes:
        unfinished(wire, limits)
    head = read_head(wire, limits)
    peer = Peer(asked.client, tls=gate.tls is not None, trusted=gateway.trusted)
    _read_target(found, head, scene)
    entry = gateway.enter(head, peer)
    found["matched"] = True
    exchange, plan = entry.exchange, entry.plan
    _add_route(found, entry, scene.spec)
    size_bytes = head.length if asked.body is None else len(asked.body)
    if plan.max_body_bytes is not None and (size_bytes or 0) > plan.max_body_bytes:
        raise TooLarge("The request body is larger than this route takes", status=413)
    own = plan.respond if plan.models is None else plan.models.own_answer(exchange)
    if own is not None or plan.service is None:
        found["outcome"] = "answered"
        found["answer"] = _answer(own)
        return
    if scene.is_live and via_loops(exchange.named.get(b"via", []), scene.pseudonym):
        raise Looped
    if plan.models is None:
        _add_service(found, entry, plan.service, head, peer, scene)
        return
    question = Question(
        exchange, plan, plan.models, scene.spec, peer, asked.body, scene.clock.now, scene.pseudonym,
    )  # fmt: skip
    found |= await explained_ask(question)


def _gateway(scene: Scene, gate: Gate) -> Gateway:
    kit = Kit(
        clock=scene.clock, registry=Registry(), tasks=Tasks(lambda _name, _error: None), drains=Count(), drain_bytes=0,
        drain_s=0.0, pseudonym=scene.pseudonym, settle=lambda _exchange, _plan, _bytes: None,
    )  # fmt: skip
    gateway = Gateway(kit=kit, metrics=Metrics(), records=Records(None), worker=b"explain")
    gateway.routes = scene.built.routes
    gateway.head_limits = HeadLimits(gate.limits.head, gate.limits.target, gate.limits.fields)
    gateway.trusted = Networks(gate.trusted_proxies)
    return gateway


def _host(asked: Asked) -> str | None:
    return next((value for name, value in asked.headers if name.lower() == "host"), None)


def _read_target(found: dict[str, Any], head: Head, scene: Scene) -> None:
    """Path, query and what every route says to them, as far as the target can be read."""
    try:
        target = split_target(head.target, head.host or None)
        path = target.path if head.target == b"*" else canonical(target.path, keep_encoded_slash=True)
    except BadTarget:
        return  # the gateway's own stage says why
    found["path"] = path.decode("ascii")
    found["query"] = None if target.query is None else target.query.decode("ascii")
    found["dialect"] = dialect_of(path).value
    candidates = scene.built.routes.explain(target.authority or head.host, path, head.method)
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


def _add_route(found: dict[str, Any], entry: Entry, spec: Spec) -> None:
    plan = entry.plan
    found["route"] = {
        "id": plan.route,
        "pattern": entry.exchange.pattern,
        "encoded_slash": "keep" if plan.keep_encoded_slash else "reject",
        "max_body": format_size(plan.max_body_bytes),
        "client_address": entry.exchange.client_address,
    }
    route = next(one for one in spec.routes if one.id == plan.route)
    service = next((one for one in spec.services if one.id == route.to.service), None)
    if service is not None:
        found["route"] |= {
            "on_disconnect": route.on_disconnect,
            "timeouts": _timeouts(route, service),
            "retries": _retries(entry.exchange, plan),
        }
    elif route.to.models:
        found["route"] |= {
            "on_disconnect": route.on_disconnect,
            "priority": route.priority,
            "single_flight": route.single_flight,
            "summary": route.summary,
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


def _answer(answer: Answer | None) -> dict[str, Any]:
    if answer is None:
        return {"status": 204, "headers": {}, "body_bytes": 0}
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return {"status": answer.status, "headers": headers, "body_bytes": len(answer.body)}


def _add_service(  # what the stages before have found
    found: dict[str, Any], entry: Entry, service: ServicePlan, head: Head, peer: Peer, scene: Scene
) -> None:
    exchange, plan = entry.exchange, entry.plan
    spec = next(one for one in scene.spec.services if one.id == service.id)
    key = plan.key(exchange) if plan.key is not None else None
    endpoints = endpoints_of(service, spec, key, scene.clock.now())
    found["service"] = {
        "id": service.id,
        "balance": spec.balance,
        "hash_by": list(spec.hash_by) if spec.balance == "hash" else None,
        "endpoints": endpoints.described,
    }
    if endpoints.picked is None:
        raise Overloaded if service.pool.has_weight else NoHealthyUpstream("Every endpoint has weight 0")
    found["outcome"] = "relayed"
    found["upstream"] = upstream_of(
        exchange, plan, service, endpoints.picked, peer=peer, pseudonym=scene.pseudonym, length=head.length
    )
