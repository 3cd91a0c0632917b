"""Everything that can be chosen by name in a configuration, one line and one reason each. No logic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from routers.balance import Hash, LeastInFlight, LeastRtt, RoundRobin
from routers.flagd import FlagdFlags
from routers.flags import Flags
from routers.ofrep import OfrepFlags
from routers.pools import Picker
from streamgate.config.spec_flags import Flags as FlagsSpec

Random: TypeAlias = Callable[[], float]
Now: TypeAlias = Callable[[], float]
Tell: TypeAlias = Callable[[str], None]

PICKERS: Final[dict[str, Callable[[Random], Picker]]] = {
    "round_robin": RoundRobin,  # equal shares by weight, smoothly: short requests of one kind
    "least_in_flight": lambda _random: LeastInFlight(),  # streams differ in length a thousandfold (the default)
    "least_rtt": LeastRtt,  # endpoints differ in distance or speed: the better of two by decaying time to first byte
    "hash": lambda _random: Hash(),  # the same key to the same endpoint: caches and prompt prefixes
}
"""``services[].balance``: each makes a new picker for one pool, given where randomness comes from."""

FLAGS: Final[dict[str, Callable[[FlagsSpec, Now, Tell], Flags]]] = {
    "flagd": lambda spec, _now, tell: FlagdFlags(spec.file or Path(), on_problem=tell),  # a file, evaluated here: nothing to wait for
    "ofrep": lambda spec, now, tell: OfrepFlags(  # another service decides, over the standard's own protocol
        spec.url or "", headers={name: value.get_secret_value() for name, value in spec.headers.items()}, timeout_s=spec.timeout,
        now=now, on_problem=tell,
    ),
}
"""``flags.provider``: each opens the flags of one configuration, given the clock and whom to tell of problems."""
