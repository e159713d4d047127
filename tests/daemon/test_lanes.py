"""Real connections -> frames, each counted once, acknowledged after the turn that read it."""

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metrics_protocol import (
    MAX_DATAGRAM_BYTES,
    AckFrame,
    ColumnsFrame,
    EventsFrame,
    FoldedFrame,
    HelloFrame,
    MetricEvent,
    Reason,
    Totals,
    encode,
)
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.lanes import Lanes
from aiokpl_metricsd.ledger import LaneEnd, LaneRefusal, Ledger
from aiokpl_metricsd.listener import listen
from aiokpl_metricsd.receiver import TURN_BYTES, Receiver
from aiokpl_metricsd.receiving.acceptor import LaneLimits, build_limits
from aiokpl_metricsd.receiving.admission import Admission
from aiokpl_metricsd.receiving.front_door import FrontDoor
from aiokpl_metricsd.receiving.lane import Lane
from tests.daemon.loops import NewLoop, on_both_loops, run, until
from tests.daemon.test_clock import HandClock
from tests.support.child import ROOT
from tests.support.lane import Ack, LaneProducer, encode_columns

DAEMON_ID = 99
ROWS = encode(EventsFrame([MetricEvent("m", 1.0, 0.0)]))


class Station:
    """Lanes on a path of their own, wired as in the daemon but for what counts the events."""

    def __init__(
        self, directory: str, limits: LaneLimits | None = None, admission: Admission | None = None
    ) -> None:
        self.path = f"{directory}/s"
        self.listener = listen([self.path], mode=0o600, group=None, lane=True)
        self.ledger = Ledger()
        self.clock = HandClock()
        self.decoder = Decoder(self.ledger)
        self.receiver = Receiver(self.clock, self.end_turn)
        self.door = FrontDoor(self.listener.socket, self.take_datagram, self.decoder.reject_oversized)
        self.receiver.watch(self.door)
        assert self.listener.lane is not None
        self.lanes = Lanes(
            self.listener.lane, self.receiver, self.decoder, self.ledger, self.clock, self.take,
            interval_s=60.0, daemon_id=DAEMON_ID, limits=limits, admission=admission,
        )  # fmt: skip
        self.taken: list[tuple[int, int]] = []
        self.by_turn: list[Counter[int]] = [Counter()]
        self.journaled = False
        self.cost_s = 0.0
        self.on_take: Callable[[int], None] = lambda producer_id: None
        self.stack = ExitStack()

    def take(self, frame: ColumnsFrame | FoldedFrame, message: memoryview, lane: Lane) -> None:
        assert isinstance(frame, ColumnsFrame)
        assert lane.passage is not None
        assert message.nbytes <= MAX_DATAGRAM_BYTES
        events = sum(len(column.values) for column in frame.columns if isinstance(column.values, list))
        self.decoder.note_events(frame, events)
        self.taken.append((frame.producer_id, frame.sequence))
        self.note(frame.producer_id)

    def take_datagram(self, datagram: memoryview) -> None:
        self.decoder.decode(datagram)
        self.note(0)

    def note(self, producer_id: int) -> None:
        self.by_turn[-1][producer_id] += 1
        self.clock.pass_by(self.cost_s)
        self.on_take(producer_id)

    def end_turn(self) -> None:
        self.lanes.acknowledge(journaled=self.journaled)
        self.by_turn.append(Counter())

    def connect(self, producer_id: int = 7, sequence: int = 1, sent: int = 0) -> LaneProducer:
        return self.stack.enter_context(LaneProducer(self.path, producer_id, sequence, sent))

    def greet(self, producer_id: int = 7, sequence: int = 1, sent: int = 0) -> LaneProducer:
        """Connect, and have the hello answered."""
        producer = self.connect(producer_id, sequence, sent)
        producer.say_hello()
        self.receiver.read_pass()
        assert producer.read_ack().daemon_id == DAEMON_ID
        return producer

    def close(self) -> None:
        self.stack.close()
        self.lanes.close()
        self.listener.close()
        assert self.ledger.balance_datagrams() == 0
        assert self.ledger.balance_lanes(0) == 0
        for _, account, lanes in self.decoder.read_producers():
            assert account.sent in (-1, account.before + account.received + account.missing)
            assert lanes == 0


