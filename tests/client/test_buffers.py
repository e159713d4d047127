"""Buffers lose no event of any thread, and stay as few as they were told."""

import gc
import sys
import threading
from functools import partial
from typing import Any

import pytest

from aiokpl_metrics_client.buffers import (
    IDLE_S,
    MAX_SERIES_BYTES,
    BufferTable,
    count_events,
    encode_checked,
    take,
)
from aiokpl_metrics_client.instruments import Append, Counter, Gauge
from aiokpl_metrics_protocol import SUMMED_GAUGE, Series, decode_series

_NO_OWNER: Any = None


def _names(table: BufferTable) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    series = [decode_series(buffer.series) for buffer in table.buffers()]
    return {(each.name, each.dimensions) for each in series}


def _taken(table: BufferTable) -> int:
    return sum(len(take(buffer)) for buffer in table.buffers())


def _unbound(_value: float) -> None:
    raise AssertionError("never bound")


def test_a_drain_takes_every_event_of_eight_threads_exactly_once() -> None:
    table = BufferTable(10)
    instrument = table.bind(Series("n"), Counter(_unbound, _NO_OWNER))
    (buffer,) = table.buffers()
    record = instrument.record
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:

        def append() -> None:
            for number in range(50_000):
                record(number)

        threads = [threading.Thread(target=append) for _ in range(8)]
        for thread in threads:
            thread.start()
        taken = 0
        while any(thread.is_alive() for thread in threads):
            taken += len(take(buffer))
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert taken + len(take(buffer)) == 400_000


def test_past_max_series_a_name_has_one_overflow_series_and_its_totals_hold() -> None:
    table = BufferTable(2)
    for number in range(50):
        table.put(("n", number), Series("n", dimensions=(("id", str(number)),)), 1.0, 0.0)
    assert _names(table) == {
        ("n", (("id", "0"),)),
        ("n", (("id", "1"),)),
        ("n", (("overflow", "true"),)),
    }
    assert count_events(table.buffers()) == 50
    assert len(table.appends) == 2


def test_names_without_end_share_one_overflow_series_at_last() -> None:
    table = BufferTable(1)
    for number in range(3_000):
        table.put(None, Series(f"n{number}", unit=f"u{number}"), 1.0, 0.0)
    assert len(table) <= 1_003
    assert ("overflow", (("overflow", "true"),)) in _names(table)
    assert count_events(table.buffers()) == 3_000


def test_idle_buffers_make_room_and_lose_no_event_of_a_thread_held_up() -> None:
    table = BufferTable(4)
    for name in "abcd":
        table.put(name, Series(name), 1.0, 0.0)
    late = table.appends["a"]
    assert _taken(table) == 4
    table.retire_idle(IDLE_S)
    assert len(table) == 1
    assert len(table.appends) == 0
    # Another thread had looked the buffer up just before.
    late(1.0)
    table.retire_idle(9 * IDLE_S)
    assert _taken(table) == 1
    del late
    for name in "bcd":
        table.put(name, Series(name), 1.0, 10 * IDLE_S)
    assert _taken(table) == 3
    table.retire_idle(11 * IDLE_S)
    assert len(table) == 0
    table.retire_idle(14 * IDLE_S)
    assert table.buffers() == []


def test_a_buffer_with_events_or_an_instrument_or_in_use_does_not_retire() -> None:
    table = BufferTable(2)
    instrument = table.bind(Series("bound"), Counter(_unbound, _NO_OWNER))
    table.put("full", Series("full"), 1.0, 0.0)
    table.retire_idle(10 * IDLE_S)
    assert {name for name, _ in _names(table)} == {"bound", "full"}
    assert len(table) == 2
    assert not table.buffers()[0].values
    instrument.record(1.0)
    assert count_events(table.buffers()) == 2


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_instruments_that_are_gone_make_room_and_a_copy_of_record_keeps_its_buffer(
    is_wrapped: bool,
) -> None:
    table = BufferTable(4)
    if is_wrapped:
        table.wrap(partial)
    instruments = [table.bind(Series(name), Counter(_unbound, _NO_OWNER)) for name in "abcd"]
    # The same series by `put`, whose key holds an append as well.
    table.put("a", Series("a"), 1.0, 0.0)
    record = instruments[1].record
    del instruments
    gc.collect()
    assert _taken(table) == 1
    table.retire_idle(IDLE_S)
    table.retire_idle(10 * IDLE_S)
    assert _names(table) == {("b", ())}
    record(1.0)
    assert _taken(table) == 1
    del record
    table.bind(Series("other"), Counter(_unbound, _NO_OWNER)).record(1.0)
    assert not any(buffer.overflow for buffer in table.buffers())


