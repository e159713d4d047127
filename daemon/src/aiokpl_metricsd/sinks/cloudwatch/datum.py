r"""Snapshot -> CloudWatch datum. Pure; what the service would refuse is mended or set aside, never sent.

One datum that CloudWatch dislikes fails its whole request, so nothing leaves here that breaks a documented
limit. **Mended** is what loses no event and keeps series apart:

* a character that is no printable ASCII, in a name or a dimension, becomes its escape (`\x0a`, `\u5317`);
* a text that is too long is cut and ends in `~` and 16 digits of the whole text's hash;
* a dimension whose value or name is blank is left out, as the KPL does;
* a dimension name that begins with a colon begins with `_` instead; the second of two equal names gets `_2`;
* a number nearer to zero than 2^-359 becomes 0;
* a unit that CloudWatch does not know becomes `None`.

**Set aside**, by an `Unfit`, is what has no true form there: NaN, infinity or a number beyond 2^360, a count
below one, a least value above the greatest, more than 30 dimensions, a blank name, a time outside of what is
accepted. Where two series become equal by mending, CloudWatch adds them up, so no event is lost.
"""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from math import exp2, inf, ldexp, nan
from typing import Final

from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.snapshot import MetricSnapshot

# PutMetricData, service model 2010-08-01 (botocore 1.43.117) and its text, read 2026-11: lengths of names
# and values, dimensions of a metric, numbers of a `Values` array, range of every number.
MAX_NAME_CHARS: Final = 255
MAX_DIMENSION_VALUE_CHARS: Final = 1024
MAX_DIMENSIONS: Final = 30
MAX_VALUES: Final = 150
MAX_MAGNITUDE: Final = 2.0**360

# The text calls values "too small" without a bound; an older one (AWS SDK for .NET, PutMetricDataRequest,
# read 2026-11) gives 8.515920e-109, which is 2^-359.
MIN_MAGNITUDE: Final = 2.0**-359

# The same text: timestamps up to two weeks before and two hours after the service's own time.
MAX_AGE_S: Final = 14 * 86_400
MAX_LEAD_S: Final = 2 * 3_600
# Ours: clocks differ, and a request takes its time.
_TIME_MARGIN_S = 60.0

# What the KPL calls its dimensions in CloudWatch (awslabs/amazon-kinesis-producer, aws/metrics/
# metrics_constants.h, read 2026-11).
DIMENSION_NAMES: Final = {"stream": "StreamName", "shard": "ShardId", "error_code": "ErrorCode"}

# The values of `StandardUnit` (service model 2010-08-01, read 2026-11): the first four and `None`, and these
# eleven, which there are by the second as well. Each is known by its own name, whatever the case, and by the
# symbols beside it, whose case counts: "Mb" is no megabyte. What is ambiguous ("1", "KiB") stays unknown.
_TIMES: Final = {
    "Seconds": ("s", "sec", "second"),
    "Milliseconds": ("ms", "millisecond"),
    "Microseconds": ("us", "\N{MICRO SIGN}s", "\N{GREEK SMALL LETTER MU}s", "microsecond"),
    "Percent": ("%",),
    "None": (),
}
_AMOUNTS: Final = {
    "Bytes": ("B", "By", "byte"),
    "Kilobytes": ("kB", "KB", "kBy", "kilobyte"),
    "Megabytes": ("MB", "MBy", "megabyte"),
    "Gigabytes": ("GB", "GBy", "gigabyte"),
    "Terabytes": ("TB", "TBy", "terabyte"),
    "Bits": ("bit",),
    "Kilobits": ("kbit", "kilobit"),
    "Megabits": ("Mbit", "megabit"),
    "Gigabits": ("Gbit", "gigabit"),
    "Terabits": ("Tbit", "terabit"),
    "Count": (),
}


def _list_units() -> Iterator[tuple[str, str]]:
    for unit, symbols in (_TIMES | _AMOUNTS).items():
        for word in (unit, unit.lower(), *symbols):
            yield word, unit
            if unit in _AMOUNTS:
                for per_second in ("/s", "/Second", "/second"):
                    yield word + per_second, f"{unit}/Second"


UNITS: Final = dict(_list_units())


class Unfit(StrEnum):
    """Why a snapshot is set aside."""

    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    COUNT_NOT_POSITIVE = "count_not_positive"
    MIN_ABOVE_MAX = "min_above_max"
    NAME_BLANK = "name_blank"
    TOO_MANY_DIMENSIONS = "too_many_dimensions"
    TIME_NOT_ACCEPTED = "time_not_accepted"
    MALFORMED = "malformed"


