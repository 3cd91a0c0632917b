"""The splits of a model: what each target was given and what it gets now, since a cooling or full one gets nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from routers.models import Standing
from routers.splits import Split
from streamgate.pipeline.models import ModelPlan

_DIGITS: Final = 4


def shares_of(model: ModelPlan, now: float) -> list[dict[str, Any]]:
    """Every split with its targets, as configured and as things stand."""
    return [split_shares(model, split, now) for split in model.model.splits.values()]


def split_shares(model: ModelPlan, split: Split, now: float) -> dict[str, Any]:
    """One split. Shares are fractions; ``effective_share`` is over the targets that can be used now."""
    effective = split.effective_shares(usable(split, model.standing, now))
    targets = [
        {
            "service": target.service,
            "model": pair[1],
            "weight": target.weight,
            "requested_share": round(requested, _DIGITS),
            "effective_share": round(share, _DIGITS),
            "in_flight": model.loads.held(pair),
            "has_room": model.standing.has_room(pair),
            "cooling": _cooling(model, pair, now),
        }
        for target, pair, requested, share in zip(split.targets, split.pairs, split.requested_shares(), effective, strict=True)
    ]
    return {"name": split.name, "targets": targets}


def usable(split: Split, standing: Standing, now: float) -> Callable[[int], bool]:
    """Whether a target of a split, by its index, can be used now."""
    pairs = split.pairs
    return lambda index: standing.cools_until(pairs[index]) <= now and standing.has_room(pairs[index])


def _cooling(model: ModelPlan, pair: tuple[str, str], now: float) -> dict[str, Any] | None:
    seen = model.cooldowns[pair].statistics()
    return None if seen.until <= now else {"for_s": round(seen.until - now, 1), "reason": seen.reason}
