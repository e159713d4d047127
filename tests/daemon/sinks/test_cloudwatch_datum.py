"""Snapshot -> datum: mended by rule or set aside, never refused by a service that is strict."""

import string
from itertools import pairwise
from math import inf, nan
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import CATALOG, Buckets, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.rendering.quantile import quantile
from aiokpl_metricsd.sinks.cloudwatch.client import encode_json
from aiokpl_metricsd.sinks.cloudwatch.datum import (
    Datum,
    DatumOptions,
    Unfit,
    encode_datum,
    encode_distribution,
    encode_unit,
    mend_text,
)
from aiokpl_metricsd.sinks.cloudwatch.request import Cutter
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.cloudwatch_stub import UNITS, check_payload, load_strictly

NOW = 1_795_000_020.0
PERCENTILES = DatumOptions(percentiles=True)


def build(**fields: Any) -> MetricSnapshot:  # noqa: ANN401 - a snapshot's
    given_fields: dict[str, Any] = {
        "name": "RequestTime",
        "count": 2,
        "sum": 3.0,
        "min": 1.0,
        "max": 2.0,
        "window_start": NOW - 60.0,
        "window_end": NOW,
    }
    return MetricSnapshot(**(given_fields | fields))


def encode(options: DatumOptions = DatumOptions(), **fields: Any) -> Datum:  # noqa: ANN401, B008 - a snapshot's
    datum = encode_datum(build(**fields), options, NOW)
    assert isinstance(datum, Datum), datum
    return datum


def build_buckets(values: list[float]) -> Buckets:
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return histogram.freeze()


def test_the_statistics_unit_and_dimensions_are_the_snapshots_own() -> None:
    datum = encode(
        unit="ms", dimensions=(("stream", "orders"), ("shard", "s-1"), ("error_code", "E"), ("pod", "p"))
    )
    assert msgspec.to_builtins(datum) == {
        "MetricName": "RequestTime",
        "Timestamp": NOW - 60.0,
        "Unit": "Milliseconds",
        "StatisticValues": {"SampleCount": 2.0, "Sum": 3.0, "Minimum": 1.0, "Maximum": 2.0},
        "Dimensions": (
            {"Name": "StreamName", "Value": "orders"},
            {"Name": "ShardId", "Value": "s-1"},
            {"Name": "ErrorCode", "Value": "E"},
            {"Name": "pod", "Value": "p"},
        ),
    }


def test_high_resolution_is_asked_for_and_the_ordinary_one_is_not_mentioned() -> None:
    assert b"StorageResolution" not in encode_json(encode())[0]
    assert b'"StorageResolution":1' in encode_json(encode(DatumOptions(storage_resolution=1)))[0]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (NOW - 60.0, NOW, NOW - 60.0),
        (NOW - 23.5, NOW, NOW - 23.5),
        (0.0, NOW, NOW),
        (0.0, 0.0, NOW),
        (NOW - 60.0, 0.0, NOW),
        (NOW + 5.0, NOW - 5.0, NOW - 5.0),
    ],
)
def test_the_time_is_the_windows_start_or_its_end_or_now(start: float, end: float, expected: float) -> None:
    assert encode(window_start=start, window_end=end).timestamp == expected


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        *((unit, unit) for unit in sorted(UNITS)),
        *((unit.lower(), unit) for unit in sorted(UNITS)),
        *(
            ("s", "Seconds"),
            ("ms", "Milliseconds"),
            ("us", "Microseconds"),
            ("\N{MICRO SIGN}s", "Microseconds"),
        ),
        *(
            ("bytes", "Bytes"),
            ("By", "Bytes"),
            ("kB", "Kilobytes"),
            ("MBy", "Megabytes"),
            ("Mbit", "Megabits"),
        ),
        *(("count", "Count"), ("%", "Percent"), ("By/s", "Bytes/Second"), ("count/s", "Count/Second")),
        *((unknown, "None") for unknown in (None, "", "ns", "1", "KiB", "Mb", "ms/s", "apples")),
    ],
)
def test_a_unit_becomes_one_of_the_27_or_none(unit: str | None, expected: str) -> None:
    assert encode_unit(unit) == expected


