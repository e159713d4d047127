"""A folded set is refused for what it says of itself, and whatever passes can be counted."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiokpl_metrics_protocol import Buckets, Folded, Reason
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.aggregating.limits import check_folded
from tests.daemon.aggregation import build_folded

GOOD = build_folded([1.0, 5.0, 3.0])


def test_a_consistent_set_passes() -> None:
    assert check_folded(GOOD) is None
    assert check_folded(replace(GOOD, buckets=Buckets(3, 1, -4, (1, 0, 1)))) is None


@pytest.mark.parametrize("count", [0, 2**32 + 1, 2**63 - 1])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    assert check_folded(replace(GOOD, count=count)) is Reason.COUNT_OUT_OF_RANGE


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("field", ["sum", "min", "max"])
def test_what_is_no_number_is_refused(field: str, bad: float) -> None:
    assert check_folded(replace(GOOD, **{field: bad})) is Reason.VALUE_NOT_FINITE


@pytest.mark.parametrize("last", [0.9, 5.1, nan, inf])
def test_a_last_value_outside_of_least_and_greatest_is_refused(last: float) -> None:
    assert check_folded(replace(GOOD, last=last)) is Reason.STATISTICS_INCONSISTENT


def test_a_least_value_above_the_greatest_is_refused() -> None:
    assert check_folded(replace(GOOD, min=5.0, max=1.0)) is Reason.STATISTICS_INCONSISTENT


@pytest.mark.parametrize(
    "buckets",
    [
        Buckets(3, 2),
        Buckets(3, 4),
        Buckets(3, 0, 0, (1, 1), 0, (2,)),
        Buckets(21, 3),
        Buckets(-11, 3),
        Buckets(3, 0, 0, (3, *[0] * 160)),
        Buckets(3, 0, 8_200, (3,)),
        Buckets(3, 0, -8_601, (3,)),
        Buckets(0, 0, 1_024, (1, 2)),
        Buckets(-10, 0, 2, (3,)),
        Buckets(-10, 0, -3, (3,)),
        Buckets(0, 0, 0, (), 2**62, (3,)),
    ],
)
def test_impossible_buckets_are_refused(buckets: Buckets) -> None:
    assert check_folded(replace(GOOD, buckets=buckets)) is Reason.STATISTICS_INCONSISTENT


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(-10, 3)
)
def test_the_buckets_of_any_values_pass(values: list[float], scale: int) -> None:
    histogram = Histogram(scale=scale)
    histogram.add_values(values, min(values), max(values))
    folded = replace(GOOD, count=len(values), buckets=histogram.freeze())
    assert check_folded(folded) is None


SIDE = st.tuples(st.integers(-(2**40), 2**40), st.lists(st.integers(0, 3), max_size=8).map(tuple))


@given(st.lists(st.tuples(st.integers(-12, 22), SIDE, SIDE, st.integers(-9_000, 9_000)), max_size=8))
def test_whatever_passes_is_counted_within_160_buckets_a_side(found: list[tuple[int, ...]]) -> None:
    histogram = Histogram()
    expected = 0
    for scale, positive, negative, offset in found:
        assert isinstance(positive, tuple)
        assert isinstance(negative, tuple)
        count = sum(positive[1]) + sum(negative[1])
        for first in (offset, positive[0]):
            buckets = Buckets(scale, 0, first, positive[1], negative[0] % 500, negative[1])
            folded = Folded(b"", 0, count, 1.0, 1.0, 1.0, 1.0, 0, buckets)
            if check_folded(folded) is None:
                histogram.add_buckets(buckets)
                expected += count
    frozen = histogram.freeze()
    assert sum(frozen.positive_counts) + sum(frozen.negative_counts) == expected
    assert len(frozen.positive_counts) <= 160
    assert len(frozen.negative_counts) <= 160
