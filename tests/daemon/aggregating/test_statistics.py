"""Values -> count, sum, min, max and last: the same whichever way they come in."""

from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import Folded, MetricKind
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics

VALUES = st.lists(st.integers(-(2**40), 2**40).map(float), min_size=1, max_size=30)


def fold(values: list[float], second: int) -> Folded:
    return Folded(b"", second, len(values), sum(values), min(values), max(values), values[-1], second)


def summarise(statistics: Statistics) -> tuple[object, ...]:
    return (statistics.count, statistics.sum, statistics.min, statistics.max, statistics.last)


def test_only_a_histogram_has_a_distribution() -> None:
    assert [build_statistics(kind).histogram is not None for kind in MetricKind] == [False, False, True]
    assert build_statistics(MetricKind.GAUGE).freeze_histogram() is None


@given(st.lists(st.tuples(VALUES, st.integers(0, 9)), min_size=1, max_size=10))
def test_columns_single_events_and_folded_sets_give_the_same(columns: list[tuple[list[float], int]]) -> None:
    by_column, singly, folded = Statistics(), Statistics(), Statistics()
    for values, second in columns:
        by_column.add_values(values, sum(values), min(values), max(values), second)
        for value in values:
            singly.add_same(value, 1, second)
        folded.add_folded(fold(values, second), second)
    everything = [value for values, _ in columns for value in values]
    latest = max(second for _, second in columns)
    last = [values for values, second in columns if second == latest][-1][-1]
    expected = (len(everything), sum(everything), min(everything), max(everything), last)
    assert summarise(by_column) == summarise(singly) == summarise(folded) == expected


def test_of_equal_seconds_the_value_that_arrived_last_is_last() -> None:
    statistics = Statistics()
    for value, second in ((1.0, 5), (2.0, 5), (3.0, 4)):
        statistics.add_same(value, 1, second)
    assert statistics.last == 2.0


def test_every_second_that_a_wire_integer_can_name_sets_last() -> None:
    for second in (-(2**63), 2**64 - 1):
        statistics = Statistics()
        statistics.add_same(3.0, 1, second)
        assert statistics.last == 3.0


def test_equal_values_are_counted_in_the_distribution_by_their_number() -> None:
    statistics = build_statistics(MetricKind.HISTOGRAM)
    statistics.add_same(1.0, 5, 0)
    statistics.add_values([1.0, 0.0], 1.0, 0.0, 1.0, 0)
    buckets = statistics.freeze_histogram()
    assert buckets is not None
    assert (buckets.zero_count, buckets.positive_offset, buckets.positive_counts) == (1, -1, (6,))


def test_the_mean_of_a_folded_set_without_buckets_stays_within_its_bounds() -> None:
    statistics = build_statistics(MetricKind.HISTOGRAM)
    # Its sum is impossible, as rounding or a wrong producer can make it.
    statistics.add_folded(Folded(b"", 0, 2, 100.0, 1.0, 2.0, 1.0, 0), 0)
    buckets = statistics.freeze_histogram()
    assert buckets is not None
    assert (buckets.positive_offset, buckets.positive_counts) == (7, (2,))