@pytest.fixture
def open_station() -> Iterator[Callable[..., Station]]:
    with ExitStack() as stack:

        def begin(limits: LaneLimits | None = None, admission: Admission | None = None) -> Station:
            station = Station(stack.enter_context(TemporaryDirectory()), limits, admission)
            stack.callback(station.close)
            return station

        yield begin


Open = Callable[..., Station]


@pytest.fixture
def station(open_station: Open) -> Station:
    return open_station()


def test_a_hello_is_answered_with_what_the_producer_needs_to_know(station: Station) -> None:
    with station.connect() as producer:
        producer.say_hello()
        station.receiver.read_pass()
        assert producer.read_acks() == [Ack(0, 0, False, 60.0, DAEMON_ID)]
    assert (len(station.lanes), station.ledger.lanes_accepted) == (1, 1)
    station.receiver.read_pass()
    assert len(station.lanes) == 0
    assert station.ledger.lanes_ended == {LaneEnd.CLOSED: 1}


def test_what_a_turn_read_is_acknowledged_once_at_its_end(station: Station) -> None:
    producer = station.greet()
    for _ in range(5):
        producer.send(1.0, 2.0)
    assert producer.read_acks() == []
    station.receiver.read_pass()
    assert [ack.sequence for ack in producer.read_acks()] == [5]
    station.receiver.read_pass()
    assert producer.read_acks() == []
    assert station.taken == [(7, number) for number in range(1, 6)]


def test_an_ack_says_journaled_only_when_all_frames_that_it_names_are(station: Station) -> None:
    producer = station.greet()
    for journaled in (True, False, True):
        station.journaled = journaled
        producer.send()
        station.receiver.read_pass()
        assert [ack.journaled for ack in producer.read_acks()] == [journaled]
    assert station.ledger.frames_unjournaled == 1
    assert station.ledger.as_dict()["frames_unjournaled"] == 1


def test_a_producer_that_comes_back_is_told_how_far_it_came_and_repeats_count_once(station: Station) -> None:
    station.greet().send()
    first = station.greet()
    frames = [first.send() for _ in range(4)]
    station.receiver.read_pass()
    first.socket.close()
    again = station.connect(sequence=2)
    again.say_hello()
    station.receiver.read_pass()
    # The answer was lost, in this story: the frames come again, the same bytes.
    assert again.read_ack().sequence == 4
    for frame in frames:
        again.socket.send(frame)
    again.socket.send(encode_columns(7, 5, 4))
    station.receiver.read_pass()
    assert [ack.sequence for ack in again.read_acks()] == [5]
    assert sorted(set(station.taken)) == station.taken == [(7, number) for number in range(1, 6)]
    assert station.ledger.datagrams_repeated == 5
    assert station.ledger.events_missing == 0


def test_a_jump_is_missing_in_events_and_acknowledged(station: Station) -> None:
    producer = station.greet()
    producer.send()
    producer.sequence, producer.sent = 9, 1_001
    producer.send()
    station.receiver.read_pass()
    assert producer.read_ack().sequence == 9
    assert station.ledger.events_missing == 1_000


def test_what_an_earlier_daemon_has_acknowledged_is_not_missing(station: Station) -> None:
    producer = station.greet(sequence=1_000, sent=50_000)
    producer.send()
    station.receiver.read_pass()
    assert producer.read_ack().sequence == 1_000
    assert station.ledger.events_missing == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(b"\xc1", Reason.MALFORMED), (b"\x91\x63", Reason.UNKNOWN_TAG), (bytes(70_000), Reason.TOO_LARGE)],
)
def test_a_frame_that_does_not_decode_takes_its_number_and_is_acknowledged_as_refused(
    station: Station, bad: bytes, reason: Reason
) -> None:
    producer = station.greet()
    producer.send(1.0)
    producer.socket.send(bad)
    station.receiver.read_pass()
    ack = producer.read_ack()
    assert (ack.sequence, ack.refused) == (2, 1)
    # The two events in it are missing, by the producer's own total.
    producer.sequence, producer.sent = 3, 3
    producer.send()
    station.receiver.read_pass()
    ack = producer.read_ack()
    assert (ack.sequence, ack.refused) == (3, 1)
    assert station.ledger.datagrams_rejected == {reason: 1}
    assert station.ledger.events_missing == 2
    # It stays refused when it comes again, since its number is known.
    again = station.greet(sequence=2)
    assert [ack.sequence for ack in again.read_acks()] == []


