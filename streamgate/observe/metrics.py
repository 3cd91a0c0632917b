"""Every metric declared once; labels come from configuration (route and service ids), never from a path.

Cells are plain integers: an exchange adds to them without a lock or a look-up, and a scrape turns them into families. A worker's
families are plain data, so that several workers answer as one by addition. prometheus_client writes the exposition format; its
own cells cost a lock per observation and, with several processes, a file per worker that is never removed
(prometheus/client_python#275).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from streamgate.exchange import Terminal
from streamgate.lease import Count

SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
"""From a proxied answer to a long completion; 150 ms is an SLO edge of the brief."""
GAPS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)
CANCELS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
"""Label values. Any other method is counted as OTHER: clients must not be able to invent series."""


class Histogram:
    """Counts per bucket and a sum; ``observe`` is one bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value, in the unit of the bounds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class RouteMetrics:
    """The cells of one route."""

    __slots__ = ("bytes_in", "bytes_out", "cancel", "first_token", "gap", "in_flight", "requests", "seconds", "streams")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.seconds = Histogram(SECONDS)
        self.streams: dict[Terminal, int] = dict.fromkeys(Terminal, 0)
        self.first_token = Histogram(SECONDS)
        self.gap = Histogram(GAPS)
        self.cancel = Histogram(CANCELS)
        self.in_flight = Count()
        self.bytes_in = 0
        self.bytes_out = 0


class ServiceMetrics:
    """The cells of one service. ``connections`` is asked at a scrape: (state, how many) pairs."""

    __slots__ = ("attempts", "connections")

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.connections: Callable[[], Iterable[tuple[str, int]]] = tuple

    def attempt(self, outcome: str) -> None:
        """Count one attempt by how it ended."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1


class Sample(msgspec.Struct, array_like=True):
    """One labelled value; a histogram carries its counts per bucket and its sum in ``value``."""

    labels: tuple[str, ...]
    value: float
    counts: list[int] | None = None


class Family(msgspec.Struct, array_like=True):
    """All samples of one metric; plain data that travels between workers."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    samples: list[Sample]
    bounds: tuple[float, ...] = ()


class Metrics:
    """Every cell of one worker."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteMetrics] = {}
        self.services: dict[str, ServiceMetrics] = {}
        self.reloads: dict[str, int] = {"applied": 0, "unchanged": 0, "refused": 0}
        self.extra: list[Callable[[], Iterable[Family]]] = []
        """Families that others know best (the process, the record queue): asked at a scrape."""

    def route(self, route_id: str) -> RouteMetrics:
        """The cells of a route, which survive a reload."""
        cells = self.routes.get(route_id)
        if cells is None:
            cells = self.routes[route_id] = RouteMetrics()
        return cells

    def service(self, service_id: str) -> ServiceMetrics:
        """The cells of a service, which survive a reload."""
        cells = self.services.get(service_id)
        if cells is None:
            cells = self.services[service_id] = ServiceMetrics()
        return cells

    def retain(self, routes: Iterable[str], services: Iterable[str]) -> None:
        """Forget the series of routes and services that are configured no more."""
        kept_routes, kept_services = set(routes), set(services)
        self.routes = {key: value for key, value in self.routes.items() if key in kept_routes}
        self.services = {key: value for key, value in self.services.items() if key in kept_services}

    def families(self) -> list[Family]:
        """This worker's metrics as plain data."""
        found = [*self._route_families(), *self._service_families()]
        reloads = [Sample((outcome,), count) for outcome, count in self.reloads.items()]
        found.append(Family("streamgate_reloads", "counter", "Configuration reloads by outcome.", ("outcome",), reloads))
        for ask in self.extra:
            found.extend(ask())
        return found

    def _route_families(self) -> Iterator[Family]:
        routes = self.routes.items()
        yield Family(
            "streamgate_requests", "counter", "Requests by answer; 499 is a client that left before one.",
            ("route", "method", "status"),
            [Sample((r, m, str(s)), n) for r, cells in routes for (m, s), n in cells.requests.items()],
        )  # fmt: skip
        yield Family(
            "streamgate_streams", "counter", "Relayed exchanges by the one terminal state each ended in.",
            ("route", "state"),
            [Sample((r, str(state)), n) for r, cells in routes for state, n in cells.streams.items()],
        )  # fmt: skip
        for name, text, cell, bounds in (
            ("request_seconds", "From the request's head to the answer's last byte.", "seconds", SECONDS),
            ("first_token_seconds", "From the request's head to the first byte of a streamed body.", "first_token", SECONDS),
            ("token_gap_seconds", "Between two writes of a streamed body.", "gap", GAPS),
            ("cancel_seconds", "From the client's departure to the upstream connection's end.", "cancel", CANCELS),
        ):
            cells_of = [(r, getattr(cells, cell)) for r, cells in routes]
            samples = [Sample((r,), h.total, list(h.counts)) for r, h in cells_of]
            yield Family(f"streamgate_{name}", "histogram", text, ("route",), samples, bounds)
        in_flight = [Sample((r,), cells.in_flight.held) for r, cells in routes]
        yield Family("streamgate_in_flight", "gauge", "Exchanges from admission to last byte.", ("route",), in_flight)
        yield Family(
            "streamgate_bytes", "counter", "Body bytes from clients (in) and to clients (out).", ("route", "direction"),
            [Sample((r, d), n) for r, c in routes for d, n in (("in", c.bytes_in), ("out", c.bytes_out))],
        )  # fmt: skip

    def _service_families(self) -> Iterator[Family]:
        services = self.services.items()
        yield Family(
            "streamgate_attempts", "counter", "Attempts at an upstream by how they ended.", ("service", "outcome"),
            [Sample((s, outcome), n) for s, cells in services for outcome, n in cells.attempts.items()],
        )  # fmt: skip
        yield Family(
            "streamgate_upstream_connections", "gauge", "Connections to upstreams.", ("service", "state"),
            [Sample((s, state), n) for s, cells in services for state, n in cells.connections()],
        )  # fmt: skip


def merged(workers: Iterable[list[Family]]) -> list[Family]:
    """Several workers as one: equal labels are added, gauges too (each worker counts its own)."""
    families: dict[str, Family] = {}
    for family in (family for worker in workers for family in worker):
        known = families.get(family.name)
        if known is None:
            families[family.name] = family
            continue
        by_labels = {tuple(sample.labels): sample for sample in known.samples}
        for sample in family.samples:
            same = by_labels.get(tuple(sample.labels))
            if same is None:
                known.samples.append(sample)
                continue
            same.value += sample.value
            if same.counts is not None and sample.counts is not None:
                same.counts = [a + b for a, b in zip(same.counts, sample.counts, strict=True)]
    return list(families.values())


class _Exposed:
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        for family in self._families:
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for sample in family.samples:
                    histogram.add_metric(sample.labels, _cumulative(family.bounds, sample.counts or []), sample.value)
                yield histogram
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            plain = kind(family.name, family.help, labels=family.labels)
            for sample in family.samples:
                plain.add_metric(sample.labels, sample.value)
            yield plain


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    buckets, running = [], 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    return buckets


def exposition(families: list[Family]) -> bytes:
    """Prometheus text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposed(families))
    return generate_latest(registry)