class Dimension(Struct, frozen=True, gc=False, rename="pascal"):
    """One pair."""

    name: str
    value: str


class StatisticSet(Struct, frozen=True, gc=False, rename="pascal"):
    """Count, sum, least and greatest value."""

    sample_count: float
    sum: float
    minimum: float
    maximum: float


class Datum(Struct, frozen=True, gc=False, rename="pascal", omit_defaults=True):
    """A `MetricDatum`. `timestamp` is in epoch seconds; a storage resolution of 60 is the default, unsaid."""

    metric_name: str
    timestamp: float
    unit: str
    statistic_values: StatisticSet
    dimensions: tuple[Dimension, ...] = ()
    values: list[float] | None = None
    counts: list[int] | None = None
    storage_resolution: int = 60


class DatumOptions(Struct, frozen=True):
    """What the operator decides about every datum.

    Attributes:
        percentiles: histograms carry `Values` and `Counts` beside their statistics.
        storage_resolution: 1 or 60 seconds.
    """

    percentiles: bool = False
    storage_resolution: int = 60


def encode_datum(snapshot: MetricSnapshot, options: DatumOptions, now: float) -> Datum | Unfit:
    """Return the datum of a snapshot, or why it has none. Never raises.

    Args:
        snapshot: of one series in one window.
        options: the operator's.
        now: epoch seconds; the time of a snapshot that has none, and what ages are counted from.
    """
    try:
        return _encode(snapshot, options, now)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        # In-process a snapshot may hold anything.
        return Unfit.MALFORMED


def _encode(snapshot: MetricSnapshot, options: DatumOptions, now: float) -> Datum | Unfit:
    total, low, high = float(snapshot.sum), float(snapshot.min), float(snapshot.max)
    timestamp = _choose_time(snapshot, now)
    dimensions = encode_dimensions(snapshot.dimensions)
    fault = _find_fault(float(snapshot.count), total, low, high)
    if not now - MAX_AGE_S + _TIME_MARGIN_S <= timestamp <= now + MAX_LEAD_S - _TIME_MARGIN_S:
        fault = Unfit.TIME_NOT_ACCEPTED
    elif len(dimensions) > MAX_DIMENSIONS:
        fault = Unfit.TOO_MANY_DIMENSIONS
    elif not snapshot.name.strip():
        fault = Unfit.NAME_BLANK
    if fault is not None:
        return fault
    values, counts = None, None
    buckets = snapshot.histogram
    if options.percentiles and buckets is not None and snapshot.kind is MetricKind.HISTOGRAM:
        values, counts = encode_distribution(buckets, low, high)
        if sum(counts) != snapshot.count:
            # They are not the same events: the statistics alone are right.
            values, counts = None, None
    return Datum(
        mend_text(snapshot.name, MAX_NAME_CHARS),
        round(timestamp, 3),
        encode_unit(snapshot.unit),
        StatisticSet(float(snapshot.count), _flush(total), _flush(low), _flush(high)),
        dimensions,
        values,
        counts,
        options.storage_resolution,
    )


def _find_fault(count: float, total: float, low: float, high: float) -> Unfit | None:
    # A NaN fails every comparison.
    if not 1.0 <= count <= MAX_MAGNITUDE:
        return Unfit.COUNT_NOT_POSITIVE
    for number in (total, low, high):
        if not -MAX_MAGNITUDE <= number <= MAX_MAGNITUDE:
            return Unfit.NUMBER_OUT_OF_RANGE
    return Unfit.MIN_ABOVE_MAX if low > high else None


def _choose_time(snapshot: MetricSnapshot, now: float) -> float:
    """Return the window's start: the period that CloudWatch counts the datum in is then the window's own.

    A period takes what is stamped from its start, included, to its end, excluded (GetMetricStatistics, read
    2026-11), so the end of a window that ends with a minute would count in the next one.
    """
    if not snapshot.window_end:
        return now
    return (
        snapshot.window_start if 0.0 < snapshot.window_start <= snapshot.window_end else snapshot.window_end
    )


def encode_unit(unit: str | None) -> str:
    """Return the `StandardUnit` of one of our words."""
    return "None" if unit is None else UNITS.get(unit) or UNITS.get(unit.lower(), "None")


