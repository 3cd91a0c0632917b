"""Ways of choosing between endpoints; each a small class, all of one protocol (`routers.pools.Picker`).

Chance is handed in as a function that returns a number in [0, 1), so that every choice can be made again.
"""

from __future__ import annotations

from hashlib import blake2b
from math import exp, log
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from routers.pools import Endpoint

    Random: TypeAlias = Callable[[], float]


class RoundRobin:
    """In turn, each as often as its weight says, and spread out: nginx's smooth weighted algorithm.

    Each endpoint earns its weight every time, the richest is picked and pays what all earned. The turn begins at a
    random place, or the first endpoint would be the first choice of every worker and after every reload.
    """

    __slots__ = ("_random", "_started")

    _LONGEST_START = 1024

    def __init__(self, random: Random) -> None:
        """Begin at a place that `random` chooses."""
        self._random = random
        self._started = False

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:
        """Return whose turn it is."""
        if not self._started:
            self._started = True
            turns = min(self._LONGEST_START, sum(endpoint.weight for endpoint in endpoints))
            for _ in range(int(self._random() * turns)):
                self.pick(endpoints, now, key)
        richest = endpoints[0]
        earned = most = 0
        for endpoint in endpoints:
            weight = endpoint.weight
            credit = endpoint.credit = endpoint.credit + weight
            if not earned or credit > most:
                richest, most = endpoint, credit
            earned += weight
        richest.credit = most - earned
        return richest

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """Do nothing: turns do not depend on time."""


class LeastInFlight:
    """The one that holds fewest requests for its weight; equals in rotation."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        """Begin with the first endpoint."""
        self._turn = 0

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:  # noqa: ARG002
        """Return the least loaded, looking round from behind the last one picked."""
        size = len(endpoints)
        first = place = self._turn % size
        best = endpoints[first]
        least = best.count.held
        for offset in range(1, size):
            if not least:
                break
            candidate = (first + offset) % size
            endpoint = endpoints[candidate]
            held = endpoint.count.held
            if held * best.weight < least * endpoint.weight:
                best, least, place = endpoint, held, candidate
        self._turn = place + 1
        return best

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """Do nothing: load is read from the counts."""


class LeastRtt:
    """The better of two taken at random, by peak-sensitive decaying average time * (in flight + 1) / weight.

    Two choices spread as well as all would, without sending every request to the one that answered last. A slower
    answer counts at once, a faster one little by little (10 s, as in Kong and linkerd). What has not been heard of for
    a while is read as faster and faster, so that an endpoint that was once slow is tried again. One never seen
    starts at the average of the others. Time is the time to the first byte; a failure must be told as a long time,
    or an endpoint that fails fast would win everything.
    """

    __slots__ = ("_random",)

    DECAY_S: Final = 10.0
    _SHORTEST_S = 1e-6

    def __init__(self, random: Random) -> None:
        """Draw both choices from `random`."""
        self._random = random

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:  # noqa: ARG002
        """Return the better of two different ones."""
        size = len(endpoints)
        if size == 1:
            return endpoints[0]
        first = int(self._random() * size)
        second = int(self._random() * (size - 1))
        one, other = endpoints[first], endpoints[second + (second >= first)]
        one_s = self._read(one, now) if one.ewma_s else self._average(endpoints, now)
        other_s = self._read(other, now) if other.ewma_s else self._average(endpoints, now)
        one_cost = one_s * (one.count.held + 1) * other.weight
        return one if one_cost <= other_s * (other.count.held + 1) * one.weight else other

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """Take in one answer: a slower one as it is, a faster one by the time since the last."""
        seconds = max(seconds, self._SHORTEST_S)
        known = endpoint.ewma_s
        if seconds < known:
            kept = exp((endpoint.observed_at - now) / self.DECAY_S)
            seconds = known * kept + seconds * (1.0 - kept)
        endpoint.ewma_s = seconds
        endpoint.observed_at = now

    def _read(self, endpoint: Endpoint, now: float) -> float:
        return endpoint.ewma_s * exp((endpoint.observed_at - now) / self.DECAY_S)

    def _average(self, endpoints: Sequence[Endpoint], now: float) -> float:
        seen = [self._read(endpoint, now) for endpoint in endpoints if endpoint.ewma_s]
        return sum(seen) / len(seen) if seen else 1.0


_64_BITS = 2**64 - 1
_TO_SHARE = 2.0**-52


def _share(key: int, seed: int) -> float:
    """Return a number in (0, 1) that key and seed settle: SplitMix64's mixing of their difference."""
    mixed = key ^ seed
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return (((mixed ^ (mixed >> 31)) >> 12) + 0.5) * _TO_SHARE


class Hash:
    """Always the same one for a key: weighted rendezvous hashing, so only the keys of a lost endpoint move.

    Each endpoint draws -weight / ln(share) for the key and the highest draw wins, in proportion to the weights, on
    every worker and machine alike. A full, excluded or cooling endpoint's keys go to their second choice until it is
    back. Without a key: least in flight.
    """

    __slots__ = ("_otherwise",)

    def __init__(self) -> None:
        """Need nothing but keys."""
        self._otherwise = LeastInFlight()

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:
        """Return the endpoint that `key` belongs to."""
        if key is None:
            return self._otherwise.pick(endpoints, now, None)
        drawn = int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
        best, highest = endpoints[0], 0.0
        for endpoint in endpoints:
            draw = -endpoint.weight / log(_share(drawn, endpoint.seed))
            if draw > highest:
                best, highest = endpoint, draw
        return best

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """Do nothing: keys do not depend on time."""
