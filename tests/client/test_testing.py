"""The kit for tests counts what clients record, by both of its counts, and without waiting."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsClient, MetricsdSink, MetricsLevel
from aiokpl_metrics_client.sender import Sender
from aiokpl_metrics_client.testing import (
    AmbiguousSeriesError,
    Metricsd,
    NotRecordedError,
    RecordedSeries,
    RecordingTransport,
)
from aiokpl_metrics_client.testing.counting import Counting, OwnCounting
from aiokpl_metrics_client.testing.metricsd import build_counting
from aiokpl_metrics_protocol import MetricEvent, MetricKind
from tests.client.conftest import ClientMaker
from tests.client.door import Door


@pytest.fixture(params=["aggregator", "own"])
def kit(request: pytest.FixtureRequest) -> Iterator[Metricsd]:
    with Metricsd(build_aggregator() if request.param == "aggregator" else OwnCounting()) as kit:
        yield kit


def build_aggregator() -> Counting:
    """Return the daemon's own count; the test is skipped where the daemon is not installed."""
    aggregating = pytest.importorskip(
        "aiokpl_metrics_client.testing.aggregating",
        reason="aiokpl-metricsd is not installed",
        exc_type=ImportError,
    )
    counting: Counting = aggregating.AggregatorCounting()
    return counting


def test_what_was_recorded_is_counted_at_once(kit: Metricsd) -> None:
    for _ in range(3):
        kit.client.put("UserRecordsPut", stream="orders", shard_id="1")
    kit.client.put("UserRecordsPut", 5, stream="orders", shard_id="2")
    kit.client.put("UserRecordsPut", 7, stream="returns")
    assert kit.total("UserRecordsPut", stream="orders") == 8
    assert kit.total("UserRecordsPut", shard_id="2") == kit.total("UserRecordsPut", shard=2) == 5
    assert kit.total("UserRecordsPut") == 15
    assert kit.count("UserRecordsPut") == 5
    assert kit.total("UserRecordsPut", shard="") == 7
    assert kit.total("UserRecordsPut", shard=None) == 15
    assert (kit.min("UserRecordsPut"), kit.max("UserRecordsPut")) == (1, 7)


def test_between_two_questions_only_what_came_is_added(kit: Metricsd) -> None:
    counter = kit.client.counter("n")
    for expected in (1, 2, 3):
        counter.record(1)
        assert kit.count("n") == expected
        assert kit.count("n") == expected


def test_the_last_value_of_a_summed_gauge_is_the_sum_of_the_clients(kit: Metricsd) -> None:
    gauges = [
        kit.client.gauge("open", merge="sum", zone="a"),
        kit.build_client().gauge("open", merge="sum", zone="a"),
    ]
    for value in (1.0, 2.0):
        for gauge in gauges:
            gauge.record(value * (1 + gauges.index(gauge)))
            kit.series()
    assert kit.last("open") == 6.0
    (series,) = kit.series("open")
    assert (series.kind, series.count, series.sum) == (MetricKind.GAUGE, 4, 9.0)
    kit.reset()
    gauges[0].record(5)
    assert kit.last("open") == 5.0


def test_each_kind_of_series_is_told_with_all_that_is_known_of_it(kit: Metricsd) -> None:
    client = kit.client
    client.counter("received", unit="bytes", zone="a").record(512)
    for value in (3, 9, 4):
        client.gauge("depth").record(value)
    client.timer("lookup").record(2.5)
    client.put("RequestTime", 7.5, stream="s")
    assert kit.series() == [
        RecordedSeries("RequestTime", (("stream", "s"),), MetricKind.HISTOGRAM, "ms", 1, 7.5, 7.5, 7.5, 7.5),
        RecordedSeries("depth", (), MetricKind.GAUGE, None, 3, 16.0, 3.0, 9.0, 4.0),
        RecordedSeries("lookup", (), MetricKind.HISTOGRAM, "ms", 1, 2.5, 2.5, 2.5, 2.5),
        RecordedSeries(
            "received", (("zone", "a"),), MetricKind.COUNTER, "bytes", 1, 512.0, 512.0, 512.0, 512.0
        ),
    ]
    assert [each.name for each in kit.series("received", zone="a")] == ["received"]
    assert kit.series("received", zone="b") == []


