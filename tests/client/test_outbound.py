"""With clocks of its own: events are encoded as of their second, and what cannot wait is counted."""

import pytest

from aiokpl_metrics_client import outbound as module
from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.statistics import State
from aiokpl_metrics_client.transport import Outcome, Transport, Way
from aiokpl_metrics_protocol import ColumnsFrame, Series, decode
from tests.client.door import count_events, expand


class Clock:
    """A wall clock and a monotonic one that stand still."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.elapsed = 5_000.0

    def advance_to(self, now: float) -> None:
        """Let time pass."""
        self.elapsed += now - self.now
        self.now = now

    def step_to(self, now: float) -> None:
        """Set the wall clock; no time passes."""
        self.now = now


class FakeTransport(Transport):
    """Takes frames as it is told."""

    def __init__(self) -> None:
        super().__init__("fake")
        self.outcome = Outcome.SENT
        self.frames: list[ColumnsFrame] = []
        self.sizes: list[int] = []

    def send(self, data: bytes) -> Outcome:
        """Take the frame, if that is the outcome."""
        if self.outcome is Outcome.SENT:
            frame = decode(data)
            assert isinstance(frame, ColumnsFrame)
            self.frames.append(frame)
            self.sizes.append(len(data))
        return self.outcome

    def seconds(self) -> list[tuple[int, float]]:
        """Return the second of each value that came."""
        columns = [column for frame in self.frames for column in frame.columns]
        return [(column.second, value) for column in columns for value in expand(column)]


class Bench:
    """An `Outbound` with everything around it."""

    def __init__(self, now: float = 1_000.001) -> None:
        self.clock = Clock(now)
        self.table = BufferTable(100)
        self.transport = FakeTransport()
        self.outbound = Outbound(
            self.table, self.transport, 9, wall=lambda: self.clock.now, monotonic=lambda: self.clock.elapsed
        )

    def put(self, value: float, name: str = "n") -> None:
        """Record."""
        self.table.put(name, Series(name), value, self.clock.elapsed)

    def drain(self) -> None:
        """Drain and send."""
        self.outbound.drain(all_of_it=False)
        self.outbound.send()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("last", "recorded", "drained", "second"),
    [
        (1_000.001, 1_000.05, 1_000.1, 1_000),
        (1_000.901, 1_000.95, 1_001.001, 1_000),
        (1_000.901, 1_000.97, 1_001.06, 1_000),
        (1_000.001, 1_000.5, 1_001.001, 1_000),
        (1_000.001, 1_001.9, 1_003.9, 1_001),
    ],
    ids=["within a second", "at the boundary", "just late", "after an idle second", "after three held up"],
)
def test_events_have_the_second_in_which_they_came(
    bench: Bench, last: float, recorded: float, drained: float, second: int
) -> None:
    bench.clock.advance_to(last)
    bench.drain()
    bench.clock.advance_to(recorded)
    bench.put(1.0)
    bench.clock.advance_to(drained)
    bench.drain()
    assert bench.transport.seconds() == [(second, 1.0)]


@pytest.mark.parametrize("wall", [10.5, 1_000_000.5])
def test_a_step_of_the_clock_moves_events_to_the_new_time_and_nowhere_between(
    bench: Bench, wall: float
) -> None:
    bench.put(1.0)
    bench.clock.advance_to(1_000.1)
    bench.clock.step_to(wall)
    bench.drain()
    assert bench.transport.seconds() == [(int(wall), 1.0)]


def test_while_held_back_each_second_keeps_its_own_events(bench: Bench) -> None:
    bench.transport.outcome = Outcome.FULL
    for tenth in range(1, 36):
        bench.put(tenth)
        bench.clock.advance_to(1_000.001 + tenth / 10)
        bench.drain()
    held_back = bench.outbound.state
    bench.transport.outcome = Outcome.SENT
    bench.drain()
    assert bench.transport.seconds() == [(1_000 + (tenth - 1) // 10, tenth) for tenth in range(1, 36)]
    assert (held_back, bench.outbound.state) == (State.HELD_BACK, State.CONNECTED)


def test_with_much_waiting_the_buffers_are_drained_once_a_second_and_keep_their_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLOW_DRAIN_BYTES", 0)
    bench.transport.outcome = Outcome.AWAY
    for tenth in range(1, 31):
        bench.put(tenth)
        bench.clock.advance_to(1_000.001 + tenth / 10)
        bench.drain()
    # The first drain, since nothing waited then, and one at each boundary.
    assert bench.outbound.progress.frames_made == 4
    bench.transport.outcome = Outcome.SENT
    bench.drain()
    assert bench.transport.seconds() == [(1_000 + (tenth - 1) // 10, tenth) for tenth in range(1, 31)]


def test_past_the_bound_events_are_dropped_counted_and_reported_on_the_wire(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING_BYTES", 5_000)
    bench.transport.outcome = Outcome.AWAY
    for second in range(1_001, 1_101):
        for value in range(50):
            bench.put(value + 0.5)
        bench.clock.advance_to(second + 0.001)
        bench.drain()
    progress = bench.outbound.progress
    assert progress.bytes_pending < 5_000 + 600
    dropped = progress.events_without_room
    assert dropped > 0
    assert progress.events_pending + dropped == 5_000
    assert bench.outbound.dropped() == {"buffer_full": dropped}
    bench.transport.outcome = Outcome.SENT
    bench.drain()
    bench.put(1.0)
    bench.drain()
    assert sum(count_events(frame) for frame in bench.transport.frames) == 5_001 - dropped
    assert bench.transport.frames[-1].totals.dropped == {"buffer_full": dropped}


def test_drops_alone_are_reported_at_the_next_second_in_one_frame_however_long_the_daemon_is_away(
    bench: Bench,
) -> None:
    bench.transport.outcome = Outcome.AWAY
    bench.put(float("nan"))
    for second in range(1_001, 1_101):
        bench.put(float("nan"))
        bench.clock.advance_to(second + 0.001)
        bench.drain()
    assert bench.outbound.progress.frames_made == 1
    bench.transport.outcome = Outcome.SENT
    bench.drain()
    bench.clock.advance_to(1_102.001)
    bench.drain()
    assert [frame.totals.dropped for frame in bench.transport.frames] == [
        {"value_invalid": 2},
        {"value_invalid": 101},
    ]


def test_a_frame_too_large_for_the_system_is_counted_here_and_missing_there(bench: Bench) -> None:
    bench.transport.outcome = Outcome.TOO_LARGE
    bench.put(1.0)
    bench.drain()
    assert bench.outbound.dropped() == {"frame_too_large": 1}
    assert "net.core.wmem_max" in bench.transport.problem
    bench.transport.outcome = Outcome.SENT
    bench.put(2.0)
    bench.drain()
    (frame,) = bench.transport.frames
    assert (frame.sequence, frame.totals.sent, frame.totals.dropped) == (2, 1, {})


def test_where_there_are_no_unix_sockets_events_are_counted_as_unsupported(bench: Bench) -> None:
    bench.transport.outcome = Outcome.AWAY
    bench.transport.supported = False
    bench.put(1.0)
    bench.drain()
    assert bench.outbound.state is State.UNSUPPORTED
    assert bench.outbound.dropped() == {"unsupported": 1}
    assert bench.outbound.progress.bytes_pending == 0


def test_events_of_the_overflow_series_are_counted_however_they_were_recorded(bench: Bench) -> None:
    for number in range(103):
        bench.put(1.0, f"n{number}")
    bench.drain()
    assert bench.outbound.progress.events_overflowed == 3


def test_every_count_agrees_at_each_step(bench: Bench) -> None:
    recorded = 0
    for step, outcome in enumerate([Outcome.SENT, Outcome.FULL, Outcome.AWAY, Outcome.SENT] * 20):
        bench.transport.outcome = outcome
        for _ in range(step):
            bench.put(1.0)
        recorded += step
        bench.clock.advance_to(bench.clock.now + 0.3)
        bench.drain()
        progress = bench.outbound.progress
        assert progress.events_sent + progress.events_pending == recorded
        assert progress.events_sent == sum(count_events(frame) for frame in bench.transport.frames)


@pytest.mark.parametrize(
    ("way", "most"), [(Way.NONE, 30_000), (Way.LANE, 30_000), (Way.FRONT_DOOR, 60_000)], ids=repr
)
def test_only_on_the_front_door_whose_queue_counts_datagrams_frames_are_as_large_as_they_may(
    way: Way, most: int
) -> None:
    bench = Bench()
    # Of before it was known.
    bench.put(1.0)
    bench.drain()
    bench.transport.way = way
    bench.transport.sizes.clear()
    values = [number + 0.5 for number in range(20_000)]
    for number, value in enumerate(values):
        bench.put(value, f"n{number % 50}")
    bench.drain()
    assert most * 0.75 < max(bench.transport.sizes) <= most
    arrived = [value for _, value in bench.transport.seconds()]
    assert sorted(arrived) == sorted([1.0, *values])