def test_a_summed_gauge_with_a_value_is_told_again_though_its_instrument_is_gone() -> None:
    table = BufferTable(2)
    for name in ("with", "without"):
        table.bind(Series(name, SUMMED_GAUGE), Gauge(_unbound, _NO_OWNER))
    table.summed()[0].share = 1.0
    gc.collect()
    table.retire_idle(IDLE_S)
    table.retire_idle(10 * IDLE_S)
    assert [decode_series(buffer.series).name for buffer in table.summed()] == ["with"]
    assert len(table) == 1


def test_a_finalizer_may_bind_while_all_instruments_get_another_way() -> None:
    table = BufferTable(10_000)
    instruments = [table.bind(Series(f"n{number}"), Counter(_unbound, _NO_OWNER)) for number in range(100)]

    table.put("key", Series("key"), 1.0, 0.0)
    within = False

    def bind_another(append: Append) -> Append:
        nonlocal within
        if not within:
            within = True
            number = len(instruments)
            instruments.append(table.bind(Series(f"n{number}"), Counter(_unbound, _NO_OWNER)))
            table.put(number, Series(f"p{number}"), 1.0, 0.0)
            within = False
        return append

    table.wrap(bind_another)
    for instrument in instruments:
        instrument.record(1.0)
    assert len(instruments) == 202
    assert count_events(table.buffers()) == 202 + len(table.appends)


def test_nothing_retires_while_there_is_room() -> None:
    table = BufferTable(100)
    table.put("a", Series("a"), 1.0, 0.0)
    assert _taken(table) == 1
    table.retire_idle(10 * IDLE_S)
    assert len(table) == 1


def test_the_cache_of_keys_is_bounded_where_one_series_has_many() -> None:
    table = BufferTable(2)
    for number in range(1_000):
        table.put(number, Series("n"), 1.0, 0.0)
    assert len(table.appends) == 8
    assert count_events(table.buffers()) == 1_000


def test_once_closed_every_way_in_discards() -> None:
    table = BufferTable(10)
    bound = table.bind(Series("bound"), Counter(_unbound, _NO_OWNER))
    table.put("key", Series("n"), 1.0, 0.0)
    discarded: list[float] = []
    table.discard_from_now_on(discarded.append)
    bound.record(1.0)
    assert not table.appends
    table.put("key", Series("n"), 2.0, 0.0)
    table.put("other", Series("other"), 3.0, 0.0)
    table.bind(Series("late"), Counter(_unbound, _NO_OWNER)).record(4.0)
    assert discarded == [1.0, 2.0, 3.0, 4.0]
    assert count_events(table.buffers()) == 1


@pytest.mark.parametrize(
    "series",
    [
        Series(""),
        Series("x" * 256),
        Series("n", dimensions=(("k", ""),)),
        Series("n", dimensions=(("a", "1"), ("a", "2"))),
        Series("n", dimensions=tuple((f"k{i:02}", "v") for i in range(31))),
        Series("n", unit="u" * 64),
        Series("\ud800"),
        Series("n", dimensions=(("k", "\udfff"),)),
        Series("n", dimensions=tuple((f"k{i:02}", "\U0001f600" * 1_000) for i in range(30))),
    ],
)
def test_a_series_that_breaks_a_limit_is_refused(series: Series) -> None:
    with pytest.raises(ValueError, match=r"cannot be a series|surrogates not allowed"):
        encode_checked(series)


def test_the_largest_series_in_ascii_is_taken() -> None:
    dimensions = tuple((f"{i:02}".ljust(255, "k"), "v" * 1_024) for i in range(30))
    assert len(encode_checked(Series("n" * 255, "histogram", "u" * 63, dimensions))) < MAX_SERIES_BYTES
