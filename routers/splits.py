"""Which of a split's targets a request is for: by weight, and the same one for the same key.

Weighted and sticky are one algorithm. The targets lie on a ring of 2**32 points in the order they were written, each on
a stretch as long as its weight says, and a request is a point: the hash of its key, or its turn where it has none.

- The hash is that of flagd's `fractional`, third generation (openfeature-flagd-core 2.0: CBOR, then MurmurHash3), of what
  flagd's short form hashes, the pair of flag key and targeting key. So a flag that is split by flagd and a split that
  is made here agree on every user, and so do all workers and machines.
- A share that grows takes users in and lets none go: its target's stretch begins no later and ends no earlier than before,
  as long as neither the targets before it nor those behind it have gained together. Of two targets that is always so.
  Of more, take the weight from a neighbour: then only users of that neighbour move.
- A key has a whole order of targets, each next one drawn from what is left with another salt. The first usable one is
  its target. So a target that is lost moves its own users and nobody else, in proportion to the weights of the others,
  and all of them back when it returns.
- Turns follow the golden ratio round the ring, which spreads any number of them more evenly than dice (Weyl's additive
  sequence): after n requests no target is further from its share than a few requests.

A split with the flag's key for its salt gives a user the same point as the flag's own `fractional`. A flag that already
divides users this way should name splits of one target: inside such a split everybody has much the same point.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import mmh3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from routers.loads import Loads, Pair

    Usable: TypeAlias = Callable[[int], bool]
    Random: TypeAlias = Callable[[], float]

WEIGHTS_MAX: Final = 2**31 - 1
"""What the weights of one split may add up to: flagd's own bound."""

_RING: Final = 2**32
_GOLDEN: Final = 0x9E3779B9  # 2**32 / golden ratio, odd: every point is reached before one comes again

How: TypeAlias = Literal["sticky", "turn", "moved", "spilled", "pinned", "cooling"]
"""Why a target: its key's own; its turn; the key's own is not usable; the key's own would drown in it; it alone can
answer (see `routers.models.Model.pinned`); it cools down like all others, and the soonest to be back."""


def _text(text: str) -> bytes:
    """Return a text in CBOR (RFC 8949 §3.1, major type 3). A lone surrogate, which flagd refuses, is kept as it is."""
    data = text.encode("utf-8", "surrogatepass")
    size = len(data)
    if size < 24:  # noqa: PLR2004  the length stands in the first byte
        return bytes((0x60 | size,)) + data
    if size < 2**8:
        return bytes((0x78, size)) + data
    return (b"\x79" + size.to_bytes(2, "big") if size < 2**16 else b"\x7a" + size.to_bytes(4, "big")) + data


def _pair(salt: str) -> bytes:
    """Return how the CBOR array of a salt and a key begins; the key's text follows."""
    return b"\x82" + _text(salt)


def fractional(by: str | tuple[str, str], weights: Sequence[int]) -> int:
    """Return the index of the bucket that flagd's `fractional` of the third generation puts a value in.

    `by` is what is hashed: a text (flagd's long form, where an expression like `cat` makes it), or the pair of flag key and
    targeting key (its short form). Raises ValueError when weights are negative, all 0, or more than 2**31 - 1 together,
    where flagd gives no variant.
    """
    total = _total(weights)
    if not total:
        message = "all weights are 0; give at least one bucket a weight from 1 up"
        raise ValueError(message)
    encoded = _text(by) if isinstance(by, str) else _pair(by[0]) + _text(by[1])
    return _at(mmh3.mmh3_32_uintdigest(encoded) * total >> 32, weights)


def _at(bucket: int, weights: Sequence[int]) -> int:
    """Return the index whose weights, laid end to end, cover a bucket below their sum."""
    return bisect_right(list(accumulate(weights)), bucket)


def _total(weights: Sequence[int]) -> int:
    if any(weight < 0 for weight in weights):
        message = f"the weights {list(weights)} are not all from 0 up; 0 is for a target that gets nothing new"
        raise ValueError(message)
    total = sum(weights)
    if total > WEIGHTS_MAX:
        message = f"the weights add up to {total}; keep them within {WEIGHTS_MAX} together, only their ratio counts"
        raise ValueError(message)
    return total


@dataclass(frozen=True, slots=True)
class Target:
    """A service to ask, under which model name (None: the name the client asked for), with which weight."""

    service: str
    model: str | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """One target of one split, and how it came to be chosen. `pair` is what it is known by: no two choices alike."""

    split: str
    index: int
    target: Target
    pair: Pair
    how: How


