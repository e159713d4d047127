"""A real aiokpl producer puts records into a Kinesis emulator; the daemon's windows agree with its view."""

import asyncio
from collections.abc import Iterator

import aiokpl
import pytest
from aiokpl.metrics import MetricsManager

from aiokpl_metrics_client import MetricsdSink
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.kinesis import REGION, serve_kinesis
from tests.support.rows import Row, Series, Total, check_balance, check_windows

STREAM = "orders"
SHARDS = 2
RECORDS = 300
DATA = b"x" * 100

OUTCOME_TIMEOUT_S = 30.0

# Of every name that a run without errors brings: kind and unit.
EXPECTED = {
    "UserRecordsReceived": ("counter", "count"),
    "UserRecordsPut": ("counter", "count"),
    "UserRecordsDataPut": ("counter", "bytes"),
    "UserRecordsPending": ("gauge", "count"),
    "KinesisRecordsPut": ("counter", "count"),
    "KinesisRecordsDataPut": ("counter", "bytes"),
    "RetriesPerRecord": ("histogram", "count"),
    "BufferedTime": ("histogram", "ms"),
    "RequestTime": ("histogram", "ms"),
}

LEVELS = pytest.mark.parametrize(
    "level", [aiokpl.MetricsLevel.DETAILED, aiokpl.MetricsLevel.SUMMARY], ids=["detailed", "summary"]
)


@pytest.fixture
def kinesis(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Kinesis emulator with one stream; its address."""
    with serve_kinesis(STREAM, SHARDS) as (endpoint, environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield endpoint


@LEVELS
@pytest.mark.asyncio
async def test_the_windows_agree_with_the_view_of_a_producer(
    nursery: Nursery, kinesis: str, level: aiokpl.MetricsLevel
) -> None:
    daemon = DaemonProcess(nursery).wait_until_accepting()
    sink = MetricsdSink(daemon.socket_path)
    async with aiokpl.Producer(build_config(kinesis, sink, level)) as producer:
        outcomes = [
            await producer.put_record(stream=STREAM, partition_key=f"key-{number}", data=DATA)
            for number in range(RECORDS)
        ]
        results = [await outcome.wait() for outcome in outcomes]
    assert all(result.success for result in results)
    check_agreement(daemon, sink, producer.metrics, level)


@LEVELS
def test_the_windows_agree_with_the_view_of_a_synchronous_producer(
    nursery: Nursery, kinesis: str, level: aiokpl.MetricsLevel
) -> None:
    daemon = DaemonProcess(nursery).wait_until_accepting()
    sink = MetricsdSink(daemon.socket_path)
    with aiokpl.SyncProducer(build_config(kinesis, sink, level)) as producer:
        inner = producer._producer_ref
        assert inner is not None
        outcomes = [
            producer.put_record(stream=STREAM, partition_key=f"key-{number}", data=DATA)
            for number in range(RECORDS)
        ]
        results = [outcome.wait(timeout=OUTCOME_TIMEOUT_S) for outcome in outcomes]
    assert all(result.success for result in results)
    check_agreement(daemon, sink, inner.metrics, level)


@pytest.mark.asyncio
async def test_at_level_none_neither_producer_sends_anything(nursery: Nursery, kinesis: str) -> None:
    daemon = DaemonProcess(nursery).wait_until_accepting()
    sink = MetricsdSink(daemon.socket_path)
    config = build_config(kinesis, sink, aiokpl.MetricsLevel.NONE)
    async with aiokpl.Producer(config) as producer:
        outcome = await producer.put_record(stream=STREAM, partition_key="key", data=DATA)
        assert (await outcome.wait()).success

    def put() -> None:
        with aiokpl.SyncProducer(config) as producer:
            outcome = producer.put_record(stream=STREAM, partition_key="key", data=DATA)
            assert outcome.wait(timeout=OUTCOME_TIMEOUT_S).success

    await asyncio.to_thread(put)
    assert sink.client.flush()
    statistics = sink.client.statistics()
    assert (statistics.state, statistics.series, statistics.dropped) == ("idle", 0, {})
    sink.client.close()
    assert daemon.stop() == 0
    assert (daemon.rows(), daemon.ledger.datagrams_received) == ([], 0)


def build_config(endpoint: str, sink: MetricsdSink, level: aiokpl.MetricsLevel) -> aiokpl.Config:
    """Return what a user writes, with the emulator's address."""
    return aiokpl.Config(
        region=REGION,
        endpoint_url=endpoint,
        aws_access_key_id="fake",
        aws_secret_access_key="fake",
        metrics_sink=sink,
        metrics_level=level,
    )


def check_agreement(
    daemon: DaemonProcess, sink: MetricsdSink, metrics: MetricsManager, level: aiokpl.MetricsLevel
) -> None:
    """Assert that the daemon has every event that the producer counted, and in the right form."""
    # The producer has ended: nothing is added to its view, which still has the last 60 seconds.
    expected = read_view(metrics)
    assert sink.client.flush()
    assert sink.client.statistics().dropped == {}
    sink.client.close()
    assert daemon.stop() == 0
    rows = daemon.rows()
    totals = daemon.totals()
    assert totals.keys() == expected.keys()
    for series, total in totals.items():
        own = expected[series]
        assert (total.count, total.min, total.max) == (own.count, own.min, own.max)
        # Sums of durations differ by the order in which they were added; the others are whole numbers.
        assert total.sum == (pytest.approx(own.sum) if series[0].endswith("Time") else own.sum)
    assert {row.name for row in rows} == EXPECTED.keys()
    for row in rows:
        check_form(row, level)
    assert any("shard" in row.dimensions for row in rows) == (level is aiokpl.MetricsLevel.DETAILED)
    for name, amount in {
        "UserRecordsReceived": RECORDS,
        "UserRecordsPut": RECORDS,
        "UserRecordsDataPut": RECORDS * len(DATA),
        "RetriesPerRecord": 0,
    }.items():
        assert sum(total.sum for (own_name, _), total in totals.items() if own_name == name) == amount
    check_windows(rows)
    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.events_missing == ledger.events_early == 0
    assert ledger.events_refused == ledger.datagrams_rejected == {}


def check_form(row: Row, level: aiokpl.MetricsLevel) -> None:
    """Assert kind, unit and dimensions of a row."""
    assert (row.kind, row.unit) == EXPECTED[row.name]
    assert (row.histogram is not None) == (row.kind == "histogram")
    by_shard = level is aiokpl.MetricsLevel.DETAILED and row.name not in {
        "UserRecordsReceived",
        "UserRecordsPending",
        "RequestTime",
    }
    expected = set() if row.name == "UserRecordsPending" else {"stream"}
    # Records that are put before the shards are known have none.
    assert row.dimensions.keys() - ({"shard"} if by_shard else set()) == expected
    assert row.dimensions.get("stream", STREAM) == STREAM


def read_view(metrics: MetricsManager) -> dict[Series, Total]:
    """Return the producer's own view by series, in the daemon's form."""
    return {
        (key.name, tuple(sorted(key.dimensions()))): Total(*numbers)
        for key, numbers in metrics.snapshot().items()
    }
