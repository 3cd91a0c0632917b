"""The models clients may ask for, and in which order the targets of one may be tried.

A flag's value names a split, the split picks a target (see `routers.splits`). While nothing is committed a request may
go on: to the other targets of the same split, then to the splits of `fallback` in turn, no target twice.
"""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from routers.loads import Loads, Pair
    from routers.splits import Choice, Split

    Random: TypeAlias = Callable[[], float]

Why: TypeAlias = Literal["no_flag", "flag", "unset", "unknown"]
"""Why a split comes first: there is no flag; its value names it; it has no value; its value names no split."""

OTHER: Final = "(other)"
"""Under which unknown values are counted once `Model.UNKNOWN_MAX` different ones have been seen."""


class Way(msgspec.Struct, frozen=True, gc=False):
    """Which split comes first, and why."""

    split: str
    why: Why


class ModelStatistics(msgspec.Struct, frozen=True):
    """How often a flag gave a value that names no split, by value, since the beginning."""

    name: str
    unknown: Mapping[str, int]


class Standing(Protocol):
    """What is known about targets at this moment."""

    def has_room(self, pair: Pair) -> bool:
        """Could a target take one more request?"""
        ...

    def cools_until(self, pair: Pair) -> float:
        """Return when a target has cooled down, in monotonic seconds; what lies in the past (0.0 as well) is over."""
        ...


class Model:
    """One name that clients ask for, compiled. `sticky` is whatever reads a request's key; it is only kept here."""

    __slots__ = (
        *("_by_value", "_default", "_pinned", "_unset"),
        *("default", "fallback", "flag", "name", "splits", "sticky", "unknown"),
    )

    UNKNOWN_MAX: Final = 32
    UNKNOWN_LENGTH_MAX: Final = 64

    def __init__(
        self,
        name: str,
        splits: Iterable[Split],
        *,
        default: str,
        flag: str | None = None,
        fallback: Iterable[str] = (),
        sticky: tuple[object, ...] = (),
    ) -> None:
        """Compile one model. Raises ValueError when `default` or a `fallback` names no split."""
        self.name = name
        self.flag = flag
        self.default = default
        self.splits: Mapping[str, Split] = MappingProxyType({split.name: split for split in splits})
        self.fallback = tuple(fallback)
        self.sticky = sticky
        self.unknown: dict[str, int] = {}
        for wanted in (default, *self.fallback):
            if wanted not in self.splits:
                known = ", ".join(self.splits) or "none"
                message = f"model {name!r} has no split {wanted!r}{_hint(wanted, self.splits)}; its splits are: {known}"
                raise ValueError(message)
        self._by_value = {split: Way(split, "flag") for split in self.splits}
        self._unset = Way(default, "no_flag" if flag is None else "unset")
        self._default = Way(default, "unknown")
        self._pinned: dict[Pair, Choice] = {}
        for split in self.splits.values():
            for index, pair in enumerate(split.pairs):
                self._pinned.setdefault(pair, split.choice(index, "pinned"))

    def decide(self, value: str | None) -> Way:
        """Return the way for a flag's value; None where there is no flag, or it could not be evaluated.

        A value that names no split falls to `default` and is counted in `unknown`, which is bounded in number and length.
        """
        if value is None:
            return self._unset
        way = self._by_value.get(value)
        if way is None:
            seen, counted = self.unknown, value[: self.UNKNOWN_LENGTH_MAX]
            if counted not in seen and len(seen) >= self.UNKNOWN_MAX:
                counted = OTHER
            seen[counted] = seen.get(counted, 0) + 1
            return self._default
        return way

    def pinned(self, pair: Pair) -> Choice | None:
        """Return a target that alone can answer (it holds what `previous_response_id` names), of whatever weight.

        None when it is no longer one of this model's.
        """
        return self._pinned.get(pair)

    def statistics(self) -> ModelStatistics:
        """Return the figures of this moment."""
        return ModelStatistics(name=self.name, unknown=dict(self.unknown))


