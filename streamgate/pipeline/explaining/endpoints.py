"""The endpoints of a service as one request meets them: which may be picked, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from routers.pools import Endpoint, Pool
from streamgate.config.spec import Service
from streamgate.pipeline.plan import ServicePlan


@dataclass(frozen=True, slots=True)
class Endpoints:
    """``described`` in the order of the configuration; ``picked`` stands for all that may be picked, None where none may."""

    described: list[dict[str, Any]]
    picked: Endpoint | None


def endpoints_of(service: ServicePlan, spec: Service, key: bytes | None, now: float) -> Endpoints:
    """What a service's pool would do with a request of this key. No turn of its picker is taken."""
    pool = service.pool
    possible = _possible(pool, now)
    sticks = spec.balance == "hash" and key is not None
    picked = None
    if possible:
        picked = pool.picker.pick(possible, now, key) if sticks else possible[0]  # by key a choice changes nothing
    described = [
        {
            "id": one.id,
            "url": written.url,
            "weight": one.weight,
            "region": one.region,
            "max_in_flight": one.count.capacity,
            "in_flight": one.count.held,
            "verdict": _verdict(one, possible, picked if sticks else None, now),
        }
        for one, written in zip(pool.endpoints, spec.all_endpoints, strict=True)
    ]
    return Endpoints(described, picked)


def _possible(pool: Pool, now: float) -> Sequence[Endpoint]:
    """Those a picker is asked to choose from: as ``Pool.pick`` has it, who could not be connected to only where no other is left."""
    roomy = [one for one in pool.endpoints if one.weight and one.count.held < one.count.limit]
    return [one for one in roomy if one.failed_until <= now] or roomy


def _verdict(one: Endpoint, possible: Sequence[Endpoint], sticky: Endpoint | None, now: float) -> str:
    if not one.weight:
        return "never picked: weight 0"
    if one.count.held >= one.count.limit:
        return f"full: {one.count.held} of {one.count.capacity} in flight"
    if one not in possible:
        return f"avoided for {one.failed_until - now:.1f}s: no connection could be opened"
    if len(possible) == 1 or one is sticky:
        return "picked"
    return "may be picked" if sticky is None else "not for this key, unless the picked one is full or away"
