"""Snapshots -> instruments: what the SDK has read afterwards is what the snapshots said."""

# ruff: noqa: ANN401 - the SDK's points have no common type

import sys
from collections.abc import Callable
from math import isclose
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.errors import ConfigurationError, PartialExportError
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.opentelemetry import MAX_RECORDS, OpenTelemetrySink, encode_values
from aiokpl_metricsd.snapshot import MetricSnapshot

values = st.lists(st.floats(0.0, 1e9, allow_subnormal=False), min_size=1, max_size=40)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class Reading:
    """A meter, and what the SDK made of its instruments."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader(
            preferred_temporality={SdkHistogram: AggregationTemporality.CUMULATIVE},
            preferred_aggregation={SdkHistogram: ExponentialBucketHistogramAggregation()},
        )
        self.meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test")

    def metrics(self) -> dict[str, Any]:
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def point(self, name: str) -> Any:
        (point,) = self.metrics()[name].data.data_points
        return point


def build_histogram(numbers: list[float], **fields: Any) -> MetricSnapshot:
    histogram = Histogram()
    histogram.add_values(numbers, min(numbers), max(numbers))
    return MetricSnapshot(
        "Time",
        len(numbers),
        sum(numbers),
        min(numbers),
        max(numbers),
        kind=MetricKind.HISTOGRAM,
        unit="ms",
        histogram=histogram.freeze(),
        **fields,
    )


def counter(name: str, value: float, **fields: Any) -> MetricSnapshot:
    return MetricSnapshot(name, 1, value, value, value, last=value, **fields)


def gauge(value: float, end: float = 0.0) -> MetricSnapshot:
    return counter("Pending", value, kind=MetricKind.GAUGE, unit="count", window_end=end, window_id=f"{end}")


async def export(sink: OpenTelemetrySink, *windows: list[MetricSnapshot]) -> None:
    async with sink:
        for window in windows:
            await sink.export(window)


def run(work: Callable[..., Any], *arguments: Any) -> None:
    anyio.run(work, *arguments)


def test_it_is_a_sink_that_adds_and_wants_its_windows_in_order() -> None:
    assert isinstance(OpenTelemetrySink(), MetricsSink)
    assert (OpenTelemetrySink.repeat_rule, OpenTelemetrySink.ordered) == (RepeatRule.ADDS, True)


@pytest.mark.anyio
async def test_each_kind_has_its_instrument_with_prefix_unit_and_attributes() -> None:
    reading = Reading()
    window = [
        counter("Requests", 2.5, unit="bytes", dimensions=(("stream", "a"),)),
        gauge(-4.0),
        build_histogram([1.0, 2.0, 3.0]),
        counter("never.seen", 3.0),
    ]
    await export(OpenTelemetrySink(meter=reading.meter), window)
    metrics = reading.metrics()
    assert {name: metric.unit for name, metric in metrics.items()} == {
        "aiokpl.requests": "By",
        "aiokpl.pending": "{count}",
        "aiokpl.time": "ms",
        "aiokpl.never.seen": "",
    }
    assert metrics["aiokpl.requests"].data.is_monotonic is True
    assert metrics["aiokpl.pending"].data.is_monotonic is False
    assert (reading.point("aiokpl.requests").value, reading.point("aiokpl.requests").attributes) == (
        2.5,
        {"stream": "a"},
    )
    assert reading.point("aiokpl.never.seen").value == 3.0


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=12))
def test_the_up_down_counter_equals_the_latest_gauge(numbers: list[float]) -> None:
    reading = Reading()
    windows = [[gauge(number, 60.0 * at)] for at, number in enumerate(numbers, 1)]
    run(export, OpenTelemetrySink(meter=reading.meter), *windows)
    value = reading.point("aiokpl.pending").value if any(numbers) else 0.0
    assert value == numbers[-1]


@pytest.mark.anyio
async def test_a_gauge_of_an_older_window_changes_nothing() -> None:
    reading = Reading()
    await export(OpenTelemetrySink(meter=reading.meter), [gauge(5.0, 120.0)], [gauge(9.0, 60.0)])
    assert reading.point("aiokpl.pending").value == 5.0


@given(values)
def test_values_keep_count_sum_min_max_and_buckets(numbers: list[float]) -> None:
    snapshot = build_histogram(numbers)
    made = encode_values(snapshot, len(numbers))
    assert len(made) == len(numbers)
    assert (made[0], made[-1]) == (min(made), max(made)) == (min(numbers), max(numbers))
    assert isclose(sum(made), sum(numbers), rel_tol=1e-12, abs_tol=1e-300)
    # In one bucket, two values differ by its width at most.
    assert snapshot.histogram is not None
    width = 2.0**2.0**-snapshot.histogram.scale * (1.0 + 1e-9)
    pairs = zip(sorted(made), sorted(numbers), strict=True)
    assert all(one <= other * width and other <= one * width for one, other in pairs)


def test_up_to_a_thousand_values_the_histogram_is_exact() -> None:
    reading = Reading()
    numbers = [float(number % 97) for number in range(MAX_RECORDS)]
    run(export, OpenTelemetrySink(meter=reading.meter), [build_histogram(numbers)])
    point = reading.point("aiokpl.time")
    assert (point.count, point.sum, point.min, point.max) == (1_000, sum(numbers), 0.0, 96.0)
    assert point.zero_count == numbers.count(0.0)
    assert set(reading.metrics()) == {"aiokpl.time"}


def test_beyond_it_a_thousand_have_its_shape_and_counters_the_exact_figures() -> None:
    reading = Reading()
    numbers = [float(number % 100 + 1) for number in range(50_000)]
    windows = [[build_histogram(numbers, window_id="1")], [build_histogram([7.0], window_id="2")]]
    run(export, OpenTelemetrySink(meter=reading.meter), *windows)
    point = reading.point("aiokpl.time")
    assert point.count == MAX_RECORDS + 1
    assert isclose(point.sum, sum(numbers) / 50 + 7.0, rel_tol=0.01)
    assert reading.point("aiokpl.time.count").value == 50_001
    assert reading.point("aiokpl.time.sum").value == sum(numbers) + 7.0
    assert reading.metrics()["aiokpl.time.sum"].unit == "ms"


@pytest.mark.anyio
async def test_what_no_instrument_takes_is_refused_by_name_and_counted() -> None:
    reading = Reading()
    poison = [
        counter("a", -1.0),
        counter("b", float("nan")),
        counter("h", -2.0, kind=MetricKind.HISTOGRAM),
        counter("", 1.0),
    ]
    sink = OpenTelemetrySink(meter=reading.meter)
    async with sink:
        with pytest.raises(PartialExportError, match="negative") as caught:
            await sink.export([*poison, counter("good", 1.0)])
    assert caught.value.rejected == tuple(poison)
    assert sink.refused == {"negative": 2, "not_finite": 1, "malformed": 1}
    assert set(reading.metrics()) == {"aiokpl.good"}


@pytest.mark.anyio
async def test_before_entering_and_of_nothing_export_does_nothing_and_it_enters_twice() -> None:
    reading = Reading()
    sink = OpenTelemetrySink(meter=reading.meter, instrument_prefix="")
    await sink.export([counter("early", 1.0)])
    for number in range(2):
        async with sink:
            await sink.export([])
            await sink.export([counter("late", 1.0, window_id=f"{number}")])
    assert reading.point("late").value == 2.0
    assert set(reading.metrics()) == {"late"}


@pytest.mark.anyio
async def test_a_cancelled_export_goes_on_where_it_was() -> None:
    reading = Reading()
    sink = OpenTelemetrySink(meter=reading.meter)
    window = [counter(f"m{number}", 1.0, window_id="1") for number in range(3_000)]
    async with sink:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sink.export(window)
        assert scope.cancelled_caught
        done = len(reading.metrics())
        await sink.export(window)
    assert 0 < done < 3_000
    metrics = reading.metrics()
    assert len(metrics) == 3_000
    assert {metric.data.data_points[0].value for metric in metrics.values()} == {1.0}


@pytest.mark.anyio
async def test_without_a_meter_it_takes_the_global_provider() -> None:
    async with OpenTelemetrySink() as sink:
        await sink.export([counter("nowhere", 1.0), gauge(1.0), build_histogram([1.0])])


@pytest.mark.anyio
async def test_without_its_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'aiokpl-metricsd\[otel\]'"):
        await OpenTelemetrySink().__aenter__()
