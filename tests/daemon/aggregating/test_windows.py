"""Seconds -> windows: tumbling, aligned, closed once, never overlapping, at most 64 open."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.aggregating.windows import MAX_OPEN_WINDOWS, Window, Windows, latest_begin

BEGIN = 6_000


def bounds(windows: list[Window]) -> list[tuple[int, int]]:
    return [(window.start, window.end) for window in windows]


def restart(windows: Windows) -> Windows:
    """Return the windows of the next daemon, as the checkpoint of the last one has them."""
    again = Windows(windows.interval_s, windows.closed_until, windows.last_number)
    for window in windows.opened:
        again.restore(window.number, window.start, window.end)
    return again


def test_a_second_counts_in_the_aligned_window_that_contains_it() -> None:
    windows = Windows(60, BEGIN)
    for second in (BEGIN, BEGIN + 59, BEGIN + 60):
        window, late, early = windows.find(second, BEGIN + 59)
        assert window.start <= second < window.end
        assert not late
        assert not early
    assert bounds(windows.opened) == [(BEGIN, BEGIN + 60), (BEGIN + 60, BEGIN + 120)]
    assert windows.next_end() == BEGIN + 60


def test_the_first_window_begins_where_the_daemon_did() -> None:
    windows = Windows(60, BEGIN + 17)
    window, late, _ = windows.find(BEGIN + 16, BEGIN + 17)
    assert late
    assert bounds([window]) == [(BEGIN + 17, BEGIN + 60)]


def test_a_window_is_due_when_its_grace_has_passed_and_closes_once() -> None:
    windows = Windows(60, BEGIN)
    windows.find(BEGIN, BEGIN)
    assert windows.close_due(BEGIN + 61.9, 2.0) == []
    assert bounds(windows.close_due(BEGIN + 62.0, 2.0)) == [(BEGIN, BEGIN + 60)]
    assert windows.close_due(BEGIN + 1_000.0, 2.0) == []
    assert windows.closed_until == BEGIN + 60
    assert windows.next_end() is None


def test_a_late_second_counts_in_the_oldest_open_window() -> None:
    windows = Windows(60, BEGIN)
    windows.find(BEGIN, BEGIN)
    windows.close_due(BEGIN + 62, 2.0)
    for second in (BEGIN + 150, BEGIN + 70):
        windows.find(second, BEGIN + 100)
    window, late, early = windows.find(BEGIN + 59, BEGIN + 100)
    assert (window.start, late, early) == (BEGIN + 60, True, False)


def test_a_late_second_while_none_is_open_counts_in_the_current_window() -> None:
    windows = Windows(60, BEGIN)
    window, late, _ = windows.find(BEGIN - 1, BEGIN + 70)
    assert (window.start, late) == (BEGIN + 60, True)


def test_a_second_whose_window_is_past_but_has_not_closed_is_not_late() -> None:
    windows = Windows(60, BEGIN)
    window, late, _ = windows.find(BEGIN + 5, BEGIN + 3_000)
    assert (window.start, late) == (BEGIN, False)


def test_more_than_one_interval_ahead_is_early_and_counts_now() -> None:
    windows = Windows(60, BEGIN)
    assert windows.find(BEGIN + 70, BEGIN + 10)[0].start == BEGIN + 60
    window, late, early = windows.find(BEGIN + 71, BEGIN + 10)
    assert (window.start, late, early) == (BEGIN, False, True)


def test_at_most_64_windows_are_open_whatever_producers_send() -> None:
    windows = Windows(1, BEGIN)
    now = BEGIN + 1_000.0
    for second in range(BEGIN, BEGIN + 900, 3):
        windows.find(second, now)
    assert len(windows.opened) == MAX_OPEN_WINDOWS == 64
    oldest = windows.opened[0]
    # Neither a second of its own, nor the current one, nor one far ahead opens another.
    assert windows.find(BEGIN + 901, now) == (oldest, True, False)
    assert windows.find(BEGIN + 1_000, now) == (oldest, True, False)
    assert windows.find(BEGIN + 90_000, now) == (oldest, False, True)
    assert windows.find(BEGIN + 3, now)[0].start == BEGIN + 3
    assert len(windows.opened) == 64


@pytest.mark.parametrize("keeps", [False, True])
def test_at_the_end_the_current_window_ends_with_the_second_of_its_closing(keeps: bool) -> None:
    windows = Windows(60, BEGIN)
    windows.find(BEGIN + 10, BEGIN + 15.3)
    assert bounds(windows.close_early(BEGIN + 15.3, keeps=keeps)) == [(BEGIN, BEGIN + 16)]
    window, late, _ = windows.find(BEGIN + 15, BEGIN + 15.9)
    assert late
    assert bounds([window]) == [(BEGIN + 16, BEGIN + 60)]


def test_a_daemon_that_begins_with_the_next_second_overlaps_with_none_of_the_one_before() -> None:
    for closing in (BEGIN + 0.0, BEGIN + 15.3, BEGIN + 59.9):
        before = Windows(60, BEGIN)
        before.find(int(closing), closing)
        (last,) = before.close_early(closing, keeps=True)
        after = Windows(60, int(closing) + 1)
        first, _, _ = after.find(int(closing), closing + 0.05)
        assert last.end <= first.start


@pytest.mark.parametrize("interval_s", [1, 4, 60])
def test_however_often_daemons_end_within_a_second_none_uses_a_time_twice(interval_s: int) -> None:
    now = BEGIN + 30.5
    windows = Windows(interval_s, BEGIN + 30)
    closed: list[tuple[int, int]] = []
    for _ in range(2 * interval_s + 2):
        windows.find(int(now), now)
        closed += bounds(windows.close_early(now, keeps=True))
        windows = restart(windows)
        # Or the next daemon would take its clock for one that was set back.
        assert windows.closed_until <= latest_begin(now, interval_s)
    assert closed == [(BEGIN + 30 + number, BEGIN + 31 + number) for number in range(interval_s + 1)]
    # What was left open, and restored each time, ends in its own time.
    (left,) = windows.opened
    assert left.start == closed[-1][1]
    assert windows.close_due(left.end, 0.0) == [left]


def test_where_the_clock_was_set_back_by_less_than_an_interval_a_window_ends_with_its_first_second() -> None:
    windows = Windows(60, BEGIN + 60)
    window, late, _ = windows.find(BEGIN + 20, BEGIN + 20.0)
    assert late
    assert windows.close_early(BEGIN + 20.5, keeps=True) == [window]
    assert bounds([window]) == [(BEGIN + 60, BEGIN + 61)]


def test_without_a_next_daemon_that_goes_on_nothing_is_left_open() -> None:
    windows = Windows(1, BEGIN + 60)
    windows.find(BEGIN, BEGIN + 0.0)
    assert bounds(windows.close_early(BEGIN + 0.5, keeps=False)) == [(BEGIN + 60, BEGIN + 61)]


def test_a_window_ahead_of_the_clock_keeps_its_bounds_where_the_clock_was_set_back() -> None:
    windows = Windows(60, BEGIN)
    for second in (BEGIN, BEGIN + 65):
        windows.find(second, BEGIN + 10)
    assert bounds(windows.close_all(BEGIN + 10)) == [(BEGIN, BEGIN + 11), (BEGIN + 60, BEGIN + 120)]


def test_a_window_past_its_end_keeps_it_at_the_end() -> None:
    windows = Windows(60, BEGIN)
    windows.find(BEGIN, BEGIN)
    assert bounds(windows.close_early(BEGIN + 61, keeps=True)) == [(BEGIN, BEGIN + 60)]


def test_a_longer_window_that_was_restored_ends_early_and_the_next_daemon_begins_there() -> None:
    windows = Windows(60, BEGIN)
    windows.restore(1, BEGIN, BEGIN + 3_600)
    assert windows.closed_until == BEGIN
    # Neither late nor early: it is the current one.
    assert windows.find(BEGIN + 100, BEGIN + 100.0)[1:] == (False, False)
    assert windows.find(BEGIN + 9_000, BEGIN + 100.0)[0].number == 1
    assert bounds(windows.close_early(BEGIN + 100.5, keeps=True)) == [(BEGIN, BEGIN + 101)]
    assert windows.closed_until == BEGIN + 101
    assert bounds([windows.find(BEGIN + 105, BEGIN + 105.0)[0]]) == [(BEGIN + 101, BEGIN + 120)]


def test_after_beginning_anew_earlier_seconds_have_windows_again() -> None:
    windows = Windows(60, BEGIN)
    windows.find(BEGIN, BEGIN)
    windows.close_all(BEGIN - 600)
    windows.begin_anew(BEGIN - 599.5)
    window, late, early = windows.find(BEGIN - 590, BEGIN - 590)
    assert (window.start, late, early) == (BEGIN - 600, False, False)
    assert windows.find(BEGIN - 601, BEGIN - 590)[1]


def test_the_numbers_of_windows_never_repeat() -> None:
    windows = Windows(60, BEGIN)
    numbers: list[int] = []
    for now in (BEGIN, BEGIN + 60, BEGIN + 70):
        windows.find(now, now)
        numbers += [window.number for window in windows.close_all(now)]
        windows.begin_anew(BEGIN)
    assert numbers == [1, 2, 3]


STEP = st.one_of(
    st.tuples(st.just("find"), st.integers(-200, 200)),
    st.tuples(st.just("tick"), st.integers(-20, 100)),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
)


@given(st.integers(1, 70), st.floats(0, 10), st.lists(STEP, max_size=60))
def test_under_any_clock_windows_never_overlap_and_each_closes_once(
    interval_s: int, grace_s: float, steps: list[tuple[str, int]]
) -> None:
    windows = Windows(interval_s, BEGIN)
    now = float(BEGIN)
    closed: list[Window] = []
    found: dict[int, Window] = {}
    for kind, amount in steps:
        if kind == "find":
            second = int(now) + amount
            window, late, early = windows.find(second, now)
            found[window.number] = window
            assert not (late and early)
            assert early == (second > now + interval_s)
            if not late and not early:
                assert window.start <= second < window.end
            assert window in windows.opened
        elif kind == "tick":
            now += amount
            closed += windows.close_due(now, grace_s)
        elif kind == "restart":
            closed += windows.close_early(now, keeps=bool(amount))
            windows = restart(windows)
        else:
            closed += windows.close_all(now + amount)
        assert len(windows.opened) <= MAX_OPEN_WINDOWS
    closed += windows.close_all(now)
    assert sorted(window.number for window in closed) == sorted(found)
    ordered = sorted(bounds(closed))
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert all(0 < end - start <= interval_s for start, end in ordered)
