"""A document as a tree that remembers where everything stands in its file, and one tree laid over another."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from streamgate.config.problem import Finding, Loc, Place

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the document and where it stands."""

    value: "Scalar | tuple[Node, ...] | Mapping[str, Node]"
    place: Place
    key_place: Place | None = None
    """Where its key stands, when it has one."""
    is_lost: bool = False
    """Whether it could not be read, which has been told; its value is None then."""

    def plain(self) -> Any:
        """The value alone: new maps, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, step: str | int) -> "Node | None":
        """What stands under a key or at a position, None when nothing does."""
        if isinstance(self.value, Mapping):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, tuple) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def find(self, loc: Loc) -> "Node | None":
        """What stands at a place, None when nothing does."""
        node: Node | None = self
        for step in loc:
            node = node.child(step) if node is not None else None
        return node

    def lost(self, loc: Loc = ()) -> Iterator[Loc]:
        """Every place below whose value could not be read."""
        if self.is_lost:
            yield loc
        if isinstance(self.value, Mapping):
            for key, node in self.value.items():
                yield from node.lost((*loc, key))
        elif isinstance(self.value, tuple):
            for position, node in enumerate(self.value):
                yield from node.lost((*loc, position))

    def place_of(self, loc: Loc, *, on_key: bool = False) -> Place:
        """Where a value (or its key) stands; for what is absent, where the nearest that holds it stands."""
        node = self
        for step in loc:
            child = node.child(step)
            if child is None:
                return node.place
            node = child
        return node.key_place if on_key and node.key_place is not None else node.place


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds: None when nothing of it could be read."""

    root: Node | None
    findings: tuple[Finding, ...] = ()


def merge(base: Node, over: Node) -> Node:
    """One tree over another: maps merge, lists of things with an id or a name merge by it, the rest is replaced."""
    if isinstance(base.value, Mapping) and isinstance(over.value, Mapping):
        merged = dict(base.value)
        for key, node in over.value.items():
            below = merged.get(key)
            merged[key] = node if below is None else merge(below, node)
        return replace(base, value=merged)
    if isinstance(base.value, tuple) and isinstance(over.value, tuple):
        named_by = _naming_key(base.value + over.value)
        if named_by is not None and _are_distinct(over.value, named_by):
            return replace(base, value=_merge_named(base.value, over.value, named_by))
    return over


def _naming_key(items: tuple[Node, ...]) -> str | None:
    for key in ("id", "name"):
        if all(isinstance(_name(item, key), str) for item in items):
            return key
    return None


def _are_distinct(items: tuple[Node, ...], key: str) -> bool:
    """A name twice in the overlay leaves open which is meant; its list replaces the other, and the check of the whole reports it."""
    return len({_name(item, key) for item in items}) == len(items)


def _name(item: Node, key: str) -> object:
    child = item.child(key)
    return None if child is None else child.value


def _merge_named(base: tuple[Node, ...], over: tuple[Node, ...], key: str) -> tuple[Node, ...]:
    merged = list(base)
    places = {_name(item, key): position for position, item in reversed(list(enumerate(base)))}
    for item in over:
        position = places.get(_name(item, key))
        if position is None:
            merged.append(item)
        else:
            merged[position] = merge(merged[position], item)
    return tuple(merged)