def test_a_unit_that_comes_later_and_negative_values_are_counted_alike(kit: Metricsd) -> None:
    kit.client.put("n", -1)
    kit.client.counter("n", unit="bytes").record(-2.5)
    (series,) = kit.series()
    assert (series.unit, series.count, series.sum, series.min, series.max) == ("bytes", 2, -3.5, -2.5, -1.0)


def test_the_last_value_is_that_of_one_series(kit: Metricsd) -> None:
    depth = kit.client.gauge("depth")
    for queue in ("a", "b"):
        for value in (1, 5, 2):
            depth.with_dimensions(queue=queue).record(value)
    assert kit.last("depth", queue="a") == 2
    depth.with_dimensions(queue="a").record(0)
    assert kit.last("depth", queue="a") == 0
    with pytest.raises(AmbiguousSeriesError, match=r"2 series fit.*depth\{queue=a\}, depth\{queue=b\}"):
        kit.last("depth")


def test_values_and_events_are_in_the_order_of_their_recording(kit: Metricsd) -> None:
    timer = kit.client.timer("t", zone="a")
    for value in (3.0, 1.0, 2.0):
        timer.record(value)
    assert kit.values("t", zone="a") == [3.0, 1.0, 2.0]
    events = kit.events("t")
    assert events == [
        MetricEvent("t", value, event.timestamp, (("zone", "a"),), "histogram", "ms")
        for value, event in zip((3.0, 1.0, 2.0), events, strict=True)
    ]
    assert kit.events("t", zone="b") == kit.events("u") == []
    kit.client.put("u")
    assert len(kit.events()) == 4


def test_a_hundred_thousand_differing_values_are_kept_one_by_one(kit: Metricsd) -> None:
    timer = kit.client.timer("t")
    values = [number + 0.5 for number in range(150_000)]
    for value in values:
        timer.record(value)
    assert kit.count("t") == 150_000
    assert kit.total("t") == sum(values)
    assert kit.values("t") == values


def test_nothing_recorded_totals_zero_and_has_no_least_greatest_or_last_value(kit: Metricsd) -> None:
    assert (kit.total("n"), kit.count("n"), kit.values("n"), kit.series()) == (0, 0, [], [])
    for ask in (kit.min, kit.max, kit.last):
        with pytest.raises(NotRecordedError, match="nothing was recorded\nn was not recorded"):
            ask("n")


def test_the_explanation_lists_what_was_recorded_and_what_may_have_been_meant(kit: Metricsd) -> None:
    kit.client.put("UserRecordsPut", 2, stream="orders")
    kit.client.gauge("depth", unit="items").record(4)
    assert kit.count("userRecordPut", stream="orders") == 0
    assert kit.count("depth", queue="a") == 0
    assert kit.count("later") == 0
    kit.client.put("later")
    lines = kit.explain().splitlines()
    assert lines[0].startswith("recorded, by the count of the ")
    assert lines[0].endswith(": 3 events in 3 series")
    assert lines[1:] == [
        "  UserRecordsPut{stream=orders}: counter in count, count 1, sum 2, min 2, max 2, last 2",
        "  depth: gauge in items, count 1, sum 4, min 4, max 4, last 4",
        "  later: counter, count 1, sum 1, min 1, max 1, last 1",
        "userRecordPut{stream=orders} was not recorded; did you mean UserRecordsPut?",
        "depth{queue=a} was not recorded; depth was, with other dimensions",
    ]


def test_a_long_explanation_is_cut(kit: Metricsd) -> None:
    for number in range(60):
        kit.client.put(f"n{number:02}")
    assert "  and 10 series more" in kit.explain().splitlines()
    assert repr(kit) == "<Metricsd: 60 events: n00: 1, n01: 1, n02: 1, n03: 1, n04: 1, and 55 series more>"


