"""A real socket -> datagrams: whole, in order, in bounded turns."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.receiver import PASS_DATAGRAMS, TURN_BYTES, TURN_S, Receiver
from tests.daemon.test_clock import HandClock


class Reader:
    """A receiver over a socket pair, with what it handed on."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        # Each side's own queue, so that a test is not bound to eleven datagrams.
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        self.taken: list[bytes] = []
        self.oversized: list[int] = []
        self.cost_s = 0.0
        self.clock = HandClock()
        self.receiver = Receiver(self.ours, self.handle, self.oversized.append, self.clock)

    def handle(self, datagram: memoryview) -> None:
        self.taken.append(bytes(datagram))
        self.clock.pass_by(self.cost_s)

    def fill(self, datagram: bytes) -> int:
        """Send until the queue is full; return how many were sent."""
        sent = 0
        try:
            while True:
                self.theirs.send(datagram)
                sent += 1
        except BlockingIOError:
            return sent


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.ours.close()
    made.theirs.close()


def test_datagrams_are_handed_on_whole_and_in_order(reader: Reader) -> None:
    sent = [b"a", b"", b"bc" * 1_000, bytes(MAX_DATAGRAM_BYTES)]
    for datagram in sent:
        reader.theirs.send(datagram)
    reader.receiver.drain()
    assert reader.taken == sent
    assert reader.oversized == []


def test_a_datagram_larger_than_any_frame_is_told_by_its_real_size_and_handed_on_to_nobody(
    reader: Reader,
) -> None:
    for size in (MAX_DATAGRAM_BYTES + 1, 100_000):
        reader.theirs.send(bytes(size))
    reader.theirs.send(b"good")
    reader.receiver.read_pass()
    assert reader.oversized == [MAX_DATAGRAM_BYTES + 1, 100_000]
    assert reader.taken == [b"good"]


def test_a_turn_ends_after_its_bytes_and_the_next_goes_on(reader: Reader) -> None:
    size = TURN_BYTES // 2 - 1
    for _ in range(6):
        reader.theirs.send(bytes(size))
    reader.receiver.read_turn()
    assert len(reader.taken) == 3
    reader.receiver.read_turn()
    assert len(reader.taken) == 6
    reader.receiver.read_turn()
    assert len(reader.taken) == 6


def test_a_turn_ends_after_its_time(reader: Reader) -> None:
    sent = reader.fill(b"x")
    assert sent > 4
    reader.cost_s = TURN_S / 2.5
    reader.receiver.read_turn()
    assert len(reader.taken) == 3


def test_a_turn_over_an_empty_socket_is_nothing(reader: Reader) -> None:
    reader.receiver.read_turn()
    assert reader.taken == []


def test_a_pass_reads_what_is_queued_but_not_for_ever_what_comes_meanwhile(reader: Reader) -> None:
    def handle(datagram: memoryview) -> None:
        reader.taken.append(bytes(datagram))
        reader.theirs.send(b"again")

    receiver = Receiver(reader.ours, handle, reader.oversized.append, reader.clock)
    reader.theirs.send(b"first")
    receiver.read_pass()
    assert len(reader.taken) == PASS_DATAGRAMS


def test_a_drain_reads_all_that_is_queued(reader: Reader) -> None:
    sent = reader.fill(b"x")
    reader.cost_s = 10.0
    reader.receiver.drain()
    assert len(reader.taken) == sent


def test_after_the_reading_end_was_shut_down_what_is_queued_is_still_drained(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    taken: list[bytes] = []
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(path)
        ours.setblocking(False)
        theirs.connect(path)
        for _ in range(5):
            theirs.send(b"queued")
        ours.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError):
            theirs.send(b"too late")
        receiver = Receiver(ours, lambda data: taken.append(bytes(data)), lambda _: None, HandClock())
        receiver.drain()
    assert taken == [b"queued"] * 5


def test_a_closed_socket_is_read_as_an_empty_one(reader: Reader) -> None:
    reader.ours.close()
    reader.receiver.drain()
    reader.receiver.read_turn()
    assert reader.taken == []


@pytest.mark.asyncio
async def test_attached_it_reads_whatever_comes_and_detached_nothing_more(reader: Reader) -> None:
    arrived = asyncio.Event()

    def handle(datagram: memoryview) -> None:
        reader.taken.append(bytes(datagram))
        arrived.set()

    receiver = Receiver(reader.ours, handle, reader.oversized.append, reader.clock)
    receiver.detach()
    loop = asyncio.get_running_loop()
    receiver.attach(loop)
    for number in range(3):
        arrived.clear()
        reader.theirs.send(b"%d" % number)
        await asyncio.wait_for(arrived.wait(), 10)
    receiver.detach()
    receiver.detach()
    reader.theirs.send(b"unread")
    for _ in range(5):
        await asyncio.sleep(0)
    assert reader.taken == [b"0", b"1", b"2"]
    assert reader.ours.recv(100) == b"unread"
