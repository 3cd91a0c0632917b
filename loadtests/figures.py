"""The arithmetic of measurements: percentiles, spreads over rounds, slopes over time."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of an ascending sequence; share in 0..1. Raises ValueError when there is nothing to rank."""
    if not ordered:
        msg = "no samples: a percentile of nothing is not a number"
        raise ValueError(msg)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Distribution:
    """What is kept of many samples, in the unit they came in."""

    count: int
    p50: float
    p99: float
    worst: float


def distribution(samples: Sequence[float], per_unit: float = 1.0) -> Distribution | None:
    """Count, median, p99 and worst of samples divided by `per_unit`; None when there are none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return Distribution(
        count=len(ordered),
        p50=percentile(ordered, 0.50) / per_unit,
        p99=percentile(ordered, 0.99) / per_unit,
        worst=ordered[-1] / per_unit,
    )


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several rounds."""

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median and extremes of the rounds that gave a value; None when no round did."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Spread | None:
    """Ours over theirs, round by round (both ran within a minute of each other), then the spread of those ratios."""
    pairs = zip(ours, theirs, strict=False)
    return spread([a / b for a, b in pairs if a is not None and b])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares rise of y per unit of x over (x, y) points; 0.0 when x does not vary."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
