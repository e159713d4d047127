"""A real datagram socket -> datagrams: whole, in order, and no more in a pass than the queue holds."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.receiver import EMPTY, TURN_BYTES, Receiver
from aiokpl_metricsd.receiving import front_door
from aiokpl_metricsd.receiving.front_door import FrontDoor, read_queue_datagrams
from tests.daemon.test_clock import HandClock


class Reader:
    """A front door over a socket pair, with what it handed on."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        # Each side's own queue, so that a test is not bound to eleven datagrams.
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        self.taken: list[bytes] = []
        self.oversized: list[int] = []
        self.door = FrontDoor(self.ours, self.handle, self.oversized.append, queue_datagrams=11)
        self.receiver = Receiver(HandClock(), lambda: None)
        self.receiver.watch(self.door)

    def handle(self, datagram: memoryview) -> None:
        self.taken.append(bytes(datagram))


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
    for _ in range(6):
        reader.theirs.send(bytes(TURN_BYTES // 2 - 1))
    for taken in (2, 4, 6, 6):
        reader.receiver._note(reader.door)
        assert len(reader.taken) == taken


def test_a_pass_reads_as_much_as_the_queue_holds_but_not_for_ever_what_comes_meanwhile(
    reader: Reader,
) -> None:
    def handle(datagram: memoryview) -> None:
        reader.taken.append(bytes(datagram))
        reader.theirs.send(b"again")

    reader.receiver.unwatch(reader.door)
    door = FrontDoor(reader.ours, handle, reader.oversized.append, queue_datagrams=65)
    reader.receiver.watch(door)
    reader.theirs.send(b"first")
    reader.receiver.read_pass()
    # Two turns: of a datagram so small, one reads 64.
    assert len(reader.taken) == 128


def test_the_kernel_says_how_many_it_queues_and_where_it_does_not_the_bound_is_wide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert read_queue_datagrams() == int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    monkeypatch.setattr(front_door, "_QUEUE_PATH", str(tmp_path / "none"))
    assert read_queue_datagrams() == 1_024


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
        receiver = Receiver(HandClock(), lambda: None)
        receiver.watch(FrontDoor(ours, lambda data: taken.append(bytes(data)), lambda _: None))
        receiver.drain()
    assert taken == [b"queued"] * 5


def test_a_closed_socket_is_read_as_an_empty_one(reader: Reader) -> None:
    reader.ours.close()
    reader.receiver.drain()
    assert reader.door.read() == EMPTY
    assert reader.taken == []
