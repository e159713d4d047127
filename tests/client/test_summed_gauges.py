"""A summed gauge's last value is told again each second while its process lives, and by nobody else."""

import math

import pytest

from aiokpl_metrics_client import Gauge, MetricsClient
from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.transport import Outcome
from aiokpl_metrics_protocol import SUMMED_GAUGE, Series
from tests.client.conftest import ClientMaker
from tests.client.door import Door
from tests.client.test_outbound import Bench
from tests.support.child import Nursery
from tests.support.polling import wait_for


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bind(table: BufferTable, name: str = "open") -> Gauge:
    """Bind a summed gauge as a client does."""
    gauge = Gauge(print, None)  # type: ignore[arg-type]
    return table.bind(Series(name, SUMMED_GAUGE), gauge)


def test_each_second_has_the_value_that_was_last_and_one_with_a_value_of_its_own_no_other(
    bench: Bench,
) -> None:
    gauge = bind(bench.table)
    gauge.record(3)
    for tenth in range(1, 51):
        if tenth == 25:
            gauge.record(7)
            gauge.record(8)
        bench.clock.advance_to(1_000.001 + tenth / 10)
        bench.drain()
    assert bench.transport.seconds() == [
        *[(1_000, 3.0), (1_001, 3.0), (1_002, 7.0), (1_002, 8.0), (1_003, 8.0), (1_004, 8.0)]
    ]


def test_nothing_is_told_of_a_gauge_without_a_value_and_of_another_series(bench: Bench) -> None:
    bind(bench.table)
    bench.put(1.0, "counter")
    for second in range(1, 4):
        bench.clock.advance_to(1_000.001 + second)
        bench.drain()
    assert bench.transport.seconds() == [(1_000, 1.0)]


def test_a_thread_that_was_held_up_for_seconds_tells_it_once(bench: Bench) -> None:
    bind(bench.table).record(3)
    bench.drain()
    bench.clock.advance_to(1_004.001)
    bench.drain()
    assert bench.transport.seconds() == [(1_000, 3.0), (1_002, 3.0)]


def test_telling_it_keeps_no_idle_client_awake(bench: Bench) -> None:
    bind(bench.table).record(3)
    for second in range(1, 20):
        bench.clock.advance_to(1_000.001 + second)
        bench.drain()
    assert len(bench.transport.seconds()) == 19
    assert bench.outbound.idle_drains == 18


@pytest.mark.parametrize("wrong", [None, "7", math.nan, math.inf, [1], b"7"])
def test_a_wrong_value_is_dropped_and_the_last_right_one_holds(bench: Bench, wrong: object) -> None:
    gauge = bind(bench.table)
    gauge.record(3)
    gauge.record(wrong)  # type: ignore[arg-type]
    bench.clock.advance_to(1_000.1)
    bench.drain()
    gauge.record(wrong)  # type: ignore[arg-type]
    for second in range(1, 3):
        bench.clock.advance_to(1_000.001 + second)
        bench.drain()
    assert bench.transport.seconds() == [(1_000, 3.0), (1_001, 3.0)]
    assert bench.outbound.dropped() == {"value_invalid": 2}


def test_while_the_daemon_is_away_it_is_folded_with_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiokpl_metrics_client.outbound.FOLD_BYTES", 0)
    bench.transport.outcome = Outcome.AWAY
    gauge = bind(bench.table)
    gauge.record(3)
    for second in range(1, 31):
        bench.clock.advance_to(1_000.001 + second)
        bench.drain()
    sets = list(bench.outbound._fold.take())
    assert bench.outbound.progress.events_folded == 30
    assert {(each.min, each.last) for each in sets} == {(3.0, 3.0)}
    assert len({each.last_second for each in sets}) > 1


@pytest.mark.parametrize("merge", ["max", "", None, "SUM", 1])
def test_a_merge_that_there_is_not_is_refused_where_the_gauge_is_made(
    client: MetricsClient, merge: object
) -> None:
    with pytest.raises(ValueError, match="a gauge's merge is one of last, sum, not"):
        client.gauge("open", merge=merge)  # type: ignore[arg-type]


def test_the_kind_goes_over_the_wire_and_stays_with_other_dimensions(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client()
    gauge = client.gauge("open", merge="sum", unit="count")
    client.gauge("level", merge="last").record(1)
    gauge.record(1)
    gauge.with_dimensions(zone="a").record(2)
    assert client.flush()
    door.read()
    assert {series for series in door.series() if series.name == "open"} == {
        Series("open", SUMMED_GAUGE, "count", ()),
        Series("open", SUMMED_GAUGE, "count", (("zone", "a"),)),
    }
    assert {series.kind for series in door.series() if series.name == "level"} == {"gauge"}


@pytest.mark.slow
def test_it_is_told_until_the_client_closes(door: Door, make_client: ClientMaker) -> None:
    client = make_client()
    client.gauge("open", merge="sum").record(5)

    def has_told_thrice() -> bool:
        door.read()
        return len(door.values("open")) >= 3

    wait_for(has_told_thrice, "the value, three times")
    assert client.close()
    door.read()
    door.check()
    told = len(door.values("open"))
    seconds = [column.second for _, column in door.columns()]
    assert len(set(seconds)) == len(seconds)
    assert set(door.values("open")) == {5.0}
    assert client.flush()
    door.read()
    assert len(door.values("open")) == told


@pytest.mark.slow
def test_a_forked_child_has_no_share_until_it_records_one(door: Door, nursery: Nursery) -> None:
    script = nursery.directory / "script.py"
    script.write_text(
        """
import os, sys, time, warnings
from aiokpl_metrics_client import MetricsClient
warnings.simplefilter("ignore", DeprecationWarning)
client = MetricsClient(sys.argv[1])
preloaded = client.gauge("preloaded", merge="sum")
own = client.gauge("own", merge="sum")
preloaded.record(100)
assert client.flush()
pid = os.fork()
own.record(1 if pid else 2)
while client.statistics().events_sent < 3:
    time.sleep(0.01)
client.close()
if pid:
    os.waitpid(pid, 0)
"""
    )
    child = nursery.start_python(str(script), str(door.path))
    while child.is_running():
        door.read()
    assert (child.wait(), child.stderr) == (0, "")
    door.read()
    door.check()
    told: dict[str, set[tuple[int, float]]] = {"preloaded": set(), "own": set()}
    for frame in door.frames:
        for series, column in door.columns():
            if column in frame.columns:
                told[series.name].add((frame.producer_id, float(column.values)))  # type: ignore[arg-type]
    assert {value for _, value in told["preloaded"]} == {100.0}
    assert len({producer for producer, _ in told["preloaded"]}) == 1
    assert {value for _, value in told["own"]} == {1.0, 2.0}
    assert len({producer for producer, _ in told["own"]}) == 2