@pytest.mark.parametrize(
    "message",
    [
        encode(ColumnsFrame(8, 2, Totals(), [])),
        encode(FoldedFrame(8, 2, Totals(), [])),
        encode(HelloFrame(7, 2)),
        encode(HelloFrame(8, 1)),
        encode(AckFrame(2)),
        ROWS,
    ],
    ids=["foreign columns", "foreign set", "second hello", "foreign hello", "ack", "rows"],
)
def test_what_has_no_place_on_a_lane_is_refused_without_a_number(station: Station, message: bytes) -> None:
    producer = station.greet()
    producer.send()
    producer.socket.send(message)
    station.receiver.read_pass()
    ack = producer.read_ack()
    assert (ack.sequence, ack.refused) == (1, 1)
    producer.send()
    station.receiver.read_pass()
    assert producer.read_ack().sequence == 2
    assert station.taken == [(7, 1), (7, 2)]
    assert station.ledger.datagrams_rejected == {Reason.UNEXPECTED_FRAME: 1}
    assert [key for key, _, _ in station.decoder.read_producers()] == [7]


@pytest.mark.parametrize(
    "message",
    [ROWS, encode(ColumnsFrame(7, 1, Totals(), [])), encode(AckFrame(1)), b"\xc1", bytes(70_000)],
    ids=["rows", "columns", "ack", "garbage", "oversized"],
)
def test_a_lane_that_does_not_begin_with_a_hello_ends(station: Station, message: bytes) -> None:
    producer = station.connect()
    producer.socket.send(message)
    producer.say_hello()
    station.receiver.read_pass()
    # Its second message was not read, which comes first; what follows is the end, without an answer.
    with pytest.raises(ConnectionResetError):
        producer.socket.recv(100)
    assert producer.socket.recv(100) == b""
    assert station.ledger.lanes_ended == {LaneEnd.NO_HELLO: 1}
    assert station.taken == []
    assert sum(station.ledger.datagrams_rejected.values()) == 1


@pytest.mark.parametrize("is_greeted", [True, False])
def test_an_empty_message_ends_a_lane_behind_what_came_before_it(station: Station, is_greeted: bool) -> None:
    producer = station.greet() if is_greeted else station.connect()
    if is_greeted:
        producer.send()
    producer.socket.send(b"")
    # A pass reads the bytes that are queued, and of an empty message there are none.
    station.receiver.read_pass()
    station.receiver.read_pass()
    assert [ack.sequence for ack in producer.read_acks()] == [1] * is_greeted
    assert producer.socket.recv(100) == b""
    assert station.ledger.lanes_ended == {LaneEnd.EMPTY_MESSAGE: 1}


def test_who_says_that_it_will_send_no_more_still_gets_its_answer(station: Station) -> None:
    producer = station.greet()
    producer.send()
    producer.socket.shutdown(socket.SHUT_WR)
    station.receiver.read_pass()
    station.receiver.read_pass()
    assert producer.read_ack().sequence == 1
    assert producer.socket.recv(100) == b""


def test_two_lanes_of_one_producer_count_every_frame_once(station: Station) -> None:
    old = station.greet()
    frames = [old.send() for _ in range(3)]
    new = station.connect()
    new.say_hello()
    for frame in frames:
        new.socket.send(frame)
    station.receiver.read_pass()
    assert station.taken == [(7, 1), (7, 2), (7, 3)]
    assert [producer.read_acks()[-1].sequence for producer in (old, new)] == [3, 3]


# ------------------------------------------------------------------------------------- limits


