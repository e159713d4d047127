"""Datagram -> frame: repeats dropped, jumps counted in events, drops as producers report them."""

import msgspec
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
from aiokpl_metricsd.decoder import KEEP_PRODUCER_S, Decoder, Passage, Producer
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

    def open_lane(self, sequence: int = 1, producer: int = 1) -> Passage:
        """Open a lane as a hello does."""
        passage = self.decoder.open_lane(encode(HelloFrame(producer, sequence, "test")))
        assert passage is not None
        assert self.ledger.balance_datagrams() == 0
        return passage

    def send_on(self, passage: Passage, sequence: int, sent: int = 0, events: int = 1) -> bool:
        """Decode a columns frame of a lane, note its events; tell whether it was new."""
        column = Column(name_series(), 0, 1.0, events)
        frame = self.decoder.decode_lane(
            encode(ColumnsFrame(passage.producer_id, sequence, Totals(sent), [column])), passage
        )
        assert self.ledger.balance_datagrams() == 0
        if frame is not None:
            self.decoder.note_events(frame, events)
        return frame is not None

    def forget_idle(self, now: float) -> int:
        """Have idle producers forgotten; return how many were."""
        return sum(self.decoder.forget_idle(now, 3))

    def check_accounts(self) -> None:
        """Assert that each producer's account adds up, and all of them to the ledger."""
        accounts = [account for _, account, _ in self.decoder.read_producers()]
        for account in accounts:
            assert account.sent in (-1, account.before + account.received + account.missing)
        assert sum(account.missing for account in accounts) == self.ledger.events_missing
        assert sum(account.repeated for account in accounts) == self.ledger.datagrams_repeated


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


# -------------------------------------------------------------------------------------- lanes


def test_a_hello_says_how_far_a_producer_has_come() -> None:
    desk = Desk()
    assert desk.open_lane(sequence=5) == Passage(1, 4, 0, "test", 4)
    assert desk.open_lane(sequence=0, producer=2).sequence == 0
    desk.send(9, producer=3)
    assert desk.open_lane(sequence=5, producer=3).sequence == 9
    assert desk.open_lane(sequence=12, producer=3).sequence == 11
    assert {key: lanes for key, _, lanes in desk.decoder.read_producers()} == {1: 1, 2: 1, 3: 2}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "new", "repeat", "lost", "bad", "foreign", "reconnect", "front door"]),
            st.integers(1, 50),
        ),
        max_size=40,
    )
)
def test_whatever_happens_on_a_lane_its_account_and_the_ledger_balance(steps: list[tuple[str, int]]) -> None:
    desk = Desk()
    passage = desk.open_lane()
    sequence, sent, refused = 1, 0, 0
    last_read = 0
    for step, events in steps:
        if step == "new":
            assert desk.send_on(passage, sequence, sent, events)
            last_read = sequence
        elif step == "front door":
            assert desk.send(sequence, sent, events)
            last_read = sequence
        elif step == "bad":
            # It takes the number that comes next, so losses before it are seen at the next good one.
            desk.decoder.decode_lane(b"\xc1", passage)
            refused += 1
        elif step == "repeat":
            assert not desk.send_on(passage, last_read, 0, events)
            continue
        elif step == "foreign":
            frame = encode(ColumnsFrame(2, sequence, Totals(), []))
            assert desk.decoder.decode_lane(frame, passage) is None
            refused += 1
            continue
        elif step == "reconnect":
            desk.decoder.close_lane(passage, 1.0)
            passage, refused = desk.open_lane(sequence), 0
            continue
        sequence, sent = sequence + 1, sent + events
        assert passage.refused == refused
        desk.check_accounts()
    desk.send_on(passage, sequence, sent)
    (account,) = [account for _, account, _ in desk.decoder.read_producers()]
    assert account.sent == sent + 1
    assert account.before + account.received + account.missing == sent + 1
    assert passage.sequence == sequence
    desk.check_accounts()


def test_a_producer_that_takes_back_what_it_said_is_believed_and_the_account_adds_up() -> None:
    desk = Desk()
    desk.send(1, sent=0, events=100)
    desk.send(2, sent=40, events=5)
    desk.check_accounts()
    ((_, account, _),) = desk.decoder.read_producers()
    assert (account.sent, account.received, account.missing) == (45, 105, 0)


CLAIMS = st.sampled_from([0, 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1])


