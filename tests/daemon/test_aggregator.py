"""Windows -> snapshots: what leaves when they close, at the end and otherwise, and with which bounds."""

from sys import float_info

import pytest

from tests.daemon.aggregation import BEGIN, Bench, build_column


def test_at_the_end_what_lies_ahead_of_the_clock_counts_in_the_current_window() -> None:
    bench = Bench()
    columns = [
        build_column([1.0, 8.0], BEGIN + 5, kind="histogram"),
        build_column([5.0, 2.0], BEGIN + 65, kind="histogram"),
        build_column(3.0, BEGIN + 65, name="ahead_alone"),
    ]
    bench.aggregator.add_columns(columns, BEGIN + 10.5)
    windows = bench.aggregator.close_for_good(BEGIN + 10.5)
    assert [(window.start, window.end, window.events) for window in windows] == [(BEGIN, BEGIN + 11, 5)]
    # The next daemon begins there, and does not take its own clock for one that was set back.
    assert bench.windows.closed_until == BEGIN + 11
    assert (bench.ledger.events_early, bench.ledger.events_closed) == (3, 5)
    bench.check()
    both, alone = sorted(bench.freeze(windows), key=lambda snapshot: -snapshot.count)
    assert (both.count, both.sum, both.min, both.max, both.last) == (4, 16.0, 1.0, 8.0, 2.0)
    assert both.histogram is not None
    assert sum(both.histogram.positive_counts) == 4
    assert (alone.name, alone.count, alone.window_id) == ("ahead_alone", 1, both.window_id)


def test_at_the_end_there_is_a_current_window_for_what_lies_ahead() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0, BEGIN + 65)], BEGIN + 10.5)
    (window,) = bench.aggregator.close_for_good(BEGIN + 10.5)
    assert (window.start, window.end, window.events) == (BEGIN, BEGIN + 11, 1)


def test_a_daemon_that_ends_in_the_second_in_which_the_last_one_ended_uses_up_one_second_more() -> None:
    bench = Bench(begin=BEGIN + 16)
    columns = [build_column(1.0, BEGIN + second) for second in (15, 40, 65)]
    bench.aggregator.add_columns(columns, BEGIN + 15.6)
    (window,) = bench.aggregator.close_for_good(BEGIN + 15.9)
    assert (window.start, window.end, window.events) == (BEGIN + 16, BEGIN + 17, 3)
    assert bench.windows.closed_until == BEGIN + 17
    bench.check()


def test_at_the_end_the_clock_may_be_behind_what_has_closed() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0, BEGIN)], BEGIN)
    bench.freeze(bench.aggregator.close_due(BEGIN + 62, 2.0))
    bench.aggregator.add_columns([build_column(1.0, BEGIN + 63), build_column(1.0, BEGIN + 123)], BEGIN + 63)
    (window,) = bench.aggregator.close_for_good(BEGIN + 20)
    assert (window.start, window.end, window.events) == (BEGIN + 60, BEGIN + 61, 2)
    assert bench.windows.closed_until == BEGIN + 61
    assert bench.ledger.events_early == 1
    bench.check()


def test_at_the_end_what_lies_ahead_of_a_longer_window_that_was_restored_counts_in_it() -> None:
    bench = Bench()
    bench.aggregator.restore(1, BEGIN, BEGIN + 3_600, 0, ())
    bench.aggregator.add_columns([build_column(1.0, BEGIN + 3_600)], BEGIN + 3_590)
    (window,) = bench.aggregator.close_for_good(BEGIN + 3_590)
    assert (window.number, window.end, window.events) == (1, BEGIN + 3_591, 1)
    bench.check()


@pytest.mark.parametrize("values", [[True, False, True], [True], True])
def test_true_and_false_leave_as_numbers(values: list[float] | float) -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(values)], BEGIN)
    (shown,) = bench.aggregator.view_live(BEGIN)
    snapshot = bench.close_one()
    for value in (snapshot.min, snapshot.max, snapshot.sum, snapshot.last, shown.min, shown.max, shown.sum):
        assert type(value) is float
    assert snapshot.last == 1.0


def test_a_negative_zero_leaves_as_zero() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([-0.0])], BEGIN)
    snapshot = bench.close_one()
    assert str(snapshot.min) == str(snapshot.max) == str(snapshot.last) == str(snapshot.sum) == "0.0"


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("values", [[1.7e308] * 4, 1.7e308])
def test_finite_values_whose_sum_overflows_count_and_the_sum_is_the_largest_number(
    values: list[float] | float, sign: float
) -> None:
    bench = Bench()
    signed = [sign * value for value in values] if isinstance(values, list) else sign * values
    assert bench.aggregator.add_columns([build_column(signed, count=4)], BEGIN) == 4
    assert bench.ledger.events_refused == {}
    (shown,) = bench.aggregator.view_live(BEGIN)
    snapshot = bench.close_one()
    assert snapshot.count == shown.count == 4
    assert snapshot.sum == shown.sum == sign * float_info.max
    assert snapshot.min == snapshot.max == sign * 1.7e308


def test_overflowing_sums_of_both_signs_never_leave_as_nan() -> None:
    bench = Bench()
    columns = [build_column(s * 1.7e308, BEGIN + i, 4) for i, s in enumerate((1.0, 1.0, -1.0, -1.0, -1.0))]
    bench.aggregator.add_columns(columns, BEGIN + 5)
    (shown,) = bench.aggregator.view_live(BEGIN + 5)
    snapshot = bench.close_one()
    assert abs(snapshot.sum) <= float_info.max
    assert abs(shown.sum) <= float_info.max


def test_events_of_a_series_that_arrive_while_its_closed_window_is_frozen_count_in_the_next() -> None:
    bench = Bench()
    names = [f"m{number}" for number in range(10)]
    columns = [build_column(1.0, BEGIN + 59, name=name) for name in names]
    after = [build_column(2.0, BEGIN + 60, name=name) for name in names]
    bench.aggregator.add_columns(columns, BEGIN + 59)
    (window,) = bench.aggregator.close_due(BEGIN + 62, 2.0)
    frozen = []
    for part in bench.aggregator.freeze(window, 3):
        frozen += part
        bench.aggregator.add_columns(after, BEGIN + 62)
    assert window.statistics == {}
    assert {(each.name, each.count, each.sum) for each in frozen} == {(name, 1, 1.0) for name in names}
    rest = bench.close(BEGIN + 63)
    assert {(each.name, each.count, each.sum) for each in rest} == {(name, 4, 8.0) for name in names}
    assert {each.window_id for each in frozen}.isdisjoint({each.window_id for each in rest})


def test_a_series_with_events_in_several_open_windows_keeps_them_apart() -> None:
    bench = Bench()
    order = [0, 60, 0, 60, 0]
    bench.aggregator.add_columns([build_column([1.0], BEGIN + each) for each in order], BEGIN + 30)
    first = bench.freeze(bench.aggregator.close_due(BEGIN + 62, 2.0))
    assert [each.count for each in first] == [3]
    assert bench.forget(BEGIN + 62) == 0
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 60)], BEGIN + 62)
    assert bench.close_one(BEGIN + 70).count == 3
