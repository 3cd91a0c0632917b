"""Sums in whole parts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.batch_usage import divided, divided_usage

WEIGHTS = st.lists(st.integers(0, 5_000), min_size=1, max_size=40)
TOTALS = st.integers(0, 10**9)


@given(TOTALS, WEIGHTS)
def test_parts_add_up_and_none_is_a_whole_away_from_its_share(total: int, weights: list[int]) -> None:
    parts = divided(total, weights)
    assert sum(parts) == total
    even = not any(weights)
    for part, weight in zip(parts, weights, strict=True):
        share = total / len(weights) if even else total * weight / sum(weights)
        assert abs(part - share) < 1 + 1e-6


@given(TOTALS, WEIGHTS.filter(any))
def test_what_is_left_goes_to_the_largest_remainders_the_earlier_first(total: int, weights: list[int]) -> None:
    whole = sum(weights)
    parts = divided(total, weights)
    more = [part - total * weight // whole for part, weight in zip(parts, weights, strict=True)]
    order = sorted(range(len(weights)), key=lambda at: (-(total * weights[at] % whole), at))
    assert [more[at] for at in order] == sorted(more, reverse=True)
    assert set(more) <= {0, 1}


@given(WEIGHTS, st.integers(0, 50))
def test_where_the_sum_is_made_of_the_weights_each_gets_its_own(weights: list[int], times: int) -> None:
    if any(weights):
        assert divided(sum(weights) * times, weights) == [weight * times for weight in weights]


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [(7, [5], [7]), (1, [1, 1], [1, 0]), (10, [1, 1, 1], [4, 3, 3]), (5, [0, 0], [3, 2]), (3, [1, 0, 5], [1, 0, 2])],
)
def test_the_largest_remainder_gets_what_is_left(total: int, weights: list[int], parts: list[int]) -> None:
    assert divided(total, weights) == parts


def apart(usage: Any, asked: list[int], generated: list[int]) -> list[Any]:
    return [json.loads(part) for part in divided_usage(json.dumps(usage).encode(), asked, generated)]


def test_what_was_asked_goes_by_the_inputs_and_what_was_generated_by_the_texts() -> None:
    usage = {
        "completion_tokens": 10,
        "prompt_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": None},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    assert apart(usage, [1, 2], [4, 1]) == [
        {
            "completion_tokens": 8,
            "prompt_tokens": 2,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 16},
        },
        {
            "completion_tokens": 2,
            "prompt_tokens": 4,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    ]


@given(TOTALS, TOTALS, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=9), st.booleans())
def test_each_total_is_the_sum_of_its_terms(asked: int, generated: int, weights: list[tuple[int, int]], first: bool) -> None:
    terms = {"input_tokens": asked, "output_tokens": generated}
    total = {"total_tokens": asked + generated}
    parts = apart({**total, **terms} if first else {**terms, **total}, [a for a, _ in weights], [b for _, b in weights])
    for part in parts:
        assert part["total_tokens"] == part["input_tokens"] + part["output_tokens"]
    for name, whole in {**terms, **total}.items():
        assert sum(part[name] for part in parts) == whole


def test_a_total_that_is_no_sum_is_divided_by_itself() -> None:
    parts = apart({"prompt_tokens": 4, "total_tokens": 9}, [1, 1], [0, 0])
    assert [part["total_tokens"] for part in parts] == [5, 4]
    assert [part["prompt_tokens"] for part in parts] == [2, 2]


def test_prices_are_divided_and_what_is_no_sum_is_everybodys() -> None:
    usage = {"cost": 0.5, "is_byok": True, "queue": "fast", "left": None, "list": [1], "debt": -3}
    own = {"is_byok": True, "queue": "fast", "left": None, "list": [1], "debt": -3}
    assert apart(usage, [1, 4], [0, 0]) == [{"cost": 0.1, **own}, {"cost": 0.4, **own}]
    assert [part["cost"] for part in apart({"cost": 0.5}, [0, 0], [0, 0])] == [0.25, 0.25]


def test_who_was_the_whole_batch_gets_the_bytes_as_they_came() -> None:
    usage = b'{ "prompt_tokens" : 1e0 }'
    assert divided_usage(usage, [7], [0]) == [usage]


@pytest.mark.parametrize("usage", [b"null", b"7", b"[]"])
def test_usage_of_another_shape_is_everybodys(usage: bytes) -> None:
    assert divided_usage(usage, [1, 1], [1, 1]) == [usage, usage]
