"""Snapshots -> a table: aligned, sorted, escaped, and in slices."""

import pytest

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.rendering.table import (
    SLICE_ROWS,
    escape_text,
    format_heading,
    format_number,
    render_table,
)
from aiokpl_metricsd.snapshot import MetricSnapshot

COUNTER = MetricSnapshot(
    "UserRecordsPut",
    12,
    1234567.0,
    0.5,
    3.0,
    (("stream", "orders"), ("shard", "7")),
    60.0,
    120.0,
    window_id="w-1",
)
GAUGE = MetricSnapshot(
    "Pending", 2, 7.0, 3.0, 4.0, (), 60.0, 120.0, MetricKind.GAUGE, "count", 4.0, window_id="w-1"
)
HISTOGRAM = MetricSnapshot(
    "RequestTime",
    2,
    16.0,
    8.0,
    8.0,
    (),
    60.0,
    120.0,
    MetricKind.HISTOGRAM,
    "ms",
    8.0,
    Buckets(3, 0, 23, (2,)),
)


def render(*snapshots: MetricSnapshot, max_chars: int | None = None) -> list[str]:
    return "".join(render_table(snapshots, max_chars=max_chars)).split("\n")


TABLE = """\
window 1970-01-01 00:01:00 to 00:02:00 UTC  id w-1  3 series
NAME            DIMENSIONS             KIND       UNIT   COUNT      SUM  MIN  MAX  LAST  P50  P90  P99
Pending                                gauge      count      2        7    3    4     4
RequestTime                            histogram  ms         2       16    8    8          8    8    8
UserRecordsPut  stream=orders,shard=7  counter              12  1234567  0.5    3

"""


def test_a_window_is_one_block_of_aligned_columns() -> None:
    assert "".join(render_table([COUNTER, GAUGE, HISTOGRAM])) == TABLE


def test_a_column_in_which_no_row_says_anything_is_left_out() -> None:
    assert render(MetricSnapshot("a", 1, 2.0, 2.0, 2.0))[1:3] == [
        "NAME  KIND     COUNT  SUM  MIN  MAX",
        "a     counter      1    2    2    2",
    ]


def test_rows_are_sorted_by_name_and_dimensions_across_slices() -> None:
    count = 2 * SLICE_ROWS + 7
    snapshots = [
        MetricSnapshot(
            "b" if number % 2 else "a", 1, 1.0, 1.0, 1.0, (("shard", f"{number * 7919 % count:05}"),)
        )
        for number in range(count)
    ]
    rows = [line.split()[:2] for line in render(*snapshots)[2:-2]]
    assert len(rows) == count
    assert rows == sorted(rows)


def test_every_slice_is_a_stop_so_that_others_can_run() -> None:
    snapshots = [MetricSnapshot("a", 1, 1.0, 1.0, 1.0)] * (3 * SLICE_ROWS)
    parts = list(render_table(snapshots))
    assert max(part.count("\n") for part in parts) == SLICE_ROWS
    assert parts[:3] == ["", "", ""]


def test_dimensions_are_shortened_to_the_terminals_width() -> None:
    lines = render(COUNTER, GAUGE, max_chars=80)
    assert max(map(len, lines[1:])) <= 80
    assert lines[3].split() == ["UserRecordsPut", "stream=orders...", "counter", "12", "1234567", "0.5", "3"]


def test_dimensions_keep_a_few_characters_however_narrow_the_terminal_is() -> None:
    assert "stream=or..." in render(COUNTER, max_chars=10)[2]


def test_a_wide_terminal_shortens_nothing_and_fills_nothing() -> None:
    assert render(COUNTER, GAUGE, max_chars=500) == render(COUNTER, GAUGE)


def test_what_a_terminal_would_obey_is_escaped() -> None:
    lines = render(
        MetricSnapshot("a\x1b[31m", 1, 1.0, 1.0, 1.0, (("stream", "x\r\ny"),), unit="\ud800", window_id="\a")
    )
    assert lines[0].endswith("id \\x07  1 series")
    assert lines[2].split()[:4] == ["a\\x1b[31m", "stream=x\\r\\ny", "counter", "\\ud800"]


@pytest.mark.parametrize(("text", "shown"), [("grün", "grün"), ("a b", "a b"), ("\u202e", "\\u202e")])
def test_only_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert escape_text(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-3.0, "-3"),
        (123456789012.0, "123456789012"),
        (1 / 3, "0.333333"),
        (1234567.25, "1.23457e+06"),
        (2.0**60, "1.15292e+18"),
        (float("inf"), "inf"),
    ],
)
def test_whole_numbers_are_exact_and_others_have_six_digits(value: float, shown: str) -> None:
    assert format_number(value) == shown


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        (0.0, 0.0, "window without a time  1 series\n"),
        (86340.0, 86400.0, "window 1970-01-01 23:59:00 to 1970-01-02 00:00:00 UTC  1 series\n"),
        (1e30, 2e30, "window 1e+30 to 2e+30  1 series\n"),
    ],
)
def test_the_heading_says_which_times_the_window_has(start: float, end: float, shown: str) -> None:
    snapshot = MetricSnapshot("a", 1, 1.0, 1.0, 1.0, window_start=start, window_end=end)
    assert format_heading([snapshot]) == shown
