"""Snapshots -> JSON: every field, in the written order, and nothing raised."""

import json

import msgspec
import pytest

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.rendering.rows import HistogramRow, build_row, encode_row, encode_rows
from aiokpl_metricsd.snapshot import MetricSnapshot

COUNTER = MetricSnapshot(
    "UserRecordsPut",
    3,
    6.0,
    1.0,
    3.0,
    (("stream", "orders"), ("shard", "7")),
    60.0,
    120.0,
    unit="count",
    last=2.0,
    window_id="w-1",
)
HISTOGRAM = MetricSnapshot(
    "RequestTime",
    4,
    8.0,
    -2.0,
    8.0,
    (),
    60.0,
    120.0,
    MetricKind.HISTOGRAM,
    "ms",
    8.0,
    Buckets(3, 1, 7, (1,) + 15 * (0,) + (1,), 7, (1,)),
    "w-1",
)
UNPRINTABLE = MetricSnapshot("bad", 1, 1.0, 1.0, 1.0, (("stream", "\ud800"),))


def test_a_counter_has_its_keys_in_the_written_order() -> None:
    assert encode_row(COUNTER) == (
        b'{"window_id":"w-1","name":"UserRecordsPut","kind":"counter","unit":"count",'
        b'"dimensions":{"stream":"orders","shard":"7"},"count":3,"sum":6.0,"min":1.0,"max":3.0,"last":2.0,'
        b'"window_start":60.0,"window_end":120.0}'
    )


def test_a_histogram_adds_percentiles_and_buckets() -> None:
    row = json.loads(encode_row(HISTOGRAM))
    assert list(row)[-4:] == ["p50", "p90", "p99", "histogram"]
    assert row["p50"] == 0.0
    assert row["p99"] == pytest.approx(8.0, rel=0.0443)
    assert list(row["histogram"]) == [
        "scale",
        "zero_count",
        "positive_offset",
        "positive_counts",
        "negative_offset",
        "negative_counts",
    ]


def test_the_buckets_come_back_as_they_were_so_files_can_be_merged() -> None:
    row = msgspec.json.decode(encode_row(HISTOGRAM), type=HistogramRow)
    assert row == build_row(HISTOGRAM)
    assert Buckets(*msgspec.structs.astuple(row.histogram)) == HISTOGRAM.histogram


def test_a_histogram_without_buckets_is_a_plain_row() -> None:
    row = json.loads(encode_row(MetricSnapshot("h", 1, 1.0, 1.0, 1.0, kind=MetricKind.HISTOGRAM)))
    assert row["kind"] == "histogram"
    assert "p50" not in row


def test_no_unit_is_null_and_no_dimensions_are_an_empty_object() -> None:
    row = json.loads(encode_row(MetricSnapshot("c", 1, 1.0, 1.0, 1.0)))
    assert row["unit"] is None
    assert row["dimensions"] == {}


def test_a_sum_that_overflowed_is_null() -> None:
    assert json.loads(encode_row(MetricSnapshot("c", 2, float("inf"), 1e308, 1e308)))["sum"] is None


def test_rows_are_lines_each_ended_by_a_line_feed() -> None:
    lines, refused = encode_rows([COUNTER, HISTOGRAM])
    assert lines == encode_row(COUNTER) + b"\n" + encode_row(HISTOGRAM) + b"\n"
    assert refused == []


def test_a_line_feed_in_a_dimension_does_not_end_the_row() -> None:
    lines, _ = encode_rows([MetricSnapshot("c", 1, 1.0, 1.0, 1.0, (("stream", "a\nb"),))])
    assert lines.count(b"\n") == 1


def test_of_nothing_there_are_no_lines() -> None:
    assert encode_rows([]) == (b"", [])


def test_a_snapshot_that_has_no_json_form_is_handed_back_and_the_others_are_encoded() -> None:
    lines, refused = encode_rows([COUNTER, UNPRINTABLE, HISTOGRAM])
    assert refused == [UNPRINTABLE]
    assert lines == encode_row(COUNTER) + b"\n" + encode_row(HISTOGRAM) + b"\n"