class Candidates:
    """The targets one request may try, best first. Holds nothing; ask `next` again after each failure."""

    __slots__ = ("_key", "_loads", "_model", "_random", "_split", "_standing", "full")

    def __init__(self, model: Model, split: str, *, key: str | None, standing: Standing, loads: Loads, random: Random) -> None:
        """Begin with `split` (see `Model.decide`); `key` is what sticks, None for a turn."""
        self._model = model
        self._split = split
        self._key = key
        self._standing = standing
        self._loads = loads
        self._random = random
        self.full = False
        """Whether the last `next` found nothing although a healthy target is left, which is merely full: waiting helps."""

    def next(self, tried: Collection[Pair], now: float) -> Choice | None:
        """Return the target to ask next, other than those `tried`; None when there is none.

        First the split, then each fallback split in turn; when every target left is cooling down, the one that is soonest
        over with it. Being full is our own limit and no failure: as long as nothing was tried, a target that is merely
        full is waited for rather than left for a fallback split or for a target that cools down.
        """
        self.full = False
        first = self._model.splits[self._split]
        choice = self._pick(first, tried, now)
        if choice is not None:
            return choice
        if not tried and self._is_full(first, tried, now):
            self.full = True
            return None
        for name in self._model.fallback:
            if name == self._split:
                continue
            choice = self._pick(self._model.splits[name], tried, now)
            if choice is not None:
                return choice
        full = any(self._is_full(split, tried, now) for split in self._course())
        choice = None if full and not tried else self._coolest(tried)
        self.full = full and choice is None
        return choice

    def _course(self) -> list[Split]:
        """Return the splits in the order in which they are tried, each once."""
        splits = self._model.splits
        return [splits[name] for name in dict.fromkeys((self._split, *self._model.fallback))]

    def _pick(self, split: Split, tried: Collection[Pair], now: float) -> Choice | None:
        pairs, has_room, cools_until = split.pairs, self._standing.has_room, self._standing.cools_until

        def usable(index: int) -> bool:
            pair = pairs[index]
            return cools_until(pair) <= now and pair not in tried and has_room(pair)

        return split.pick(self._key, usable, self._loads, self._random, again=bool(tried))

    def _is_full(self, split: Split, tried: Collection[Pair], now: float) -> bool:
        """Is there a target that only wants room?"""
        standing = self._standing
        return any(
            target.weight and pair not in tried and standing.cools_until(pair) <= now and not standing.has_room(pair)
            for target, pair in zip(split.targets, split.pairs, strict=True)
        )

    def _coolest(self, tried: Collection[Pair]) -> Choice | None:
        """Return the target with room whose cooling ends first; nothing that is not cooling is left."""
        standing = self._standing
        best: Choice | None = None
        soonest = float("inf")
        for split in self._course():
            for index, (target, pair) in enumerate(zip(split.targets, split.pairs, strict=True)):
                if target.weight and pair not in tried and standing.has_room(pair) and standing.cools_until(pair) < soonest:
                    soonest = standing.cools_until(pair)
                    best = split.choice(index, "cooling")
        return best


class UnknownModel(LookupError):
    """A client asked for a name that is none. `suggestion` is the configured name most like it, or None.

    The message may be read by anybody: it holds what the client sent, shortened, and that one name.
    """

    SHOWN_MAX: Final = 64

    def __init__(self, asked: str, suggestion: str | None) -> None:
        """Say what was asked for, and what may have been meant."""
        shown = asked if len(asked) <= self.SHOWN_MAX else asked[: self.SHOWN_MAX] + "…"
        meant = f"; did you mean {suggestion!r}?" if suggestion is not None else "; GET /v1/models lists those there are"
        super().__init__(f"There is no model {shown!r}{meant}")
        self.suggestion = suggestion


class Models:
    """The configured models by name, in the order they were written."""

    __slots__ = ("_by_name",)

    def __init__(self, models: Iterable[Model]) -> None:
        """Take the models of one configuration; of two of a name the later counts."""
        self._by_name = {model.name: model for model in models}

    def get(self, name: str) -> Model:
        """Return a model; raises UnknownModel."""
        model = self._by_name.get(name)
        if model is None:
            raise UnknownModel(name, _nearest(name, self._by_name))
        return model

    def known(self, name: str) -> bool:
        """Is this the name of a model?"""
        return name in self._by_name

    def names(self) -> tuple[str, ...]:
        """Return the names, for `/v1/models`."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


_COMPARED_MAX: Final = 128  # names longer than this, and more of them than this, are not compared: it is the client's to ask


def _nearest(name: str, among: Iterable[str]) -> str | None:
    if len(name) > _COMPARED_MAX:
        return None
    near = get_close_matches(name, list(among)[:_COMPARED_MAX], n=1)
    return near[0] if near else None


def _hint(name: str, among: Iterable[str]) -> str:
    near = _nearest(name, among)
    return f" (did you mean {near!r}?)" if near is not None else ""
