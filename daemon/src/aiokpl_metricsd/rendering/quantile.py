"""Buckets -> quantiles. Pure; knows no more of the values than their bucket, their least and their greatest.

A quantile is the value of nearest rank: of n values in order, number `ceil(q * n)`. The buckets say in which
interval `(base**i, base**(i + 1)]` that value lies; the answer is the interval's geometric midpoint,
`base**(i + 1/2)`. It is a single power of two and equally far from both ends by ratio, so it is at most
`sqrt(base) - 1` of the true value away: 4.43 % at scale 3, 9.1 % at scale 2, 19 % at scale 1. (The arithmetic
midpoint errs by up to `(base - 1) / 2`, which is worse at coarse scales: 50 % against 41 % at scale 0.)
Clamping to least and greatest only brings it nearer.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from math import ceil, exp2, inf, ldexp

from aiokpl_metrics_protocol import Buckets


def quantile(buckets: Buckets, q: float, *, low: float, high: float) -> float:
    """Estimate one quantile.

    Args:
        buckets: the distribution.
        q: 0 to 1; 0 is `low` and 1 is `high`, exactly.
        low: the least value.
        high: the greatest value.

    Returns:
        A value between `low` and `high`, within `sqrt(base) - 1` of the exact one; `low` where the buckets
        are empty.

    Raises:
        ValueError: `q` is not between 0 and 1.
    """
    return quantiles(buckets, (q,), low=low, high=high)[0]


def quantiles(buckets: Buckets, qs: Iterable[float], *, low: float, high: float) -> list[float]:
    """Estimate several quantiles of one distribution, for the price of little more than one.

    Raises:
        ValueError: one of `qs` is not between 0 and 1.
    """
    # In the order of the values: the most negative bucket first, then zero, then the positive ones.
    counts = [*reversed(buckets.negative_counts), buckets.zero_count, *buckets.positive_counts]
    ranks = list(accumulate(counts))
    return [_estimate(buckets, ranks, q, low, high) for q in qs]


def _estimate(buckets: Buckets, ranks: list[int], q: float, low: float, high: float) -> float:
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"a quantile is between 0 and 1, not {q!r}")
    total = ranks[-1]
    if q == 0.0 or not total:
        return low
    if q == 1.0:
        return high
    position = bisect_left(ranks, ceil(q * total))
    after_zero = position - len(buckets.negative_counts)
    if after_zero < 0:
        # The last negative bucket in memory is the first by value.
        value = -_midpoint(buckets.scale, buckets.negative_offset - after_zero - 1)
    elif after_zero == 0:
        value = 0.0
    else:
        value = _midpoint(buckets.scale, buckets.positive_offset + after_zero - 1)
    return min(max(value, low), high)


def _midpoint(scale: int, index: int) -> float:
    try:
        return exp2(ldexp(index + 0.5, -scale))
    except OverflowError:
        # A producer may claim a bucket that no finite value falls into; least and greatest put it right.
        return inf if index >= 0 else 0.0


__all__ = ["quantile", "quantiles"]
