"""Which split a request would get: what its flag is asked with, what it says, and what that comes to. Nothing is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from routers.flags import Flags, Verdict
from routers.models import Model, Why

_VALUE_MAX: Final = 64
_BECAUSE: Final[dict[Why, str]] = {
    "no_flag": "the model has no flag: its default",
    "flag": "the flag says so",
    "unset": "the flag says nothing that can be used: the default",
    "unknown": "the flag's value names no split: the default",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing a flag may decide by. ``source`` tells where it comes from; the value of a sticky key is shown to nobody."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class WayTaken:
    """``flag`` and ``split`` as told, ``name`` the split that comes first."""

    name: str
    flag: dict[str, Any] | None
    split: dict[str, Any]


async def way_of(model: Model, flags: Flags | None, facts: tuple[Fact, ...]) -> WayTaken:
    """Ask the model's flag as a request would. A remote service is asked within its timeout and remembers its verdict."""
    context: dict[str, object] = {fact.name: fact.value for fact in facts}
    verdict = await _verdict(model.flag, flags, context)
    name, why = _decided(model, None if verdict is None else verdict.value)
    because = "there are no flags in the configuration: the default" if model.flag and flags is None else _BECAUSE[why]
    return WayTaken(name, _flag(model.flag, flags, verdict, facts), {"name": name, "why": why, "because": because})


async def _verdict(key: str | None, flags: Flags | None, context: Mapping[str, object]) -> Verdict | None:
    if key is None or flags is None:
        return None
    return flags.evaluate_nowait(key, context) or await flags.decide(key, context)


def _decided(model: Model, value: str | None) -> tuple[str, Why]:
    """What ``Model.decide`` says, which counts values that name no split."""
    if value is None:
        return model.default, "no_flag" if model.flag is None else "unset"
    return (value, "flag") if value in model.splits else (model.default, "unknown")


def _flag(key: str | None, flags: Flags | None, verdict: Verdict | None, facts: tuple[Fact, ...]) -> dict[str, Any] | None:
    if key is None:
        return None
    told: dict[str, Any] = {
        "key": key,
        "context": [{"name": fact.name, "from": fact.source} for fact in facts],
        "provider": None,
        "value": None,
        "variant": None,
        "reason": None,
        "error": None,
        "problem": None,
    }
    if flags is None or verdict is None:
        return told
    seen = flags.statistics()
    value = verdict.value
    return told | {
        "provider": seen.provider,
        "value": value if value is None or len(value) <= _VALUE_MAX else value[:_VALUE_MAX] + "…",
        "variant": verdict.variant,
        "reason": verdict.reason,
        "error": verdict.error,
        "problem": seen.problem,
    }
