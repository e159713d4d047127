"""What a manager records, at each level, and what it refuses."""

import logging
from enum import Enum

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd import metrics
from aiokpl_metricsd.metrics import MetricKey, MetricsLevel, MetricsManager
from aiokpl_metricsd.sinks import EventfulMetricsSink, InMemorySink, MetricSnapshot, NullSink
from tests.daemon.metrics_fakes import EPOCH_S, Clock, EventfulSink, build_manager

LOGGER = "aiokpl_metricsd.metrics"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---- what is recorded


def test_everything_promised_is_exported() -> None:
    assert all(hasattr(metrics, name) for name in metrics.__all__)
    assert metrics.NAME_USER_RECORDS_PUT == "UserRecordsPut"


def test_a_manager_without_arguments_is_off_and_has_a_sink() -> None:
    manager = MetricsManager()
    assert manager.level is MetricsLevel.NONE
    assert isinstance(manager.sink, NullSink)


def test_a_level_of_another_enum_and_a_bad_interval_are_refused() -> None:
    class Level(Enum):
        """As aiokpl has one of its own."""

        NONE = "none"

    with pytest.raises(ValueError, match="MetricsLevel"):
        MetricsManager(level=Level.NONE)  # type: ignore[arg-type]
    for interval_ms in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="upload_interval_ms"):
            MetricsManager(upload_interval_ms=interval_ms)


@pytest.mark.anyio
async def test_nothing_happens_at_none() -> None:
    sink = EventfulSink()
    manager = build_manager(sink, level=MetricsLevel.NONE)
    async with manager as entered:
        assert entered is manager
        manager.put("n", float("nan"))
        manager.put("n")
        await manager.flush()
        assert manager._upload is None
    assert (sink.calls, sink.events, manager.snapshot(), manager.snapshots()) == ([], [], {}, ())
    assert manager.ledger.events_refused == {}


def test_detailed_keeps_every_dimension() -> None:
    manager = build_manager()
    manager.put("n", 2, stream="s", shard_id="h", error_code="e")
    manager.put("n", 3.5, stream="s", shard_id="h", error_code="e")
    manager.put("n")
    assert manager.snapshot() == {
        MetricKey("n", "s", "h", "e"): (2, 5.5, 2.0, 3.5),
        MetricKey("n"): (1, 1.0, 1.0, 1.0),
    }


def test_summary_drops_shard_and_error_code() -> None:
    sink = EventfulSink()
    manager = build_manager(sink, level=MetricsLevel.SUMMARY)
    manager.put("n", 1.0, stream="s", shard_id="h")
    manager.put("n", 2.0, stream="s", shard_id="i", error_code="e")
    assert manager.snapshot() == {MetricKey("n", "s"): (2, 3.0, 1.0, 2.0)}
    assert [event.dimensions for event in sink.events] == [(("stream", "s"),)] * 2


def test_snapshots_say_the_same_as_snapshot_in_epoch_seconds() -> None:
    clock = Clock(1000.25)
    manager = build_manager(clock=clock)
    manager.put("UserRecordsPending", 7.0, stream="s")
    clock.now = 1003.0
    manager.put("UserRecordsPending", 4.0, stream="s")
    (snapshot,) = manager.snapshots()
    assert snapshot == MetricSnapshot(
        name="UserRecordsPending",
        count=2,
        sum=11.0,
        min=4.0,
        max=7.0,
        dimensions=(("stream", "s"),),
        window_start=EPOCH_S + 1000.0,
        window_end=EPOCH_S + 1004.0,
        kind=MetricKind.GAUGE,
        unit="count",
        last=4.0,
    )


@pytest.mark.anyio
async def test_the_rolling_view_outlives_a_flush_and_ends_after_sixty_seconds() -> None:
    clock, sink = Clock(1000.0), InMemorySink()
    manager = build_manager(sink, clock)
    manager.put("UserRecordsPending", 3.0)
    await manager.flush()
    clock.now = 1059.0
    await manager.flush()
    assert manager.snapshot() == {MetricKey("UserRecordsPending"): (1, 3.0, 3.0, 3.0)}
    assert manager.snapshots()[0].last == 3.0
    clock.now = 1060.0
    assert (manager.snapshot(), manager.snapshots()) == ({}, ())
    assert len(sink.exports) == 1


@pytest.mark.anyio
async def test_an_idle_series_is_forgotten_but_never_what_is_not_exported() -> None:
    clock = Clock(1000.0)
    manager = build_manager(InMemorySink(), clock)
    manager.put("n")
    clock.now = 1060.0
    assert manager.snapshot() == {}
    await manager.flush()
    assert len(manager._series) == 1
    assert manager.ledger.snapshots_delivered == 1
    await manager.flush()
    assert manager._series == {}
    assert manager.ledger.snapshots_delivered == 1


def test_put_never_raises_and_counts_what_it_refuses(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    manager = build_manager(clock=clock)
    for value in (float("nan"), float("inf"), "1", None):
        manager.put("n", value)  # type: ignore[arg-type]
    manager.put("")
    manager.put("n", stream="")
    manager.put(["n"])  # type: ignore[arg-type]
    manager.put("n", shard_id=3)  # type: ignore[arg-type]
    assert manager.snapshot() == {}
    assert manager.ledger.events_refused == {
        "value_not_finite": 4,
        "name_empty": 1,
        "dimension_empty": 1,
        "wrong_type": 2,
    }
    assert len(caplog.records) == 4, "one line a reason"


def test_refused_events_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(1000.0)
    manager = build_manager(clock=clock)
    for now in (1000.0, 1030.0, 1059.9, 1060.0):
        clock.now = now
        manager.put("poison", float("nan"))
    assert [(record.name, record.levelno) for record in caplog.records] == [(LOGGER, logging.WARNING)] * 2
    assert "4 events" in caplog.messages[1]
    assert "poison" in caplog.messages[1]


def test_a_nan_does_not_poison_the_sums() -> None:
    manager = build_manager()
    for value in (1.0, float("nan"), 2.0):
        manager.put("n", value)
    assert manager.snapshot() == {MetricKey("n"): (2, 3.0, 1.0, 2.0)}


# ---- the events that an eventful sink gets


def test_an_eventful_sink_gets_every_event_at_once_with_epoch_seconds() -> None:
    clock, sink = Clock(1000.25), EventfulSink()
    manager = build_manager(sink, clock)
    manager.put("n", 2, stream="s", shard_id="h")
    clock.now = 1001.5
    manager.put("n", float("nan"))
    manager.put("m")
    assert [(e.name, e.value, e.timestamp, e.dimensions) for e in sink.events] == [
        ("n", 2.0, EPOCH_S + 1000.25, (("stream", "s"), ("shard", "h"))),
        ("m", 1.0, EPOCH_S + 1001.5, ()),
    ]


def test_whether_a_sink_is_eventful_is_asked_once_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = build_manager(EventfulSink())
    monkeypatch.setattr(type(EventfulMetricsSink), "__instancecheck__", lambda *_: pytest.fail("asked again"))
    manager.put("n")
    assert manager.snapshot()[MetricKey("n")] == (1, 1.0, 1.0, 1.0)


def test_a_record_that_raises_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(EventfulSink):
        def record(self, event: object) -> None:
            raise OSError("no")

    manager = build_manager(Broken())
    manager.put("n")
    manager.put("n")
    assert manager.snapshot() == {MetricKey("n"): (2, 2.0, 1.0, 1.0)}
    assert manager.ledger.records_failed == 2
    assert len(caplog.records) == 1
