"""Buckets -> quantiles: the written error bound holds, and the ends are exact."""

from collections import Counter
from collections.abc import Sequence
from math import ceil, log2, sqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import Buckets
from aiokpl_metricsd.rendering.quantile import quantile, quantiles

# A value that lies exactly on a bucket's edge may be counted in the neighbour, for log2 is rounded.
ROUNDING = 1e-9

VALUES = st.one_of(
    st.just(0.0),
    st.floats(min_value=1e-9, max_value=1e9),
    st.floats(min_value=-1e9, max_value=-1e-9),
)


def build_side(values: Sequence[float], scale: int) -> tuple[int, tuple[int, ...]]:
    indexes = Counter(ceil(log2(value) * 2.0**scale) - 1 for value in values)
    if not indexes:
        return 0, ()
    first, last = min(indexes), max(indexes)
    return first, tuple(indexes[index] for index in range(first, last + 1))


def build_buckets(values: Sequence[float], scale: int = 3) -> Buckets:
    positive_offset, positive_counts = build_side([v for v in values if v > 0], scale)
    negative_offset, negative_counts = build_side([-v for v in values if v < 0], scale)
    return Buckets(
        scale,
        sum(v == 0 for v in values),
        positive_offset,
        positive_counts,
        negative_offset,
        negative_counts,
    )


def find_exact(values: Sequence[float], q: float) -> float:
    return sorted(values)[max(ceil(q * len(values)), 1) - 1]


def assert_within_bound(values: Sequence[float], q: float, scale: int) -> None:
    estimate = quantile(build_buckets(values, scale), q, low=min(values), high=max(values))
    exact = find_exact(values, q)
    base = 2.0 ** (2.0**-scale)
    assert abs(estimate - exact) <= abs(exact) * (sqrt(base) - 1 + ROUNDING)


@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(min_value=0, max_value=1))
@example([1.0, 2.0, 4.0], 0.5)
def test_at_scale_3_an_estimate_is_within_4_43_percent_of_the_exact_quantile(
    values: list[float], q: float
) -> None:
    assert sqrt(2 ** (1 / 8)) - 1 == pytest.approx(0.0443, abs=1e-4)
    assert_within_bound(values, q, 3)


@given(
    st.lists(VALUES, min_size=1, max_size=50),
    st.floats(min_value=0, max_value=1),
    st.integers(min_value=-3, max_value=6),
)
def test_at_every_scale_the_bound_is_the_root_of_the_base_less_one(
    values: list[float], q: float, scale: int
) -> None:
    assert_within_bound(values, q, scale)


@given(st.lists(VALUES, min_size=1, max_size=50), st.lists(st.floats(min_value=0, max_value=1)))
def test_estimates_rise_with_q_and_stay_between_least_and_greatest(
    values: list[float], qs: list[float]
) -> None:
    low, high = min(values), max(values)
    estimates = quantiles(build_buckets(values), sorted(qs), low=low, high=high)
    assert estimates == sorted(estimates)
    assert all(low <= estimate <= high for estimate in estimates)


@given(st.lists(VALUES, min_size=1, max_size=50))
def test_the_ends_are_exact(values: list[float]) -> None:
    low, high = min(values), max(values)
    assert quantiles(build_buckets(values), (0, 1), low=low, high=high) == [low, high]


@given(st.lists(VALUES, min_size=1, max_size=50), st.floats(min_value=0, max_value=1))
def test_several_quantiles_are_the_same_as_one_by_one(values: list[float], q: float) -> None:
    buckets, low, high = build_buckets(values), min(values), max(values)
    assert quantiles(buckets, (q, 0.5), low=low, high=high) == [
        quantile(buckets, q, low=low, high=high),
        quantile(buckets, 0.5, low=low, high=high),
    ]


def test_negative_values_come_before_zero_and_zero_before_positive_ones() -> None:
    values = [-8.0, -2.0, 0.0, 2.0, 8.0]
    estimates = quantiles(build_buckets(values), (0.2, 0.4, 0.6, 0.8, 1.0), low=-8.0, high=8.0)
    assert estimates == pytest.approx(values, rel=0.0443)
    assert estimates[2] == 0.0


def test_equal_values_are_exact_because_the_estimate_is_clamped() -> None:
    assert quantile(build_buckets([5.0] * 7), 0.5, low=5.0, high=5.0) == 5.0


def test_empty_buckets_give_the_least_value() -> None:
    assert quantile(Buckets(3), 0.5, low=1.0, high=2.0) == 1.0


@pytest.mark.parametrize("scale", [20, 3, -10, -2000, 2000])
@pytest.mark.parametrize("offset", [-(2**62), -1, 0, 2**62])
def test_buckets_that_no_finite_value_falls_into_stay_between_least_and_greatest(
    scale: int, offset: int
) -> None:
    buckets = Buckets(scale, 0, offset, (1, 1), offset, (1, 1))
    estimates = quantiles(buckets, (0.1, 0.3, 0.6, 0.9), low=-3.0, high=3.0)
    assert all(-3.0 <= estimate <= 3.0 for estimate in estimates)


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_outside_0_and_1_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(build_buckets([1.0]), q, low=1.0, high=1.0)
