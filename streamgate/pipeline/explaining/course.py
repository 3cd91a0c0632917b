"""In which order the targets of a model would be tried for one request, without taking anybody's turn.

A request with a sticky key has one order, and the router itself is asked for it. One without takes turns, which must not be
taken here: of each split its targets come together, with the shares of those turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from routers.loads import Pair
from routers.models import Candidates, Standing
from routers.splits import Choice, How, Split
from streamgate.pipeline.models import ModelPlan

BECAUSE: Final[dict[How, str]] = {
    "sticky": "it is its key's own",
    "turn": "in turn, and the others of these next",
    "moved": "its key's own target cannot be used now",
    "spilled": "its key alone would drown its own target",
    "pinned": "it gave the answer that this request goes on from; nobody else knows that one",
    "cooling": "every target left is cooling down; this one is over with it soonest",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One of these is asked, each with this share of such requests; one alone is certain."""

    split: str
    how: How
    targets: tuple[tuple[Pair, float], ...]


@dataclass(frozen=True, slots=True)
class Course:
    """The steps in order. ``full``: a target would be waited for that is merely full, so that the steps are those of later."""

    steps: tuple[Step, ...]
    full: bool = False

    @property
    def first(self) -> Step | None:
        """Who is asked first."""
        return self.steps[0] if self.steps else None


class _WithRoom:
    """The standing of targets once there is room everywhere."""

    def __init__(self, standing: Standing) -> None:
        self.cools_until = standing.cools_until

    def has_room(self, _pair: Pair) -> bool:
        return True


def course_of(model: ModelPlan, split: str, key: str | None, pinned: Choice | None, now: float) -> Course:
    """The course of a request that begins with ``split``; ``pinned`` is the target that alone can answer."""
    if pinned is not None:
        return Course((Step(pinned.split, "pinned", ((pinned.pair, 1.0),)),))
    found = _steps(model, split, key, model.standing, now)
    if found is not None:
        return Course(found)
    return Course(_steps(model, split, key, _WithRoom(model.standing), now) or (), full=True)


def _steps(model: ModelPlan, split: str, key: str | None, standing: Standing, now: float) -> tuple[Step, ...] | None:
    """None where a full target would be waited for."""
    candidates = Candidates(
        model.model, split, key=key or "", standing=standing, loads=model.loads, random=float  # with a key no chance is asked
    )  # fmt: skip
    tried: list[Pair] = []
    steps: list[Step] = []
    while (choice := candidates.next(tried, now)) is not None:
        tried.append(choice.pair)
        steps.append(Step(choice.split, choice.how, ((choice.pair, 1.0),)))
    if not steps and candidates.full:
        return None
    if key is not None:
        return tuple(steps)
    return (*_turns(model, split, standing, now), *(step for step in steps if step.how == "cooling"))


def _turns(model: ModelPlan, split: str, standing: Standing, now: float) -> Iterator[Step]:
    """What turns can reach, split by split."""
    seen: set[Pair] = set()
    for name in dict.fromkeys((split, *model.model.fallback)):
        targets = tuple(_shared(model.model.splits[name], standing, seen, now))
        if targets:
            seen.update(pair for pair, _ in targets)
            yield Step(name, "turn", targets)


def _shared(split: Split, standing: Standing, seen: set[Pair], now: float) -> Iterator[tuple[Pair, float]]:
    pairs = split.pairs
    shares = split.effective_shares(
        lambda index: pairs[index] not in seen and standing.cools_until(pairs[index]) <= now and standing.has_room(pairs[index])
    )
    merged: dict[Pair, float] = {}
    for pair, share in zip(pairs, shares, strict=True):
        if share:
            merged[pair] = merged.get(pair, 0.0) + share
    yield from merged.items()