@lru_cache(maxsize=4096)
def encode_dimensions(pairs: tuple[tuple[str, str], ...]) -> tuple[Dimension, ...]:
    """Return the dimensions in CloudWatch's names, mended. They may be more than it takes."""
    encoded: list[Dimension] = []
    taken: set[str] = set()
    for key, value in pairs:
        if not key.strip() or not value.strip():
            continue
        name = mend_text(DIMENSION_NAMES.get(key, key), MAX_NAME_CHARS)
        if name.startswith(":"):
            name = f"_{name[1:]}"
        if name in taken:
            name = _number_name(name, taken)
        taken.add(name)
        encoded.append(Dimension(name, mend_text(value, MAX_DIMENSION_VALUE_CHARS)))
    return tuple(encoded)


def _number_name(name: str, taken: set[str]) -> str:
    number = 2
    while (numbered := f"{name[: MAX_NAME_CHARS - 4]}_{number}") in taken:
        number += 1
    return numbered


def mend_text(text: str, max_chars: int) -> str:
    """Return the text in printable ASCII and no longer than `max_chars`."""
    mended = text
    if not (text.isascii() and text.isprintable()):
        escaped = text.encode("ascii", "backslashreplace").decode("ascii")
        mended = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped)
    if len(mended) <= max_chars:
        return mended
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{mended[: max_chars - len(digest) - 1]}~{digest}"


def encode_distribution(buckets: Buckets, low: float, high: float) -> tuple[list[float], list[int]]:
    """Return the values and counts of a distribution: at most 150, ascending, each value once.

    A value is its bucket's geometric midpoint, as in `quantile`, between the least and the greatest value.
    Where more than 150 buckets are not empty, they are merged exactly, two by two, until no more are.
    """
    shift = 0
    while True:
        negative = _merge_side(buckets.negative_offset, buckets.negative_counts, shift)
        positive = _merge_side(buckets.positive_offset, buckets.positive_counts, shift)
        if len(negative) + len(positive) + (buckets.zero_count > 0) <= MAX_VALUES:
            break
        shift += 1
    scale = buckets.scale - shift
    pairs = [(-_midpoint(scale, index), count) for index, count in reversed(negative)]
    if buckets.zero_count > 0:
        pairs.append((0.0, buckets.zero_count))
    pairs += [(_midpoint(scale, index), count) for index, count in positive]
    values: list[float] = []
    counts: list[int] = []
    last = nan
    for midpoint, count in pairs:
        value = low if midpoint < low else min(midpoint, high)
        if -MIN_MAGNITUDE < value < MIN_MAGNITUDE:
            value = 0.0
        if value == last:
            # Those beyond the least or the greatest value have become equal to it.
            counts[-1] += count
        else:
            values.append(value)
            counts.append(count)
            last = value
    return values, counts


def _merge_side(offset: int, counts: tuple[int, ...], shift: int) -> list[tuple[int, int]]:
    """Return the counts above zero with their bucket's index at a scale lower by `shift`, ascending."""
    if not shift:
        return [(index, count) for index, count in enumerate(counts, offset) if count > 0]
    merged: dict[int, int] = {}
    for index, count in enumerate(counts, offset):
        if count > 0:
            merged[index >> shift] = merged.get(index >> shift, 0) + count
    return list(merged.items())


@lru_cache(maxsize=4096)
def _midpoint(scale: int, index: int) -> float:
    try:
        return exp2(ldexp(index + 0.5, -scale))
    except OverflowError:
        # A producer may claim a bucket that no finite value falls into; least and greatest put it right.
        return inf if index >= 0 else 0.0


def _flush(number: float) -> float:
    # The sum with 0.0 makes a negative zero a zero.
    return number + 0.0 if abs(number) >= MIN_MAGNITUDE else 0.0


__all__ = [
    "DIMENSION_NAMES",
    "MAX_AGE_S",
    "MAX_DIMENSIONS",
    "MAX_DIMENSION_VALUE_CHARS",
    "MAX_LEAD_S",
    "MAX_MAGNITUDE",
    "MAX_NAME_CHARS",
    "MAX_VALUES",
    "MIN_MAGNITUDE",
    "UNITS",
    "Datum",
    "DatumOptions",
    "Dimension",
    "StatisticSet",
    "Unfit",
    "encode_datum",
    "encode_dimensions",
    "encode_distribution",
    "encode_unit",
    "mend_text",
]
