"""Snapshots of every kind: those that any sink takes, and those that it may set aside by name."""

from collections.abc import Iterator
from math import inf, nan

from msgspec.structs import replace

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.snapshot import MetricSnapshot

WINDOW_S = 60.0

Dimensions = tuple[tuple[str, str], ...]


def build_counter(
    name: str, value: float = 1.0, *, end: float, dimensions: Dimensions = ()
) -> MetricSnapshot:
    """Return a counter of one event."""
    return _build(name, [value], end=end, dimensions=dimensions)


def build_histogram(name: str, values: list[float], *, end: float) -> MetricSnapshot:
    """Return a histogram of the values, with its buckets."""
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return replace(_build(name, values, end=end, kind=MetricKind.HISTOGRAM), histogram=histogram.freeze())


def build_window(prefix: str, size: int, *, end: float) -> tuple[MetricSnapshot, ...]:
    """Return a window of so many series, every fourth a histogram. No two have the same total."""
    return tuple(
        build_histogram(f"{prefix}_{number}", [1.0, number + 1.5], end=end)
        if number % 4 == 3  # noqa: PLR2004 - every fourth
        else build_counter(f"{prefix}_{number}", number + 1.0, end=end)
        for number in range(size)
    )


def iterate_plain(end: float) -> Iterator[tuple[str, MetricSnapshot]]:
    """Yield what every sink takes, each with what it is."""
    gauge = _build("plain_gauge", [1.0, 4.0], end=end, kind=MetricKind.GAUGE)
    buckets = build_histogram("plain_histogram", [0.0, 0.5, 3.0, 3.0, 70.0], end=end)
    yield "a counter", _build("plain_counter", [2.0, 3.5], end=end)
    yield "a counter of zero", build_counter("plain_zero", 0.0, end=end)
    yield "a gauge", gauge
    yield "a gauge below zero", _build("plain_negative", [2.0, -7.5], end=end, kind=MetricKind.GAUGE)
    yield "a histogram with buckets", buckets
    yield "a histogram without buckets", replace(buckets, name="plain_bare", histogram=None)
    yield "one value's histogram", build_histogram("plain_single", [2.5], end=end)
    yield "a metric with a dimension", build_counter("plain_one", end=end, dimensions=(("zone", "a"),))
    yield "a metric with a unit", replace(gauge, name="plain_unit", unit="ms")
    yield "a unit that nobody knows", replace(gauge, name="plain_odd_unit", unit="sheep per Ångström")
    yield "a metric without a window's id", replace(gauge, name="plain_anonymous", window_id="")
    yield "a metric without a time", replace(gauge, name="plain_timeless", window_start=0.0, window_end=0.0)
    yield "a name in other letters", build_counter("plain_größe_北京_🦊", end=end)
    yield (
        "a dimension in other letters",
        build_counter("plain_far", end=end, dimensions=(("città", "北京 🦊"),)),
    )


def iterate_odd(end: float) -> Iterator[tuple[str, MetricSnapshot]]:
    """Yield what a sink takes or sets aside, each with what it is, and each a series of its own."""
    for number, (words, snapshot) in enumerate(_iterate_odd(end)):
        yield words, replace(snapshot, name=f"odd_{number}") if snapshot.name == "odd" else snapshot


def _iterate_odd(end: float) -> Iterator[tuple[str, MetricSnapshot]]:
    good = build_counter("odd", 2.0, end=end)
    histogram = build_histogram("odd", [1.0, 2.0], end=end)
    thirty = tuple((f"key_{number:02}", f"value_{number}") for number in range(30))
    yield "30 dimensions", replace(good, dimensions=thirty)
    yield "31 dimensions", replace(good, dimensions=(*thirty, ("last", "value")))
    yield "a counter below zero", _build("odd", [-2.0, 1.0], end=end)
    yield "a histogram below zero", build_histogram("odd", [-2.0, 0.0, 5.0], end=end)
    yield "a huge value", build_counter("odd", 1e300, end=end)
    yield "a huge gauge below zero", _build("odd", [-1e300], end=end, kind=MetricKind.GAUGE)
    yield "a tiny value", build_counter("odd", 5e-324, end=end)
    yield "a negative zero", _build("odd", [-0.0], end=end, kind=MetricKind.GAUGE)
    yield "a huge count", replace(good, count=2**62)
    yield "a count beyond 64 bits", replace(good, count=2**70)
    for word, number in (("NaN", nan), ("infinity", inf), ("negative infinity", -inf)):
        yield f"a sum of {word}", replace(good, sum=number)
        yield f"a gauge of {word}", replace(good, kind=MetricKind.GAUGE, sum=number, last=number)
        yield f"a histogram's greatest value of {word}", replace(histogram, max=number)
    yield "a least value above the greatest", replace(histogram, min=3.0, max=1.0)
    yield "no events", replace(good, count=0, sum=0.0)
    yield "buckets of other events", replace(histogram, count=17)
    yield "buckets beyond every value", replace(histogram, histogram=Buckets(3, 0, 2**40, (2,)))
    yield "an empty name", replace(good, name="")
    yield "a blank name", replace(good, name=" ")
    yield "a long name", replace(good, name="n" * 10_000)
    yield "a name with control characters", replace(good, name='control\n\x00"\\{}')
    yield "a name that is no Unicode", replace(good, name="surrogate\udc80")
    yield "an empty dimension", replace(good, dimensions=(("", ""),))
    yield "a long dimension", replace(good, dimensions=(("key", "v" * 10_000),))
    yield "a dimension that is no Unicode", replace(good, dimensions=(("key", "\udc80"),))
    yield "one dimension twice", replace(good, dimensions=(("key", "a"), ("key", "b")))
    yield "a window of years ago", replace(good, window_start=1.0, window_end=61.0)
    yield "a window of years ahead", replace(good, window_start=end + 1e9, window_end=end + 1e9 + 60.0)
    yield "a window that ends before it begins", replace(good, window_start=end + 60.0)
    yield "a window that never ends", replace(good, window_end=inf)


def _build(
    name: str,
    values: list[float],
    *,
    end: float,
    kind: MetricKind = MetricKind.COUNTER,
    dimensions: Dimensions = (),
) -> MetricSnapshot:
    return MetricSnapshot(
        name,
        len(values),
        sum(values),
        min(values),
        max(values),
        dimensions,
        window_start=end - WINDOW_S,
        window_end=end,
        kind=kind,
        last=values[-1],
        window_id=f"contract-{end!r}",
    )


__all__ = [
    "WINDOW_S",
    "build_counter",
    "build_histogram",
    "build_window",
    "iterate_odd",
    "iterate_plain",
]
