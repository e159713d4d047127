"""The fuzz helper itself: cheap noise that reaches every error and cannot reach a good series."""

from collections import Counter
from itertools import islice

import pytest

from aiokpl_metrics_protocol import (
    AckFrame,
    ColumnsFrame,
    EventsFrame,
    FoldedFrame,
    HelloFrame,
    MetricEvent,
    ProtocolError,
    Series,
    check_series,
    decode,
    decode_series,
    encode,
)
from tests.protocol import fuzz
from tests.protocol.fuzz import GOOD_PREFIX, random_datagrams


def test_every_datagram_gives_a_frame_or_a_protocol_error_and_each_kind_of_both_occurs() -> None:
    seen: Counter[type[object]] = Counter()
    for data in random_datagrams(1, 60_000):
        try:
            frame = decode(data)
        except ProtocolError as error:
            seen[type(error)] += 1
        else:
            seen[type(frame)] += 1
            if isinstance(frame, ColumnsFrame):
                for column in frame.columns:
                    _expect_series_or_protocol_error(column.series)
            elif isinstance(frame, FoldedFrame):
                for folded in frame.sets:
                    _expect_series_or_protocol_error(folded.series)
    expected = {*ProtocolError.__subclasses__(), EventsFrame, ColumnsFrame, FoldedFrame, HelloFrame, AckFrame}
    assert set(seen) == expected
    assert min(seen.values()) >= 10


def test_events_that_break_a_limit_and_events_that_do_not_both_occur() -> None:
    reasons = {
        check_series(event.name, event.kind, event.unit, event.dimensions)
        for data in random_datagrams(2, 20_000)
        for event in _decode_events(data)
    }
    assert None in reasons
    assert len(reasons) >= 7


def test_the_same_seed_gives_the_same_datagrams_and_another_seed_others() -> None:
    assert list(random_datagrams(3, 2_000)) == list(random_datagrams(3, 2_000))
    assert list(random_datagrams(3, 2_000)) != list(random_datagrams(4, 2_000))


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    assert list(islice(random_datagrams(5, 10_000), 500)) == list(random_datagrams(5, 500))
    assert list(random_datagrams(5, 0)) == []


def test_no_datagram_contains_the_prefix_of_good_series() -> None:
    assert not any(GOOD_PREFIX.encode() in data for data in random_datagrams(6, 100_000))


def test_a_mutation_that_spells_the_prefix_is_spelled_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    dangerous = encode(
        EventsFrame([MetricEvent(GOOD_PREFIX + "a", 1.0, 0.0), MetricEvent("goo" + GOOD_PREFIX, 1.0, 0.0)])
    )
    monkeypatch.setattr(fuzz, "_build_bases", lambda source: [dangerous] * 10)
    datagrams = list(random_datagrams(7, 5_000))
    assert not any(GOOD_PREFIX.encode() in data for data in datagrams)
    assert any(b"evil.a" in data for data in datagrams)


def test_oversized_and_empty_datagrams_occur() -> None:
    sizes = {len(data) for data in random_datagrams(8, 100_000)}
    assert 0 in sizes
    assert 65_536 in sizes
    assert 65_537 in sizes
    # What a socket with the kernel's default send buffer still takes.
    assert max(sizes) <= 200_000


def _decode_events(data: bytes) -> list[MetricEvent]:
    try:
        frame = decode(data)
    except ProtocolError:
        return []
    return frame.events if isinstance(frame, EventsFrame) else []


def _expect_series_or_protocol_error(blob: bytes) -> None:
    try:
        series = decode_series(blob)
    except ProtocolError:
        return
    assert isinstance(series, Series)
