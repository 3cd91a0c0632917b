"""`GET /api/v1/models`: every model as it stands in this worker: shares, cooldowns, its line, what was tried again and shared."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from routers.flags import Flags
from streamgate.pipeline.build import Built
from streamgate.pipeline.explaining.shares import shares_of
from streamgate.pipeline.models import ModelPlan


def models_seen(built: Built, now: float) -> dict[str, Any]:
    """All models of what is in force; counts are of this worker and since it began, unless their names say otherwise."""
    flags = _flags(built)
    return {
        "flags": None if flags is None else msgspec.structs.asdict(flags.statistics()),
        "models": [_model(plan, now) for plan in built.models.values()],
    }


def _flags(built: Built) -> Flags | None:
    """Where flags come from: the same for every route to the models."""
    return next((models.flags for entry in built.routes.rows() if (models := entry.plan.models) is not None), None)


def _model(plan: ModelPlan, now: float) -> dict[str, Any]:
    model, hedging, batches = plan.model, plan.hedging, plan.sharing.batches
    hedged = None if hedging is None else {"after_s": hedging.after_s, "share": hedging.share}
    return {
        "name": model.name,
        "flag": model.flag,
        "default": model.default,
        "fallback": list(model.fallback),
        "sticky": [source for source, _ in plan.sticky],
        "splits": shares_of(plan, now),
        "unknown_values": dict(model.statistics().unknown),
        "queue": _queue(plan),
        "fallbacks": msgspec.structs.asdict(plan.fallbacks.statistics()),
        "hedging": None if hedged is None or hedging is None else hedged | msgspec.structs.asdict(hedging.statistics()),
        "batches": None if batches is None else asdict(batches.statistics()),
        "flights": asdict(plan.sharing.flights.statistics()),
    }


def _queue(plan: ModelPlan) -> dict[str, Any]:
    line = plan.line
    settings = {
        "max_waiting": line.max_waiting,
        "max_bytes": line.max_bytes,
        "max_wait_s": plan.max_wait_s,
        "fair_by": plan.fair_by,
        "shared": plan.demand is not None,
    }
    return settings | asdict(line.statistics())
