"""What each local backend kept of the stream, held to the windows that the daemon closed.

A check asserts that the backend has a datum for each row and no other, with its figures, its times and its
unit, and that the distributions of all windows together have the percentiles of what was recorded.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from tests.support import stream
from tests.support.cloudwatch_stub import CloudWatchStub
from tests.support.datadog_intake import COUNT, GAUGE, DatadogIntake
from tests.support.otlp_receiver import Receiver
from tests.support.quantile import add_up, check_quantiles, weigh_buckets
from tests.support.rows import Row, Series
from tests.support.stream import BY_SERIES, HISTOGRAMS, METRICS

CLOUDWATCH_UNITS = {"count": "Count", "bytes": "Bytes", "ms": "Milliseconds"}
OTLP_UNITS = {"count": "{count}", "bytes": "By", "ms": "ms"}
DATADOG_UNITS = {"bytes": "byte", "ms": "millisecond"}
CLOUDWATCH_KEYS = {"StreamName": "stream", "ShardId": "shard", "producer": "producer"}


# ---- CloudWatch


def check_cloudwatch(stub: CloudWatchStub, rows: list[Row]) -> None:
    """Assert that each datum is a window's series: its statistics, start, unit and distribution."""
    assert stub.refused == []
    expected = {(row.series, row.window_start): row for row in rows}
    found: dict[tuple[Series, float], dict[str, Any]] = {}
    for datum in stub.accepted:
        pairs = ((CLOUDWATCH_KEYS[each["Name"]], each["Value"]) for each in datum["Dimensions"])
        key = (datum["MetricName"], tuple(sorted(pairs))), datum["Timestamp"]
        assert key not in found
        found[key] = datum
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        statistics = {"SampleCount": row.count, "Sum": row.sum, "Minimum": row.min, "Maximum": row.max}
        assert found[key]["StatisticValues"] == statistics
        assert found[key]["Unit"] == CLOUDWATCH_UNITS[row.unit or ""]
    for metric in HISTOGRAMS:
        own = [datum for (series, _), datum in found.items() if series == metric.series]
        parts = (dict(zip(datum["Values"], datum["Counts"], strict=True)) for datum in own)
        check_quantiles(metric, add_up(parts))


# ---- OpenTelemetry


def read_otlp(point: Any) -> tuple[tuple[tuple[str, str], ...], float, float]:  # noqa: ANN401 - no types
    """Return a point's dimensions, start and end."""
    attributes = tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
    return attributes, point.start_time_unix_nano / 1e9, point.time_unix_nano / 1e9


def check_otlp_metrics(metrics: Mapping[str, Any], *, temporality: int) -> None:
    """Assert that each metric has its kind, its unit, and the temporality."""
    assert metrics.keys() == {f"aiokpl.{metric.name}" for metric in METRICS}
    kinds = {stream.COUNTER: "sum", stream.GAUGE: "gauge", stream.HISTOGRAM: "exponential_histogram"}
    for metric in METRICS:
        sent = metrics[f"aiokpl.{metric.name}"]
        assert sent.unit == OTLP_UNITS[metric.unit]
        assert sent.WhichOneof("data") == kinds[metric.kind]
        if metric.kind != stream.GAUGE:
            assert getattr(sent, kinds[metric.kind]).aggregation_temporality == temporality
    assert metrics["aiokpl.shop.orders"].sum.is_monotonic


def check_delta(receiver: Receiver, rows: list[Row]) -> None:
    """Assert that each point is a window's series, with the window's start and end."""
    check_otlp_metrics(receiver.metrics, temporality=1)
    expected = {(row.series, row.window_start, row.window_end): row for row in rows}
    found: dict[tuple[Series, float, float], Any] = {}
    for name, kind, point in receiver.points:
        dimensions, start, end = read_otlp(point)
        series = name.removeprefix("aiokpl."), dimensions
        if kind == "gauge":
            (start,) = {row.window_start for row in rows if row.window_end == end}
        assert (series, start, end) not in found
        found[series, start, end] = point
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        point = found[key]
        if row.histogram is None:
            wanted = row.last if row.kind == stream.GAUGE else row.sum
            assert point.as_double + point.as_int == wanted
        else:
            assert (point.count, point.sum, point.min, point.max) == (row.count, row.sum, row.min, row.max)
    for metric in HISTOGRAMS:
        own = (point for (series, _, _), point in found.items() if series == metric.series)
        check_quantiles(metric, add_up(weigh_point(point) for point in own))


