"""Snapshots -> requests: totals, bucket counts and times are exact, whatever the snapshots say."""

# ruff: noqa: ANN401 - protobuf's messages have no types that say more

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.sinks.opentelemetry_terms import (
    MAX_NAME_CHARS,
    ORIGINAL_NAME,
    encode_attributes,
    encode_name,
    encode_time_ns,
    encode_unit,
)
from aiokpl_metricsd.sinks.otlp.data import Encoder, Refusal, check_snapshot
from aiokpl_metricsd.sinks.otlp.totals import Totals
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.otlp_receiver import read_points

NOW_NS = 42_000_000_000
ROOM = 4_000_000

seconds = st.integers(1, 4_000_000_000)
values = st.lists(st.floats(0.0, 1e12, allow_subnormal=False), min_size=1, max_size=20)
any_text = st.text(st.characters(codec=None), max_size=300)


def build_encoder(totals: Totals | None = None, prefix: str = "p.") -> Encoder:
    return Encoder(prefix, {"service.name": "s"}, totals, lambda: NOW_NS)


def encode(snapshots: Sequence[MetricSnapshot], encoder: Encoder | None = None) -> Any:
    return (encoder or build_encoder()).encode(snapshots, 0, ROOM, 10_000)


def build_histogram(numbers: list[float], **fields: Any) -> MetricSnapshot:
    histogram = Histogram()
    histogram.add_values(numbers, min(numbers), max(numbers))
    return MetricSnapshot(
        "h",
        len(numbers),
        sum(numbers),
        min(numbers),
        max(numbers),
        kind=MetricKind.HISTOGRAM,
        histogram=histogram.freeze(),
        **fields,
    )


@given(values, seconds, st.integers(1, 3_600))
def test_every_figure_and_both_times_of_a_histogram_are_exact(
    numbers: list[float], start: int, length: int
) -> None:
    snapshot = build_histogram(numbers, window_start=float(start), window_end=float(start + length))
    buckets = snapshot.histogram
    assert buckets is not None
    ((name, kind, point),) = read_points(encode([snapshot]).message)
    assert (name, kind) == ("p.h", "exponential_histogram")
    assert (point.count, point.sum, point.min, point.max) == (
        len(numbers),
        sum(numbers),
        min(numbers),
        max(numbers),
    )
    assert (point.scale, point.zero_count) == (buckets.scale, buckets.zero_count)
    assert tuple(point.positive.bucket_counts) == buckets.positive_counts
    assert point.zero_count + sum(point.positive.bucket_counts) == point.count
    assert point.start_time_unix_nano == start * 10**9
    assert point.time_unix_nano == (start + length) * 10**9


