"""What outlives a reload: pools, connections, budgets and counters, found by identity.

Configuration is swapped whole; state is not. A reload that renames nothing must neither reset a breaker nor leak a
connection, so state lives here under a key made of what identifies it (Caddy's ``usagepool.go`` has the same idea).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Kept:
    """State by identity. One per worker.

    ``retire`` is called once for a value whose key no longer appears after a reload.
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[object, Callable[[], None] | None]] = {}

    def get(self, key: Hashable, make: Callable[[], T], *, retire: Callable[[T], None] | None = None) -> T:
        """The value under ``key``, made now if there is none. The caller guarantees one type per key."""
        found = self._values.get(key)
        if found is None:
            value = make()
            self._values[key] = (value, (lambda: retire(value)) if retire else None)
            return value
        return found[0]  # type: ignore[return-value]  # the key determines the type

    def retain(self, keys: Collection[Hashable]) -> None:
        """Keep only these keys; every other value is retired."""
        for key in [key for key in self._values if key not in keys]:
            _, retire = self._values.pop(key)
            if retire is not None:
                retire()

    def values(self, kind: type[T]) -> Iterator[T]:
        """Every kept value of one type, for statistics."""
        return (value for value, _ in self._values.values() if isinstance(value, kind))
