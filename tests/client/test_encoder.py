"""Every number arrives once, in order; what is no number is counted; no frame is too large."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.encoder import MAX_COLUMN_VALUES, EncodedFrame, Encoder
from aiokpl_metrics_client.statistics import DropReason
from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, ColumnsFrame, Series, decode, encode_series
from tests.client.door import count_events, expand
from tests.client.odd import NO_NUMBERS, NUMBERS, FloatChild

SERIES = encode_series(Series("n"))


def _encode(*columns: list[Any], series: bytes = SERIES) -> tuple[list[ColumnsFrame], dict[str, int]]:
    drops = DropCounter()
    encoder = Encoder(7, drops)
    encoded: list[EncodedFrame] = []
    for values in columns:
        encoded.extend(encoder.add(series, 100, values))
    encoded.extend(encoder.finish())
    frames: list[ColumnsFrame] = []
    for datagram, events in encoded:
        frame = decode(datagram)
        assert isinstance(frame, ColumnsFrame)
        assert count_events(frame) == events
        frames.append(frame)
    return frames, drops.counts()


def _values(frames: list[ColumnsFrame]) -> list[float]:
    return [value for frame in frames for column in frame.columns for value in expand(column)]


def test_equal_values_are_one_value_and_a_count() -> None:
    frames, _ = _encode([1.0] * 100_000)
    ((column,),) = [frame.columns for frame in frames]
    assert (column.values, column.count) == (1.0, 100_000)


def test_differing_values_keep_their_order() -> None:
    frames, _ = _encode([3.0, 1, 2.5, True])
    assert _values(frames) == [3.0, 1, 2.5, True]


@pytest.mark.parametrize("name", NO_NUMBERS)
@pytest.mark.parametrize("others", [[], [1.0], [1.5, 2.5], [1, 1, 1]])
def test_what_is_no_number_is_counted_and_costs_no_other(name: str, others: list[float]) -> None:
    odd = NO_NUMBERS[name]
    for values in ([odd, *others], [*others, odd], [*others, odd, *others]):
        frames, dropped = _encode(values)
        arrived = _values(frames)
        lost = len(values) - len(arrived)
        assert dropped == ({"value_invalid": lost} if lost else {})
        if name != "ANY":
            # An object that says it equals each number may pass for one among equal ones.
            assert lost == 1
            assert arrived == [value for value in values if value is not odd]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("others", [[], [1.0], [1.5, 2.5], [1, 1, 1]])
def test_what_is_a_number_in_another_shape_counts_as_that_number(name: str, others: list[float]) -> None:
    odd, number = NUMBERS[name]
    frames, dropped = _encode([odd, *others, odd])
    assert _values(frames) == [number, *others, number]
    assert dropped == {}


def test_a_number_that_msgpack_has_not_costs_no_other_series_of_its_frame() -> None:
    frames, dropped = _encode([1.0, 2.0], [FloatChild(1.5), 2.5], [2**70, 0.5], [4.0])
    assert _values(frames) == [1.0, 2.0, 1.5, 2.5, float(2**70), 0.5, 4.0]
    assert dropped == {}


def test_a_large_column_is_split() -> None:
    values = [float(number) for number in range(3 * MAX_COLUMN_VALUES + 1)]
    frames, _ = _encode(values)
    assert _values(frames) == values
    assert max(len(column.values) for frame in frames for column in frame.columns) <= MAX_COLUMN_VALUES  # type: ignore[arg-type]


def test_totals_count_what_came_before_and_what_was_dropped() -> None:
    drops = DropCounter()
    encoder = Encoder(7, drops)
    assert list(encoder.add(SERIES, 100, [1.0, 2.0])) == []
    (first,) = encoder.finish()
    drops.add(DropReason.BUFFER_FULL, 5)
    assert list(encoder.add(SERIES, 100, [1.0])) == []
    (second,) = encoder.finish()
    frames = [decode(first.data), decode(second.data)]
    assert [(f.sequence, f.totals.sent, f.totals.dropped) for f in frames if isinstance(f, ColumnsFrame)] == [
        (1, 0, {}),
        (2, 2, {"buffer_full": 5}),
    ]


def test_drops_that_no_frame_reports_are_reported_by_an_empty_frame_once() -> None:
    drops = DropCounter()
    encoder = Encoder(7, drops)
    assert list(encoder.report()) == []
    drops.add(DropReason.SERIES_INVALID, 2)
    (report,) = encoder.report()
    frame = decode(report.data)
    assert isinstance(frame, ColumnsFrame)
    assert (frame.columns, frame.totals.dropped, report.events) == ([], {"series_invalid": 2}, 0)
    assert list(encoder.report()) == []


@given(
    columns=st.lists(
        st.tuples(st.integers(1, 48_000), st.integers(1, 9_000), st.booleans()),
        min_size=1,
        max_size=8,
    ),
)
def test_no_frame_exceeds_a_datagram_and_no_event_is_lost(columns: list[tuple[int, int, bool]]) -> None:
    encoder = Encoder(2**63 - 1, DropCounter())
    encoded: list[EncodedFrame] = []
    for series_bytes, count, equal in columns:
        values = [0.1 if equal else 0.1 + number for number in range(count)]
        encoded.extend(encoder.add(b"s" * series_bytes, 1_790_000_000, values))
    encoded.extend(encoder.finish())
    assert all(len(frame.data) <= MAX_DATAGRAM_BYTES for frame in encoded)
    assert sum(frame.events for frame in encoded) == sum(count for _, count, _ in columns)
    frames = [decode(frame.data) for frame in encoded]
    assert [frame.sequence for frame in frames if isinstance(frame, ColumnsFrame)] == list(
        range(1, len(frames) + 1)
    )


@given(st.lists(st.floats() | st.integers() | st.booleans() | st.none() | st.text(max_size=2), min_size=1))
def test_any_list_of_values_gives_its_numbers_and_counts_the_rest(values: list[Any]) -> None:
    frames, dropped = _encode(values)
    arrived = len(_values(frames))
    assert arrived + dropped.get("value_invalid", 0) == len(values)
    finite = [v for v in values if isinstance(v, (int, float)) and abs(v) < 2**1000]
    assert arrived >= len(finite)