@given(st.lists(values, min_size=1, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_cumulative_totals_are_those_of_all_windows_however_often_each_is_sent(
    windows: list[list[float]], repeats: list[bool]
) -> None:
    encoder = build_encoder(Totals())
    whole = Histogram()
    point: Any = None
    for number, numbers in enumerate(windows):
        times = {
            "window_start": 60.0 * number + 60,
            "window_end": 60.0 * number + 120,
            "window_id": f"{number}",
        }
        snapshot = build_histogram(numbers, **times)
        assert snapshot.histogram is not None
        whole.add_buckets(snapshot.histogram)
        for _ in range(1 + repeats[number]):
            ((_, _, point),) = read_points(encode([snapshot], encoder).message)
    everything = [number for numbers in windows for number in numbers]
    assert point.count == len(everything)
    assert point.sum == sum((sum(numbers) for numbers in windows), 0.0)
    assert (point.min, point.max) == (min(everything), max(everything))
    assert tuple(point.positive.bucket_counts) == whole.freeze().positive_counts
    assert (point.start_time_unix_nano, point.time_unix_nano) == (
        60 * 10**9,
        (60 * len(windows) + 60) * 10**9,
    )


snapshots = st.builds(
    MetricSnapshot,
    any_text,
    st.integers(-1, 2**64),
    st.floats(),
    st.floats(),
    st.floats(),
    st.lists(st.tuples(any_text, any_text), max_size=3).map(tuple),
    window_start=st.floats(),
    window_end=st.floats(),
    kind=st.sampled_from(MetricKind),
    unit=st.none() | any_text,
    last=st.floats(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(snapshots, max_size=8), st.booleans())
def test_whatever_the_snapshots_say_each_is_a_point_or_refused_and_nothing_raises(
    window: list[MetricSnapshot], is_cumulative: bool
) -> None:
    request = encode(window, build_encoder(Totals() if is_cumulative else None))
    assert len(list(read_points(request.message))) == len(request.taken)
    refused = [snapshot for snapshot, _ in request.refused]
    assert sorted(map(id, [*request.taken, *refused])) == sorted(map(id, window))
    assert request.message.SerializeToString()


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(600, 4_000))
def test_requests_keep_order_and_size_and_together_hold_every_snapshot_once(
    lengths: list[int], max_bytes: int
) -> None:
    window = [
        MetricSnapshot(f"m{number}", 1, 1.0, 1.0, 1.0, (("k", "v" * length),))
        for number, length in enumerate(lengths)
    ]
    encoder, begin, names = build_encoder(), 0, []
    while begin < len(window):
        request = encoder.encode(window, begin, max_bytes, 16)
        assert begin < request.end <= begin + 16
        assert request.size_bytes <= max_bytes
        assert request.size_bytes == len(request.message.SerializeToString())
        names += [name for name, _, _ in read_points(request.message)]
        begin = request.end
    assert names == [f"p.m{number}" for number in range(len(lengths))]


def test_series_of_one_name_share_a_metric_and_other_units_do_not() -> None:
    window = [
        MetricSnapshot("a", 1, 1.0, 1.0, 1.0, (("k", "1"),), unit="ms"),
        MetricSnapshot("a", 1, 1.0, 1.0, 1.0, (("k", "2"),), unit="ms"),
        MetricSnapshot("a", 1, 1.0, 1.0, 1.0, (("k", "3"),), unit="s"),
    ]
    (resource,) = encode(window).message.resource_metrics
    (scope,) = resource.scope_metrics
    assert [(metric.unit, len(metric.sum.data_points)) for metric in scope.metrics] == [("ms", 2), ("s", 1)]


def test_a_snapshot_without_a_time_is_sent_as_now() -> None:
    window = [
        MetricSnapshot("a", 1, 1.0, 1.0, 1.0),
        MetricSnapshot("b", 1, 1.0, 1.0, 1.0, kind=MetricKind.GAUGE),
        MetricSnapshot("c", 1, 1.0, 1.0, 1.0, window_start=9.0, window_end=5.0),
    ]
    points = {name: point for name, _, point in read_points(encode(window).message)}
    assert points["p.a"].time_unix_nano == points["p.b"].time_unix_nano == NOW_NS
    assert points["p.a"].start_time_unix_nano == 0
    assert (points["p.c"].start_time_unix_nano, points["p.c"].time_unix_nano) == (0, 5 * 10**9)


def test_a_histogram_without_buckets_or_with_too_few_keeps_its_statistics() -> None:
    whole = build_histogram([1.0, 2.0, 4.0])
    window = [
        MetricSnapshot("a", 3, 7.0, 1.0, 4.0, kind=MetricKind.HISTOGRAM),
        MetricSnapshot("b", 4, 9.0, 1.0, 4.0, kind=MetricKind.HISTOGRAM, histogram=whole.histogram),
    ]
    points = list(read_points(encode(window).message))
    assert [kind for _, kind, _ in points] == ["histogram", "histogram"]
    assert [(each.count, each.sum, each.min, each.max) for _, _, each in points] == [
        (3, 7.0, 1.0, 4.0),
        (4, 9.0, 1.0, 4.0),
    ]
    assert [list(each.bucket_counts) for _, _, each in points] == [[3], [4]]


def test_a_negative_value_refuses_a_counter_and_nothing_else() -> None:
    assert check_snapshot(MetricSnapshot("a", 2, 5.0, -1.0, 6.0)) is Refusal.NEGATIVE_COUNTER
    assert check_snapshot(MetricSnapshot("a", 1, -1.0, -1.0, -1.0, kind=MetricKind.HISTOGRAM)) is None
    assert check_snapshot(MetricSnapshot("a", 1, -1.0, -1.0, -1.0, kind=MetricKind.GAUGE, last=-1.0)) is None


def test_a_series_beyond_the_bound_begins_anew_with_a_new_start() -> None:
    totals = Totals(max_series=2)
    window = [
        MetricSnapshot(
            name, 1, 1.0, 1.0, 1.0, window_start=60.0 * at, window_end=60.0 * at + 60, window_id=f"{at}"
        )
        for at, name in enumerate("abcab", 1)
    ]
    figures = [
        totals.add(each, int(each.window_start) * 10**9, int(each.window_end) * 10**9) for each in window
    ]
    assert [each.sum for each in figures] == [1.0] * 5
    assert [each.start_ns // 10**9 for each in figures] == [60, 60, 180, 240, 300]
    assert (len(totals), totals.evicted) == (2, 3)


def test_a_total_that_does_not_fit_any_more_begins_anew() -> None:
    totals = Totals()
    first = MetricSnapshot("a", 2**62, 1e308, 0.0, 1.0, window_id="1")
    second = MetricSnapshot("a", 2**62, 1.0, 0.0, 1.0, window_id="2")
    third = MetricSnapshot("b", 1, 1.7e308, 0.0, 1.7e308, window_id="1")
    fourth = MetricSnapshot("b", 1, 1.7e308, 0.0, 1.7e308, window_id="2")
    figures = [totals.add(each, at, at + 1) for at, each in enumerate([first, second, third, fourth], 1)]
    assert [(each.count, each.start_ns) for each in figures] == [(2**62, 1), (2**62, 2), (1, 1), (1, 4)]


def test_totals_go_on_after_a_dump_even_within_a_window() -> None:
    totals = Totals()
    window = build_histogram([1.0, 2.0], window_start=60.0, window_end=120.0, window_id="1")
    before = totals.add(window, 60, 120)
    heir = Totals()
    heir.load(totals.dump())
    assert heir.add(window, 60, 120) == before


def test_equal_snapshots_without_a_time_are_two_windows_and_one_object_is_one() -> None:
    totals = Totals()
    first, second = MetricSnapshot("a", 1, 1.0, 1.0, 1.0), MetricSnapshot("a", 1, 1.0, 1.0, 1.0)
    assert [totals.add(each, 0, 9).sum for each in (first, first, second)] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("unit", "code"),
    [
        (None, ""),
        ("ms", "ms"),
        ("bytes", "By"),
        ("count", "{count}"),
        ("Bytes/Second", "By/s"),
        ("Percent", "%"),
        ("µs", "us"),
        ("records", "{records}"),
        ("{request}", "{request}"),
        ("user orders", "{user_orders}"),
        ("ü", "{_}"),
        ("x" * 63, ""),
    ],
)
def test_units_are_ucum_codes(unit: str | None, code: str) -> None:
    assert encode_unit(unit) == code


@given(any_text.filter(bool), st.sampled_from(["", "p.", "ü"]))
def test_a_mended_name_is_what_an_instrument_may_be_called(name: str, prefix: str) -> None:
    mended, is_mended = encode_name(prefix, name)
    assert mended[0].isascii()
    assert mended[0].isalpha()
    assert 1 <= len(mended) <= MAX_NAME_CHARS
    assert all(char.isascii() and (char.isalnum() or char in "-_./") for char in mended)
    assert is_mended == (mended != prefix + name)


def test_names_that_are_mended_alike_stay_two_series() -> None:
    window = [MetricSnapshot(name, 1, 1.0, 1.0, 1.0) for name in ("a b", "a_b", "UserPut")]
    points = list(read_points(encode(window).message))
    assert [name for name, _, _ in points] == ["p.a_b", "p.a_b", "p.UserPut"]
    assert [[(each.key, each.value.string_value) for each in point.attributes] for _, _, point in points] == [
        [(ORIGINAL_NAME, "a b")],
        [],
        [],
    ]


@given(seconds)
def test_whole_seconds_are_exact_nanoseconds(second: int) -> None:
    assert encode_time_ns(float(second)) == second * 10**9


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_what_is_no_time_is_unknown(time_s: float) -> None:
    assert encode_time_ns(time_s) == 0


@pytest.mark.parametrize("dimensions", [(("", "v"),), (("k", "1"), ("k", "2"))])
def test_dimensions_that_are_no_attributes_are_refused(dimensions: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError, match="dimension"):
        encode_attributes(dimensions)
