"""Snapshot -> Datadog points. Pure; what the intake would refuse or bend is set aside, never sent.

A counter is a COUNT of its sum, with the window's length as interval; a gauge is a GAUGE of its last value.
A histogram is a distribution: a list of values that has the shape of the buckets. Of n points the j-th is
the bucket midpoint at rank `ceil(j * total / n)`, so every quantile `k / n` of the points falls into the
same bucket as that of the events, and any other one is at most 1/n of the ranks away. (Rounding each
bucket's share by itself, largest remainders first, would let the errors of 160 buckets add up.) Up to the
bound there are as many points as events; the first is the least value and the last the greatest, exactly.
Beyond the bound Datadog's count of the distribution is the bound's, and its sum is an estimate in any case:
`exact_statistics` sends both beside it.

A histogram that brought no buckets has no shape to be sent. A mean is none: its statistics are sent in
place of it.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from math import exp2, inf, ldexp
from typing import Final

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.snapshot import MetricSnapshot

# "Metric values must be 32-bit" (DataDog/documentation, content/en/metrics/custom_metrics/_index.md, read
# 2026-11): the greatest finite number of 32 bits. Values keep 24 bits of precision there, which nothing
# here can help.
MAX_MAGNITUDE: Final = 3.4028234663852886e38

# The same page: at most one hour in the past and ten minutes in the future.
MAX_AGE_S: Final = 3_600
MAX_LEAD_S: Final = 600
# Ours: clocks differ, and a request takes its time.
TIME_MARGIN_S: Final = 60

# Ours: no document limits the values of a distribution point. A thousand keep the 99.9th percentile.
MAX_DISTRIBUTION_POINTS: Final = 1000

# The least and the greatest value.
MIN_DISTRIBUTION_POINTS: Final = 2

# Our words and UCUM's -> Datadog's ("Unit list" of DataDog/documentation, content/en/metrics/units, read
# 2026-11). It has no decimal kilobytes; what it does not know is sent without a unit.
_UNIT_WORDS: Final = {
    "bit": ("bit", "bits"),
    "byte": ("byte", "bytes", "by"),
    "kibibyte": ("kib", "kiby", "kibibyte", "kibibytes"),
    "mebibyte": ("mib", "miby", "mebibyte", "mebibytes"),
    "gibibyte": ("gib", "giby", "gibibyte", "gibibytes"),
    "tebibyte": ("tib", "tiby", "tebibyte", "tebibytes"),
    "nanosecond": ("ns", "nanosecond", "nanoseconds"),
    "microsecond": ("us", "µs", "μs", "microsecond", "microseconds"),
    "millisecond": ("ms", "millisecond", "milliseconds"),
    "second": ("s", "sec", "second", "seconds"),
    "minute": ("min", "minute", "minutes"),
    "hour": ("h", "hour", "hours"),
    "day": ("d", "day", "days"),
    "percent": ("%", "percent"),
}
UNITS: Final = {word: unit for unit, words in _UNIT_WORDS.items() for word in words}

# Digits of a bucket's midpoint: far finer than any bucket, and half as many bytes as all seventeen.
_MIDPOINT_DIGITS = 6

Runs = tuple[tuple[float, int], ...]


class Unfit(StrEnum):
    """Why a snapshot is set aside."""

    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    COUNT_NOT_POSITIVE = "count_not_positive"
    MIN_ABOVE_MAX = "min_above_max"
    NAME_BLANK = "name_blank"
    TOO_MANY_TAGS = "too_many_tags"
    TIME_NOT_ACCEPTED = "time_not_accepted"
    MALFORMED = "malformed"


class Role(StrEnum):
    """What a metric's values are; a metric name has one role for good."""

    COUNT = "count"
    GAUGE = "gauge"
    DISTRIBUTION = "distribution"
    EXACT_COUNT = "exact_count"
    EXACT_SUM = "exact_sum"
    EXACT_MIN = "exact_min"
    EXACT_MAX = "exact_max"


# MetricIntakeType of the client's models (datadog-api-client 2.62.0, read 2026-11).
_TYPE_COUNT = 1
_TYPE_GAUGE = 3
TYPES: Final = {
    Role.COUNT: _TYPE_COUNT,
    Role.GAUGE: _TYPE_GAUGE,
    Role.EXACT_COUNT: _TYPE_COUNT,
    Role.EXACT_SUM: _TYPE_COUNT,
    Role.EXACT_MIN: _TYPE_GAUGE,
    Role.EXACT_MAX: _TYPE_GAUGE,
}

# The statistics of a histogram, by the end of their names.
EXACT_SUFFIXES: Final = {
    Role.EXACT_COUNT: ".count",
    Role.EXACT_SUM: ".sum",
    Role.EXACT_MIN: ".min",
    Role.EXACT_MAX: ".max",
}


def find_unfit(snapshot: MetricSnapshot, now: float, *, exact_statistics: bool) -> Unfit | None:
    """Return why a snapshot must be set aside; None where it need not be.

    Args:
        snapshot: of one series in one window.
        now: epoch seconds, what ages are counted from.
        exact_statistics: a histogram has its count, sum, least and greatest value beside it.

    Raises:
        ArithmeticError, AttributeError, TypeError, ValueError: the snapshot holds what no snapshot should.
    """
    if snapshot.count < 1:
        return Unfit.COUNT_NOT_POSITIVE
    # A NaN fails every comparison.
    if snapshot.window_end and not (
        now - MAX_AGE_S + TIME_MARGIN_S <= snapshot.window_end <= now + MAX_LEAD_S - TIME_MARGIN_S
    ):
        return Unfit.TIME_NOT_ACCEPTED
    numbers = [number for _, number in encode_numbers(snapshot, exact_statistics=exact_statistics)]
    if snapshot.kind is MetricKind.HISTOGRAM:
        if snapshot.min > snapshot.max:
            return Unfit.MIN_ABOVE_MAX
        numbers += (snapshot.min, snapshot.max)
    if not all(-MAX_MAGNITUDE <= number <= MAX_MAGNITUDE for number in numbers):
        return Unfit.NUMBER_OUT_OF_RANGE
    return None


