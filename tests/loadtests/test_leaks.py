import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from loadtests import drops, leaks, peers, processes, running
from loadtests.asking import HOST, Address
from loadtests.peer import Place

METRICS = """\
# TYPE streamgate_in_flight gauge
streamgate_in_flight{route="a"} 2.0
streamgate_in_flight{route="b"} 3.0
# TYPE streamgate_upstream_connections gauge
streamgate_upstream_connections{service="a",state="active"} 4.0
streamgate_upstream_connections{service="a",state="idle"} 9.0
"""
CLEAN = leaks.Snapshot(
    descriptors=20, sockets={}, in_flight=0.0, active=0.0, tasks=3.0, upstream_phases={}, upstream_connections=0, memory_bytes=1
)


def test_a_gauge_is_summed_over_the_labels_not_named() -> None:
    assert leaks.gauge(METRICS, "streamgate_in_flight") == 5
    assert leaks.gauge(METRICS, "streamgate_upstream_connections", state="active") == 4
    assert leaks.gauge(METRICS, "streamgate_tasks") is None


def test_nothing_left_is_fine() -> None:
    assert all(check.fine for check in leaks.checks(CLEAN, CLEAN))


@pytest.mark.parametrize(
    "left",
    [
        {"descriptors": 21},
        {"sockets": {"upstream established": 1}},
        {"in_flight": 1.0},
        {"in_flight": None},
        {"active": 1.0},
        {"tasks": 4.0},
        {"tasks": 2.0},
        {"upstream_phases": {"streaming": 1}},
        {"upstream_connections": 1},
    ],
    ids=str,
)
def test_anything_left_is_found(left: dict[str, object]) -> None:
    found = leaks.checks(CLEAN, replace(CLEAN, **left))
    assert sum(not check.fine for check in found) == 1


def test_a_cut_request_is_a_true_beginning_of_the_whole() -> None:
    address = Address(HOST, 8080)
    whole = leaks.bytes_for(leaks.Window("all", {}), address)
    by_name = {window.name: leaks.bytes_for(window, address) for window in leaks.WINDOWS}
    assert b"\r\n\r\n" not in by_name["mid-head"]
    assert b"\r\n\r\n" in by_name["mid-body"]
    for name in ("mid-head", "mid-body"):
        assert whole.startswith(by_name[name])
        assert len(by_name[name]) < len(whole)


def test_streamgate_keeps_nothing_of_streams_that_were_dropped() -> None:
    """The whole program, small: two hundred to warm up, three hundred dropped in every window."""
    gate = peers.Streamgate(idle_connections_s=leaks.IDLE_CONNECTIONS_S)
    core = min(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as folder,
        running.upstream(core) as upstream,
        drops.nowhere() as nowhere,
        running.started(gate, Place(Path(folder), upstream, nowhere), core) as started,
    ):
        assert uvloop.run(leaks.run(started, streams=300, at_once=50, seed=1))
        assert processes.descriptors(started.pid)
