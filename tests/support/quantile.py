"""Buckets and counted values -> quantiles, held to those of the recorded values within the buckets' error."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil

import pytest

from tests.support.rows import Histogram
from tests.support.stream import Metric

# Half a bucket at the finest scale, 8 buckets an octave: (2**(1/8) - 1) / 2, and the floats' rounding.
BUCKET_ERROR = 0.0454


def weigh(histogram: Histogram) -> dict[float, int]:
    """Return the midpoints of a histogram's buckets with their counts."""
    assert histogram.scale == 3
    assert not histogram.negative_counts
    return weigh_buckets(histogram.scale, histogram.positive_offset, histogram.positive_counts)


def weigh_buckets(scale: int, offset: int, counts: Iterable[int]) -> dict[float, int]:
    """Return the midpoints of exponential buckets with their counts."""
    base = 2.0**2.0**-scale
    return {base**index * (1 + base) / 2: count for index, count in enumerate(counts, start=offset) if count}


def add_up(parts: Iterable[Mapping[float, int]]) -> dict[float, int]:
    """Add the counts of windows."""
    total: Counter[float] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def find_quantile(weights: Mapping[float, int], share: float) -> float:
    """Return the value at a share of the ranks."""
    rank = ceil(share * sum(weights.values()))
    for value in sorted(weights):
        rank -= weights[value]
        if rank <= 0:
            return value
    raise AssertionError("no values")


def check_quantiles(metric: Metric, weights: Mapping[float, int]) -> None:
    """Assert that values with counts have the percentiles of what was recorded, within the buckets' error."""
    values = metric.list_values()
    assert sum(weights.values()) == len(values)
    exact = Counter(float(value) for value in values)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        wanted = find_quantile(exact, share)
        assert find_quantile(weights, share) == pytest.approx(wanted, rel=BUCKET_ERROR), (metric, share)


__all__ = ["BUCKET_ERROR", "add_up", "check_quantiles", "find_quantile", "weigh", "weigh_buckets"]