@given(st.lists(st.tuples(CLAIMS, CLAIMS, st.sampled_from([1, 2**32])), max_size=40))
def test_whatever_a_producer_claims_its_account_adds_up_and_can_be_stored(
    frames: list[tuple[int, int, int]],
) -> None:
    desk = Desk()
    for sequence, (sent, dropped, events) in enumerate(frames, 1):
        # Past sixteen words all others are one.
        words = {f"{number}": dropped for number in range(20)}
        assert desk.send(sequence, sent, events, dropped=words)
        if sequence == 1:
            # An hour of columns that claim as much as they may.
            account = desk.decoder._producers[1]
            account.before, account.received = account.before - 2**62, account.received + 2**62
        desk.ledger.dump()
    for _, blob in desk.decoder.dump_changed():
        account = msgspec.msgpack.decode(blob, type=Producer)
        assert account.sent == account.before + account.received + account.missing
        assert account.missing == desk.ledger.events_missing


def test_folded_events_are_in_the_account() -> None:
    desk = Desk()
    passage = desk.open_lane()
    message = encode(FoldedFrame(1, 1, Totals(0, {"buffer_full": 3}), [build_folded([1.0, 2.0])]))
    frame = desk.decoder.decode_lane(message, passage)
    assert isinstance(frame, FoldedFrame)
    desk.decoder.note_events(frame, 2)
    ((_, account, _),) = desk.decoder.read_producers()
    assert (account.received, account.folded, account.dropped) == (2, 2, {"buffer_full": 3})


def test_a_frame_that_is_refused_again_on_another_lane_takes_the_number_that_it_had() -> None:
    desk = Desk()
    first = desk.open_lane()
    assert desk.send_on(first, 1, 0)
    desk.decoder.decode_lane(b"\xc1", first)
    # The answers were lost with the lane, so that both come once more.
    second = desk.open_lane(sequence=1)
    assert second.sequence == 2
    assert not desk.send_on(second, 1, 0)
    desk.decoder.decode_lane(b"\xc1", second)
    assert second.sequence == 2
    assert desk.send_on(second, 3, 2)
    (account,) = [account for _, account, _ in desk.decoder.read_producers()]
    assert (account.sent, account.received, account.missing) == (3, 2, 1)
    desk.check_accounts()


def test_an_acknowledged_number_is_one_that_the_wire_has() -> None:
    desk = Desk()
    passage = desk.open_lane(sequence=2**63 - 1)
    for _ in range(3):
        desk.decoder.decode_lane(b"", passage)
    assert passage.sequence == 2**63 - 1
    assert passage.refused == 3


def test_producers_on_lanes_are_the_last_to_go() -> None:
    desk = Desk(max_producers=3)
    first, second = desk.open_lane(producer=1), desk.open_lane(producer=2)
    for producer in range(10, 100):
        desk.send(1, producer=producer)
    assert [key for key, _, _ in desk.decoder.read_producers()] == [1, 2, 99]
    desk.decoder.close_lane(first, 5.0)
    desk.send(1, producer=100)
    desk.send(1, producer=101)
    assert [key for key, _, _ in desk.decoder.read_producers()] == [2, 100, 101]
    for producer in (3, 4, 5):
        desk.open_lane(producer=producer)
    assert len(list(desk.decoder.read_producers())) == 3
    # The lane of one that was forgotten goes on, as that of a producer that is new.
    assert desk.send_on(second, 7)
    for passage in (first, second):
        desk.decoder.close_lane(passage, 6.0)


def test_a_number_is_kept_for_a_day_after_the_last_lane_ended_and_while_frames_come() -> None:
    desk = Desk()
    lanes = [desk.open_lane(producer=1), desk.open_lane(producer=1)]
    desk.send(1, producer=2)
    start = 1_000_000.0
    assert desk.forget_idle(start) == 0
    desk.decoder.close_lane(lanes[0], start)
    assert desk.forget_idle(start + 2 * KEEP_PRODUCER_S) == 1, "two sent nothing for a day; one has a lane"
    desk.decoder.close_lane(lanes[1], start + 2 * KEEP_PRODUCER_S)
    assert desk.forget_idle(start + 3 * KEEP_PRODUCER_S - 1) == 0
    desk.send(5, producer=1)
    assert desk.forget_idle(start + 3 * KEEP_PRODUCER_S) == 0
    # The clock is set back: the day begins anew.
    assert desk.forget_idle(start) == 0
    assert desk.forget_idle(start + KEEP_PRODUCER_S - 1) == 0
    assert desk.forget_idle(start + KEEP_PRODUCER_S) == 1
    assert list(desk.decoder.read_producers()) == []