def test_every_unit_of_the_catalog_is_known() -> None:
    assert {encode_unit(each.unit) for each in CATALOG.values()} == {"Count", "Bytes", "Milliseconds"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sum": nan}, Unfit.NUMBER_OUT_OF_RANGE),
        ({"max": inf}, Unfit.NUMBER_OUT_OF_RANGE),
        ({"min": -inf}, Unfit.NUMBER_OUT_OF_RANGE),
        ({"sum": 2.0**360 * 1.01}, Unfit.NUMBER_OUT_OF_RANGE),
        ({"min": 1.79e308, "max": -1.79e308}, Unfit.NUMBER_OUT_OF_RANGE),
        ({"count": 0}, Unfit.COUNT_NOT_POSITIVE),
        ({"min": 3.0}, Unfit.MIN_ABOVE_MAX),
        ({"name": " "}, Unfit.NAME_BLANK),
        ({"dimensions": tuple((f"k{i}", "v") for i in range(31))}, Unfit.TOO_MANY_DIMENSIONS),
        ({"window_start": NOW - 15 * 86_400, "window_end": NOW - 15 * 86_400 + 60}, Unfit.TIME_NOT_ACCEPTED),
        ({"window_start": NOW + 3 * 3600, "window_end": NOW + 3 * 3600 + 60}, Unfit.TIME_NOT_ACCEPTED),
        ({"window_start": nan, "window_end": nan}, Unfit.TIME_NOT_ACCEPTED),
        ({"dimensions": (("k", 5),)}, Unfit.MALFORMED),
        ({"sum": "much"}, Unfit.MALFORMED),
        ({"count": 10**400}, Unfit.MALFORMED),
    ],
)
def test_what_has_no_true_form_is_set_aside_with_its_reason(fields: dict[str, Any], expected: Unfit) -> None:
    assert encode_datum(build(**fields), PERCENTILES, NOW) is expected


@pytest.mark.parametrize("number", [2.0**360, -(2.0**360), 0.0, 1e-100, -5.0])
def test_a_number_at_the_edge_of_the_range_is_sent_as_it_is(number: float) -> None:
    assert encode(sum=number, min=min(number, 0.0)).statistic_values.sum == number


@pytest.mark.parametrize("number", [5e-324, -1e-200, 8e-109, -0.0])
def test_a_number_too_near_to_zero_becomes_zero(number: float) -> None:
    assert encode_json(encode(sum=number))[0].count(b'"Sum":0.0') == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ~", "plain ~"),
        ("a\nb\x7f", "a\\x0ab\\x7f"),
        ("Zürich", "Z\\xfcrich"),
        ("\N{CJK UNIFIED IDEOGRAPH-5317}", "\\u5317"),
        ("\ud800", "\\ud800"),
        ("\N{GRINNING FACE}", "\\U0001f600"),
    ],
)
def test_what_is_no_printable_ascii_is_escaped(text: str, expected: str) -> None:
    assert mend_text(text, 255) == expected


def test_texts_that_are_cut_stay_apart() -> None:
    first, second = (mend_text("x" * 300 + end, 255) for end in "ab")
    assert first != second
    assert len(first) == len(second) == 255
    assert first[:238] == "x" * 238
    assert mend_text("x" * 255, 255) == "x" * 255


def test_a_blank_dimension_is_left_out_as_by_the_kpl() -> None:
    datum = encode(dimensions=(("stream", "  "), ("", "v"), ("\n", "v"), ("shard", "1")))
    assert [(each.name, each.value) for each in datum.dimensions] == [("ShardId", "1")]


def test_no_dimension_name_begins_with_a_colon_or_comes_twice() -> None:
    pairs = ((":path", "a"), ("stream", "b"), ("StreamName", "c"), ("_path", "d"), ("StreamName_2", "e"))
    names = [each.name for each in encode(dimensions=pairs).dimensions]
    assert names == ["_path", "StreamName", "StreamName_2", "_path_2", "StreamName_2_2"]


def test_a_histogram_carries_its_distribution_beside_its_statistics_where_that_is_asked_for() -> None:
    values = [1.0, 1.0, 3.0, 100.0]
    fields: dict[str, Any] = {
        "kind": MetricKind.HISTOGRAM,
        "histogram": build_buckets(values),
        "count": 4,
        "sum": 105.0,
        "min": 1.0,
        "max": 100.0,
    }
    assert encode(**fields).values is None
    datum = encode(PERCENTILES, **fields)
    assert datum.values == [1.0, pytest.approx(3.0, rel=0.045), pytest.approx(100.0, rel=0.045)]
    assert datum.counts == [2, 1, 1]
    assert datum.statistic_values.sum == 105.0


def test_a_distribution_of_other_events_is_not_sent() -> None:
    fields: dict[str, Any] = {"kind": MetricKind.HISTOGRAM, "histogram": build_buckets([1.0, 2.0, 2.0])}
    assert encode(PERCENTILES, **fields).values is None