def test_the_repr_says_what_was_recorded(kit: Metricsd) -> None:
    assert repr(kit) == "<Metricsd: nothing recorded>"
    kit.client.put("n", zone="a")
    assert repr(kit) == "<Metricsd: 1 event: n{zone=a}: 1>"


def test_dropped_events_are_told_by_reason(kit: Metricsd) -> None:
    kit.client.put("n", float("nan"))
    kit.client.counter("m").record(None)  # type: ignore[arg-type]
    kit.client.put("", zone="a")
    assert kit.dropped() == {"series_invalid": 1, "value_invalid": 2}
    assert "dropped by the client: 1 as series_invalid, 2 as value_invalid" in kit.explain()
    kit.reset()
    assert kit.dropped() == {}
    kit.client.close()
    kit.client.put("n")
    assert kit.dropped() == {"closed": 1}


def test_a_reset_forgets_what_was_recorded_until_then(kit: Metricsd) -> None:
    counter = kit.client.counter("n")
    counter.record(1)
    kit.count("m")
    kit.reset()
    assert (kit.series(), kit.events(), kit.explain()) == ([], [], "nothing was recorded")
    counter.record(5)
    assert (kit.total("n"), kit.values("n")) == (5, [5])


def test_further_clients_have_levels_and_dimensions_of_their_own(kit: Metricsd) -> None:
    summary = kit.build_client(level=MetricsLevel.SUMMARY, dimensions={"service": "shop"})
    summary.put("n", shard_id="1")
    kit.build_client(level=MetricsLevel.NONE).put("n")
    assert [each.dimensions for each in kit.series()] == [(("service", "shop"),)]


def test_the_variable_that_disables_clients_does_not_disable_those_of_the_kit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_DISABLED", "1")
    with Metricsd() as kit:
        kit.client.put("n")
        assert kit.count("n") == 1
        assert os.environ["AIOKPL_METRICSD_DISABLED"] == "1"
        MetricsClient().put("n")
        kit.capture()
        MetricsClient().put("n")
        assert kit.count("n") == 2
    assert os.environ["AIOKPL_METRICSD_DISABLED"] == "1"


def test_threads_may_record_and_ask_at_once(kit: Metricsd) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        barrier.wait(30)
        try:
            for _ in range(1_000):
                work()
        except BaseException as failure:  # noqa: BLE001 - reported below
            failures.append(failure)

    counter = kit.client.counter("n")
    others = kit.build_client()
    works: list[Callable[[], object]] = [
        lambda: counter.record(1),
        lambda: kit.client.put("n"),
        lambda: others.put("n"),
        lambda: others.put("n", zone="a"),
        lambda: kit.count("n"),
        lambda: kit.total("n"),
    ]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert kit.count("n") == len(kit.events()) == 4_000


def test_no_thread_is_started(kit: Metricsd) -> None:
    before = threading.active_count()
    kit.client.put("n")
    kit.client.counter("m").record(1)
    assert (kit.count("n"), threading.active_count()) == (1, before)


