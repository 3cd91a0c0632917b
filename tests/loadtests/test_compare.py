import argparse

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -r loadtests/requirements.txt")

from loadtests import compare, measures, peers, report


def test_each_round_begins_with_another_peer_and_leaves_none_out() -> None:
    names = ["a", "b", "c"]
    turns = [compare.order(names, number) for number in range(4)]
    assert turns == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_lists_are_read_and_unknown_names_refused_with_the_known_ones() -> None:
    assert compare._list_of(["a", "b"], "b, a") == ["b", "a"]
    for text in ("c", "", "a,c"):
        with pytest.raises(argparse.ArgumentTypeError, match="not among a, b"):
            compare._list_of(["a", "b"], text)


def test_every_standard_peer_exists_and_every_row_is_measured() -> None:
    assert set(compare.STANDARD) <= peers.ALL.keys()
    assert {row.measure for row in report.ROWS} == measures.ALL.keys()


def test_the_slow_load_is_smaller_but_runs_longer() -> None:
    full = measures.Effort()
    slow = full.for_slow()
    assert (slow.streams, slow.rate_per_s, slow.connections) == (10, 10, 8)
    assert slow.requests_s > full.requests_s
