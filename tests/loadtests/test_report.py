import json
from pathlib import Path
from typing import Any

import pytest

from loadtests import report
from loadtests.measures import Effort


def result(**rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """A run's document with these figures: {measure: [round: {peer: {metric: value}}]}."""
    count = max(len(values) for values in rounds.values())
    names = ("direct", "streamgate", "nginx", "envoy", "litellm")
    known: dict[str, dict[str, str]] = {name: {"version": "1", "note": f"about {name}"} for name in names}
    known["sanic_aiohttp"] = {"missing": "pip said no", "note": ""}
    done = [{measure: values[number] for measure, values in rounds.items()} for number in range(count)]
    for one in done:
        for peers in one.values():
            for values in peers.values():
                values.setdefault("others_cores", 0.0)
    effort = {field: getattr(Effort(), field) for field in Effort.__slots__}
    return {
        "date": "2026-01-02T03:04:05+00:00", "commit": "abc1234", "quick": False, "seconds": 60, "stolen_s": 0.1,
        "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 8, "kernel": "6.1", "hypervisor": True, "load_before": 0.0},
        "tools": {"python": "3.11"}, "cores": {"proxy": 0, "upstream": 1, "client": 1, "shared": True},
        "effort": effort, "effort_slow": effort, "peers": known, "rounds": done, "failures": [],
    }  # fmt: skip


def drawing() -> Any:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install -r loadtests/requirements.txt")
    from loadtests import plot

    return plot


def rates(ours: float, envoy: float, litellm: float) -> dict[str, dict[str, float]]:
    return {
        "streamgate": {"json_requests_per_cpu_s": ours, "chat_requests_per_cpu_s": ours},
        "envoy": {"json_requests_per_cpu_s": envoy},
        "litellm": {"chat_requests_per_cpu_s": litellm},
    }


def verdict(document: dict[str, Any], start: str) -> report.Verdict:
    (found,) = [one for one in report.verdicts(document) if one.budget.startswith(start)]
    return found


@pytest.mark.parametrize(("ours", "met"), [(13_000.0, True), (12_900.0, False)])
def test_a_budget_against_a_peer_is_judged_by_the_ratio(ours: float, met: bool) -> None:
    document = result(requests=[rates(ours, 10_000.0, 50.0)])
    assert verdict(document, "requests per core ≥ 1.3").met is met
    assert verdict(document, "requests per core ≥ 100").met is True


def test_the_median_of_the_rounds_decides_and_the_spread_is_shown() -> None:
    document = result(requests=[rates(ours, 10_000.0, 50.0) for ours in (10_000.0, 14_000.0, 15_000.0)])
    found = verdict(document, "requests per core ≥ 1.3")
    assert found.met is True
    assert found.measured == "1.4 (1–1.5)"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    document = result(requests=[{"streamgate": {"json_requests_per_cpu_s": 1.0}}])
    assert verdict(document, "requests per core ≥ 1.3").met is None
    assert verdict(document, "memory").met is None
    assert "| memory per open stream ≤ 20 KiB | – | not measured |" in report.table(document)


def test_added_latency_is_taken_against_direct_in_the_same_round() -> None:
    document = result(
        ttft=[
            {"direct": {"ttft_p99_ms": 1.0}, "streamgate": {"ttft_p99_ms": 4.0}},
            {"direct": {"ttft_p99_ms": 9.0}, "streamgate": {"ttft_p99_ms": 16.0}},
            {"streamgate": {"ttft_p99_ms": 100.0}},
        ]
    )
    found = verdict(document, "added time to first token")
    assert found.measured == "5 (3–7)"
    assert found.met is True


def test_every_window_is_judged() -> None:
    cancels = {report.cancel_metric(name): 60.0 for name in report.WINDOW_NAMES}
    document = result(cancel=[{"streamgate": cancels}])
    missed = [one.budget for one in report.verdicts(document) if one.met is False]
    assert missed == [f"cancel {name}, p99 ≤ 50 ms" for name in report.WINDOW_NAMES]


def test_a_missing_peer_and_a_failed_run_are_said_not_filled_in() -> None:
    document = result(requests=[rates(1.0, 1.0, 1.0)])
    document["failures"] = [{"measure": "memory", "peer": "nginx", "round": "1", "why": "it died"}]
    text = report.table(document)
    assert "- sanic_aiohttp: missing here: pip said no" in text
    assert "- no figure: nginx, memory, round 1: it died" in text
    assert "sanic_aiohttp |" not in text


def test_a_machine_that_was_not_quiet_is_said_first() -> None:
    document = result(requests=[rates(1.0, 1.0, 1.0)])
    assert "not quiet" not in report.table(document)
    document["rounds"][0]["requests"]["envoy"]["others_cores"] = 0.43
    assert report.table(document).startswith("**The machine was not quiet: in 1 of 3 measurements")


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (12.345, "12.3"), (999.4, "999"), (12345.6, "12,346")])
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert report.number(value) == text


def test_the_result_is_written_with_its_table(tmp_path: Path) -> None:
    document = result(requests=[rates(2.0, 1.0, 1.0)])
    report.write(document, tmp_path / "results")
    assert json.loads((tmp_path / "results/latest.json").read_text()) == document
    assert (tmp_path / "results/table.md").read_text() == report.table(document)


def test_the_plot_draws_each_figure_and_says_where_there_is_none(tmp_path: Path) -> None:
    plot = drawing()
    target = tmp_path / "plot.svg"
    plot.write(result(requests=[rates(20_000.0, 10_000.0, 50.0)]), target)
    drawn = target.read_text()
    assert drawn.startswith("<?xml")
    for text in ("requests per core-second, GET JSON", "20,000", "no figure"):
        assert f"<!-- {text}" in drawn
    assert "memory per open stream" not in drawn


def test_nothing_measured_draws_nothing(tmp_path: Path) -> None:
    plot = drawing()
    plot.write(result(requests=[{}]), tmp_path / "plot.svg")
    assert not (tmp_path / "plot.svg").exists()
