from functools import reduce
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MAX_BUCKETS, Buckets, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.delivering.merge import merge_buckets, merge_snapshots
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import build_snapshot

VALUES = st.floats(min_value=-1e300, max_value=1e300, allow_nan=False, allow_subnormal=False)
INTEGERS = st.integers(min_value=-(2**20), max_value=2**20)


def count_buckets(values: list[float]) -> Buckets:
    histogram = Histogram()
    if values:
        histogram.add_values(values, min(values), max(values))
    return histogram.freeze()


def count_all(buckets: Buckets) -> int:
    return buckets.zero_count + sum(buckets.positive_counts) + sum(buckets.negative_counts)


def summarise(
    values: list[int], start: float = 0.0, kind: MetricKind = MetricKind.HISTOGRAM
) -> MetricSnapshot:
    floats = [float(value) for value in values]
    return MetricSnapshot(
        "Latency",
        len(floats),
        sum(floats),
        min(floats),
        max(floats),
        window_start=start,
        window_end=start + 60.0,
        kind=kind,
        last=floats[-1],
        histogram=count_buckets(floats) if kind is MetricKind.HISTOGRAM else None,
    )


@given(st.lists(VALUES), st.lists(VALUES))
def test_merged_buckets_are_those_of_all_values_counted_together(
    first: list[float], second: list[float]
) -> None:
    merged = merge_buckets(count_buckets(first), count_buckets(second))
    together = count_buckets(first + second)
    assert merged == together
    assert max(len(merged.positive_counts), len(merged.negative_counts)) <= MAX_BUCKETS


@given(st.lists(VALUES), st.lists(VALUES), st.lists(VALUES))
def test_merging_buckets_is_associative_and_commutative(
    a: list[float], b: list[float], c: list[float]
) -> None:
    parts = [count_buckets(values) for values in (a, b, c)]
    expected = merge_buckets(parts[0], merge_buckets(parts[1], parts[2]))
    for order in permutations(parts):
        assert reduce(merge_buckets, order) == expected
    assert count_all(expected) == len(a) + len(b) + len(c)


def test_buckets_of_different_scales_meet_at_the_lower_one() -> None:
    fine = Buckets(scale=3, positive_offset=-3, positive_counts=(1, 2, 3, 4))
    coarse = Buckets(scale=1, positive_offset=-1, positive_counts=(10, 20))
    # -3 >> 2 is -1, which takes -3, -2 and -1; 0 >> 2 is 0.
    assert merge_buckets(fine, coarse) == Buckets(scale=1, positive_offset=-1, positive_counts=(16, 24))
    assert merge_buckets(coarse, fine) == merge_buckets(fine, coarse)


def test_buckets_far_apart_are_lowered_before_they_are_added() -> None:
    low = Buckets(scale=20, positive_offset=-(2**29), positive_counts=(1,))
    high = Buckets(scale=20, positive_offset=2**29, positive_counts=(1,))
    merged = merge_buckets(low, high)
    assert len(merged.positive_counts) <= MAX_BUCKETS
    assert count_all(merged) == 2
    assert merged.scale == 20 - 23


def test_one_wide_side_lowers_the_other_one_too() -> None:
    wide = Buckets(
        scale=3,
        positive_offset=0,
        positive_counts=(1,) * MAX_BUCKETS,
        negative_offset=5,
        negative_counts=(7,),
    )
    wider = Buckets(scale=3, positive_offset=MAX_BUCKETS, positive_counts=(1,))
    merged = merge_buckets(wide, wider)
    assert merged.scale == 2
    assert (merged.negative_offset, merged.negative_counts) == (2, (7,))
    assert sum(merged.positive_counts) == MAX_BUCKETS + 1


@given(st.lists(st.lists(INTEGERS, min_size=1), min_size=1, max_size=6))
def test_merging_snapshots_keeps_every_total(parts: list[list[int]]) -> None:
    merged = reduce(
        merge_snapshots, [summarise(part, start=60.0 * number) for number, part in enumerate(parts)]
    )
    every = [value for part in parts for value in part]
    assert merged.count == len(every)
    assert merged.sum == sum(every)
    assert (merged.min, merged.max, merged.last) == (min(every), max(every), every[-1])
    assert merged.histogram is not None
    assert count_all(merged.histogram) == len(every)
    assert (merged.window_start, merged.window_end) == (0.0, 60.0 * len(parts))


@given(st.lists(st.tuples(st.lists(INTEGERS, min_size=1), st.integers(0, 3)), min_size=3, max_size=3))
def test_merging_snapshots_is_associative(parts: list[tuple[list[int], int]]) -> None:
    a, b, c = [summarise(values, start=60.0 * window) for values, window in parts]
    assert merge_snapshots(merge_snapshots(a, b), c) == merge_snapshots(a, merge_snapshots(b, c))


def test_the_last_value_is_that_of_the_later_window_whatever_the_order() -> None:
    earlier = build_snapshot(value=1.0, start=0.0, kind=MetricKind.GAUGE)
    later = build_snapshot(value=2.0, start=60.0, kind=MetricKind.GAUGE)
    assert merge_snapshots(earlier, later).last == 2.0
    assert merge_snapshots(later, earlier).last == 2.0


def test_within_one_window_the_last_value_seen_holds() -> None:
    first, second = build_snapshot(value=2.0), build_snapshot(value=1.0)
    assert merge_snapshots(first, second).last == 1.0


def test_a_histogram_takes_a_snapshot_without_buckets_at_its_mean() -> None:
    bare = summarise([8, 8], kind=MetricKind.COUNTER)
    merged = merge_snapshots(summarise([1, 2]), bare)
    assert merged.kind is MetricKind.HISTOGRAM
    assert merged.histogram == count_buckets([1.0, 2.0, 8.0, 8.0])
    assert merge_snapshots(bare, summarise([1, 2])).histogram is None


def test_summed_gauges_of_one_window_add_up_and_of_two_the_later_holds() -> None:
    def total(value: float, start: float) -> MetricSnapshot:
        return MetricSnapshot(
            "open",
            1,
            value,
            value,
            value,
            (),
            start,
            start + 60.0,
            MetricKind.GAUGE,
            None,
            value,
            is_summed=True,
        )

    together = merge_snapshots(total(3.0, 0.0), total(4.0, 0.0))
    assert together == total(7.0, 0.0)
    later = merge_snapshots(together, total(5.0, 60.0))
    assert (later.count, later.sum, later.min, later.max, later.last) == (2, 12.0, 5.0, 7.0, 5.0)
    assert later.is_summed
    most = merge_snapshots(total(1e308, 0.0), total(1e308, 0.0))
    assert most.last == 1.7976931348623157e308
