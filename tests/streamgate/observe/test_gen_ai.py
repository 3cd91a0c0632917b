"""What is counted by model, and how few series it can make."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streamgate.observe.gen_ai import ANSWERING_MAX, DURATIONS, FIRST_TOKENS, OTHER, PER_TOKEN, TOKENS, GenAi
from streamgate.observe.metrics import Family, exposition, merged

MODELS = {
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_original_model",
    "gen_ai_request_model",
    "gen_ai_response_model",
}
PROMISED = {
    "gen_ai_client_token_usage": MODELS | {"gen_ai_token_type"},
    "gen_ai_server_request_duration_seconds": MODELS | {"error_type"},
    "gen_ai_server_time_to_first_token_seconds": MODELS,
    "gen_ai_server_time_per_output_token_seconds": MODELS,
    "streamgate_tokens_total": {"model", "type", "estimated"},
    "streamgate_cost_total": {"model", "currency"},
}


def observe(gen_ai: GenAi, **facts: Any) -> None:
    ordinary = {"operation": "chat", "requested": "tutor", "routed": "gpt-4o", "answering": "gpt-4o-2024", "duration_s": 2.1}
    gen_ai.observe(**ordinary | facts)


def used() -> GenAi:
    gen_ai = GenAi()
    observe(
        gen_ai, first_s=0.1, input_tokens=100, output_tokens=21, cached_input_tokens=30, cache_write_tokens=5, cost=0.25,
        provider="openai",
    )  # fmt: skip
    return gen_ai


def families(gen_ai: GenAi) -> dict[str, Family]:
    return {family.name: family for family in gen_ai.families()}


def samples(found: list[Family]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = exposition(found).decode()
    return {
        (sample.name, frozenset((k, v) for k, v in sample.labels.items() if k != "le")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_everything_promised_is_there_under_its_name() -> None:
    text = exposition(list(used().families())).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = re.sub(r"_(bucket|count|sum|created)$", "", sample.name)
            found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    assert found == PROMISED
    assert all(family.help.endswith(".") for family in used().families())


def test_buckets_are_those_of_the_conventions() -> None:
    assert TOKENS == (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
    assert [round(bound, 2) for bound in DURATIONS] == [
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ]  # fmt: skip
    assert {0.001, 0.06, 0.75, 10.0, 60.0} < set(FIRST_TOKENS)
    assert {0.01, 0.025, 0.3, 2.5} < set(PER_TOKEN)
    assert all(list(bounds) == sorted(set(bounds)) for bounds in (TOKENS, DURATIONS, FIRST_TOKENS, PER_TOKEN))


def test_one_generation_is_counted_everywhere_it_belongs() -> None:
    found = families(used())
    labels = ("chat", "openai", "tutor", "gpt-4o", "gpt-4o-2024")
    usage = {sample.labels: sample.value for sample in found["gen_ai_client_token_usage"].samples}
    assert usage == {(*labels, kind): count for kind, count in
                     (("input", 100), ("output", 21), ("input_cache_read", 30), ("input_cache_write", 5))}  # fmt: skip
    (seconds,) = found["gen_ai_server_request_duration_seconds"].samples
    assert (seconds.labels, seconds.value) == ((*labels, ""), 2.1)
    (first,) = found["gen_ai_server_time_to_first_token_seconds"].samples
    assert (first.labels, first.value) == (labels, 0.1)
    (gap,) = found["gen_ai_server_time_per_output_token_seconds"].samples
    assert gap.value == pytest.approx(0.1)  # 2 s for the 20 tokens after the first
    tokens = {sample.labels: sample.value for sample in found["streamgate_tokens"].samples}
    assert tokens["tutor", "output", "false"] == 21
    assert [(sample.labels, sample.value) for sample in found["streamgate_cost"].samples] == [(("tutor", "USD"), 0.25)]


def test_what_is_not_known_is_not_counted() -> None:
    gen_ai = GenAi()
    observe(gen_ai, answering=None)
    observe(gen_ai, answering=None, first_s=0.5, output_tokens=1)  # no token after the first
    observe(gen_ai, answering=None, output_tokens=9)  # no stream
    observe(gen_ai, answering=None, first_s=3.0, output_tokens=3)  # clocks that contradict each other
    found = families(gen_ai)
    assert [sample.labels[-2:] for sample in found["gen_ai_client_token_usage"].samples] == [("", "output")]
    assert sum(found["gen_ai_server_request_duration_seconds"].samples[0].counts or []) == 4
    assert sum(found["gen_ai_server_time_to_first_token_seconds"].samples[0].counts or []) == 2
    gap = found["gen_ai_server_time_per_output_token_seconds"].samples[0]
    assert (sum(gap.counts or []), gap.value) == (1, 0.0)
    assert found["streamgate_cost"].samples == []


def test_errors_estimates_and_currencies_are_told_apart() -> None:
    gen_ai = GenAi()
    observe(gen_ai, output_tokens=5, cost=1.0)
    observe(gen_ai, output_tokens=7, cost=2.0, currency="EUR", estimated=True, error_type="client_closed")
    observe(gen_ai, output_tokens=1, cost=0.5)
    found = families(gen_ai)
    assert {sample.labels[-1] for sample in found["gen_ai_server_request_duration_seconds"].samples} == {"", "client_closed"}
    assert {sample.labels: sample.value for sample in found["streamgate_tokens"].samples} == {
        ("tutor", "output", "false"): 6,
        ("tutor", "output", "true"): 7,
    }
    assert {sample.labels: sample.value for sample in found["streamgate_cost"].samples} == {
        ("tutor", "USD"): 1.5,
        ("tutor", "EUR"): 2.0,
    }


def test_requested_routed_and_answering_models_are_told_apart() -> None:
    gen_ai = GenAi()
    observe(gen_ai)
    observe(gen_ai, requested="other-name")
    observe(gen_ai, routed="gemma")
    observe(gen_ai, answering="gpt-4o-2025")
    observe(gen_ai, operation="embeddings")
    seconds = families(gen_ai)["gen_ai_server_request_duration_seconds"].samples
    assert len({sample.labels for sample in seconds}) == 5


def answering(gen_ai: GenAi) -> list[str]:
    return sorted({sample.labels[4] for sample in families(gen_ai)["gen_ai_server_request_duration_seconds"].samples})


def test_an_upstream_cannot_invent_series() -> None:
    gen_ai = GenAi()
    for number in range(1_000):
        observe(gen_ai, answering=f"m-{number}")
    assert len(answering(gen_ai)) == ANSWERING_MAX + 1
    assert OTHER in answering(gen_ai)
    observe(gen_ai, answering="m-3")
    seconds = families(gen_ai)["gen_ai_server_request_duration_seconds"].samples
    by_name = {sample.labels[4]: sum(sample.counts or []) for sample in seconds}
    assert (by_name["m-3"], by_name[OTHER]) == (2, 1_000 - ANSWERING_MAX)
    observe(gen_ai, routed="another", answering="m-999")
    assert "m-999" in answering(gen_ai)  # each routed model has its own


@pytest.mark.parametrize("name", ["a b", "a\n", 'a"b', "a\\b", "x" * 121, "modèle", "\x00"])
def test_what_is_no_name_is_other(name: str) -> None:
    gen_ai = GenAi()
    observe(gen_ai, answering=name)
    assert answering(gen_ai) == [OTHER]


@given(st.lists(st.text(max_size=8), max_size=60))
def test_any_names_make_few_sound_series(names: list[str]) -> None:
    gen_ai = GenAi()
    for name in names:
        observe(gen_ai, answering=name)
    assert len(answering(gen_ai)) <= ANSWERING_MAX + 2
    assert all(re.fullmatch(r"[!-~]*", name) for name in answering(gen_ai))
    exposition(list(gen_ai.families()))


def test_workers_add_up() -> None:
    sent = [msgspec.json.decode(msgspec.json.encode(list(used().families())), type=list[Family]) for _ in range(3)]
    one, three = samples(list(used().families())), samples(merged(sent))
    assert {key: 3 * value for key, value in one.items()} == pytest.approx(three)


def test_models_that_are_configured_no_more_are_forgotten() -> None:
    gen_ai = used()
    observe(gen_ai, requested="gone", routed="gemma", answering="g-1", output_tokens=3, cost=1.0)
    gen_ai.retain(["tutor", "new"])
    text = exposition(list(gen_ai.families())).decode()
    assert "tutor" in text
    assert "gone" not in text
    assert gen_ai._answering.keys() == {"gpt-4o"}
    gen_ai.retain([])
    assert all(not family.samples for family in gen_ai.families())
