"""What a model's line would say to one more request: a turn at once, a wait and how long, or no. Nobody enters it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from sessions.patience import patience_s
from sessions.queue import Line, LineStatistics
from sessions.turns import FlowStatistics, Ready
from streamgate.config.spec import Model as ModelSpec
from streamgate.config.units import format_duration, format_size
from streamgate.errors import Fault, QueueFull, WaitTooLong
from streamgate.exchange import Exchange
from streamgate.headers import values
from streamgate.pipeline.models import ModelPlan

Verdict = Literal["at once", "waits", "refused"]
_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class Turn:
    """``described`` as told; ``fault`` is why it would be refused."""

    verdict: Verdict
    described: dict[str, Any]
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """Who would come to the line."""

    flow: str
    priority: int
    size_bytes: int
    patience_s: float


def turn_of(  # what a line is asked with
    model: ModelPlan, spec: ModelSpec, exchange: Exchange, *, split: str, tenant: str | None, priority: int, size_bytes: int
) -> Turn:  # fmt: skip
    """The turn of a request whose body has ``size_bytes``."""
    timeout = next(iter(values(exchange.headers, b"x-stainless-read-timeout")), None)
    patience = patience_s(model.max_wait_s, timeout)
    whom = tenant or exchange.client_address if model.fair_by == "tenant" else exchange.client_address
    arrival = _Arrival("" if model.fair_by == "off" else whom, priority, size_bytes, patience)
    line, seen = model.line, model.line.statistics()
    verdict, because, fault = _judged(line, seen, model.ready[split], arrival)
    if verdict == "waits" and model.demand is not None:
        because += "; more of the slots that all workers share are asked for"
    queue = spec.queue
    described = {
        "verdict": verdict,
        "because": because,
        "position": _position(seen, arrival) if verdict == "waits" else None,
        "predicted_wait_s": _rounded(line.predicted_entry_s(arrival.flow, priority)) if verdict == "waits" else None,
        "patience": format_duration(round(patience, _DIGITS)),
        "patience_from": "queue.max_wait" if patience == model.max_wait_s else "x-stainless-read-timeout",
        "flow": arrival.flow,
        "priority": priority,
        "max_in_flight": queue.max_in_flight,
        "max_waiting": queue.max_waiting,
        "max_bytes": format_size(queue.max_bytes),
        "max_wait": format_duration(queue.max_wait),
        "fair_by": queue.fair_by,
        "announce": format_duration(queue.announce),
        "shared": model.demand is not None,
        "state": {
            "held": seen.held,
            "capacity": seen.capacity,
            "waiting": seen.waiting,
            "waiting_bytes": seen.waiting_bytes,
            "rate_per_s": _rounded(seen.rate_per_s),
        },
    }
    return Turn(verdict, described, fault)


def _judged(line: Line, seen: LineStatistics, ready: Ready | None, arrival: _Arrival) -> tuple[Verdict, str, Fault | None]:
    """What ``Line.enter`` would do, in its order."""
    has_slot = seen.capacity is None or seen.held < seen.capacity
    what = f"{seen.held} are under way, of {'any number' if seen.capacity is None else seen.capacity}"
    if has_slot and (ready is None or ready()):
        return "at once", what, None
    if has_slot:
        what = "every target of its split is full"
    predicted_s = line.predicted_entry_s(arrival.flow, arrival.priority)
    lacking = _lacking(line, 1, arrival.size_bytes)
    makes_room = lacking is not None and _makes_room(line, arrival)
    if lacking is not None and not makes_room:
        return "refused", f"{what}, and no more may wait: {lacking}", QueueFull(retry_after_s=predicted_s)
    if arrival.patience_s <= 0.0 or (predicted_s is not None and predicted_s > arrival.patience_s):
        return "refused", f"{what}, and the wait would be longer than it may take", WaitTooLong()
    if makes_room:
        what += f", and no more may wait ({lacking}): the last of the flow with most waiting makes room for it"
    return "waits", what, None


def _lacking(line: Line, requests: int, size_bytes: int) -> str | None:
    """Which cap forbids that so much more waits."""
    if line.max_waiting is not None and line.waiting + requests > line.max_waiting:
        return f"{line.waiting} wait, queue.max_waiting is {line.max_waiting}"
    if line.max_bytes is not None and line.waiting_bytes + size_bytes > line.max_bytes:
        return f"{line.waiting_bytes} bytes wait, queue.max_bytes is {format_size(line.max_bytes)}"
    return None


def _makes_room(line: Line, arrival: _Arrival) -> bool:
    """Would another give up its place, and would that be enough?"""
    leaves = line._bands.to_make_room(arrival.flow, arrival.priority)  # noqa: SLF001  # it only looks; a line has no word for it
    return leaves is not None and _lacking(line, 0, arrival.size_bytes - leaves.size_bytes) is None


def _position(seen: LineStatistics, arrival: _Arrival) -> int:
    """Its place from 1, at best: who goes before in the last round of turns is not known from outside (see ``Turns.ahead``)."""
    above = sum(flow.waiting for flow in seen.flows if flow.priority > arrival.priority)
    band = [flow for flow in seen.flows if flow.priority == arrival.priority]
    own = _waiting(band, arrival.flow)
    ahead = sum(min(flow.waiting, own) for flow in band) if own else len(band)
    return above + ahead + 1


def _waiting(band: list[FlowStatistics], name: str) -> int:
    return next((flow.waiting for flow in band if flow.flow == name), 0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
