"""What a load says it adds up to is what its datagrams carry: the daemon is judged by it."""

import pytest

from aiokpl_metrics_protocol import ColumnsFrame, EventsFrame, decode, decode_series
from bench.load import Expected, Load, LoadBuilder, build_key

LOADS = [
    Load(1, 2, 10_000),
    Load(7, 3, 100, "histogram"),
    Load(1_500, 2, 1),
    Load(7, 3, 100, ones=True),
    Load(7, 3, 25, rows=True),
]


@pytest.mark.parametrize("load", LOADS, ids=repr)
def test_a_load_adds_up_to_what_it_expects(load: Load) -> None:
    builder = LoadBuilder(load)
    drains = builder.build_drains()
    found: Expected = {}
    for datagram in (datagram for drain in drains for datagram in drain):
        for key, count, total in read_events(datagram):
            seen_count, seen_total = found.get(key, (0, 0.0))
            found[key] = (seen_count + count, seen_total + total)
    assert len(drains) == load.drains
    assert found == builder.read_expected()
    assert sum(count for count, _ in found.values()) == load.drain_events * load.drains


def test_the_frames_of_a_load_are_numbered_and_count_what_went_before() -> None:
    drains = LoadBuilder(Load(7, 3, 2_000)).build_drains()
    sent = 0
    frames = [decode(datagram) for drain in drains for datagram in drain]
    for number, frame in enumerate(frames, start=1):
        assert isinstance(frame, ColumnsFrame)
        assert frame.sequence == number
        assert frame.totals.sent == sent
        sent += sum(len(c.values) if isinstance(c.values, list) else c.count for c in frame.columns)


def test_the_seconds_of_a_load_begin_where_it_is_told() -> None:
    drains = LoadBuilder(Load(2, 20, first_second=1_000)).build_drains()
    frames = [decode(datagram) for drain in drains for datagram in drain]
    seconds = {c.second for frame in frames if isinstance(frame, ColumnsFrame) for c in frame.columns}
    assert seconds == {1_000, 1_001}


def read_events(datagram: bytes) -> list[tuple[str, int, float]]:
    frame = decode(datagram)
    if isinstance(frame, EventsFrame):
        return [(build_key(e.name, dict(e.dimensions)), 1, e.value) for e in frame.events]
    assert isinstance(frame, ColumnsFrame)
    events: list[tuple[str, int, float]] = []
    for column in frame.columns:
        series = decode_series(column.series)
        key = build_key(series.name, dict(series.dimensions))
        if isinstance(column.values, list):
            events.append((key, len(column.values), float(sum(column.values))))
        else:
            events.append((key, column.count, float(column.values) * column.count))
    return events