def test_the_code_under_test_may_flush_close_and_let_go_of_its_client(kit: Metricsd) -> None:
    with kit.build_client() as client:
        client.put("n")
        assert client.flush(0.0)
        assert client.statistics().events_sent == 1
    kit.capture()
    MetricsClient().put("n")
    assert kit.count("n") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_what_a_forked_child_records_is_not_seen_and_goes_nowhere(
    door: Door, make_client: ClientMaker
) -> None:
    with Metricsd() as kit:
        kit.capture()
        client = make_client()
        client.put("n")
        pid = os.fork()
        if not pid:
            client.put("n")
            client.flush()
            os._exit(0 if kit.count("n") == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        client.put("n")
        assert kit.count("n") == 2
    assert door.read() == 0


def test_clients_and_instruments_that_were_there_before_are_captured_and_let_go(
    door: Door, client: MetricsClient
) -> None:
    counter = client.counter("n")
    counter.record(1)
    client.put("p", 1)
    with Metricsd() as kit:
        kit.capture()
        kit.capture()
        counter.record(10)
        client.put("p", 10)
        client.put("q", 10)
        assert (kit.values("n"), kit.values("p"), kit.values("q")) == ([10], [10], [10])
        counter.record(10)
        assert client.flush()
    assert kit.total("n") == 20
    counter.record(100)
    client.put("q", 100)
    assert client.flush()
    door.read()
    door.check()
    assert (door.values("n"), door.values("p"), door.values("q")) == ([1, 100], [1], [100])
    assert kit.total("n") == 20


def test_clients_that_are_made_meanwhile_are_captured(door: Door, make_client: ClientMaker) -> None:
    with Metricsd() as kit:
        kit.capture()
        client = make_client()
        client.put("n", 10)
        assert kit.total("n") == 10
        client.put("n", 10)
    assert kit.total("n") == 20
    client.put("n", 100)
    # Its thread runs again, so that nobody needs to flush.
    door.wait_for_events(1)
    assert door.values("n") == [100]


def test_without_capture_other_clients_are_left_alone(
    door: Door, client: MetricsClient, kit: Metricsd
) -> None:
    client.put("n")
    assert kit.count("n") == 0
    assert client.flush()
    door.wait_for_events(1)


def test_one_at_a_time_captures(kit: Metricsd) -> None:
    kit.capture()
    with Metricsd() as other, pytest.raises(RuntimeError, match="another Metricsd"):
        other.capture()
    assert Sender.observer is not None
    kit.close()
    assert Sender.observer is None
    with Metricsd() as other:
        other.capture()


def test_the_sink_of_aiokpl_is_tested_with_the_same_client(kit: Metricsd) -> None:
    sink = MetricsdSink(client=kit.client)
    sink.record(MetricEvent("UserRecordsPut", 3.0, 0.0, (("stream", "orders"),)))
    assert kit.total("UserRecordsPut", stream="orders") == 3


def test_a_recording_transport_works_by_itself(make_client: ClientMaker, tmp_path: Path) -> None:
    transport = RecordingTransport()
    one, other = make_client(tmp_path / "a"), make_client(tmp_path / "b")
    transport.attach(one)
    transport.attach(other)
    one.put("n", 1, zone="a")
    other.gauge("m").record(2)
    assert one.flush(0.0)
    assert other.flush(0.0)
    found = [(each.name, each.value, each.dimensions, each.kind) for each in transport.events()]
    assert found == [("n", 1.0, (("zone", "a"),), None), ("m", 2.0, (), "gauge")]
    assert len(transport.frames) == 2
    one.redirect(None)
    one.put("n")
    assert not one.flush(0.0)
    assert len(transport.events()) == 2


def test_the_aggregator_counts_where_the_daemon_is_installed_in_this_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aggregator = type(build_aggregator())
    assert isinstance(build_counting(), aggregator)
    with monkeypatch.context() as patch:
        patch.setattr("aiokpl_metricsd.__version__", "0.0.9")
        assert isinstance(build_counting(), OwnCounting)
    monkeypatch.setitem(__import__("sys").modules, "aiokpl_metricsd", None)
    assert isinstance(build_counting(), OwnCounting)
    with Metricsd() as kit:
        kit.client.put("n")
        assert kit.count("n") == 1
        assert "the test kit itself" in kit.explain()


def test_both_counts_say_the_same(client: MetricsClient) -> None:
    kits = [Metricsd(build_aggregator()), Metricsd(OwnCounting())]
    found: list[Any] = []
    for kit in kits:
        with kit:
            for name in ("UserRecordsPut", "BufferingTime", "own"):
                for value in (1, 2.5, -3, True, 1, 1):
                    kit.client.put(name, value, stream="s")
                    kit.client.histogram(name, unit="bytes").record(value)
            found.append(kit.series())
    assert found[0] == found[1]