def test_more_than_150_buckets_are_merged_exactly() -> None:
    values = (
        [2.0 ** (i / 8 - 0.01) for i in range(160)] + [-(2.0 ** (i / 8 - 0.01)) for i in range(100)] + [0.0]
    )
    buckets = build_buckets(values)
    found, counts = encode_distribution(buckets, min(values), max(values))
    assert len(found) <= 150
    assert sum(counts) == len(values)
    assert all(a < b for a, b in pairwise(found))
    assert 0.0 in found
    # One step coarser than scale 3, the error is at most half a bucket at scale 2.
    expected = quantile(buckets, 0.9, low=min(values), high=max(values))
    rank = next(v for i, v in enumerate(found) if sum(counts[: i + 1]) >= 0.9 * len(values))
    assert rank == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(("size", "expected"), [(149, 149), (150, 150), (151, 76), (160, 80), (0, 0)])
def test_buckets_are_merged_only_where_they_are_too_many(size: int, expected: int) -> None:
    values, counts = encode_distribution(Buckets(3, 0, 0, (1,) * size), 0.0, 1e9)
    assert (len(values), sum(counts)) == (expected, size)


NUMBERS = st.floats() | st.integers() | st.sampled_from([2.0**360, -(2.0**360), 1e-300, 0, -0.0, 1.79e308])
PLAUSIBLE = st.floats(-1e6, 1e6)
# Characters whose escapes are long, that JSON escapes, that are no characters, and ordinary ones.
TEXTS = (
    st.text(max_size=20)
    | st.text(st.sampled_from('"\\\n\ud800\N{GRINNING FACE}é: '), max_size=40)
    | st.sampled_from(["x" * 255, "x" * 256, "é" * 1024, ":" * 300, "", " "])
    | st.text(string.ascii_letters, min_size=1, max_size=10)
)
COUNTS = st.lists(st.integers(0, 5) | st.integers(0, 2**63 - 1), max_size=200).map(tuple)
BUCKETS = st.builds(
    Buckets,
    st.integers(-10, 20),
    st.integers(0, 3),
    st.integers(-(2**40), 2**40),
    COUNTS,
    st.integers(-500, 500),
    COUNTS,
)
TIMES = st.sampled_from([0.0, NOW, NOW - 60.0, -1.0, 1e18]) | st.floats() | st.floats(NOW - 2e6, NOW + 2e4)


@st.composite
def snapshots(draw: st.DrawFn) -> MetricSnapshot:
    numbers = draw(
        st.lists(PLAUSIBLE, min_size=3, max_size=3).map(sorted) | st.lists(NUMBERS, min_size=3, max_size=3)
    )
    buckets = draw(st.none() | BUCKETS | st.lists(PLAUSIBLE, min_size=1, max_size=50).map(build_buckets))
    count = draw(st.integers(-1, 5) | st.integers())
    if buckets is not None and draw(st.booleans()):
        count = buckets.zero_count + sum(buckets.positive_counts) + sum(buckets.negative_counts)
    return MetricSnapshot(
        draw(TEXTS),
        count,
        numbers[1],
        numbers[0],
        numbers[2],
        tuple(
            draw(
                st.lists(st.tuples(TEXTS, TEXTS), max_size=4) | st.lists(st.tuples(TEXTS, TEXTS), max_size=32)
            )
        ),
        draw(TIMES),
        draw(TIMES),
        draw(st.sampled_from(MetricKind)),
        draw(st.none() | TEXTS | st.sampled_from(["ms", "bytes", "COUNT"])),
        histogram=buckets,
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(snapshots(), max_size=6), st.booleans(), st.sampled_from([1, 60]), st.integers(1, 4))
def test_whatever_the_snapshots_hold_no_request_is_refused_and_none_is_forgotten(
    window: list[MetricSnapshot], percentiles: bool, resolution: int, max_datums: int
) -> None:
    cutter = Cutter(
        window, DatumOptions(percentiles, resolution), encode_json, now=NOW, max_datums=max_datums
    )
    sent: list[MetricSnapshot] = []
    for request in cutter.cut():
        if request is not None:
            sent += request.snapshots
            body = b'{"Namespace":"n","MetricData":[' + b",".join(request.parts) + b"]}"
            check_payload(load_strictly(body), NOW)
    aside = {id(snapshot) for snapshot, _ in cutter.unfit}
    assert [id(each) for each in window if id(each) not in aside] == [id(each) for each in sent]
    assert cutter.position == len(window)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=100))
def test_a_distribution_is_ascending_within_its_bounds_and_complete(
    low: float, width: float, values: list[float]
) -> None:
    found, counts = encode_distribution(build_buckets(values), low, low + width)
    assert len(found) == len(counts) <= 150
    assert sum(counts) == len(values)
    assert all(a < b for a, b in pairwise(found))
