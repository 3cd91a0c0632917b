"""The endpoints of one service: where each is, how much it holds, and whether it could be reached just now.

A pool says which endpoints may be asked at all; a picker (see `routers.balance`) says which of those it shall be. What
is known about an address (its load, its round-trip time, its last failures) lives in the `Endpoint`, so that a pool
can be replaced as a whole while its endpoints carry on.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from streamgate.lease import Count

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

COOL_DOWN_S: Final = 1.0
"""How long an endpoint is avoided after one failed connection; doubles with each further one."""
COOL_DOWN_MAX_S: Final = 10.0


class EndpointStatistics(msgspec.Struct, frozen=True):
    """One endpoint at one moment; `ewma_s` is None before its first answer, `failed_until` is monotonic seconds."""

    id: str
    weight: int
    region: str | None
    held: int
    capacity: int | None
    ewma_s: float | None
    failures: int
    failed_until: float


class PoolStatistics(msgspec.Struct, frozen=True):
    """A pool at one moment; `refused` counts the times nobody could be picked."""

    service_id: str
    endpoints: tuple[EndpointStatistics, ...]
    refused: int


class Endpoint:
    """One address of a service.

    `id` is `host:port`, `authority` what a Host field says (no port where the scheme implies it). `count` holds the
    requests in flight. `ewma_s` (0.0: never seen) with `observed_at`, and `credit`, are notes of the picker;
    `failed_until` and `failures` are written by `failed` and `succeeded`. `seed` stands for `id` in stable hashing.
    """

    __slots__ = (
        *("authority", "count", "credit", "ewma_s", "failed_until", "failures", "host", "id", "observed_at", "port"),
        *("region", "seed", "tls", "weight"),
    )

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool = False,
        weight: int = 1,
        region: str | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        """Take a host name or a bare address; raises ValueError when `weight` is negative (0: never picked)."""
        if weight < 0:
            message = f"weight is {weight}; give a number from 0 up, 0 for an endpoint that is never picked"
            raise ValueError(message)
        name = f"[{host}]" if ":" in host else host
        self.id = f"{name}:{port}"
        self.host = host
        self.port = port
        self.tls = tls
        self.authority = (name if port == (443 if tls else 80) else self.id).encode()
        self.weight = weight
        self.region = region
        self.count = Count(max_in_flight)
        self.seed = int.from_bytes(blake2b(self.id.encode(), digest_size=8).digest(), "big")
        self.credit = 0
        self.ewma_s = 0.0
        self.observed_at = 0.0
        self.failures = 0
        self.failed_until = 0.0

    def failed(self, now: float) -> None:
        """Avoid this endpoint for a while: no connection could be opened (1 s, doubling to 10 s).

        Failures that arrive while it is being avoided already tell nothing new and do not double again.
        """
        if now < self.failed_until:
            return
        self.failed_until = now + min(COOL_DOWN_MAX_S, COOL_DOWN_S * 2.0 ** min(self.failures, 10))
        self.failures += 1

    def succeeded(self) -> None:
        """Take back what `failed` said: a connection could be opened."""
        if self.failures:
            self.failures = 0
            self.failed_until = 0.0

    def statistics(self) -> EndpointStatistics:
        """Return the figures of this moment."""
        return EndpointStatistics(
            id=self.id,
            weight=self.weight,
            region=self.region,
            held=self.count.held,
            capacity=self.count.capacity,
            ewma_s=self.ewma_s or None,
            failures=self.failures,
            failed_until=self.failed_until,
        )


class Picker(Protocol):
    """A way of choosing between endpoints that may all be asked."""

    def pick(self, endpoints: Sequence[Endpoint], now: float, key: bytes | None) -> Endpoint:
        """Choose one of `endpoints` (at least one, none full, none of weight 0); `key` is what should stick."""
        ...

    def observe(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """Note how long an endpoint took to its first byte; a failure counts as the longest time it could have."""
        ...


class Pool:
    """The endpoints of one service as one value; replace it to change them, reusing the endpoints that stay."""

    __slots__ = ("_only", "_pickable", "endpoints", "picker", "refused", "service_id")

    def __init__(self, service_id: str, endpoints: Iterable[Endpoint], picker: Picker) -> None:
        """Keep the order of `endpoints`; the picker belongs to this pool alone."""
        self.service_id = service_id
        self.endpoints = tuple(endpoints)
        self.picker = picker
        self.refused = 0
        self._pickable = [endpoint for endpoint in self.endpoints if endpoint.weight]
        self._only = self._pickable[0] if len(self._pickable) == 1 else None

    def pick(self, now: float, key: bytes | None = None, exclude: Container[Endpoint] = ()) -> Endpoint | None:
        """Return the endpoint to ask, or None when each is full, excluded or of weight 0.

        One that failed to connect a moment ago is picked only when no other is left. Nothing is taken from its count:
        the caller takes the lease, at once and without waiting in between.
        """
        if self._only is not None:
            if self._only.count.held < self._only.count.limit and self._only not in exclude:
                return self._only
            self.refused += 1
            return None
        ready = [
            endpoint
            for endpoint in self._pickable
            if endpoint.failed_until <= now and endpoint.count.held < endpoint.count.limit
        ]
        if exclude:
            ready = [endpoint for endpoint in ready if endpoint not in exclude]
        if not ready:
            ready = [
                endpoint
                for endpoint in self._pickable
                if endpoint.count.held < endpoint.count.limit and endpoint not in exclude
            ]
            if not ready:
                self.refused += 1
                return None
        return ready[0] if len(ready) == 1 else self.picker.pick(ready, now, key)

    def has_other(self, seen: Container[Endpoint]) -> bool:
        """Return whether there is an endpoint beside those seen that could be picked now."""
        return any(one not in seen and one.count.held < one.count.limit for one in self._pickable)

    @property
    def has_weight(self) -> bool:
        """Whether any endpoint may be picked at all; if so and none is, all are full."""
        return bool(self._pickable)

    def statistics(self) -> PoolStatistics:
        """Return the figures of this moment, endpoints in order."""
        return PoolStatistics(
            service_id=self.service_id,
            endpoints=tuple(endpoint.statistics() for endpoint in self.endpoints),
            refused=self.refused,
        )
