"""Datagram -> frame: repeats dropped, jumps counted in events, drops as producers report them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import (
    MAX_DATAGRAM_BYTES,
    AckFrame,
    Column,
    ColumnsFrame,
    EventsFrame,
    FoldedFrame,
    HelloFrame,
    MetricEvent,
    Reason,
    RowsFrame,
    Totals,
    encode,
)
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.ledger import Ledger
from tests.daemon.aggregation import build_folded, name_series


class Desk:
    """A decoder and its ledger, fed with frames."""

    def __init__(self, max_producers: int = 65_536) -> None:
        self.ledger = Ledger()
        self.decoder = Decoder(self.ledger, max_producers=max_producers)

    def send(
        self,
        sequence: int,
        sent: int = 0,
        events: int = 1,
        producer: int = 1,
        dropped: dict[str, int] | None = None,
    ) -> bool:
        """Decode a columns frame, note its events as the daemon does; tell whether it was new."""
        column = Column(name_series(), 0, 1.0, events)
        frame = self.decoder.decode(
            encode(ColumnsFrame(producer, sequence, Totals(sent, dropped or {}), [column]))
        )
        assert self.ledger.balance_datagrams() == 0
        if frame is None:
            return False
        assert isinstance(frame, ColumnsFrame)
        self.decoder.note_events(frame, events)
        return True


def test_rows_columns_and_folded_sets_are_handed_on() -> None:
    desk = Desk()
    frames: list[EventsFrame | ColumnsFrame | FoldedFrame] = [
        EventsFrame([MetricEvent("m", 1.0, 0.0)]),
        ColumnsFrame(1, 1, Totals(), []),
        FoldedFrame(1, 2, Totals(), [build_folded([1.0])]),
    ]
    found = [desk.decoder.decode(memoryview(encode(frame))) for frame in frames]
    assert [type(frame) for frame in found] == [RowsFrame, ColumnsFrame, FoldedFrame]
    assert desk.ledger.datagrams_decoded == 3
    assert desk.ledger.bytes_received == sum(len(encode(frame)) for frame in frames)


@pytest.mark.parametrize("frame", [HelloFrame(1, 1), AckFrame(1)])
def test_what_belongs_on_lanes_is_rejected_at_the_front_door(frame: HelloFrame | AckFrame) -> None:
    desk = Desk()
    assert desk.decoder.decode(encode(frame)) is None
    assert desk.ledger.datagrams_rejected == {Reason.UNEXPECTED_FRAME: 1}
    assert desk.ledger.balance_datagrams() == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_counted_and_never_raise(datagrams: list[bytes]) -> None:
    desk = Desk()
    for datagram in datagrams:
        desk.decoder.decode(datagram)
    assert desk.ledger.datagrams_received == len(datagrams)
    assert desk.ledger.balance_datagrams() == 0


def test_datagrams_that_are_too_large_or_turn_out_bad_balance_too() -> None:
    desk = Desk()
    desk.decoder.reject_oversized(MAX_DATAGRAM_BYTES + 1)
    desk.decoder.decode(encode(EventsFrame([])))
    desk.decoder.reject_decoded(Reason.TEXT)
    assert desk.ledger.datagrams_rejected == {Reason.TOO_LARGE: 1, Reason.TEXT: 1}
    assert desk.ledger.datagrams_decoded == 0
    assert desk.ledger.balance_datagrams() == 0


def test_a_number_that_is_not_higher_than_the_last_is_a_repeat() -> None:
    desk = Desk()
    assert [desk.send(number) for number in (3, 3, 2, 4, 1, 4, 5)] == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert desk.ledger.datagrams_repeated == 4
    assert desk.send(1, producer=2), "another producer has numbers of its own"


def test_a_jump_is_counted_in_the_events_that_are_missing() -> None:
    desk = Desk()
    desk.send(7, sent=1_000, events=10)
    assert desk.ledger.events_missing == 0, "what came before it was first seen went to an earlier daemon"
    desk.send(8, sent=1_010, events=5)
    assert desk.ledger.events_missing == 0
    desk.send(11, sent=1_115, events=1)
    assert desk.ledger.events_missing == 100
    desk.send(12, sent=1_116)
    assert desk.ledger.events_missing == 100


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=30))
def test_sent_is_read_plus_missing_whatever_is_lost(frames: list[tuple[int, bool]]) -> None:
    desk = Desk()
    desk.send(1, 0, 1)
    sent = read = 1
    for number, (events, arrives) in enumerate([*frames, (1, True)], 2):
        if arrives:
            desk.send(number, sent, events)
            read += events
        sent += events
    assert read + desk.ledger.events_missing == sent


def test_drops_are_added_up_as_they_grow_and_a_repeated_or_lost_report_changes_nothing() -> None:
    desk = Desk()
    desk.send(1, dropped={"buffer_full": 5})
    desk.send(2, dropped={"buffer_full": 5})
    desk.send(2, dropped={"buffer_full": 99})
    desk.send(3)
    desk.send(5, dropped={"buffer_full": 9, "closed": 1})
    desk.send(6, dropped={"buffer_full": 8})
    desk.send(7, dropped={"buffer_full": 10})
    desk.send(1, producer=2, dropped={"buffer_full": 100})
    assert desk.ledger.events_dropped_by_clients == {"buffer_full": 110, "closed": 1}


def test_endless_or_long_words_for_drops_are_one_word_and_their_sum_is_right() -> None:
    desk = Desk()
    for producer in range(1, 51):
        for sequence in (1, 2):
            dropped = {f"reason {producer} {number}": sequence for number in range(20)}
            desk.send(sequence, producer=producer, dropped=dropped | {"x" * 10_000: sequence})
    words = desk.ledger.events_dropped_by_clients
    assert len(words) <= 17
    assert max(map(len, words)) <= 40
    assert sum(words.values()) == 50 * 21 * 2
    assert max(len(each.dropped) for each in desk.decoder._producers.values()) <= 17


def test_producers_are_bounded_and_the_one_first_seen_goes() -> None:
    desk = Desk(max_producers=10)
    for producer in range(1_000):
        assert desk.send(1, producer=producer)
    assert len(desk.decoder._producers) == 10
    assert not desk.send(1, producer=999)
    assert desk.send(1, producer=0), "it was forgotten, and is new again"
    assert desk.ledger.events_missing == 0


def test_noting_events_of_a_producer_that_was_forgotten_is_nothing() -> None:
    desk = Desk()
    desk.decoder.note_events(ColumnsFrame(5, 1, Totals(), []), 3)
    assert desk.decoder._producers == {}
