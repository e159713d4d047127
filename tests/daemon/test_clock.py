"""Time -> closed windows: after the grace and a pass, once, under steps of the wall clock."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.aggregating.windows import MAX_OPEN_WINDOWS, Window
from aiokpl_metricsd.clock import TICK_S, SystemClock, WindowClock
from aiokpl_metricsd.delivering.slicing import run_at_once
from tests.daemon.aggregation import BEGIN, Bench, build_column


class HandClock:
    """A clock that is moved by hand. Sleeping lets its own time pass and returns at once."""

    def __init__(self, wall: float = BEGIN) -> None:
        self.wall = wall
        self.up = 50.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.up

    async def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)
        await asyncio.sleep(0)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds


class Tower:
    """A window clock over an aggregator, and the passes that it asked for."""

    def __init__(self, interval_s: int = 60, grace_s: float = 2.0) -> None:
        self.clock = HandClock()
        self.bench = Bench(interval_s=interval_s)
        self.window_clock = WindowClock(
            self.clock, self.bench.aggregator, self.bench.windows, self.bench.ledger, grace_s=grace_s
        )
        self.passes = 0
        self.on_pass: Callable[[], None] = lambda: None

    def read_pass(self) -> Iterator[None]:
        yield
        self.passes += 1
        self.on_pass()

    def record(self, second: int) -> None:
        self.bench.aggregator.add_columns([build_column(1.0, second)], self.clock.wall)

    def tick(self) -> list[tuple[int, int, int]]:
        closed = run_at_once(self.window_clock.tick(self.read_pass))
        return [(window.start - BEGIN, window.end - BEGIN, window.events) for window in closed]


def test_a_window_closes_when_its_grace_has_passed_and_only_after_a_pass_over_the_socket() -> None:
    tower = Tower()
    tower.record(BEGIN)
    tower.clock.pass_by(61.9)
    assert tower.tick() == []
    assert tower.passes == 0
    tower.clock.pass_by(0.1)
    # What the pass finds queued counts in the window that is about to close.
    tower.on_pass = lambda: tower.record(BEGIN + 59)
    assert tower.tick() == [(0, 60, 2)]
    assert tower.passes == 1
    assert tower.bench.ledger.events_late == 0
    assert tower.tick() == []


def test_without_an_open_window_nothing_is_read_or_closed() -> None:
    tower = Tower()
    tower.clock.pass_by(1_000)
    assert tower.tick() == []
    assert tower.passes == 0


def test_none_closes_in_the_first_grace_of_the_daemon() -> None:
    tower = Tower(interval_s=1, grace_s=5.0)
    tower.record(BEGIN)
    tower.clock.wall += 100
    assert tower.tick() == []
    tower.clock.pass_by(4.9)
    assert tower.tick() == []
    tower.clock.pass_by(0.1)
    assert tower.tick() == [(0, 1, 1)]


@pytest.mark.parametrize(("interval_s", "grace_s"), [(1, 1.0), (1, 60.0), (5, 7.5), (60, 60.0)])
def test_with_a_grace_as_long_as_a_window_several_are_open_and_each_keeps_its_own_events(
    interval_s: int, grace_s: float
) -> None:
    tower = Tower(interval_s, grace_s)
    recorded: Counter[int] = Counter()
    closed: Counter[int] = Counter()
    most_open = 0
    for _ in range(int((3 * interval_s + 2 * grace_s) / TICK_S)):
        now = int(tower.clock.wall)
        # One now, one as late as it may be, one as early as it may be.
        for second in (now, max(BEGIN, now - int(grace_s)), now + interval_s):
            tower.record(second)
            recorded[second - second % interval_s - BEGIN] += 1
        most_open = max(most_open, len(tower.bench.windows.opened))
        tower.clock.pass_by(TICK_S)
        for start, end, events in tower.tick():
            assert end == start + interval_s
            assert tower.clock.wall == BEGIN + end + grace_s
            closed[start] = events
    assert 2 + grace_s // interval_s <= most_open <= MAX_OPEN_WINDOWS
    assert closed
    assert closed == {start: recorded[start] for start in closed}
    assert sorted(closed) == list(range(0, len(closed) * interval_s, interval_s))
    assert (tower.bench.ledger.events_late, tower.bench.ledger.events_early) == (0, 0)


def test_after_a_step_forward_due_windows_close_once_and_those_between_never_existed() -> None:
    tower = Tower()
    tower.record(BEGIN)
    tower.record(BEGIN + 60)
    tower.clock.pass_by(3)
    tower.clock.wall += 10_000
    assert tower.tick() == [(0, 60, 1), (60, 120, 1)]
    assert tower.tick() == []
    assert tower.bench.ledger.clock_steps == 0


def test_after_a_step_back_of_at_most_a_window_it_stays_open_until_the_wall_is_there_again() -> None:
    tower = Tower()
    tower.clock.pass_by(30)
    tower.record(BEGIN + 30)
    tower.clock.wall -= 60
    assert tower.tick() == []
    tower.clock.pass_by(91.9)
    assert tower.tick() == []
    tower.clock.pass_by(0.2)
    assert tower.tick() == [(0, 60, 1)]
    assert tower.bench.ledger.clock_steps == 0


def test_after_a_larger_step_back_windows_close_at_once_and_begin_anew() -> None:
    tower = Tower()
    tower.clock.pass_by(30)
    tower.record(BEGIN + 30)
    assert tower.tick() == []
    tower.clock.wall -= 3_600
    assert tower.tick() == [(0, 60, 1)]
    assert (tower.passes, tower.bench.ledger.clock_steps) == (1, 1)
    assert tower.tick() == []
    tower.record(BEGIN + 30 - 3_600)
    assert tower.bench.ledger.events_late == 0
    assert tower.bench.view(tower.clock.wall) == {("m", ()): (1, 1.0, 1.0, 1.0)}
    tower.clock.pass_by(60)
    assert tower.tick() == [(30 - 3_600, 60 - 3_600, 1)]
    assert tower.bench.ledger.clock_steps == 1


def test_a_step_back_of_more_than_the_live_view_within_a_window_empties_that() -> None:
    tower = Tower(interval_s=300)
    tower.clock.pass_by(200)
    tower.record(BEGIN + 200)
    tower.clock.wall -= 100
    assert tower.tick() == []
    tower.record(BEGIN + 100)
    assert tower.bench.view(tower.clock.wall) == {("m", ()): (1, 1.0, 1.0, 1.0)}
    assert [window.events for window in tower.bench.windows.opened] == [2]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(-50, 200), st.integers(-80, 80)), min_size=1, max_size=40)
)
def test_under_steps_of_less_than_a_window_none_overlaps_or_closes_twice(
    steps: list[tuple[float, float, int]],
) -> None:
    tower = Tower()
    closed: list[Window] = []
    for passing, step, second in steps:
        tower.record(int(tower.clock.wall) + second)
        tower.clock.pass_by(passing)
        tower.clock.wall += step
        closed += run_at_once(tower.window_clock.tick(tower.read_pass))
        tower.bench.check()
    assert tower.bench.ledger.clock_steps == 0
    closed += tower.bench.aggregator.close_all(tower.clock.wall)
    assert sum(window.events for window in closed) == len(steps)
    assert len({window.number for window in closed}) == len(closed)
    ordered = sorted((window.start, window.end) for window in closed)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_run_hands_every_closed_window_over() -> None:
    tower = Tower(interval_s=5)
    tower.record(BEGIN)
    handed: list[int] = []
    done = asyncio.Event()

    async def hand_over(windows: list[Window], over: int | None) -> None:
        handed.extend(window.start for window in windows)
        if len(handed) == 3:
            done.set()
        tower.record(int(tower.clock.wall))
        await asyncio.sleep(0)

    task = asyncio.ensure_future(tower.window_clock.run(tower.read_pass, hand_over))
    await asyncio.wait_for(done.wait(), 10)
    await end(task)
    assert handed == [BEGIN, BEGIN + 5, BEGIN + 10]
    assert tower.clock.wall - BEGIN == pytest.approx(17, abs=2 * TICK_S)


@pytest.mark.asyncio
async def test_cancelled_while_handing_over_it_finishes_that_first() -> None:
    tower = Tower(interval_s=5)
    tower.record(BEGIN)
    begun, go_on = asyncio.Event(), asyncio.Event()
    handed: list[int] = []

    async def hand_over(windows: list[Window], over: int | None) -> None:
        begun.set()
        await go_on.wait()
        handed.extend(window.start for window in windows)

    task = asyncio.ensure_future(tower.window_clock.run(tower.read_pass, hand_over))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handed == [BEGIN]


@pytest.mark.asyncio
async def test_an_error_of_handing_over_ends_the_run() -> None:
    tower = Tower(interval_s=5)
    tower.record(BEGIN)

    async def hand_over(windows: list[Window], over: int | None) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await tower.window_clock.run(tower.read_pass, hand_over)


@pytest.mark.asyncio
async def test_the_systems_clock_tells_epoch_seconds_and_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.time() > 1_600_000_000
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before


@pytest.mark.asyncio
async def test_an_interval_without_events_is_handed_over_by_its_end() -> None:
    tower = Tower(interval_s=5)
    ends: list[int | None] = []
    done = asyncio.Event()

    async def hand_over(windows: list[Window], over: int | None) -> None:
        assert not windows
        ends.append(over)
        if len(ends) == 2:
            done.set()
        await asyncio.sleep(0)

    task = asyncio.ensure_future(tower.window_clock.run(tower.read_pass, hand_over))
    await asyncio.wait_for(done.wait(), 10)
    await end(task)
    assert ends == [BEGIN + 5, BEGIN + 10]


@pytest.mark.asyncio
async def test_what_is_due_between_two_intervals_is_handed_over_without_an_end() -> None:
    tower = Tower(interval_s=60)
    handed: list[tuple[list[Window], int | None]] = []
    done = asyncio.Event()

    async def hand_over(windows: list[Window], over: int | None) -> None:
        handed.append((windows, over))
        done.set()
        await asyncio.sleep(0)

    task = asyncio.ensure_future(
        tower.window_clock.run(tower.read_pass, hand_over, lambda: tower.clock.wall >= BEGIN + 10)
    )
    await asyncio.wait_for(done.wait(), 10)
    await end(task)
    assert handed[0] == ([], None)