def test_past_the_limits_a_lane_is_refused_in_words_and_when_one_ends_there_is_room(
    open_station: Open,
) -> None:
    for limits, reason in ((LaneLimits(2, 9), LaneRefusal.LANES), (LaneLimits(9, 2), LaneRefusal.USER)):
        station = open_station(limits)
        kept = [station.greet(number) for number in range(2)]
        refused = station.connect()
        station.receiver.read_pass()
        assert refused.read_ack() == Ack(0)
        assert refused.socket.recv(100) == b""
        assert station.ledger.lanes_refused == {reason: 1}
        # With a hello that nobody reads, the refusal is behind an error, and there.
        refused = station.connect()
        refused.say_hello()
        station.receiver.read_pass()
        with pytest.raises(ConnectionResetError):
            refused.socket.recv(100)
        assert refused.read_ack() == Ack(0)
        kept.pop().socket.close()
        station.receiver.read_pass()
        station.greet(5)
        assert station.ledger.lanes_accepted == 3


def test_the_limits_leave_descriptors_to_the_rest() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for number, lanes in ((256, 128), (100, 1), (min(hard, 100_000), 4_096)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
            limits = build_limits()
            assert limits.lanes == min(lanes, number)
            assert limits.user_lanes == max(1, limits.lanes * 3 // 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_lanes_are_refused_one_after_the_other_and_then_taken_again(
    station: Station,
) -> None:
    waiting = [station.connect(number) for number in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        station.receiver.read_pass()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert [producer.read_ack() for producer in waiting] == [Ack(0)] * 3
    assert station.ledger.lanes_refused == {LaneRefusal.DESCRIPTORS: 3}
    station.greet()


class Failing:
    """A listening socket whose `accept` fails, as often as it is told to."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.failures = 0
        self.calls = 0
        self.number = errno.ENOMEM

    def fileno(self) -> int:
        return self.real.fileno()

    def close(self) -> None:
        self.real.close()

    def accept(self) -> tuple[socket.socket, object]:
        self.calls += 1
        if self.failures > 0:
            self.failures -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.real.accept()


@on_both_loops
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_an_accept_that_fails_is_left_alone_for_a_while_and_does_not_spin(
    station: Station, new_loop: NewLoop, number: int
) -> None:
    async def work() -> None:
        failing = Failing(station.lanes._acceptor._listener)
        station.lanes._acceptor._listener = failing  # type: ignore[assignment]
        failing.failures, failing.number = 4, number
        station.receiver.attach(asyncio.get_running_loop())
        producer = station.connect()
        producer.say_hello()
        await until(producer.read_acks)
        # Four that failed, the one that did not, and one or two that found nothing more.
        assert failing.calls <= 4 + 1 + 3
        station.receiver.detach()

    run(new_loop, work())


# ------------------------------------------------------------------------- the end of a producer

# A producer that dies without having read what it was answered, with frames queued.
PRODUCER = """
import sys
from tests.support.lane import LaneProducer
producer = LaneProducer(sys.argv[1])
producer.say_hello()
print(producer.read_ack().sequence, flush=True)
producer.send()
sys.stdin.readline()
print(producer.fill(padding=int(sys.argv[2])), flush=True)
sys.stdin.readline()
"""


def start(path: str, padding: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRODUCER, path, str(padding)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)


@on_both_loops
@pytest.mark.parametrize("padding", [0, 16_000], ids=["small", "16 KB"])
def test_what_a_killed_producer_had_queued_is_read_although_it_left_acks_unread(
    station: Station, new_loop: NewLoop, padding: int
) -> None:
    async def work() -> None:
        with start(station.path, padding) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            station.receiver.attach(asyncio.get_running_loop())
            await until(lambda: len(station.taken) == 1)
            # From here on nothing is read until it is dead, with the answer to its first frame unread.
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "0\n"
            queued = int(child.stdout.readline())
            child.kill()
            child.wait()
        await until(lambda: len(station.lanes) == 0)
        assert queued > 10
        assert station.taken == [(7, number) for number in range(1, queued + 2)]
        assert station.ledger.lanes_ended == {LaneEnd.CLOSED: 1}
        assert max(turn[7] for turn in station.by_turn) <= TURN_BYTES // max(padding, 1) + 1 or not padding
        station.receiver.detach()

    run(new_loop, work())


@on_both_loops
def test_what_is_queued_behind_an_error_is_read_in_turns_among_others(
    station: Station, new_loop: NewLoop
) -> None:
    async def work() -> None:
        others = [station.greet(number) for number in range(3)]
        dead = station.greet()
        dead.send()
        station.receiver.read_pass()
        queued = dead.fill(padding=16_000)
        dead.socket.close()
        for other in others:
            other.fill(padding=16_000)
        station.receiver.attach(asyncio.get_running_loop())
        # The acknowledgement of what the first turn reads meets a broken pipe, with frames still queued.
        await until(lambda: len(station.lanes) == 3)
        assert [number for key, number in station.taken if key == 7] == list(range(1, queued + 2))
        await until(lambda: all(other.sequence - 1 == other.read_acks()[-1].sequence for other in others))
        assert all(turn[7] <= TURN_BYTES // 16_000 + 1 for turn in station.by_turn)
        station.receiver.detach()

    run(new_loop, work())


# --------------------------------------------------------------------------------- answers


@on_both_loops
def test_an_ack_that_found_no_room_is_sent_when_there_is_some_and_names_all_by_then(
    station: Station, new_loop: NewLoop
) -> None:
    async def work() -> None:
        producer = station.greet()
        station.receiver.attach(asyncio.get_running_loop())
        while not station.lanes._held_back:
            producer.send()
            station.receiver.read_pass()
            assert producer.sequence < 2_000
        for _ in range(10):
            producer.send()
            station.receiver.read_pass()
        read = [ack.sequence for ack in producer.read_acks()]
        assert read == list(range(1, len(read) + 1))
        assert read[-1] < producer.sequence - 1
        await until(lambda: not station.lanes._held_back)
        assert [ack.sequence for ack in producer.read_acks()] == [producer.sequence - 1]
        station.receiver.detach()

    run(new_loop, work())


@on_both_loops
def test_a_producer_that_dies_while_an_ack_waits_for_room_is_forgotten(
    station: Station, new_loop: NewLoop
) -> None:
    async def work() -> None:
        producer = station.greet()
        station.receiver.attach(asyncio.get_running_loop())
        while not station.lanes._held_back:
            producer.send()
            station.receiver.read_pass()
        producer.socket.close()
        await until(lambda: len(station.lanes) == 0)
        assert station.lanes._held_back == {}
        station.greet(8)
        station.receiver.detach()

    run(new_loop, work())


@on_both_loops
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_an_ack_that_the_kernel_has_no_memory_for_is_sent_later(
    station: Station, new_loop: NewLoop, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        producer = station.greet()
        station.receiver.attach(asyncio.get_running_loop())
        answers = iter([number, number])
        send = Lane.send
        monkeypatch.setattr(Lane, "send", lambda lane, message: next(answers, 0) or send(lane, message))
        producer.send()
        station.receiver.read_pass()
        assert producer.read_acks() == []
        await until(lambda: not station.lanes._held_back)
        assert [ack.sequence for ack in producer.read_acks()] == [1]
        station.receiver.detach()

    run(new_loop, work())


# -------------------------------------------------------------------------------- fairness


@on_both_loops
def test_forty_full_lanes_and_a_flood_of_rows_starve_neither_a_timer_nor_a_lane(
    station: Station, new_loop: NewLoop
) -> None:
    lanes, padding, cost_s = 40, 16_000, 0.0004

    async def work() -> None:
        loop = asyncio.get_running_loop()
        producers = {number: station.greet(number) for number in range(1, lanes + 1)}
        door = station.stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        door.setblocking(False)
        door.connect(station.path)

        def send(producer_id: int) -> None:
            """Send again as soon as there is room."""
            try:
                if producer_id:
                    producers[producer_id].read_acks()
                    producers[producer_id].send(padding=padding)
                else:
                    door.send(ROWS)
            except BlockingIOError:
                pass

        for producer in producers.values():
            assert producer.fill(padding=padding) > 4
        for _ in range(10):
            door.send(ROWS)
        station.on_take, station.cost_s = send, cost_s
        station.by_turn = [Counter()]
        ticks: list[int] = []
        tick = loop.time()

        def note_tick() -> None:
            ticks.append(len(station.by_turn))
            if len(station.by_turn) < 300:
                loop.call_at(tick, note_tick)

        station.receiver.attach(loop)
        note_tick()
        await until(lambda: len(station.by_turn) >= 300)
        station.receiver.detach()

        turns = station.by_turn[1:250]
        # 10 ms at 0.4 ms each, and of one source no more than 64 KiB.
        assert max(turn.total() for turn in turns) <= 26
        assert max(turn[number] for turn in turns for number in producers) <= TURN_BYTES // padding + 1
        shares = Counter(number for turn in turns for number in turn.elements())
        assert set(shares) == {0, *producers}
        by_lane = [shares[number] for number in producers]
        assert max(by_lane) - min(by_lane) <= 2 * (TURN_BYTES // padding + 1)
        # A timer that is due never waits for more than two turns.
        gaps = [later - earlier for earlier, later in pairwise(ticks)]
        assert max(gaps) <= 2

    run(new_loop, work())


# ------------------------------------------------------------------------------------- the end


def test_at_the_end_what_waits_is_accepted_what_is_queued_is_read_and_all_is_acknowledged(
    station: Station,
) -> None:
    station.journaled = True
    early = station.greet(1)
    queued = early.fill(padding=1_000)
    late = station.connect(2)
    late.say_hello()
    late.send()
    station.listener.refuse_more()
    station.lanes.refuse_more()
    for producer in (early, late):
        with pytest.raises(BrokenPipeError):
            producer.send()
    with pytest.raises(FileNotFoundError):
        station.connect()
    station.receiver.drain()
    assert Counter(key for key, _ in station.taken) == {1: queued, 2: 1}
    assert [producer.read_acks()[-1] for producer in (early, late)] == [
        Ack(queued, 0, True, 60.0, DAEMON_ID),
        Ack(1, 0, True, 60.0, DAEMON_ID),
    ]
    assert [producer.socket.recv(10) for producer in (early, late)] == [b"", b""]
    assert station.ledger.lanes_ended == {LaneEnd.STOPPED: 2}
    station.receiver.drain()


@on_both_loops
def test_the_end_comes_in_the_midst_of_turns_and_of_a_pause(station: Station, new_loop: NewLoop) -> None:
    async def work() -> None:
        producers = [station.greet(number) for number in range(20)]
        station.receiver.attach(asyncio.get_running_loop())
        sent = sum(producer.fill(padding=16_000) for producer in producers)
        station.cost_s = 0.001
        await until(lambda: station.taken)
        station.lanes._pause()
        station.receiver.detach()
        station.listener.refuse_more()
        station.lanes.refuse_more()
        station.receiver.drain()
        assert len(station.taken) == sent
        await asyncio.sleep(0.2)
        assert len(station.lanes) == 0

    run(new_loop, work())


def test_a_second_close_does_nothing_and_unread_lanes_are_counted(station: Station) -> None:
    station.greet()
    station.lanes.close()
    station.lanes.close()
    assert station.ledger.lanes_ended == {LaneEnd.STOPPED: 1}


def test_the_user_is_told_from_the_connection(station: Station) -> None:
    station.greet()
    assert station.lanes._by_user == {os.getuid(): 1}


@pytest.mark.parametrize("is_listed", [True, False])
def test_a_lane_of_a_user_who_is_not_listed_is_refused_in_words(
    open_station: Open, *, is_listed: bool
) -> None:
    uid = os.geteuid() if is_listed else os.geteuid() + 1
    station = open_station(admission=Admission({uid}, (), lambda: 0.0))
    producer = station.connect()
    station.receiver.read_pass()
    if is_listed:
        assert station.ledger.lanes_accepted == 1
        return
    assert producer.read_ack() == Ack(0)
    assert producer.receive() == b""
    assert station.ledger.lanes_refused == {LaneRefusal.NOT_ALLOWED: 1}
    assert station.ledger.lanes_accepted == 0
