"""While the daemon is away or does not read: what is folded comes through, exactly; memory stays bounded."""

import gc
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from aiokpl_metrics_client import outbound as module
from aiokpl_metrics_client import statistics as statistics_module
from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.transport import Outcome, Transport
from aiokpl_metrics_protocol import (
    AckFrame,
    ColumnsFrame,
    FoldedFrame,
    Histogram,
    Series,
    decode,
    decode_series,
)
from tests.client.conftest import ClientMaker
from tests.client.door import expand
from tests.client.lane_door import LaneDoor, count_events
from tests.support.polling import wait_for


class FakeWay(Transport):
    """Takes frames as it is told, and keeps whatever came."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.outcome = Outcome.AWAY
        self.frames: list[ColumnsFrame | FoldedFrame] = []

    def send(self, data: bytes) -> Outcome:
        """Take the frame, if that is the outcome."""
        if self.outcome is Outcome.SENT:
            frame = decode(data)
            assert isinstance(frame, (ColumnsFrame, FoldedFrame))
            self.frames.append(frame)
        return self.outcome


class Bench:
    """An `Outbound` whose clock stands still."""

    def __init__(self) -> None:
        self.now = 6_000.001
        self.table = BufferTable(10_000)
        self.way = FakeWay()
        self.outbound = Outbound(self.table, self.way, 9, wall=lambda: self.now, monotonic=lambda: self.now)

    def put(self, name: str, value: float, kind: str | None = None) -> None:
        """Record."""
        self.table.put((name, kind), Series(name, kind), value, self.now)

    def tick(self, seconds: float = 1.0) -> None:
        """Let time pass, drain and send."""
        self.now += seconds
        self.outbound.drain(all_of_it=False)
        self.outbound.send()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "FOLD_BYTES", 2_000)
    return Bench()


def test_past_the_raw_bound_events_are_folded_and_all_come_through(bench: Bench) -> None:
    for second in range(50):
        for number in range(100):
            bench.put("h", second + number / 4, "histogram")
            bench.put("c", 1)
        bench.tick()
    progress = bench.outbound.progress
    assert progress.events_folded == progress.events_in_fold > 0
    assert progress.events_in_fold + progress.events_pending == 10_000
    assert progress.bytes_pending < 2_000 + 2_000
    bench.way.outcome = Outcome.SENT
    bench.tick()
    assert bench.outbound.progress.events_sent == 10_000
    assert (bench.outbound.progress.events_in_fold, bench.outbound.progress.bytes_in_fold) == (0, 0)
    assert [frame.sequence for frame in bench.way.frames] == list(range(1, len(bench.way.frames) + 1))
    sent = 0
    values: defaultdict[int, list[float]] = defaultdict(list)
    merged = Histogram()
    for frame in bench.way.frames:
        assert frame.totals.sent == sent
        sent += count_events(frame)
        if isinstance(frame, ColumnsFrame):
            for column in frame.columns:
                if decode_series(column.series).name == "h":
                    numbers = [float(value) for value in expand(column)]
                    values[column.second].extend(numbers)
                    merged.add_values(numbers, min(numbers), max(numbers))
        else:
            for each in frame.sets:
                if decode_series(each.series).name == "h":
                    assert each.buckets is not None
                    merged.add_buckets(each.buckets)
                    values[each.second].append(each.sum)
    assert sent == 10_000
    expected = [[second + number / 4 for number in range(100)] for second in range(50)]
    # Recorded in one second, drained just after its end.
    assert [sum(values[6_000 + second]) for second in range(50)] == [sum(each) for each in expected]
    flat = [value for each in expected for value in each]
    whole = Histogram()
    whole.add_values(flat, min(flat), max(flat))
    assert merged.freeze() == whole.freeze()


def test_the_daemon_s_windows_are_folded_into_once_they_are_known(bench: Bench) -> None:
    bench.outbound._acknowledge(AckFrame(0, 0, True, 20.0, 1))
    for _ in range(100):
        bench.put("c", 1, "counter")
        for number in range(40):
            bench.put(f"n{number}", 0.5, "gauge")
        bench.tick()
    bench.way.outcome = Outcome.SENT
    bench.tick()
    sets = [each for frame in bench.way.frames if isinstance(frame, FoldedFrame) for each in frame.sets]
    seconds = [each.second for each in sets if decode_series(each.series).name == "c"]
    assert len(seconds) == 5
    assert [second // 20 * 20 for second in seconds] == [6_000, 6_020, 6_040, 6_060, 6_080]


def test_past_the_bound_of_all_events_are_dropped_and_every_event_is_one_or_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 60_000)
    monkeypatch.setattr(module, "FOLD_BYTES_PER_SERIES", 0)
    for _ in range(5):
        for number in range(1_000):
            bench.put(f"n{number}", 2, "counter")
        bench.tick()
        progress = bench.outbound.progress
        assert progress.bytes_pending + progress.bytes_in_fold <= 61_000
    dropped = bench.outbound.dropped()[statistics_module.DropReason.BUFFER_FULL.value]
    progress = bench.outbound.progress
    assert 0 < dropped == 5_000 - progress.events_pending - progress.events_in_fold
    bench.way.outcome = Outcome.SENT
    bench.tick()
    assert sum(count_events(frame) for frame in bench.way.frames) == 5_000 - dropped
    bench.put("more", 1)
    bench.tick()
    assert bench.way.frames[-1].totals.dropped == {"buffer_full": dropped}


@pytest.mark.slow
def test_thousands_of_histograms_have_room_in_the_fold_and_memory_is_bounded(bench: Bench) -> None:
    for number in range(2_000):
        bench.put(f"h{number}", 1.5, "histogram")
    bench.tick()
    recorded = 2_000
    for step in range(30):
        for buffer in bench.table.buffers():
            buffer.values.extend([1.1**step, 2.0])
            recorded += 2
        bench.tick()
    progress = bench.outbound.progress
    assert bench.outbound.dropped() == {}
    assert progress.events_pending + progress.events_in_fold == recorded
    assert progress.bytes_in_fold <= module.MAX_PENDING_BYTES + 2_000 * module.FOLD_BYTES_PER_SERIES


@pytest.mark.slow
def test_series_that_come_and_go_for_hours_take_no_more_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 300_000)
    monkeypatch.setattr(module, "FOLD_BYTES_PER_SERIES", 0)
    table = bench.outbound._table = bench.table = BufferTable(3_000)

    def run(minutes: int) -> int:
        for _ in range(minutes):
            for number in range(1_000):
                bench.put(f"{bench.now}-{number}", 1, "counter")
            bench.tick(60)
            table.retire_idle(bench.now)
        gc.collect()
        # One a bytes object at least, and much quicker to ask for than what tracemalloc would have traced.
        return sys.getallocatedblocks()

    before = run(minutes=6)
    assert run(minutes=120) - before < 5_000
    assert sum(bench.outbound.dropped().values()) + bench.outbound.progress.events_in_fold > 120_000


def test_what_is_folded_is_dropped_with_the_rest_at_the_end(bench: Bench) -> None:
    for _ in range(100):
        bench.put("h", 1.5)
        for number in range(50):
            bench.put(f"n{number}", 0.5)
        bench.tick()
    assert bench.outbound.progress.events_in_fold > 0
    bench.outbound.discard(statistics_module.DropReason.CLOSED)
    assert bench.outbound.dropped() == {"closed": 5_100}
    assert not bench.outbound.is_waiting


def test_a_flush_waits_for_what_was_folded_before_it_and_not_for_what_comes_later(bench: Bench) -> None:
    def fill() -> None:
        for number in range(200):
            bench.put(f"n{number}", 0.5)
        bench.tick()

    fill()
    fill()
    mark = bench.outbound.mark()
    assert mark.unfolds is not None
    fill()
    assert not bench.outbound.is_settled(mark)
    bench.way.outcome = Outcome.SENT
    bench.tick()
    assert bench.outbound.is_settled(mark)
    assert bench.outbound.is_settled(bench.outbound.mark())


def test_a_tight_loop_between_two_drains_loses_nothing() -> None:
    bench = Bench()
    for name in ("a", "b"):
        bench.put(name, 0.5)
    for number, buffer in enumerate(bench.table.buffers()):
        buffer.values.extend(value + 0.5 * number for value in range(600_000))
    bench.tick()
    progress = bench.outbound.progress
    assert progress.bytes_pending < 2 * module.FOLD_BYTES
    assert progress.events_pending + progress.events_in_fold == 1_200_002
    bench.way.outcome = Outcome.SENT
    bench.tick()
    assert sum(count_events(frame) for frame in bench.way.frames) == 1_200_002
    assert bench.outbound.dropped() == {}


def test_what_takes_no_room_and_is_no_number_is_counted_while_folding(bench: Bench) -> None:
    for _ in range(40):
        for number in range(50):
            bench.put(f"n{number}", 0.5)
        bench.put("odd", float("nan"))
        bench.tick()
    assert bench.outbound.dropped() == {"value_invalid": 40}
    bench.way.outcome = Outcome.SENT
    bench.tick()
    assert sum(count_events(frame) for frame in bench.way.frames) == 2_000


@pytest.mark.slow
def test_a_lane_held_back_for_seconds_folds_and_every_total_is_exact(
    directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLD_BYTES", 50_000)
    lanes = LaneDoor(directory / "metrics.sock", interval_s=1.0)
    client = make_client()
    client.put("c")
    with lanes.serving():
        assert client.flush(20.0)
    record = client.histogram("h").record
    recorded = 0
    total = 0.0
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        for _ in range(500):
            value = recorded % 4_001 / 4
            record(value)
            total += value
            recorded += 1
        client.put("c")
        time.sleep(0.005)
    statistics = client.statistics()
    assert statistics.events_folded > 0
    assert statistics.bytes_pending < 1_000_000
    with lanes.serving():
        assert client.flush(30.0)
    lanes.check()
    assert lanes.totals()["h"] == total
    counts = sum(
        each.count
        for frame in lanes.frames
        if isinstance(frame, FoldedFrame)
        for each in frame.sets
        if each.buckets is not None
        and each.count == sum(each.buckets.positive_counts) + each.buckets.zero_count
    )
    assert counts == client.statistics().events_folded
    assert client.statistics().dropped == {}
    lanes.close()


@pytest.mark.parametrize("dies", [False, True])
def test_folded_frames_are_resent_and_acknowledged_like_any_other(
    directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    monkeypatch.setattr(module, "FOLD_BYTES", 1)
    lanes = LaneDoor(directory / "metrics.sock")
    lanes.answers = False
    client = make_client()
    for number in range(1, 5):
        client.put("n", number)
        assert not client.flush(0.05)
    assert client.statistics().events_folded == 3
    lanes.answers = True
    lanes.acknowledges = False
    lanes.read()
    lanes.acknowledge()

    def read() -> bool:
        lanes.read()
        return lanes.events() == 4

    wait_for(read, "all of it")
    if dies:
        lanes.reopen()
    lanes.acknowledges = True
    with lanes.serving():
        lanes.acknowledge()
        client.put("n", 5)
        assert client.flush(20.0)
    assert lanes.totals()["n"] == 15
    assert [type(frame) for frame in lanes.frames] == [ColumnsFrame, FoldedFrame, ColumnsFrame]
    lanes.check()
    lanes.close()
