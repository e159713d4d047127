"""One metric: its key, its last 60 seconds, and what came since the last flush."""

from decimal import Decimal
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MetricKind, Reason
from aiokpl_metricsd.library.metric import MAX_VALUES, Metric, MetricKey, OpenSeries, open_series, to_number


class Clock:
    def __init__(self, now: float = 1000.5) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Word(str, Enum):  # noqa: UP042 - the older form prints otherwise, and is still met
    NAME = "RequestTime"


def test_dimensions_are_stream_shard_and_error_code_in_this_order() -> None:
    assert MetricKey("n", error_code="e", shard_id="h", stream="s").dimensions() == (
        ("stream", "s"),
        ("shard", "h"),
        ("error_code", "e"),
    )


def test_unset_dimensions_are_left_out() -> None:
    assert MetricKey("n").dimensions() == ()
    assert MetricKey("n", None, "h").dimensions() == (("shard", "h"),)


def test_a_key_is_a_value() -> None:
    assert {MetricKey("n", "s"): 1}[MetricKey("n", "s")] == 1
    assert MetricKey("n", "s") != MetricKey("n", "t")
    with pytest.raises(AttributeError):
        MetricKey("n").name = "m"  # type: ignore[misc]


def test_an_empty_metric_has_no_statistics_and_no_bounds() -> None:
    metric = Metric(MetricKey("n"), clock=Clock())
    assert metric.stats() is None
    assert metric.window_bounds() == (0.0, 0.0)


def test_a_metric_keeps_count_sum_min_and_max_of_sixty_seconds() -> None:
    clock = Clock()
    metric = Metric(MetricKey("n"), clock)
    metric.put(5)
    clock.now = 1059.9
    metric.put(-2.5)
    metric.put()
    assert metric.stats() == (3, 3.5, -2.5, 5.0)
    assert metric.window_bounds() == (1000.0, 1060.0)
    clock.now = 1060.0
    assert metric.stats() == (2, -1.5, -2.5, 1.0)
    assert metric.window_bounds() == (1059.0, 1060.0)
    clock.now = 1119.0
    assert metric.stats() is None
    assert metric.window_bounds() == (0.0, 0.0)


def test_a_metric_uses_a_monotonic_clock_by_default() -> None:
    metric = Metric(MetricKey("n"))
    metric.put(2.0)
    assert metric.stats() == (1, 2.0, 2.0, 2.0)


def test_a_metric_counts_and_ignores_what_is_no_finite_number() -> None:
    metric = Metric(MetricKey("n"), clock=Clock())
    for value in (float("nan"), float("inf"), "1", None):
        metric.put(value)  # type: ignore[arg-type]
    assert metric.stats() is None
    assert metric.values_refused == 4


@pytest.mark.parametrize(("value", "number"), [(1, 1.0), (True, 1.0), (Decimal("2.5"), 2.5), (-0.5, -0.5)])
def test_whatever_is_a_finite_number_becomes_a_float(value: object, number: float) -> None:
    result = to_number(value)
    assert result == number
    assert type(result) is float


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), 10**400, "1", b"1", bytearray(b"1"), None, [], 1j, object()]
)
def test_whatever_is_no_finite_number_becomes_none(value: object) -> None:
    assert to_number(value) is None


def test_a_series_has_the_kind_and_unit_of_the_catalog() -> None:
    series = open_series(Word.NAME, "s", None, None)
    assert isinstance(series, OpenSeries)
    assert (series.kind, series.unit) == (MetricKind.HISTOGRAM, "ms")
    assert type(series.key.name) is str
    unknown = open_series("mine", None, None, None)
    assert isinstance(unknown, OpenSeries)
    assert (unknown.kind, unknown.unit) == (MetricKind.COUNTER, None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("", None, None, None), Reason.NAME_EMPTY),
        (("n" * 256, None, None, None), Reason.NAME_TOO_LONG),
        (("n", "", None, None), Reason.DIMENSION_EMPTY),
        (("n", None, None, "e" * 1025), Reason.DIMENSION_TOO_LONG),
        ((7, None, None, None), Reason.WRONG_TYPE),
        (("n", ["s"], None, None), Reason.WRONG_TYPE),
    ],
)
def test_a_series_that_breaks_a_limit_is_refused_with_its_reason(
    arguments: tuple[object, object, object, object], reason: Reason
) -> None:
    assert open_series(*arguments) is reason


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6), st.booleans()), min_size=1, max_size=MAX_VALUES * 2
    )
)
def test_values_waiting_in_the_list_are_in_every_answer(steps: list[tuple[int, float, bool]]) -> None:
    series = open_series("RequestTime", None, None, None)
    assert isinstance(series, OpenSeries)
    second, taken, values = 1000, 0, [value for _, value, _ in steps]
    for advance, value, take in steps:
        second += advance
        if second != series.second:
            series.fold(second)
        series.values.append(value)
        if take:
            snapshot = series.take(0.0, 1.0)
            assert (snapshot.last, snapshot.histogram is not None) == (value, True)
            taken += snapshot.count
            assert not series.has_pending()
        assert series.has_pending() is not take
    if series.has_pending():
        taken += series.take(0.0, 1.0).count
    assert taken == len(values)
    live = series.read_snapshot(second, 0.0)
    assert live is not None
    assert live.last == values[-1]
