"""Datagrams of several users -> those of the listed ones; the others are counted, and nothing more."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, EventsFrame, MetricEvent, Reason, encode
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.listener import ask_credentials, listen
from aiokpl_metricsd.receiver import EMPTY
from aiokpl_metricsd.receiving.admission import Admission
from aiokpl_metricsd.receiving.front_door import FrontDoor
from aiokpl_metricsd.receiving.guarded_door import GuardedDoor, build_door
from tests.support.stranger import needs_root, send_as

ROWS = encode(EventsFrame([MetricEvent("m", 1.0, 0.0)]))
ME = os.getuid()


class Guarded:
    """A guarded door on a path that everybody may write to, with the socket not yet asked for credentials."""

    def __init__(self, directory: str, connection: socket.socket, *uids: int) -> None:
        self.path = f"{directory}/s"
        self.socket = connection
        self.ledger = Ledger()
        self.taken: list[bytes] = []
        decoder = Decoder(self.ledger)

        def handle(datagram: memoryview) -> None:
            self.taken.append(bytes(datagram))
            decoder.decode(datagram)

        self.door = GuardedDoor(connection, handle, decoder, Admission(uids, (), lambda: 0.0))

    def send(self, datagram: bytes, *descriptors: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(10)
            sender.connect(self.path)
            rights = struct.pack(f"={len(descriptors)}i", *descriptors)
            sender.sendmsg(
                [datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
            )

    def read(self) -> None:
        while self.door.read() != EMPTY:
            pass
        assert self.ledger.balance_datagrams() == 0


Open = Callable[..., Guarded]


@pytest.fixture
def open_door() -> Iterator[Open]:
    with ExitStack() as stack:

        def begin(*uids: int, asks: bool = True) -> Guarded:
            directory = stack.enter_context(TemporaryDirectory())
            Path(directory).chmod(0o711)
            connection = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            )
            if asks:
                ask_credentials(connection)
            connection.bind(f"{directory}/s")
            Path(f"{directory}/s").chmod(0o666)
            return Guarded(directory, connection, *uids)

        yield begin


def test_what_a_listed_user_sends_is_handed_on_whole_and_in_order(open_door: Open) -> None:
    guarded = open_door(ME)
    sent = [ROWS, b"", bytes(MAX_DATAGRAM_BYTES)]
    for datagram in sent:
        guarded.send(datagram)
    guarded.read()
    assert guarded.taken == sent


def test_what_any_other_user_sends_is_counted_by_its_real_size_and_not_looked_into(open_door: Open) -> None:
    guarded = open_door(ME + 1)
    sent = [ROWS, b"\xc1", b"", bytes(MAX_DATAGRAM_BYTES + 5)]
    for datagram in sent:
        guarded.send(datagram)
    guarded.read()
    assert guarded.taken == []
    assert guarded.ledger.datagrams_rejected == {Reason.NOT_ALLOWED: 4}
    assert guarded.ledger.bytes_received == sum(map(len, sent))


def test_a_listed_users_datagram_that_is_too_large_is_told_so(open_door: Open) -> None:
    guarded = open_door(ME)
    guarded.send(bytes(MAX_DATAGRAM_BYTES + 5))
    guarded.read()
    assert guarded.ledger.datagrams_rejected == {Reason.TOO_LARGE: 1}
    assert guarded.ledger.bytes_received == MAX_DATAGRAM_BYTES + 5


@needs_root
def test_each_datagram_is_judged_by_its_own_sender(open_door: Open) -> None:
    guarded = open_door(4001)
    assert send_as(guarded.path, [ROWS] * 3, uid=4001, gid=4001) == ""
    assert send_as(guarded.path, [ROWS] * 2, uid=4002, gid=4001, groups=(4001,)) == ""
    guarded.send(ROWS)
    guarded.read()
    assert len(guarded.taken) == 3
    assert guarded.ledger.datagrams_rejected == {Reason.NOT_ALLOWED: 3}


@needs_root
def test_only_root_can_say_that_it_is_another_user(open_door: Open) -> None:
    guarded = open_door(4001)
    assert "Operation not permitted" in send_as(guarded.path, [ROWS], uid=4002, gid=4002, claimed_uid=4001)
    guarded.read()
    assert guarded.taken == []
    assert send_as(guarded.path, [ROWS], uid=0, gid=0, claimed_uid=4001) == ""
    guarded.read()
    assert guarded.taken == [ROWS]


def test_what_was_sent_before_the_socket_was_asked_for_credentials_is_refused(open_door: Open) -> None:
    guarded = open_door(ME, asks=False)
    guarded.send(ROWS)
    ask_credentials(guarded.socket)
    guarded.send(ROWS)
    guarded.read()
    assert guarded.taken == [ROWS]
    assert guarded.ledger.datagrams_rejected == {Reason.NOT_ALLOWED: 1}


def test_descriptors_that_are_sent_along_are_not_let_in(open_door: Open) -> None:
    guarded = open_door(ME)
    before = sorted(Path("/proc/self/fd").iterdir())
    guarded.send(ROWS, 0, 1, 2)
    guarded.read()
    assert guarded.taken == [ROWS]
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_closed_socket_is_read_as_an_empty_one(open_door: Open) -> None:
    guarded = open_door(ME)
    guarded.socket.close()
    assert guarded.door.read() == EMPTY


def test_credentials_are_asked_for_only_where_somebody_is_listed() -> None:
    with TemporaryDirectory() as directory:
        asked = []
        for credentials in (False, True):
            listener = listen([f"{directory}/s"], mode=0o600, group=None, credentials=credentials)
            asked.append(listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED))
            decoder = Decoder(Ledger())
            admission = Admission((1,), (), lambda: 0.0) if credentials else None
            door = build_door(listener.socket, lambda _: None, decoder, admission)
            assert type(door) is (GuardedDoor if credentials else FrontDoor)
            listener.close()
        assert asked == [0, 1]
