import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import figures

SAMPLES = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)],
)
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert figures.percentile(range(1, 101), share) == expected


def test_no_samples_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no samples"):
        figures.percentile([], 0.5)
    assert figures.distribution([]) is None


@given(SAMPLES, st.floats(min_value=0, max_value=1))
def test_a_percentile_is_a_sample_with_that_share_at_or_below_it(samples: list[float], share: float) -> None:
    found = figures.percentile(sorted(samples), share)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= share * len(samples) - 1e-9


def test_distribution_counts_orders_and_converts() -> None:
    known = figures.distribution([3e6, 1e6, 2e6], per_unit=1e6)
    assert known == figures.Distribution(count=3, p50=2.0, p99=3.0, worst=3.0)


def test_spread_leaves_out_rounds_without_a_figure() -> None:
    assert figures.spread([3.0, None, 1.0, 5.0]) == figures.Spread(3.0, 1.0, 5.0, 3)
    assert figures.spread([None, None]) is None


def test_ratios_pair_rounds_before_they_are_summed_up() -> None:
    # medians alone would say 20/10; the rounds say 1, 2 and 4
    found = figures.ratios([10.0, 20.0, 40.0, None], [10.0, 10.0, 10.0, 10.0])
    assert found == figures.Spread(2.0, 1.0, 4.0, 3)
    assert figures.ratios([1.0], [0.0]) is None


@given(st.floats(min_value=-1e3, max_value=1e3), st.floats(min_value=-1e3, max_value=1e3))
def test_slope_of_a_line_is_its_slope(rise: float, start: float) -> None:
    points = [(float(x), start + rise * x) for x in range(10)]
    assert figures.slope(points) == pytest.approx(rise, abs=1e-6)


def test_slope_without_time_is_flat() -> None:
    assert figures.slope([]) == 0.0
    assert figures.slope([(1.0, 5.0), (1.0, 9.0)]) == 0.0