def weigh_point(point: Any) -> dict[float, int]:  # noqa: ANN401 - no types
    """Return the midpoints of a point's buckets with their counts."""
    assert point.scale == 3
    assert point.zero_count == 0
    return weigh_buckets(point.scale, point.positive.offset, point.positive.bucket_counts)


def check_cumulative(receiver: Receiver, rows: list[Row]) -> None:
    """Assert that totals only grow from one start, and end with what was sent."""
    check_otlp_metrics(receiver.metrics, temporality=2)
    by_series: defaultdict[Series, list[Any]] = defaultdict(list)
    for name, _, point in receiver.points:
        by_series[name.removeprefix("aiokpl."), read_otlp(point)[0]].append(point)
    assert by_series.keys() == BY_SERIES.keys()
    for series, points in by_series.items():
        metric, total = BY_SERIES[series], BY_SERIES[series].total()
        own = sorted((row for row in rows if row.series == series), key=lambda row: row.window_start)
        assert [read_otlp(point)[2] for point in points] == [row.window_end for row in own]
        if metric.kind == stream.GAUGE:
            assert [point.as_double + point.as_int for point in points] == [row.last for row in own]
            continue
        assert {read_otlp(point)[1] for point in points} == {own[0].window_start}
        if metric.kind == stream.COUNTER:
            assert points[-1].as_double + points[-1].as_int == total.sum
        else:
            assert (points[-1].count, points[-1].sum) == (total.count, total.sum)
            check_quantiles(metric, weigh_point(points[-1]))


# ---- Datadog


def check_datadog(intake: DatadogIntake, rows: list[Row]) -> None:
    """Assert that each series and second is a window's: value, exact statistics, interval, distribution."""
    assert intake.refusals == []
    values: dict[tuple[str, Series, int], float] = {}
    for key, value in intake.values.items():
        name, dimensions = key.metric.removeprefix("aiokpl."), tuple(tag.split(":", 1) for tag in key.tags)
        assert key.host == "tested"
        values[name, (name, tuple(sorted((k, v) for k, v in dimensions))), key.timestamp] = value
    expected: dict[tuple[str, Series, int], float] = {}
    for row in rows:
        parts = {"": row.last if row.kind == stream.GAUGE else row.sum}
        if row.kind == stream.HISTOGRAM:
            parts = {".count": row.count, ".sum": row.sum, ".min": row.min, ".max": row.max}
        for suffix, part in parts.items():
            name = f"{row.name}{suffix}"
            expected[name, (name, row.series[1]), int(row.window_end)] = part
    assert values == expected
    for metric in METRICS:
        name = f"aiokpl.{metric.name}"
        if metric.kind != stream.HISTOGRAM:
            assert intake.types[name] == (COUNT if metric.kind == stream.COUNTER else GAUGE)
            assert intake.units.get(name) == DATADOG_UNITS.get(metric.unit)
    assert intake.units["aiokpl.shop.latency.sum"] == "millisecond"
    assert intake.intervals["aiokpl.shop.orders"] == 1
    for metric in HISTOGRAMS:
        tags = tuple(sorted(f"{key}:{value}" for key, value in metric.dimensions.items()))
        own = {key.timestamp: points for key, points in intake.points.items() if key.tags == tags}
        ends = {int(row.window_end) for row in rows if row.series == metric.series}
        assert own.keys() == ends
        check_quantiles(metric, add_up(Counter(points) for points in own.values()))


__all__ = ["check_cloudwatch", "check_cumulative", "check_datadog", "check_delta"]
