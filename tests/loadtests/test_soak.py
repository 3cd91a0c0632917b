import os
import tempfile
from pathlib import Path

import pytest
import uvloop
import yaml

from loadtests import drops, peers, running, soak
from loadtests.peer import Place
from loadtests.swarm import Tally

MIB = 2**20


def test_memory_that_goes_up_and_down_is_flat() -> None:
    assert soak.flat([(float(second), (50 + 3 * (second % 2)) * MIB) for second in range(100)]).fine
    assert soak.flat([(float(second), (90 - second / 2) * MIB) for second in range(100)]).fine


@pytest.mark.parametrize(
    ("start_mib", "rise_mib", "fine"), [(50, 1.9, True), (50, 2.1, False), (500, 9.0, True), (500, 11.0, False)]
)
def test_a_steady_rise_is_judged_against_two_mib_or_a_fiftieth(start_mib: float, rise_mib: float, fine: bool) -> None:
    points = [(float(second), (start_mib + rise_mib * second / 100) * MIB) for second in range(101)]
    assert soak.flat(points).fine is fine


def test_the_course_shows_first_and_last() -> None:
    points = [(float(second), second * MIB) for second in range(101)]
    taken = soak.course(points).split()
    assert (taken[0], taken[-1]) == ("0.0", "100.0")
    assert len(taken) == 11


def test_failed_requests_and_cut_streams_are_violations_and_dropped_ones_are_not() -> None:
    fine = Tally(opened=5, completed=3, dropped=2)
    assert all(check.fine for check in soak.served("x", fine))
    failed, cut = soak.served("x", Tally(opened=5, failed=1, cut=1, reasons={"status 503": 1}))
    assert not failed.fine
    assert "1 × status 503" in failed.found
    assert not cut.fine


def test_every_edition_differs_and_nothing_else_does() -> None:
    gate, place = peers.Streamgate(), Place(Path("/nowhere"), 1, 2, 3, 4)
    first, second = (yaml.safe_load(gate.document(place, edition=number)) for number in (1, 2))
    assert first != second
    for document in (first, second):
        document["routes"][0]["to"]["respond"].pop("body")
    assert first == second


def test_reloads_under_load_fail_no_request_and_cut_no_stream() -> None:
    """The whole program for three seconds; memory needs longer to be judged, so its check may say what it likes here."""
    gate = peers.Streamgate()
    core = min(os.sched_getaffinity(0))
    wish = soak.Wish(streams=20, seconds=3.0, rate_per_s=20, reload_every_s=0.2)
    with (
        tempfile.TemporaryDirectory() as folder,
        running.upstream(core) as upstream,
        drops.nowhere() as nowhere,
        running.started(gate, Place(Path(folder), upstream, nowhere), core) as started,
    ):
        found = uvloop.run(soak.run(started, gate, wish))
    judged = [check for check in found if check.what != "memory"]
    assert [check for check in judged if not check.fine] == []
    assert {check.what for check in judged} >= {"streams: failed", "streams: cut", "short requests: failed", "reloads"}