def encode_numbers(snapshot: MetricSnapshot, *, exact_statistics: bool) -> tuple[tuple[Role, float], ...]:
    """Return the counts and gauges that a snapshot becomes."""
    # The sum with 0.0 makes an integer a float and a negative zero a zero.
    if snapshot.kind is MetricKind.COUNTER:
        return ((Role.COUNT, snapshot.sum + 0.0),)
    if snapshot.kind is MetricKind.GAUGE:
        return ((Role.GAUGE, snapshot.last + 0.0),)
    if exact_statistics or not _has_shape(snapshot):
        return (
            (Role.EXACT_COUNT, float(snapshot.count)),
            (Role.EXACT_SUM, snapshot.sum + 0.0),
            (Role.EXACT_MIN, snapshot.min + 0.0),
            (Role.EXACT_MAX, snapshot.max + 0.0),
        )
    return ()


def encode_points(snapshot: MetricSnapshot, max_points: int) -> Runs:
    """Return the points of a histogram's distribution; none for other kinds, or without a shape.

    Args:
        snapshot: a fit one.
        max_points: at least 2.
    """
    if snapshot.kind is not MetricKind.HISTOGRAM:
        return ()
    low, high = snapshot.min + 0.0, snapshot.max + 0.0
    if snapshot.count == 1 and low == high:
        return ((low, 1),)
    if snapshot.histogram is None:
        return ()
    return encode_distribution(snapshot.histogram, low, high, min(snapshot.count, max_points))


def _has_shape(snapshot: MetricSnapshot) -> bool:
    if snapshot.count == 1 and snapshot.min == snapshot.max:
        return True
    return snapshot.histogram is not None and _count_values(snapshot.histogram) > 0


def _count_values(buckets: Buckets) -> int:
    return sum(buckets.negative_counts) + buckets.zero_count + sum(buckets.positive_counts)


def encode_distribution(buckets: Buckets, low: float, high: float, point_count: int) -> Runs:
    """Return so many points in the shape of the buckets; none where the buckets are empty.

    Args:
        buckets: the distribution.
        low: the least value; the first point.
        high: the greatest value; the last point.
        point_count: how many points; at least 1.
    """
    total = _count_values(buckets)
    if total < 1:
        return ()
    runs: list[tuple[float, int]] = []
    reached = placed = 0
    for midpoint, count in _walk(buckets):
        if not count:
            continue
        reached += count
        upto = reached * point_count // total
        if upto > placed:
            runs.append((min(max(midpoint, low), high), upto - placed))
            placed = upto
    if point_count == 1:
        return ((high, 1),)
    _take_one(runs, 0)
    _take_one(runs, -1)
    return ((low, 1), *runs, (high, 1))


def _take_one(runs: list[tuple[float, int]], index: int) -> None:
    value, count = runs[index]
    if count > 1:
        runs[index] = (value, count - 1)
    else:
        del runs[index]


def _walk(buckets: Buckets) -> Iterator[tuple[float, int]]:
    """Yield midpoint and count of every bucket, ascending."""
    scale = buckets.scale
    last = buckets.negative_offset + len(buckets.negative_counts) - 1
    for number, count in enumerate(reversed(buckets.negative_counts)):
        yield -_midpoint(scale, last - number), count
    yield 0.0, buckets.zero_count
    for index, count in enumerate(buckets.positive_counts, buckets.positive_offset):
        yield _midpoint(scale, index), count


@lru_cache(maxsize=4096)
def _midpoint(scale: int, index: int) -> float:
    """Return the bucket's geometric midpoint, as `quantile` has it."""
    try:
        return float(f"{exp2(ldexp(index + 0.5, -scale)):.{_MIDPOINT_DIGITS}g}")
    except OverflowError:
        # A producer may claim a bucket that no finite value falls into; least and greatest put it right.
        return inf if index >= 0 else 0.0


def encode_unit(unit: str | None) -> str | None:
    """Return Datadog's word for one of our units."""
    return None if unit is None else UNITS.get(unit.lower())


def encode_interval(snapshot: MetricSnapshot) -> int | None:
    """Return the window's length in whole seconds, at least 1; None where it is not known."""
    if not 0.0 < snapshot.window_start < snapshot.window_end:
        return None
    return max(1, round(snapshot.window_end - snapshot.window_start))


__all__ = [
    "EXACT_SUFFIXES",
    "MAX_AGE_S",
    "MAX_DISTRIBUTION_POINTS",
    "MAX_LEAD_S",
    "MAX_MAGNITUDE",
    "MIN_DISTRIBUTION_POINTS",
    "TIME_MARGIN_S",
    "TYPES",
    "UNITS",
    "Role",
    "Runs",
    "Unfit",
    "encode_distribution",
    "encode_interval",
    "encode_numbers",
    "encode_points",
    "encode_unit",
    "find_unfit",
]
