"""Folding loses the single events and nothing else: totals, extremes, last and buckets are exact."""

import math
import sys
from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_client import folding as module
from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.encoder import Encoder
from aiokpl_metrics_client.folding import MAX_WINDOWS, Fold
from aiokpl_metrics_protocol import (
    MAX_BUCKETS,
    MAX_DATAGRAM_BYTES,
    Buckets,
    Folded,
    FoldedFrame,
    Histogram,
    Series,
    decode,
    encode_series,
)
from tests.client.odd import NO_NUMBERS, NUMBERS

COUNTER = encode_series(Series("c", "counter"))
GAUGE = encode_series(Series("g", "gauge"))
HISTOGRAM = encode_series(Series("h", "histogram"))
ROOM = 10**9

# Sums of these are exact, in whatever order.
VALUES = st.integers(-(10**6), 10**6).map(lambda number: number / 4)
COLUMNS = st.lists(
    st.tuples(
        st.sampled_from([COUNTER, GAUGE, HISTOGRAM]),
        st.integers(1_000, 1_400),
        st.one_of(
            st.lists(VALUES, min_size=1, max_size=20),
            st.builds(lambda value, count: [value] * count, VALUES, st.integers(1, 20)),
        ),
    ),
    max_size=40,
)


def build_buckets(values: list[float]) -> Buckets:
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return histogram.freeze()


def fold(
    columns: Iterable[tuple[bytes, int, list[float]]], interval_s: float = 0.0, room: int = ROOM
) -> Fold:
    folded = Fold()
    folded.begin(interval_s)
    for series, second, values in columns:
        assert folded.add(series, second, values, room)
    return folded


