"""What is exposed: names and labels as promised, histograms that add up, several workers as one."""

import math
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streamgate.exchange import Terminal
from streamgate.observe.metrics import CANCELS, GAPS, METHODS, SECONDS, Family, Histogram, Metrics, exposition, merged
from streamgate.observe.process import process_families

PROMISED = {
    "streamgate_requests_total": {"route", "method", "status"},
    "streamgate_request_seconds": {"route"},
    "streamgate_streams_total": {"route", "state"},
    "streamgate_first_token_seconds": {"route"},
    "streamgate_token_gap_seconds": {"route"},
    "streamgate_cancel_seconds": {"route"},
    "streamgate_in_flight": {"route"},
    "streamgate_upstream_connections": {"service", "state"},
    "streamgate_attempts_total": {"service", "outcome"},
    "streamgate_reloads_total": {"outcome"},
}
"""What dashboards rely on."""


def used() -> Metrics:
    """One of everything."""
    metrics = Metrics()
    cells = metrics.route("llm")
    cells.requests["POST", 200] = 3
    cells.seconds.observe(0.02)
    cells.streams[Terminal.COMPLETE] += 1
    cells.first_token.observe(0.3)
    cells.gap.observe(0.021)
    cells.cancel.observe(0.004)
    cells.in_flight.take()
    service = metrics.service("model-a")
    service.attempt("ok")
    service.connections = lambda: [("active", 1), ("idle", 2)]
    return metrics


def parsed(families: list[Family]) -> dict[str, Any]:
    text = exposition(families).decode()
    assert text.endswith("\n")
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(families: list[Family]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parsed(families).values()
        for sample in family.samples
    }


# -- the exposition as a linter reads it -----------------------------------------------------------------------------------


async def test_it_is_sound_exposition() -> None:
    metrics = used()
    metrics.extra.append(process_families)
    families = metrics.families()
    text = exposition(families).decode()
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert family.help.endswith("."), family.name
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in family.labels)
        assert all(len(sample.labels) == len(family.labels) for sample in family.samples)
        kind = re.search(rf"^# TYPE {family.name}(_total)? (\w+)$", text, re.MULTILINE)
        assert kind is not None, family.name
        assert kind[2] == family.kind
        assert (kind[1] == "_total") is (family.kind == "counter"), "counters end in _total, and nothing else does"
        if family.kind == "histogram":
            assert family.name.endswith("_seconds"), "units in names"
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(set(line.rpartition(" ")[0] for line in lines)) == len(lines), "no series twice"


def test_everything_promised_is_there() -> None:
    found: dict[str, set[str]] = {}
    for name, labels in ((name, dict(labels)) for name, labels in samples(used().families())):
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        found.setdefault(base, set()).update(label for label in labels if label != "le")
    assert {name: found.get(name) for name in PROMISED} == PROMISED


def test_every_terminal_state_is_there_before_it_happened() -> None:
    found = samples(used().families())
    states = {dict(labels)["state"] for name, labels in found if name == "streamgate_streams_total"}
    assert states == {str(terminal) for terminal in Terminal}


def test_nothing_measured_is_sound_too() -> None:
    parsed(Metrics().families())


@given(st.lists(st.floats(0, 1000)))
def test_buckets_are_cumulative_and_end_with_all(values: list[float]) -> None:
    metrics = Metrics()
    cells = metrics.route("r")
    for value in values:
        cells.gap.observe(value)
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in parsed(metrics.families())["streamgate_token_gap_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert [bound for bound, _ in buckets] == [*GAPS, math.inf]
    assert [count for _, count in buckets] == [sum(value <= bound for value in values) for bound in (*GAPS, math.inf)]
    found = samples(metrics.families())
    labels = frozenset({("route", "r")})
    assert found["streamgate_token_gap_seconds_count", labels] == len(values)
    assert found["streamgate_token_gap_seconds_sum", labels] == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [SECONDS, GAPS, CANCELS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.total) == ([2, 2, 1], 7.5)


def test_budgets_are_bounds() -> None:
    assert 0.05 in CANCELS, "client gone to upstream closed"
    assert 0.15 in SECONDS, "the brief's latency objective"


# -- labels are bounded ----------------------------------------------------------------------------------------------------


def test_methods_are_a_closed_set() -> None:
    assert "OTHER" not in METHODS.values()
    assert len(METHODS) < 10


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.service('a"b\\c\nd').attempt('x"y')
    found = samples(metrics.families())
    assert found["streamgate_attempts_total", frozenset({("service", 'a"b\\c\nd'), ("outcome", 'x"y')})] == 1


# -- cells -----------------------------------------------------------------------------------------------------------------


def test_cells_survive_a_reload_and_go_with_their_route() -> None:
    metrics = used()
    llm, service = metrics.route("llm"), metrics.service("model-a")
    metrics.route("old")
    metrics.retain(["llm", "new"], ["model-a"])
    assert metrics.route("llm") is llm
    assert metrics.service("model-a") is service
    assert set(metrics.routes) == {"llm"}
    metrics.retain((), ())
    assert not metrics.routes
    assert not metrics.services


def test_outcomes_are_counted() -> None:
    cells = Metrics().service("s")
    for outcome in ("ok", "ok", "upstream_reset"):
        cells.attempt(outcome)
    assert cells.attempts == {"ok": 2, "upstream_reset": 1}


def test_a_gauge_is_asked_at_the_scrape() -> None:
    metrics, state = Metrics(), [("active", 1)]
    metrics.service("s").connections = lambda: state
    labels = frozenset({("service", "s"), ("state", "active")})
    assert samples(metrics.families())["streamgate_upstream_connections", labels] == 1
    state[0] = ("active", 5)
    assert samples(metrics.families())["streamgate_upstream_connections", labels] == 5


# -- several workers -------------------------------------------------------------------------------------------------------


def travelled(families: list[Family]) -> list[Family]:
    """As they come from another worker."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=list[Family])


def added(workers: Iterable[Metrics]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    total: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for worker in workers:
        for key, value in samples(worker.families()).items():
            total[key] = total.get(key, 0) + value
    return total


def test_several_workers_are_their_sum() -> None:
    other = used()
    other.route("llm").requests["GET", 404] = 2
    other.route("llm").gap.observe(5)
    other.route("second").requests["GET", 200] = 1
    other.service("model-b").attempt("ok")
    workers = [used(), other, used()]
    assert samples(merged(travelled(worker.families()) for worker in workers)) == pytest.approx(added(workers))


def test_a_worker_that_has_seen_nothing_spoils_nothing() -> None:
    for workers in ([Metrics(), used()], [used(), Metrics()]):
        assert samples(merged(worker.families() for worker in workers)) == pytest.approx(added(workers))


def test_none_is_none() -> None:
    assert merged([]) == []
