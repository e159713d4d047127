"""The tap: every event to the sinks that want each, and nothing else depends on it."""

import logging

import pytest

from aiokpl_metrics_protocol import (
    SUMMED_GAUGE,
    Column,
    MetricEvent,
    MetricsLevel,
    Row,
    Series,
    decode_deferred,
    encode_series,
)
from aiokpl_metrics_protocol.codec import encode
from aiokpl_metrics_protocol.frames import EventsFrame, RowsFrame
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.tap import MAX_EVENTS_PER_COLUMN, Outlet, Tap

NOW = 1_700_000_000.5
SERIES = Series("Latency", "histogram", "ms", (("shard", "1"), ("stream", "orders")))


class Recorder:
    """Keeps the events that an outlet hands to it."""

    def __init__(self, *, failing: bool = False) -> None:
        self.events: list[MetricEvent] = []
        self.failing = failing

    def record(self, event: MetricEvent) -> None:
        if self.failing:
            raise RuntimeError("no")
        self.events.append(event)


def build(*selections: Selection, failing: bool = False) -> tuple[Aggregator, Tap, list[Recorder]]:
    ledger = Ledger()
    registry = Registry(ledger, max_series=2)
    aggregator = Aggregator(registry, Windows(60, int(NOW) - 60), ledger, live_series=10)
    recorders = [Recorder(failing=failing) for _ in selections]
    outlets = [
        Outlet(f"sink{number}", selection, recorder.record)
        for number, (selection, recorder) in enumerate(zip(selections, recorders, strict=True))
    ]
    return aggregator, Tap(registry, outlets), recorders


def send(aggregator: Aggregator, tap: Tap, *columns: Column) -> None:
    aggregator.add_columns(columns, NOW)
    tap.record_columns(columns)


def test_each_value_of_a_column_is_an_event_of_its_second() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    send(aggregator, tap, Column(encode_series(SERIES), int(NOW), [1.0, 2.5]))
    expected = [
        MetricEvent("Latency", value, float(int(NOW)), SERIES.dimensions, "histogram", "ms")
        for value in (1.0, 2.5)
    ]
    assert recorder.events == expected
    assert tap.outlets[0].recorded == 2


def test_a_column_of_equal_values_is_recorded_up_to_the_bound_and_the_rest_withheld() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    send(aggregator, tap, Column(encode_series(SERIES), int(NOW), 1.0, MAX_EVENTS_PER_COLUMN + 7))
    assert len(recorder.events) == MAX_EVENTS_PER_COLUMN
    assert tap.outlets[0].withheld == 7


def test_an_event_of_a_summed_gauge_says_that_it_is_one() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    for producer, value in ((1, 3.0), (2, 4.0)):
        column = Column(encode_series(Series("open", SUMMED_GAUGE)), int(NOW), value)
        aggregator.add_columns([column], NOW, producer)
        tap.record_columns([column])
    assert [(event.name, event.value, event.kind) for event in recorder.events] == [
        ("open", 3.0, "gauge_sum"),
        ("open", 4.0, "gauge_sum"),
    ]
    assert tap.outlets[0].withheld == 0


def test_a_row_keeps_its_own_time_and_one_without_is_of_now() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    frame = decode_deferred(
        encode(EventsFrame([MetricEvent("a", 1.0, NOW - 1.25), MetricEvent("a", 2.0, 0.0)]))
    )
    assert isinstance(frame, RowsFrame)
    rows: list[Row] = frame.events
    aggregator.add_rows(rows, NOW)
    tap.record_rows(rows, NOW)
    assert [event.timestamp for event in recorder.events] == [NOW - 1.25, NOW]


def test_a_sink_sees_of_events_what_it_sees_of_windows() -> None:
    aggregator, tap, (summary, other) = build(
        Selection(level=MetricsLevel.SUMMARY), Selection(exclude=("Lat*",))
    )
    send(aggregator, tap, Column(encode_series(SERIES), int(NOW), 1.0))
    assert [event.dimensions for event in summary.events] == [(("stream", "orders"),)]
    assert other.events == []


def test_a_value_that_is_not_finite_is_withheld() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    send(aggregator, tap, Column(encode_series(SERIES), int(NOW), [1.0, float("nan")]))
    assert [event.value for event in recorder.events] == [1.0]
    assert tap.outlets[0].withheld == 1


def test_what_shares_an_overflow_series_is_withheld() -> None:
    aggregator, tap, (recorder,) = build(Selection())
    for number in range(4):
        send(aggregator, tap, Column(encode_series(Series(f"name{number}")), int(NOW), 1.0))
    assert [event.name for event in recorder.events] == ["name0", "name1"]
    assert tap.outlets[0].withheld == 2


def test_a_sink_that_raises_costs_its_own_events_only(caplog: pytest.LogCaptureFixture) -> None:
    aggregator, tap, _ = build(Selection(), failing=True)
    with caplog.at_level(logging.ERROR):
        send(aggregator, tap, Column(encode_series(SERIES), int(NOW), [1.0, 2.0]))
    assert tap.outlets[0].withheld == 2
    assert len(caplog.records) == 1