@given(COLUMNS, st.sampled_from([1.0, 7.0, 60.0]))
def test_each_set_is_what_its_events_are(
    columns: list[tuple[bytes, int, list[float]]], interval_s: float
) -> None:
    expected: defaultdict[tuple[bytes, int], list[tuple[int, list[float]]]] = defaultdict(list)
    for series, second, values in columns:
        expected[series, int(second // interval_s)].append((second, values))
    if len({number for _, number in expected}) > MAX_WINDOWS:
        return
    folded = fold(columns, interval_s)
    assert folded.events == sum(len(values) for _, _, values in columns)
    sets = list(folded.take())
    assert {(each.series, int(each.second // interval_s)) for each in sets} == expected.keys()
    for each in sets:
        parts = expected[each.series, int(each.second // interval_s)]
        values = [value for _, part in parts for value in part]
        last_second = max(second for second, _ in parts)
        assert each == Folded(
            each.series,
            min(second for second, _ in parts),
            len(values),
            sum(values),
            min(values),
            max(values),
            [part for second, part in parts if second == last_second][-1][-1],
            last_second,
            build_buckets(values) if each.series == HISTOGRAM else None,
        )
    assert (folded.events, folded.size_bytes, list(folded.take())) == (0, 0, [])


@given(COLUMNS, st.sampled_from([0.0, 1.0, 5.0]), st.integers(500, 6_000))
def test_however_coarse_windows_become_totals_and_buckets_are_exact(
    columns: list[tuple[bytes, int, list[float]]], interval_s: float, room: int
) -> None:
    folded = Fold()
    folded.begin(interval_s)
    kept: defaultdict[bytes, list[float]] = defaultdict(list)
    seconds: set[int] = set()
    for series, second, values in columns:
        if folded.add(series, second, values, room):
            kept[series].extend(values)
            seconds.add(second)
    sets = list(folded.take())
    assert len({(each.series, each.second) for each in sets}) == len(sets)
    for series, values in kept.items():
        mine = [each for each in sets if each.series == series]
        assert sum(each.count for each in mine) == len(values)
        assert sum(each.sum for each in mine) == sum(values)
        assert (min(each.min for each in mine), max(each.max for each in mine)) == (min(values), max(values))
        assert all(each.second in seconds and each.last_second in seconds for each in mine)
        if series == HISTOGRAM:
            merged = Histogram()
            for each in mine:
                assert each.buckets is not None
                merged.add_buckets(each.buckets)
            assert merged.freeze() == build_buckets(values)


@pytest.mark.parametrize(("interval_s", "windows"), [(0.0, 43), (60.0, 60), (1.0, 60)])
def test_there_are_never_more_windows_than_the_bound(interval_s: float, windows: int) -> None:
    width = interval_s or 1.0
    folded = fold([(COUNTER, int(1_000_000 + number * width), [1.0]) for number in range(1_370)], interval_s)
    sets = list(folded.take())
    assert len(sets) == windows
    assert sum(each.count for each in sets) == 1_370
    counts = [each.count for each in sets]
    if interval_s:
        assert counts == [1_370 - 59, *[1] * 59], "the oldest takes what is too much"
    else:
        assert max(counts) == 32, "where the interval is unknown, all windows are twice as long"


def test_what_comes_late_for_the_oldest_window_counts_in_it() -> None:
    folded = fold([(COUNTER, 60 * number, [1.0]) for number in range(80)], 60.0)
    assert folded.add(COUNTER, 0, [5.0], ROOM)
    sets = list(folded.take())
    assert (sets[0].count, sets[0].sum, sets[0].second) == (22, 26.0, 0)
    assert len(sets) == MAX_WINDOWS


def test_the_last_value_is_that_of_the_greatest_second_and_of_equal_ones_the_one_that_came_last() -> None:
    folded = fold([(GAUGE, 30, [1.0, 2.0]), (GAUGE, 10, [9.0]), (GAUGE, 30, [3.0])], 60.0)
    (each,) = folded.take()
    assert (each.last, each.last_second, each.second) == (3.0, 30, 10)


def test_without_room_a_new_series_finds_coarser_windows_first_and_then_none() -> None:
    series = [encode_series(Series(f"n{number}", "counter")) for number in range(100)]
    folded = fold([(COUNTER, second, [1.0]) for second in range(10)], room=4_000)
    fitted = [folded.add(each, 9, [1.0], 4_000) for each in series]
    assert fitted == [True] * 7 + [False] * 93
    assert folded.add(COUNTER, 9, [1.0], 4_000), "what has a set needs no room"
    assert folded.size_bytes <= 4_000
    assert [each.count for each in folded.take()] == [11, *[1] * 7]


def test_histograms_that_grow_take_no_more_than_the_room() -> None:
    series = [encode_series(Series(f"h{number}", "histogram")) for number in range(20)]
    folded = Fold()
    folded.begin(60.0)
    recorded = kept = 0
    for step in range(100):
        for each in series:
            recorded += 1
            kept += folded.add(each, 60 * (step // 10), [1.1 ** (step % 50)], 30_000)
            assert folded.size_bytes < 30_000 + 1_000
    assert 0 < kept < recorded
    assert sum(each.count for each in folded.take()) == folded.events + kept


def test_with_one_window_left_what_has_a_set_is_never_dropped() -> None:
    series = [encode_series(Series(f"c{number}", "counter")) for number in range(10)]
    folded = Fold()
    folded.begin(60.0)
    for step in range(100):
        for each in series:
            assert folded.add(each, 60 * step, [1.0], 4_700)
    sets = list(folded.take())
    assert [(each.count, each.second, each.last_second) for each in sets] == [(100, 0, 5_940)] * 10


def test_only_a_declared_counter_or_gauge_has_no_buckets() -> None:
    # What nobody declared is what the daemon's configuration says, maybe a histogram.
    for series, has_buckets in [
        (Series("n"), True),
        (Series("n", "counter"), False),
        (Series("n", "gauge"), False),
        (Series("n", "histogram"), True),
        (Series("UserRecordsPut"), False),
        (Series("RequestTime"), True),
    ]:
        (each,) = fold([(encode_series(series), 5, [1.0, 2.0])]).take()
        assert (each.buckets is not None) is has_buckets


def test_a_set_that_can_hold_no_more_events_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COLUMN_COUNT", 10)
    folded = fold([(COUNTER, second, [1.0] * 4) for second in (1, 2, 3, 61, 62, 63)], 60.0)
    folded._coarsen()
    counts = [each.count for each in folded.take()]
    assert sum(counts) == 24
    assert max(counts) <= 10


def test_a_sum_beyond_doubles_is_the_greatest_there_is() -> None:
    most = sys.float_info.max
    for sign in (1, -1):
        (each,) = fold(
            [(COUNTER, 5, [sign * most, sign * most / 2]), (COUNTER, 6, [sign * most])], 60.0
        ).take()
        assert (each.sum, each.count) == (sign * most, 3)


@pytest.mark.parametrize("values", [[5e-324, 1.7e308], [-5e-324, 0.0, 1.7e308, -1.7e308], [0.0, -0.0]])
def test_buckets_of_extreme_values_stay_within_the_bound(values: list[float]) -> None:
    (each,) = fold([(HISTOGRAM, 5, values), (HISTOGRAM, 5, [values[0]] * 3)]).take()
    assert each.buckets is not None
    for counts in (each.buckets.positive_counts, each.buckets.negative_counts):
        assert len(counts) <= MAX_BUCKETS
    total = sum(each.buckets.positive_counts) + sum(each.buckets.negative_counts) + each.buckets.zero_count
    assert total == each.count == len(values) + 3


# ---- frames of it


def test_frames_of_folded_sets_are_numbered_with_the_others_and_never_too_large() -> None:
    encoder = Encoder(7, DropCounter())
    series = [
        encode_series(Series(f"h{number}", "histogram", None, (("k", "x" * 500),))) for number in range(300)
    ]
    values = [1.09**number for number in range(200)]
    columns = [(each, 1_000 + second, values) for second in (0, 30) for each in series]
    frames = list(encoder.encode_sets(fold(columns).take()))
    list(encoder.add(COUNTER, 5, [1.0]))
    frames.extend(encoder.finish())
    assert all(len(frame.data) <= MAX_DATAGRAM_BYTES for frame in frames)
    decoded = [decode(frame.data) for frame in frames]
    sent = 0
    for number, (frame, encoded) in enumerate(zip(decoded, frames, strict=True), start=1):
        assert (frame.sequence, frame.totals.sent) == (number, sent)  # type: ignore[union-attr]
        sent += encoded.events
    folded = [each for frame in decoded if isinstance(frame, FoldedFrame) for each in frame.sets]
    assert len(folded) == 600
    assert sum(each.count for each in folded) == 600 * 200


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_what_is_no_number_is_counted_before_it_is_folded(name: str) -> None:
    drops = DropCounter()
    cleaned = Encoder(7, drops).clean([1.0, NO_NUMBERS[name], 2], COUNTER)
    assert cleaned == [1.0, 2.0]
    assert drops.counts() == {"value_invalid": 1}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_a_number_is_folded_as_a_float(name: str) -> None:
    value, number = NUMBERS[name]
    drops = DropCounter()
    assert Encoder(7, drops).clean([value, 1.5], COUNTER) == [number, 1.5]
    assert drops.counts() == {}


def test_values_that_only_add_up_to_infinity_are_numbers() -> None:
    most = sys.float_info.max
    assert Encoder(7, DropCounter()).clean([most, most], COUNTER) == [most, most]
    assert Encoder(7, DropCounter()).clean([math.inf, most], COUNTER) == [most]
