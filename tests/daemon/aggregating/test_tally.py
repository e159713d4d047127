"""Columns, rows and folded sets: what counts, and as how many events; what is refused, and as what."""

from math import inf, nan

import pytest
from msgspec import Raw

from aiokpl_metrics_protocol import (
    Buckets,
    Column,
    MetricEvent,
    MetricKind,
    ProtocolError,
    Reason,
    Row,
)
from tests.daemon.aggregation import BEGIN, Bench, build_column, build_folded, build_rows, name_series


def test_a_column_gives_count_sum_min_max_and_last() -> None:
    bench = Bench()
    assert bench.aggregator.add_columns([build_column([3.0, -1.0, 2.0])], BEGIN + 0.5) == 3
    snapshot = bench.close_one(BEGIN + 10.9)
    assert (snapshot.count, snapshot.sum, snapshot.min, snapshot.max, snapshot.last) == (
        3,
        4.0,
        -1.0,
        3.0,
        2.0,
    )
    assert (snapshot.window_start, snapshot.window_end) == (BEGIN, BEGIN + 11)
    assert snapshot.window_id == f"{0xABC:016x}-1"
    assert snapshot.kind is MetricKind.COUNTER
    assert snapshot.histogram is None


def test_a_column_of_equal_values_counts_them_all() -> None:
    bench = Bench()
    assert bench.aggregator.add_columns([build_column(2.0, count=2**32)], BEGIN) == 2**32
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.sum, snapshot.min, snapshot.max) == (2**32, 2.0**33, 2.0, 2.0)


def test_an_empty_column_is_no_event_and_makes_no_series() -> None:
    bench = Bench()
    assert bench.aggregator.add_columns([build_column([])], BEGIN) == 0
    assert bench.close() == []
    assert len(bench.registry) == 0


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_of_a_column_with_values_that_are_no_numbers_the_others_count(bad: float) -> None:
    bench = Bench()
    columns = [build_column([1.0, bad, 2.0, bad]), build_column([bad]), build_column([4.0])]
    assert bench.aggregator.add_columns(columns, BEGIN) == 6
    assert bench.ledger.events_refused == {Reason.VALUE_NOT_FINITE: 3}
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.sum, snapshot.min, snapshot.max) == (3, 7.0, 1.0, 4.0)


def test_infinities_that_cancel_out_are_refused_both() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([inf, -inf])], BEGIN)
    assert bench.ledger.events_refused == {Reason.VALUE_NOT_FINITE: 2}
    assert bench.close() == []


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_column_of_equal_values_that_are_no_numbers_is_refused_with_its_count(bad: float) -> None:
    bench = Bench()
    assert bench.aggregator.add_columns([build_column(bad, count=7)], BEGIN) == 7
    assert bench.ledger.events_refused == {Reason.VALUE_NOT_FINITE: 7}
    assert bench.close() == []


@pytest.mark.parametrize("count", [0, -1, 2**32 + 1, 2**64 - 1, -(2**63)])
def test_a_count_out_of_range_is_refused_as_one_event(count: int) -> None:
    bench = Bench()
    assert bench.aggregator.add_columns([build_column(1.0, count=count)], BEGIN) == 1
    assert bench.ledger.events_refused == {Reason.COUNT_OUT_OF_RANGE: 1}
    assert bench.close() == []


def test_a_series_that_breaks_a_limit_costs_its_own_events_alone() -> None:
    bench = Bench()
    columns = [
        Column(b"\xc1", BEGIN, [1.0, 2.0]),
        build_column(1.0, count=5, name="x" * 256),
        build_column(1.0, name=""),
        build_column(1.0, dimensions=(("k", "1"), ("k", "2"))),
        build_column(1.0),
    ]
    assert bench.aggregator.add_columns(columns, BEGIN) == 10
    assert bench.ledger.events_refused == {
        Reason.SERIES_UNREADABLE: 2,
        Reason.NAME_TOO_LONG: 5,
        Reason.NAME_EMPTY: 1,
        Reason.DIMENSION_DUPLICATE: 1,
    }
    assert bench.close_one().count == 1


def test_last_is_the_value_with_the_greatest_second_whatever_arrives_last() -> None:
    bench = Bench()
    columns = [
        build_column([1.0, 2.0], BEGIN + 5),
        build_column([9.0], BEGIN + 7),
        build_column([3.0, 4.0], BEGIN + 6),
        build_column(8.0, BEGIN + 7, count=2),
        build_column([5.0], BEGIN + 1),
    ]
    bench.aggregator.add_columns(columns, BEGIN + 8)
    assert bench.close_one(BEGIN + 8).last == 8.0


def test_a_late_event_is_not_the_last_one() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 1), build_column([2.0], BEGIN - 30)], BEGIN + 1)
    assert bench.ledger.events_late == 1
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.last) == (2, 1.0)


@pytest.mark.parametrize("timestamp", [BEGIN + 500.0, 1e300, inf, nan, -inf, -1e300])
def test_a_row_whose_time_is_far_off_counts_now_as_early(timestamp: float) -> None:
    bench = Bench()
    now = BEGIN + 3.5
    bench.aggregator.add_rows(build_rows(MetricEvent("m", 7.0, timestamp)).events, now)
    assert bench.ledger.events_early == 1
    bench.aggregator.add_rows(build_rows(MetricEvent("m", 5.0, now)).events, now)
    snapshot = bench.close_one(now)
    # Had its second been kept, no later value would ever have been the last.
    assert (snapshot.count, snapshot.last) == (2, 5.0)
    assert (snapshot.window_start, snapshot.window_end) == (BEGIN, BEGIN + 4)