# ------------------------------------------------------------------------------------- storing


def test_what_changed_is_dumped_once_and_restores_as_it_was() -> None:
    desk = Desk()
    passage = desk.open_lane()
    desk.send_on(passage, 1, 0, 5)
    desk.send(3, sent=7, producer=2, dropped={"buffer_full": 2})
    dumped = dict(desk.decoder.dump_changed())
    assert set(dumped) == {1, 2}
    assert desk.decoder.dump_changed() == []
    desk.send_on(passage, 1)
    assert [key for key, _ in desk.decoder.dump_changed()] == [1]
    dumped |= dict(desk.decoder.dump_changed())

    again = Desk()
    again.decoder.restore(dumped.items())
    assert {key: account for key, account, _ in again.decoder.read_producers()} == {
        1: Producer(1, 5, 0, 5),
        2: Producer(3, 8, 7, 1, dropped={"buffer_full": 2}),
    }
    assert again.decoder.dump_changed() == []
    assert not again.send(3, sent=7, producer=2)
    assert again.open_lane(sequence=1).sequence == 1
    again.send(5, sent=18, producer=2, dropped={"buffer_full": 5})
    assert again.ledger.events_missing == 10
    assert again.ledger.events_dropped_by_clients == {"buffer_full": 3}


def test_after_a_restart_those_that_were_idle_for_longest_are_still_forgotten_first() -> None:
    desk = Desk(max_producers=3)
    # The first had a lane to the end; when it comes back it sends again what was not acknowledged.
    accounts = {
        1: Producer(7, idle_since=0.0),
        2: Producer(7, idle_since=50.0),
        3: Producer(7, idle_since=20.0),
    }
    assert not desk.decoder.restore((key, msgspec.msgpack.encode(each)) for key, each in accounts.items())
    desk.send(1, producer=8)
    assert [key for key, _, _ in desk.decoder.read_producers()] == [1, 2, 8]
    desk.send(1, producer=9)
    assert [key for key, _, _ in desk.decoder.read_producers()] == [1, 8, 9]


def test_what_cannot_be_read_of_a_producer_costs_that_one_alone() -> None:
    desk = Desk()
    items = [(1, b"\xc1"), (2, msgspec.msgpack.encode(Producer(7))), (3, b"")]
    assert len(desk.decoder.restore(items)) == 2
    assert [key for key, _, _ in desk.decoder.read_producers()] == [2]


def test_no_claim_of_folded_events_makes_an_account_that_cannot_be_stored() -> None:
    desk = Desk()
    for sequence in range(1, 17):
        frame = FoldedFrame(1, sequence, Totals(0), [])
        assert desk.decoder.decode(encode(frame)) is not None
        desk.decoder.note_events(frame, 2**61)
        ((_, producer, _),) = desk.decoder.read_producers()
        assert producer.folded <= producer.received
    assert not Desk().decoder.restore(desk.decoder.dump_changed())


def test_of_those_that_were_dumped_it_is_told_who_is_forgotten() -> None:
    desk = Desk(max_producers=2)
    desk.send(1, producer=1)
    desk.decoder.dump_changed()
    for producer in (2, 3, 4):
        desk.send(1, producer=producer)
    # Two was never dumped, so nobody has to forget it.
    assert desk.decoder.forgotten() == [1]
    assert desk.decoder.forgotten() == []
    assert sorted(key for key, _ in desk.decoder.dump_changed()) == [3, 4]
    # Three goes and comes back before anybody asks.
    for producer in (5, 3):
        desk.send(2, producer=producer)
    assert desk.decoder.forgotten() == [4]
    assert sorted(key for key, _ in desk.decoder.dump_changed()) == [3, 5]


def test_without_anybody_who_stores_nothing_grows() -> None:
    desk = Desk(max_producers=10)
    for producer in range(1_000):
        desk.send(1, producer=producer)
    assert len(desk.decoder._changed) <= 10
    assert desk.decoder.forgotten() == []
    assert len(desk.decoder._without_lane) == 10
