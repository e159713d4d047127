"""Exponential buckets -> counts by the operator's bounds.

The rule: a bound counts every exponential bucket that begins below it, so the whole of the one that it
falls into. A value at or below a bound is always counted there, also one that lies on it; one above it is
counted there only where it shares that bucket, which is 9.1 % wide at scale 3 and at most `2**(2**-scale)
- 1` at any. So a bound acts as if it lay up to that much higher, never lower. Count and sum stay exact.
When a histogram lowers its scale, the bucket around a bound only grows: no count ever goes down.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil, isfinite, log2

from aiokpl_metrics_protocol import Buckets
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.rendering.exposition import format_bound

# One line a bound and histogram: more than this makes a page of a few histograms larger than it is worth.
MAX_BOUNDS = 200


class Bounds:
    """The upper bounds of classic buckets.

    Args:
        bounds: ascending, finite, without the infinite one, which is always there.

    Attributes:
        labels: the values of `le`, the infinite one included.
        has_negative: one lies below zero.

    Raises:
        ValueError: they are not ascending, not finite, none, or more than `MAX_BOUNDS`.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """Check and keep the bounds."""
        if not 1 <= len(bounds) <= MAX_BOUNDS:
            raise ValueError(f"buckets has 1 to {MAX_BOUNDS} bounds, not {len(bounds)}")
        if not all(isfinite(bound) for bound in bounds):
            raise ValueError("buckets has finite bounds; the infinite one is always there")
        if any(low >= high for low, high in pairwise(bounds)):
            raise ValueError("buckets has ascending bounds")
        # -0.0 is spelled as zero.
        self._bounds = [float(bound) + 0.0 for bound in bounds]
        self.labels = (*(format_bound(bound) for bound in self._bounds), "+Inf")
        self.has_negative = self._bounds[0] < 0.0
        self._zero = bisect_left(self._bounds, 0.0)
        self._above = self._zero + (self._zero < len(bounds) and self._bounds[self._zero] == 0.0)
        self._limits: dict[int, tuple[list[int], list[int]]] = {}

    def count_buckets(self, buckets: Buckets) -> tuple[int, ...]:
        """Return how many values fall between each bound and the one before it; the last is above all."""
        return self._count(
            buckets.scale,
            buckets.zero_count,
            enumerate(buckets.positive_counts, buckets.positive_offset + 1),
            enumerate(buckets.negative_counts, buckets.negative_offset + 1),
        )

    def count_histogram(self, histogram: Histogram) -> tuple[int, ...]:
        """Return the same of a histogram that is still open."""
        positive, negative = histogram.positive, histogram.negative
        return self._count(
            histogram.scale,
            histogram.zero_count,
            () if positive is None else positive.counts.items(),
            () if negative is None else negative.counts.items(),
        )

    def count_value(self, value: float, count: int) -> tuple[int, ...]:
        """Return the same of one value, so many times."""
        counts = [0] * len(self.labels)
        counts[bisect_left(self._bounds, value)] = count
        return tuple(counts)

    def _count(
        self,
        scale: int,
        zero_count: int,
        positive: Iterable[tuple[int, int]],
        negative: Iterable[tuple[int, int]],
    ) -> tuple[int, ...]:
        """Count values by the exponent of their bucket's upper bound, `ceil(log2(v) * 2**scale)`."""
        below, above = self._find_limits(scale)
        counts = [0] * len(self.labels)
        counts[self._zero] += zero_count
        start = self._above
        for exponent, count in positive:
            counts[start + bisect_left(above, exponent)] += count
        for exponent, count in negative:
            counts[bisect_left(below, -exponent)] += count
        return tuple(counts)

    def _find_limits(self, scale: int) -> tuple[list[int], list[int]]:
        """Return, of the bounds below and above zero, the exponents that are the last to count there."""
        limits = self._limits.get(scale)
        if limits is None:
            factor = 2.0**scale
            below = [-ceil(log2(-bound) * factor) for bound in self._bounds[: self._zero]]
            above = [ceil(log2(bound) * factor) for bound in self._bounds[self._above :]]
            limits = self._limits[scale] = below, above
        return limits


__all__ = ["MAX_BOUNDS", "Bounds"]
