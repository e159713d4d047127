"""Sinks that see different things of the same windows; what they have in common adds up."""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import wait_for
from tests.support.rows import Row, Total, check_balance, check_windows, read_rows, total_rows

SECONDS = 3.5
SHARDS = ("shard-0", "shard-1", "shard-2")
CODES = ("Throttled", "Internal")

SUMMARY = """
[sinks.summary]
type = "jsonl"
path = "{directory}/summary.jsonl"
level = "summary"
interval_s = 2
"""

CHOSEN = """
[sinks.chosen]
type = "jsonl"
path = "{directory}/chosen.jsonl"
include = ["User*", "Request*"]
exclude = ["*Pending"]
"""

DROPPING = """
[sinks.dropping]
type = "jsonl"
path = "{directory}/dropping.jsonl"
drop_dimensions = ["shard", "host"]
interval_s = 1
"""

TABLE = """
[sinks.table]
type = "console"
format = "json"
include = ["UserRecordsPut"]
level = "summary"
"""


def test_sinks_with_different_selections_conserve_the_totals(nursery: Nursery) -> None:
    config = f"{SUMMARY}{CHOSEN}{DROPPING}{TABLE}".format(directory=nursery.directory)
    constant = '[dimensions]\nhost = "a"\n'
    daemon = DaemonProcess(nursery, config + constant, grace_s=0.5).wait_until_listening()
    rounds = record(daemon.socket_path)
    assert daemon.stop() == 0

    base = daemon.rows()
    assert all(row.dimensions["host"] == "a" for row in base)
    check_summary(read_rows(nursery.directory / "summary.jsonl"), base)
    check_chosen(read_rows(nursery.directory / "chosen.jsonl"), base)
    check_dropping(read_rows(nursery.directory / "dropping.jsonl"), base)
    printed = [msgspec.json.decode(line, type=Row) for line in daemon.stdout.splitlines()]
    assert total_rows(printed) == {
        ("UserRecordsPut", (("host", "a"), ("stream", "orders"))): Total(3 * rounds, 6 * rounds, 1, 3)
    }
    for rows in (base, printed):
        check_windows(rows)
    ledger = daemon.ledger
    check_balance(ledger)
    assert {sink["closed"] for sink in ledger.sinks.values()} == {len(base)}
    assert ledger.sinks["windows"]["delivered"] == len(base)
    for name, wanted in (("chosen", "filtered"), ("summary", "merged"), ("dropping", "merged")):
        sink = ledger.sinks[name]
        assert sink[wanted] > 0
        assert sink["delivered"] + sink[wanted] == sink["closed"]


def test_a_longer_window_is_exported_though_no_further_event_comes(nursery: Nursery) -> None:
    config = SUMMARY.format(directory=nursery.directory)
    daemon = DaemonProcess(nursery, config, grace_s=0).wait_until_listening()
    # In the first second of two: the base window that would complete the longer one stays empty.
    wait_for(lambda: time.time() % 2 < 0.5, "an even second")
    row = MetricEvent("alone", 1.0, float(int(time.time())))
    send_datagram(daemon.socket_path, encode(EventsFrame([row])))
    wait_for(lambda: read_rows(nursery.directory / "summary.jsonl"), "the longer window", 10.0)
    assert daemon.stop() == 0


def record(socket_path: Path) -> int:
    """Record for some seconds, so that several windows are closed; return how many rounds."""
    rounds = 0
    deadline = time.monotonic() + SECONDS
    with MetricsClient(socket_path) as client:
        while time.monotonic() < deadline:
            for number, shard in enumerate(SHARDS):
                client.put("UserRecordsPut", number + 1, stream="orders", shard_id=shard)
                client.put("RequestTime", 10 * number, stream="orders", shard_id=shard)
            for code in CODES:
                client.put("ErrorsByCode", 1, stream="orders", error_code=code)
            client.put("UserRecordsPending", rounds, stream="orders")
            rounds += 1
            time.sleep(0.01)
        assert client.flush()
    return rounds


def check_summary(rows: list[Row], base: list[Row]) -> None:
    """Assert that everything is there, without shards and codes, in windows of two seconds."""
    check_windows(rows)
    assert add_by_name(rows) == add_by_name(base)
    assert all(row.dimensions.keys() == {"stream", "host"} for row in rows)
    assert len({row.name for row in rows}) == len({row.series for row in rows}) == 4
    # All but the first and the last are whole: these begin and end with the daemon.
    bounds = sorted({(row.window_start, row.window_end) for row in rows})
    assert len(bounds) >= 2
    assert all(end - start == 2 for start, end in bounds[1:-1])
    assert all(start // 2 == (end - 1) // 2 for start, end in bounds)
    for row in rows:
        if row.histogram is not None:
            assert row.histogram.count == row.count


def check_chosen(rows: list[Row], base: list[Row]) -> None:
    """Assert that the chosen names are there, untouched."""
    check_windows(rows)
    assert {row.name for row in rows} == {"UserRecordsPut", "RequestTime"}
    expected = [row for row in base if row.name in {"UserRecordsPut", "RequestTime"}]
    assert sorted(rows, key=identify) == sorted(expected, key=identify)


def check_dropping(rows: list[Row], base: list[Row]) -> None:
    """Assert that everything is there without the dropped dimensions."""
    check_windows(rows)
    assert add_by_name(rows) == add_by_name(base)
    for row in rows:
        assert row.dimensions.keys() == (
            {"stream", "error_code"} if row.name == "ErrorsByCode" else {"stream"}
        )


def add_by_name(rows: Iterable[Row]) -> dict[str, Total]:
    """Return the totals of each name over all its series."""
    return {
        name: total
        for (name, _), total in total_rows(
            [msgspec.structs.replace(row, dimensions={}) for row in rows]
        ).items()
    }


def identify(row: Row) -> tuple[float, object]:
    """Return what tells rows apart."""
    return row.window_start, row.series


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('level = "none"', "level"),
        ("interval_s = 3", "interval_s"),
    ],
)
def test_a_selection_that_cannot_be_is_refused_at_the_start(
    nursery: Nursery, extra: str, expected: str
) -> None:
    config = f'[sinks.odd]\ntype = "null"\n{extra}\n'
    daemon = DaemonProcess(nursery, config, interval_s=2)
    assert daemon.wait() == 2
    (line,) = daemon.stderr.splitlines()
    assert line.startswith(f"{daemon.config_path}: [sinks.odd] {expected}: expected ")
