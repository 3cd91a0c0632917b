"""What is in flight where, and for whom: per target, and per key on a target.

Of one model, so that a target's load is compared with its siblings' of the same model. A key is forgotten with its
last request, a target with its last one: what is kept is bounded by what is in flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from streamgate.lease import Count, Lease

if TYPE_CHECKING:
    from collections.abc import Mapping

Pair: TypeAlias = tuple[str, str]
"""What a target is known by everywhere: the service's id and the model name it is asked for."""


class LoadsStatistics(msgspec.Struct, frozen=True):
    """What is in flight at one moment, and for how many keys; who they are is nobody's business."""

    held: Mapping[Pair, int]
    keys: Mapping[Pair, int]


class _Load(Count):
    """The requests at one target; `keys` says how many of them belong to each key."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, int] = {}


class Held(Lease):
    """One request at one target, counted for its key as well; given back once, like every lease."""

    __slots__ = ("_key", "_load", "_loads", "_pair")

    def __init__(self, loads: dict[Pair, _Load], pair: Pair, key: str | None) -> None:
        """Made by `Loads.take`."""
        load = loads.get(pair)
        if load is None:
            load = loads[pair] = _Load()
        super().__init__(load)
        self._load = load
        self._loads = loads
        self._pair = pair
        self._key = key
        if key is not None:
            load.keys[key] = load.keys.get(key, 0) + 1

    def release(self) -> None:
        """Give it back; every call after the first does nothing."""
        if self.released:
            return
        super().release()
        load, key = self._load, self._key
        if not load.held:
            del self._loads[self._pair]
        elif key is not None:
            left = load.keys[key] - 1
            if left:
                load.keys[key] = left
            else:
                del load.keys[key]


class Loads:
    """The requests in flight of one model, on one worker."""

    __slots__ = ("_loads",)

    def __init__(self) -> None:
        """Begin with nothing in flight."""
        self._loads: dict[Pair, _Load] = {}

    def take(self, pair: Pair, key: str | None) -> Held:
        """Count one more request at a target, until its last byte; there is always room, capacity is others' to know."""
        return Held(self._loads, pair, key)

    def held(self, pair: Pair) -> int:
        """How many requests a target holds."""
        load = self._loads.get(pair)
        return load.held if load is not None else 0

    def held_by(self, pair: Pair, key: str) -> int:
        """How many of a target's requests are of one key."""
        load = self._loads.get(pair)
        return load.keys.get(key, 0) if load is not None else 0

    def statistics(self) -> LoadsStatistics:
        """Return the figures of this moment; a target that holds nothing is not among them."""
        return LoadsStatistics(
            held={pair: load.held for pair, load in self._loads.items()},
            keys={pair: len(load.keys) for pair, load in self._loads.items()},
        )