class Split:
    """Targets by weight, in the order of the ring. One per worker and configured split; it remembers whose turn it is.

    Bounded load: a key leaves its target while that holds more than 1.25 times its fair share by weight, but only if the
    key itself has more than 8 requests there and more than a quarter of all. So a target that is busy with many users
    keeps every one of them, and one user alone cannot drown it.
    """

    __slots__ = (
        *("_again", "_bounds", "_choices", "_only", "_prefix", "_total", "_turn", "_weights"),
        *("name", "pairs", "salt", "targets"),
    )

    OWN_MAX: Final = 8
    """So many requests of one key a target always takes."""

    def __init__(self, name: str, targets: Sequence[Target], *, model: str, flag: str | None = None) -> None:
        """Lay out `targets` (at least one) for a configured model, by its flag's key where it has a flag.

        Raises ValueError when there is no target or when weights are negative or too large. All weights 0 is a split
        that gets nothing new.
        """
        if not targets:
            message = f"split {name!r} of model {model!r} has no target; give it at least one service"
            raise ValueError(message)
        self.name = name
        self.targets = tuple(targets)
        self.salt = model if flag is None else flag
        self.pairs: tuple[Pair, ...] = tuple((one.service, model if one.model is None else one.model) for one in targets)
        self._weights = weights = [target.weight for target in targets]
        self._total = total = _total(weights)
        self._bounds = tuple(-(-end * _RING // total) for end in accumulate(weights)) if total else ()
        weighty = [index for index, weight in enumerate(weights) if weight]
        self._only = weighty[0] if len(weighty) == 1 else None
        self._prefix = _pair(self.salt)
        self._turn: int | None = None
        self._again: int | None = None
        self._choices = {how: tuple(self.choice(index, how) for index in range(len(targets))) for how in _HOW}

    def choice(self, index: int, how: How) -> Choice:
        """Return one target as if it had been picked."""
        return Choice(self.name, index, self.targets[index], self.pairs[index], how)

    def pick(self, key: str | None, usable: Usable, loads: Loads, random: Random, *, again: bool = False) -> Choice | None:
        """Return the target for a key, or whose turn it is when it is None; None when no target of any weight is usable.

        `usable` is asked about indices: it is False for what is cooling down, full or tried before. `loads` is of the
        model. `random` returns a number in [0, 1), for where the turns begin. `again`: this request has been picked for
        before; without a key it draws from turns of its own, so that it does not disturb the first ones.
        """
        only = self._only
        if only is not None:
            return self._choices["turn" if key is None else "sticky"][only] if usable(only) else None
        if not self._total:
            return None
        if key is None:
            return self._next(usable, random, again=again)
        home = bisect_right(self._bounds, mmh3.mmh3_32_uintdigest(self._prefix + _text(key)))
        how: How = "moved"
        if usable(home):
            if loads.held_by(self.pairs[home], key) <= self.OWN_MAX or not self._drowns(home, key, usable, loads):
                return self._choices["sticky"][home]
            how = "spilled"
        return self._elsewhere(key, home, how, usable, loads)

    def _elsewhere(self, key: str, home: int, how: How, usable: Usable, loads: Loads) -> Choice | None:
        """Follow a key's order from its second target on."""
        weights, left, encoded = self._weights.copy(), self._total, _text(key)
        index = home
        for draw in range(1, len(weights)):
            left -= weights[index]
            weights[index] = 0
            if not left:
                break
            point = mmh3.mmh3_32_uintdigest(_pair(f"{self.salt}/{draw}") + encoded)
            index = _at(point * left >> 32, weights)
            if not usable(index):
                continue
            if how == "moved" and self._drowns(index, key, usable, loads):
                how = "spilled"
            elif how == "moved" or not self._overfull(index, usable, loads):
                return self._choices[how][index]
        return None

    def _drowns(self, index: int, key: str, usable: Usable, loads: Loads) -> bool:
        """Is a key the reason why a target holds more than its share?"""
        own = loads.held_by(self.pairs[index], key)
        if own <= self.OWN_MAX or 4 * own <= loads.held(self.pairs[index]):
            return False
        return self._overfull(index, usable, loads)

    def _overfull(self, index: int, usable: Usable, loads: Loads) -> bool:
        """Does a target hold more than 1.25 times its share of what usable targets hold? Not all of them can."""
        held = weight = 0
        for place, each in enumerate(self._weights):
            if each and usable(place):
                held += loads.held(self.pairs[place])
                weight += each
        return 4 * loads.held(self.pairs[index]) * weight > 5 * held * self._weights[index]

    def _next(self, usable: Usable, random: Random, *, again: bool) -> Choice | None:
        """Take the next turn. One that falls on an unusable target goes to the others, in turns of their own."""
        if not again:
            turn = self._turn
            turn = self._turn = (int(random() * _RING) if turn is None else turn + _GOLDEN) % _RING
            index = bisect_right(self._bounds, turn)
            if usable(index):
                return self._choices["turn"][index]
        weights = [weight if weight and usable(index) else 0 for index, weight in enumerate(self._weights)]
        total = sum(weights)
        if not total:
            return None
        turn = self._again
        turn = self._again = (int(random() * _RING) if turn is None else turn + _GOLDEN) % _RING
        return self._choices["turn"][_at(turn * total >> 32, weights)]

    def requested_shares(self) -> tuple[float, ...]:
        """Return what the weights ask for, as fractions in the order of targets; all 0 where all weights are."""
        return tuple(weight / (self._total or 1) for weight in self._weights)

    def effective_shares(self, usable: Usable) -> tuple[float, ...]:
        """Return what the weights come to while only some targets are usable; all 0 when none is."""
        weights = [weight if weight and usable(index) else 0 for index, weight in enumerate(self._weights)]
        total = sum(weights) or 1
        return tuple(weight / total for weight in weights)


_HOW: Final[tuple[How, ...]] = ("sticky", "turn", "moved", "spilled")
