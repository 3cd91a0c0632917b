"""Metrics of models: one series per name, forgotten with its model, variants bounded."""

from __future__ import annotations

from streamgate.observe.metrics import exposition
from streamgate.observe.models import VARIANTS_MAX, ModelsMetrics, count


def test_every_cell_is_a_series() -> None:
    metrics = ModelsMetrics()
    cells = metrics.model("tutor")
    cells.depth = lambda: 3
    cells.queue_wait.observe(0.2)
    count(cells.refusals, "rejected-saturated")
    count(cells.fallbacks, "connect")
    count(cells.duplicates, "slow")
    count(cells.hedges, "won")
    cells.choices["stable", "a", "turn"] = 2
    cells.flag("canary", "TARGETING_MATCH")
    cells.shared["batch", "calls"] = 1
    text = exposition(list(metrics.families())).decode()
    for line in (
        'streamgate_queue_depth{model="tutor"} 3.0',
        'streamgate_queue_wait_seconds_count{model="tutor"} 1.0',
        'streamgate_queue_refused_total{model="tutor",reason="rejected-saturated"} 1.0',
        'streamgate_fallbacks_total{model="tutor",reason="connect"} 1.0',
        'streamgate_duplicate_generations_total{model="tutor",reason="slow"} 1.0',
        'streamgate_hedges_total{model="tutor",outcome="won"} 1.0',
        'streamgate_choices_total{how="turn",model="tutor",service="a",split="stable"} 2.0',
        'streamgate_flag_evaluations_total{model="tutor",reason="TARGETING_MATCH",variant="canary"} 1.0',
        'streamgate_shared_calls_total{kind="batch",model="tutor",what="calls"} 1.0',
    ):
        name, _, rest = line.partition("{")
        labels, _, value = rest.partition("} ")
        assert any(
            found.startswith(name + "{") and found.endswith(" " + value) and set(labels.split(",")) == set(found[len(name) + 1 : found.index("}")].split(","))
            for found in text.splitlines()
        ), line


def test_a_model_that_is_gone_is_forgotten() -> None:
    metrics = ModelsMetrics()
    kept = metrics.model("a")
    metrics.model("b")
    metrics.retain(["a"])
    assert metrics.model("a") is kept
    assert b'"b"' not in exposition(list(metrics.families()))


def test_variants_are_bounded() -> None:
    cells = ModelsMetrics().model("tutor")
    for number in range(VARIANTS_MAX + 10):
        cells.flag(f"v{number}", "STATIC")
    assert len(cells.flags) == VARIANTS_MAX + 1
    assert cells.flags["other", "STATIC"] == 10
