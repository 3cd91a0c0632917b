"""What would happen to a request to a model: the stages of ``pipeline.prompting`` in their order, each only asked what it would say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from routers.models import UnknownModel
from routers.splits import Choice
from streamgate.config.spec import Model as ModelSpec
from streamgate.config.spec import Spec
from streamgate.config.units import format_duration
from streamgate.errors import Fault, ModelNotFound, NoHealthyUpstream, NoRoute, Overloaded
from streamgate.exchange import Exchange
from streamgate.headers import Peer, values
from streamgate.pipeline.ask import OPERATIONS, Ask, kind_of, sticky_key
from streamgate.pipeline.explaining.course import BECAUSE, Course, Step, course_of
from streamgate.pipeline.explaining.endpoints import Endpoints, endpoints_of
from streamgate.pipeline.explaining.shares import shares_of, split_shares
from streamgate.pipeline.explaining.sharing import Wish, sharing_of, usage_of
from streamgate.pipeline.explaining.turn import Turn, turn_of
from streamgate.pipeline.explaining.upstream import upstream_of
from streamgate.pipeline.explaining.way import Fact, WayTaken, way_of
from streamgate.pipeline.models import ModelPlan, ModelsPlan
from streamgate.pipeline.plan import Plan
from streamgate.policies.fallback import TRIGGERS, Fallbacks
from streamgate.policies.tenants import Tenants

_RETRIES: Final = b"x-stainless-retry-count"
_DIGITS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Question:
    """A request that a route to the models has taken. ``body`` None leaves open which model it asks for."""

    exchange: Exchange
    plan: Plan
    models: ModelsPlan
    spec: Spec
    peer: Peer
    body: bytes | None
    now: Callable[[], float]
    pseudonym: bytes


@dataclass(frozen=True, slots=True)
class _Told:
    """What has been found out on the way."""

    question: Question
    ask: Ask
    kind: bytes
    model: ModelPlan
    spec: ModelSpec
    tenant: Fact | None
    key: Fact | None
    way: WayTaken
    course: Course
    turn: Turn
    now: float


async def explained(question: Question) -> dict[str, Any]:
    """Everything there is to say, ready for JSON: `outcome` and `refusal`; `models` where there is no body; else `model`, `services`
    and `upstream`. Raises a Fault where the request is refused before there is a model.
    """
    exchange = question.exchange
    kind = kind_of(exchange.path)
    if kind is None or exchange.method != b"POST":
        raise NoRoute("No model is served at this path with this method; see GET /v1/models")
    if question.body is None:
        return {"outcome": "depends", "models": models_of(question.models, question.now())}
    told = await _followed(question, question.body, kind)
    services, endpoints = _services(told)
    fault = _fault(told, endpoints)
    usage, upstream = _sent(told, endpoints)
    return {
        "outcome": "relayed" if fault is None else "refused",
        "refusal": None if fault is None else refusal(fault),
        "model": _model(told) | {"usage": usage},
        "services": services,
        "upstream": None if fault is not None else upstream,
    }


def refusal(fault: Fault) -> dict[str, Any]:
    """A fault as it is told."""
    return {"status": fault.status, "code": fault.code, "message": fault.message}


def models_of(models: ModelsPlan, now: float) -> list[dict[str, Any]]:
    """Every model with its splits."""
    return [
        {"name": plan.model.name, "flag": plan.model.flag, "default": plan.model.default, "splits": shares_of(plan, now)}
        for plan in models.plans.values()
    ]


async def _followed(question: Question, body: bytes, kind: bytes) -> _Told:
    exchange, models = question.exchange, question.models
    try:
        ask = Ask(body)
        name = models.models.get(ask.model).name
        model = models.plans[name]
        found = sticky_key(exchange, ask, model.sticky)
    except UnknownModel as error:
        raise ModelNotFound(str(error)) from None
    except (RecursionError, ValueError, msgspec.MsgspecError):  # what no reader of ours refuses in its own words
        raise Fault("The body cannot be read") from None
    tenant = _tenant(question)
    key = None if found is None else Fact("targetingKey", found[1], found[0])
    facts = [Fact("route", question.plan.route, "the route"), Fact("model", name, "the model")]
    way = await way_of(model.model, models.flags, (*facts, *(fact for fact in (tenant, key) if fact is not None)))
    pinned = await _pinned(models, model, ask, question.now())
    now = question.now()
    spec = next(one for one in question.spec.models if one.name == name)
    course = course_of(model, way.name, None if key is None else key.value, pinned, now)
    turn = turn_of(
        model, spec, exchange, split=way.name, tenant=None if tenant is None else tenant.value,
        priority=models.priority, size_bytes=len(body),
    )  # fmt: skip
    return _Told(question, ask, kind, model, spec, tenant, key, way, course, turn, now)


def _tenant(question: Question) -> Fact | None:
    """The tenant, and which source tells it: each is asked alone, in its turn."""
    for source in question.spec.auth.tenant.sources:
        found = Tenants((source,)).of(question.exchange, {}, trusted=question.peer.trusted)
        if found is not None:
            return Fact("tenant", found, source)
    return None


async def _pinned(models: ModelsPlan, model: ModelPlan, ask: Ask, now: float) -> Choice | None:
    if ask.previous_response_id is None:
        return None
    place = await models.answers.place_of(ask.previous_response_id, now)
    if place is None:
        return None
    service, _, name = place.partition(" ")
    return model.model.pinned((service, name))


# -- what is told ----------------------------------------------------------------------------------------------------------


def _model(told: _Told) -> dict[str, Any]:
    model, course = told.model, told.course
    return {
        "name": model.model.name,
        "operation": OPERATIONS[told.kind],
        "stream": told.ask.stream,
        "tenant": None if told.tenant is None else {"name": told.tenant.value, "from": told.tenant.source},
        "sticky": {"from": None if told.key is None else told.key.source, "sources": list(told.spec.sticky)},
        "flag": told.way.flag,
        "split": told.way.split | {"targets": split_shares(model, model.model.splits[told.way.name], told.now)["targets"]},
        "continues": None if told.ask.previous_response_id is None else {"known": _is_pinned(course)},
        "target": _target(course),
        "order": [
            {
                "split": step.split,
                "how": step.how,
                "targets": [
                    {"service": pair[0], "model": pair[1], "share": round(share, 4)} for pair, share in step.targets
                ],
            }
            for step in course.steps
        ],
        "fallback": _fallback(told),
        "queue": told.turn.described,
        "sharing": sharing_of(_wish(told)),
    }


def _is_pinned(course: Course) -> bool:
    return course.first is not None and course.first.how == "pinned"


def _target(course: Course) -> dict[str, Any] | None:
    """Who is asked first; service and model are None where several are in turn."""
    first = course.first
    if first is None:
        return None
    service, name = first.targets[0][0] if len(first.targets) == 1 else (None, None)
    because = BECAUSE[first.how]
    if first.how == "turn" and service is not None:
        because = "it is the only one of its split that can be asked now"
    if course.full:
        because += ", once there is room"
    return {"service": service, "model": name, "split": first.split, "how": first.how, "because": because}


def _fallback(told: _Told) -> dict[str, Any]:
    text = next(iter(values(told.question.exchange.headers, _RETRIES)), b"0").strip()
    repeats = text.isdigit() and len(text) < _DIGITS_MAX and int(text) > 0
    if _is_pinned(told.course):
        attempts, because = 1, "nobody else can answer"
    elif repeats:
        attempts, because = Fallbacks.CLIENT_RETRIES_MAX, "the client repeats itself (x-stainless-retry-count)"
    else:
        attempts, because = Fallbacks.ATTEMPTS_MAX, "attempts in all, while nothing is committed"
    ours = any(told.model.services[pair[0]].credentials for pair in _pairs(told.course))
    after = sorted(TRIGGERS if ours else TRIGGERS - {"credentials"})
    return {"attempts": attempts, "because": because, "splits": list(told.model.model.fallback), "after": after}


def _pairs(course: Course) -> Iterator[tuple[str, str]]:
    return (pair for step in course.steps for pair, _ in step.targets)


def _wish(told: _Told) -> Wish:
    usable = {pair for step in told.course.steps if step.how != "cooling" for pair, _ in step.targets}
    return Wish(told.ask, told.kind, told.model, told.question.models, told.spec, has_other=len(usable) > 1)


def _services(told: _Told) -> tuple[list[dict[str, Any]], dict[str, Endpoints]]:
    """Every service of the course, in the order of their asking, with its endpoints and deadlines."""
    specs = {one.id: one for one in told.question.spec.services}
    key = None if told.key is None else told.key.value.encode()
    seen = {
        service: endpoints_of(told.model.services[service], specs[service], key, told.now)
        for service in dict.fromkeys(pair[0] for pair in _pairs(told.course))
    }
    described = [
        {
            "id": service,
            "balance": specs[service].balance,
            "hash_by": ["sticky"] if specs[service].balance == "hash" else None,
            "endpoints": endpoints.described,
            "timeouts": _timeouts(told, service),
        }
        for service, endpoints in seen.items()
    ]
    return described, seen


def _timeouts(told: _Told, service: str) -> dict[str, str]:
    limits = told.question.models.limits[service]
    return {
        "connect": format_duration(told.model.services[service].connect_s),
        "first_byte": format_duration(limits.first_byte_s),
        "idle": format_duration(limits.idle_s),
        "total": format_duration(limits.total_s),
    }


def _fault(told: _Told, endpoints: dict[str, Endpoints]) -> Fault | None:
    """Why it would be refused, as far as can be known before it is sent."""
    if told.turn.fault is not None:
        return told.turn.fault
    if told.turn.verdict == "waits":
        return None
    first = told.course.first
    if told.course.full:
        return Overloaded()
    if first is None or (first.how == "cooling" and _is_being_tried(told, first)):
        return NoHealthyUpstream()
    return Overloaded() if all(endpoints[pair[0]].picked is None for pair, _ in first.targets) else None


def _is_being_tried(told: _Told, step: Step) -> bool:
    """Is another request finding out whether the broken target is well again? Then nobody else may; the right is given back at once."""
    probe = told.model.cooldowns[step.targets[0][0]].probe(told.now)
    if probe is not None:
        probe.release()
    return probe is None


def _sent(told: _Told, endpoints: dict[str, Endpoints]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(how the usage is come by, what the upstream gets); the second is None while it is not known who is asked."""
    first = told.course.first
    if first is None:
        return None, None
    exchange, plan = told.question.exchange, told.question.plan
    service, name = first.targets[0][0]
    usage, body = usage_of(_wish(told), OPERATIONS[told.kind], exchange.dialect, name)
    endpoint = endpoints[service].picked
    if len(first.targets) > 1 or endpoint is None:
        return usage, None
    hidden = [source.partition(":")[2] for source in told.spec.sticky if source.startswith("header:")]
    if any(one["would"] for one in sharing_of(_wish(told)).values()):  # a shared call takes its answer as it is
        exchange = copy(exchange)
        exchange.headers = [field for field in exchange.headers if field[0].lower() != b"accept-encoding"]
    head = upstream_of(
        exchange, plan, told.model.services[service], endpoint, peer=told.question.peer, pseudonym=told.question.pseudonym,
        length=len(body), hidden=hidden,
    )  # fmt: skip
    return usage, head | {"body_bytes": len(body), "model": name}
