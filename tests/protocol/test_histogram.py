"""Values -> buckets: in the right one, at most 160 a side, merged exactly in whatever order."""

from collections.abc import Callable
from fractions import Fraction
from random import Random
from sys import float_info

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import FIRST_SCALE, LOWEST_SCALE, MAX_BUCKETS, Buckets, Histogram

SMALLEST, LARGEST = 5e-324, float_info.max

VALUES = st.lists(
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.floats(0.5, 2.0),
        st.sampled_from([0.0, -0.0, SMALLEST, -SMALLEST, LARGEST, -LARGEST, 1.0, 2.0, -4.0]),
    ),
    min_size=1,
    max_size=60,
)


def build(values: list[float]) -> Histogram:
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return histogram


def add_singly(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add_same(value, 1)
    return histogram


def count(buckets: Buckets) -> tuple[int, int, int]:
    return buckets.zero_count, sum(buckets.positive_counts), sum(buckets.negative_counts)


def lower(buckets: Buckets, scale: int) -> Buckets:
    """Return the same buckets at a lower scale."""
    histogram = Histogram(scale=scale)
    histogram.add_buckets(buckets)
    return histogram.freeze()


@given(VALUES)
@example([SMALLEST, LARGEST])
@example([-SMALLEST, -LARGEST, SMALLEST, LARGEST, 0.0])
def test_every_value_is_counted_and_each_side_stays_within_160_buckets(values: list[float]) -> None:
    buckets = build(values).freeze()
    zero = sum(value == 0 for value in values)
    positive = sum(value > 0 for value in values)
    assert count(buckets) == (zero, positive, len(values) - zero - positive)
    assert len(buckets.positive_counts) <= MAX_BUCKETS
    assert len(buckets.negative_counts) <= MAX_BUCKETS
    assert LOWEST_SCALE <= buckets.scale <= FIRST_SCALE
    for counts in (buckets.positive_counts, buckets.negative_counts):
        assert not counts or (counts[0] and counts[-1])


@given(VALUES, st.randoms())
def test_no_order_and_no_split_changes_the_buckets(values: list[float], random: Random) -> None:
    expected = build(values).freeze()
    assert add_singly(values).freeze() == expected
    shuffled = values[:]
    random.shuffle(shuffled)
    parts = [shuffled[start : start + 7] for start in range(0, len(shuffled), 7)]
    by_part, merged = Histogram(), Histogram()
    for part in parts:
        by_part.add_values(part, min(part), max(part))
        merged.add_buckets(build(part).freeze())
    assert by_part.freeze() == merged.freeze() == expected


@given(VALUES, VALUES, VALUES)
def test_merging_is_associative_and_commutative(a: list[float], b: list[float], c: list[float]) -> None:
    def merge(*parts: Buckets) -> Buckets:
        histogram = Histogram()
        for part in parts:
            histogram.add_buckets(part)
        return histogram.freeze()

    x, y, z = (build(each).freeze() for each in (a, b, c))
    assert merge(x, y, z) == merge(z, merge(y, x)) == merge(merge(z, x), y) == build(a + b + c).freeze()


@given(VALUES, st.integers(LOWEST_SCALE, FIRST_SCALE))
def test_counting_at_a_lower_scale_and_lowering_it_later_are_the_same(
    values: list[float], scale: int
) -> None:
    at_once = Histogram(scale=scale)
    at_once.add_values(values, min(values), max(values))
    later = lower(build(values).freeze(), scale)
    assert at_once.freeze() == later


@given(st.floats(min_value=SMALLEST, max_value=LARGEST))
@example(1.0)
@example(2.0)
@example(SMALLEST)
@example(LARGEST)
@example(1.0000000000000002)
def test_at_scale_0_and_below_a_value_lies_between_the_exact_bounds_of_its_bucket(value: float) -> None:
    for scale in (0, -1, -4):
        histogram = Histogram(scale=scale)
        histogram.add_same(value, 1)
        index = histogram.freeze().positive_offset
        step = 2**-scale
        low, high = Fraction(2) ** (index * step), Fraction(2) ** ((index + 1) * step)
        # A logarithm within an ulp of a whole number is rounded to it: OpenTelemetry allows that.
        slack = Fraction(1, 2**52) * abs(index or 1) * step
        assert low * (1 - slack) < Fraction(value) <= high * (1 + slack)


@pytest.mark.parametrize("exponent", [-1_074, -1_022, -1, 0, 1, 52, 1_023])
def test_a_power_of_two_is_the_upper_bound_of_its_bucket(exponent: int) -> None:
    histogram = add_singly([2.0**exponent])
    assert histogram.freeze().positive_offset == exponent * 8 - 1


def test_twenty_octaves_fit_at_scale_3_and_one_bucket_more_lowers_it() -> None:
    fitting = Histogram()
    for value in (1.01, 2.0**20):
        fitting.add_same(value, 1)
    assert (fitting.freeze().scale, len(fitting.freeze().positive_counts)) == (3, 160)
    fitting.add_same(1.0, 1)
    assert (fitting.freeze().scale, len(fitting.freeze().positive_counts)) == (2, 81)


@pytest.mark.parametrize("add", [build, add_singly])
def test_one_side_that_lowers_the_scale_lowers_the_other(add: Callable[[list[float]], Histogram]) -> None:
    buckets = add([-1.0, -1.5, 1.0, 2.0**40, 0.0]).freeze()
    assert buckets.scale == 1
    assert count(buckets) == (1, 2, 2)
    assert (buckets.negative_offset, buckets.negative_counts) == (-1, (1, 0, 1))


def test_true_and_false_are_one_and_zero() -> None:
    assert build([True, False, True]).freeze() == build([1.0, 0.0, 1.0]).freeze()


def test_buckets_of_a_higher_scale_are_lowered_and_of_a_lower_one_lower_ours() -> None:
    histogram = build([1.5])
    histogram.add_buckets(Buckets(5, 0, 31, (1, 2)))
    assert histogram.freeze() == Buckets(3, 0, 4, (1, 0, 0, 1, 2))
    histogram.add_buckets(Buckets(0, 0, 1, (5,)))
    assert histogram.freeze() == Buckets(0, 0, 0, (2, 7))


def test_empty_buckets_at_the_ends_cost_no_resolution() -> None:
    histogram = build([1.5])
    histogram.add_buckets(Buckets(3, 0, -80, (*[0] * 84, 1, *[0] * 75)))
    histogram.add_buckets(Buckets(3, 0, 8_000, (0, 0), -8_000, (0,)))
    assert histogram.freeze() == Buckets(3, 0, 4, (2,))


def test_an_empty_histogram_freezes_to_empty_buckets() -> None:
    assert Histogram().freeze() == Buckets(3)


@given(VALUES, VALUES)
def test_adding_a_histogram_is_adding_its_values(values: list[float], others: list[float]) -> None:
    histogram, other = build(values), build(others)
    before = other.freeze()
    histogram.add_histogram(other)
    assert histogram.freeze() == build([*values, *others]).freeze()
    assert other.freeze() == before, "it stays as it is"