def test_a_row_of_time_zero_counts_at_its_arrival() -> None:
    bench = Bench()
    bench.aggregator.add_rows(build_rows(MetricEvent("m", 1.0, 0.0)).events, BEGIN + 61.0)
    assert bench.ledger.events_late == bench.ledger.events_early == 0
    assert bench.close_one(BEGIN + 61).window_start == BEGIN + 60


def test_rows_with_bad_values_or_series_cost_themselves_alone() -> None:
    bench = Bench()
    rows = build_rows(
        MetricEvent("m", nan, 0.0),
        MetricEvent("", 1.0, 0.0),
        MetricEvent("m", 2.0, 0.0, (("a", "1"),)),
        MetricEvent("m", 1.0, 0.0, (("a", ""),)),
        MetricEvent("m", 1.0, 0.0, (), "no kind"),
    )
    assert bench.aggregator.add_rows(rows.events, BEGIN) == 5
    assert bench.ledger.events_refused == {
        Reason.VALUE_NOT_FINITE: 1,
        Reason.NAME_EMPTY: 1,
        Reason.DIMENSION_EMPTY: 1,
        Reason.KIND_UNKNOWN: 1,
    }
    assert bench.close_one().sum == 2.0


@pytest.mark.parametrize("dimensions", [b"\xc0", b"\x91\x92\xa1a", b"\x91\x91\xa1a", b"\xa1a"])
def test_rows_of_which_one_does_not_decode_are_refused_whole_and_leave_no_trace(dimensions: bytes) -> None:
    bench = Bench()
    good = Row("m", 1.0, 0.0, Raw(b"\x90"), "gauge", "ms")
    with pytest.raises(ProtocolError):
        bench.aggregator.add_rows([good, Row("m", 1.0, 0.0, Raw(dimensions)), good], BEGIN)
    assert bench.ledger.events_decoded == 0
    assert bench.ledger.events_refused == {}
    assert bench.ledger.series_conflicts == 0
    assert len(bench.registry) == 0
    assert bench.registry.by_alias == {}
    assert bench.close() == []


def test_a_folded_set_counts_as_its_events() -> None:
    bench = Bench()
    assert bench.aggregator.add_sets([build_folded([1.0, 5.0, 3.0])], BEGIN) == 3
    assert bench.ledger.events_folded == 3
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.sum, snapshot.min, snapshot.max, snapshot.last) == (
        3,
        9.0,
        1.0,
        5.0,
        3.0,
    )


def test_a_folded_set_that_is_refused_counts_as_the_events_it_claims() -> None:
    from msgspec.structs import replace

    bench = Bench()
    good = build_folded([1.0, 5.0, 3.0])
    sets = [
        replace(good, sum=inf),
        replace(good, last=9.0),
        replace(good, buckets=Buckets(3, 2)),
        replace(good, count=0),
        replace(good, series=b"\xc1"),
        good,
    ]
    assert bench.aggregator.add_sets(sets, BEGIN) == 16
    assert bench.ledger.events_refused == {
        Reason.VALUE_NOT_FINITE: 3,
        Reason.STATISTICS_INCONSISTENT: 6,
        Reason.COUNT_OUT_OF_RANGE: 1,
        Reason.SERIES_UNREADABLE: 3,
    }
    assert bench.ledger.events_folded == 3
    assert bench.close_one().count == 3


def test_a_folded_set_of_a_far_last_second_does_not_hold_last_for_ever() -> None:
    from msgspec.structs import replace

    bench = Bench()
    bench.aggregator.add_sets([replace(build_folded([7.0]), last_second=2**63 - 1)], BEGIN + 1)
    bench.aggregator.add_columns([build_column([5.0], BEGIN + 2)], BEGIN + 2)
    assert bench.close_one(BEGIN + 2).last == 5.0


def test_a_folded_histogram_keeps_its_buckets_and_one_without_adds_its_mean() -> None:
    bench = Bench()
    buckets = Buckets(3, 0, 0, (1, 1))
    sets = [
        build_folded([1.05, 1.1], kind="histogram", buckets=buckets),
        build_folded([1.0, 7.0], kind="histogram"),
    ]
    bench.aggregator.add_sets(sets, BEGIN)
    snapshot = bench.close_one()
    assert snapshot.histogram is not None
    assert snapshot.histogram.positive_offset == 0
    # The mean of the other set is 4 = 2**2, which ends bucket 15 of scale 3.
    assert snapshot.histogram.positive_counts == (1, 1, *[0] * 13, 2)


def test_the_ledger_counts_late_and_early_events() -> None:
    bench = Bench()
    columns = [
        build_column(1.0, BEGIN - 1, count=3),
        build_column(1.0, BEGIN + 61 + 60, count=5),
        build_column(1.0, BEGIN + 60 + 60, count=7),
        build_column(1.0, 2**64 - 1, count=11),
        build_column(1.0, -(2**63), count=13),
    ]
    bench.aggregator.add_columns(columns, BEGIN + 60)
    assert bench.ledger.events_late == 16
    assert bench.ledger.events_early == 16
    totals = {(each.window_start, each.count) for each in bench.close(BEGIN + 60)}
    # The first one found no window open, so that the oldest is the current one.
    assert totals == {(BEGIN + 60, 3 + 5 + 11 + 13), (BEGIN + 120, 7)}


def test_a_series_of_an_unreadable_name_is_refused_for_each_of_its_columns() -> None:
    bench = Bench()
    for _ in range(3):
        bench.aggregator.add_columns([Column(name_series()[:-1], BEGIN, [1.0])], BEGIN)
    assert bench.ledger.events_refused == {Reason.SERIES_UNREADABLE: 3}
    assert bench.registry.by_alias == {}
