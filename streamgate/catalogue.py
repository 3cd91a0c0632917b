"""Everything that can be chosen by name in a configuration, one line and one reason each. No logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from routers.balance import Hash, LeastInFlight, LeastRtt, RoundRobin
from routers.pools import Picker

Random: TypeAlias = Callable[[], float]

PICKERS: Final[dict[str, Callable[[Random], Picker]]] = {
    "round_robin": RoundRobin,  # equal shares by weight, smoothly: short requests of one kind
    "least_in_flight": lambda _random: LeastInFlight(),  # streams differ in length a thousandfold (the default)
    "least_rtt": LeastRtt,  # endpoints differ in distance or speed: the better of two by decaying time to first byte
    "hash": lambda _random: Hash(),  # the same key to the same endpoint: caches and prompt prefixes
}
"""``services[].balance``: each makes a new picker for one pool, given where randomness comes from."""
