"""The main job: what four producers record is in the daemon's windows, to the last event."""

import msgspec
import pytest

from tests.support import load
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.rows import Row, check_balance, check_windows

PRODUCERS_TIMEOUT_S = 90.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_million_events_of_four_producers_and_a_thousand_series_arrive_to_the_last_one(
    nursery: Nursery,
) -> None:
    daemon = DaemonProcess(nursery).wait_until_accepting()
    producers = [
        nursery.start_python("-m", "tests.support.load", str(daemon.socket_path), str(number))
        for number in range(load.PRODUCERS)
    ]
    for producer in producers:
        assert producer.wait(PRODUCERS_TIMEOUT_S) == 0, producer.stderr
        statistics = msgspec.json.decode(producer.stdout)
        assert statistics["events_sent"] == load.EVENTS // load.PRODUCERS
        assert statistics["events_pending"] == 0
        assert statistics["dropped"] == {}
        assert producer.stderr == ""
    assert daemon.stop() == 0

    rows = daemon.rows()
    check_windows(rows)
    assert len({row.window_id for row in rows}) >= 2
    assert daemon.totals() == load.expect_totals()
    check_series(rows)

    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.events_decoded == ledger.events_closed == load.EVENTS
    assert ledger.events_missing == 0
    assert ledger.datagrams_received == ledger.datagrams_decoded
    assert ledger.events_dropped_by_clients == {}
    assert ledger.series_conflicts == 0
    assert ledger.sinks["windows"]["delivered"] == ledger.sinks["windows"]["closed"] == len(rows)


def check_series(rows: list[Row]) -> None:
    """Assert that buckets hold every event, and that a gauge ends with some producer's last value."""
    last_event = load.EVENTS_PER_SERIES - 1
    kinds = {load.name_of(series): load.kind_of(series) for series in range(load.SERIES)}
    latest: dict[object, Row] = {}
    for row in rows:
        assert row.kind == kinds[row.name]
        assert (row.histogram is not None) == (row.kind == "histogram")
        if row.histogram is not None:
            assert row.histogram.count == row.count
            assert row.p50 is not None
            assert row.p90 is not None
            assert row.p99 is not None
            assert row.min <= row.p50 <= row.p90 <= row.p99 <= row.max
        if row.series not in latest or latest[row.series].window_start < row.window_start:
            latest[row.series] = row
    for series in range(1, load.SERIES, 3):
        key = (load.name_of(series), tuple(sorted(load.dimensions_of(series).items())))
        assert latest[key].last in {
            load.value_of(producer, series, last_event) for producer in range(load.PRODUCERS)
        }
