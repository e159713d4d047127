"""A socket's number is ours for as long as the socket is; what gets it afterwards is left alone."""

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiokpl_metrics_client import descriptor
from aiokpl_metrics_client.transport import Outcome, Transport
from tests.client.door import Door
from tests.support.child import Nursery

_FRAME = b"frame"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        yield ours, theirs


def test_a_number_that_another_file_has_by_now_is_not_what_it_was_and_is_not_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    number, identity = ours.fileno(), descriptor.identify(ours)
    assert descriptor.is_still(ours, identity)
    os.dup2(theirs.fileno(), number)
    assert not descriptor.is_still(ours, identity)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        descriptor.check(ours, identity)
    descriptor.close(ours, identity)
    assert ours.fileno() == -1
    assert os.fstat(number).st_ino == os.fstat(theirs.fileno()).st_ino
    os.close(number)


def test_a_closed_number_is_nothing_and_nothing_is_never_what_it_was(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    identity = descriptor.identify(ours)
    os.close(ours.fileno())
    assert descriptor.identify(ours) == descriptor.NOTHING
    assert not descriptor.is_still(ours, identity)
    assert not descriptor.is_still(ours, descriptor.NOTHING)
    descriptor.close(ours, identity)


def test_what_is_still_ours_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    number, identity = ours.fileno(), descriptor.identify(ours)
    descriptor.check(ours, identity)
    descriptor.close(ours, identity)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)


@pytest.mark.parametrize("polls", [True, False], ids=["poll", "a library has taken poll away"])
def test_waiting_tells_whether_a_socket_may_be_written_to_and_returns_when_it_may_be_read(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, polls: bool
) -> None:
    if not polls:
        monkeypatch.delattr(select, "poll")
    ours, theirs = pair
    number = ours.fileno()
    assert descriptor.wait_for(number, 30.0, reads=False, writes=True) is True
    assert descriptor.wait_for(number, 0.0, reads=True, writes=False) is False
    theirs.send(b"ack")
    assert descriptor.wait_for(number, 30.0, reads=True, writes=False) is False
    assert descriptor.wait_for(-1, 30.0, reads=True, writes=True) is None


_WITHOUT_STANDARD_STREAMS = """
import os, sys
from aiokpl_metrics_client.transport import Outcome, Transport
report = os.dup(1)
for number in map(int, sys.argv[2].split(",")):
    os.close(number)
before = set(os.listdir("/proc/self/fd"))
transport = Transport(sys.argv[1])
for _ in range(3):
    assert transport.send(b"frame") is Outcome.SENT
    assert transport._socket.fileno() > 2, transport._socket
    assert not transport._socket.get_inheritable()
    assert len(set(os.listdir("/proc/self/fd")) - before) == 1
    transport.close()
assert set(os.listdir("/proc/self/fd")) == before
os.write(report, b"good")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1,2"])
def test_the_socket_takes_no_place_of_a_standard_stream(door: Door, nursery: Nursery, closed: str) -> None:
    child = nursery.start_python("-c", _WITHOUT_STANDARD_STREAMS, str(door.path), closed)
    assert (child.wait(), child.stdout) == (0, "good"), child.stderr


def _list_descriptors() -> set[int]:
    return {int(each.name) for each in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_where_another_thread_takes_the_place_first_its_file_is_left_alone(
    door: Door, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dup = os.dup
    taken: list[int] = []

    def take_first(number: int) -> int:
        if not taken:
            # As `dup2(file, 1)` in another thread, in between.
            file = os.open(directory / "file", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(file, number)
            os.close(file)
            taken.append(number)
        return dup(number)

    # Every descriptor is one of the first.
    monkeypatch.setattr(descriptor, "_FIRST_DESCRIPTOR", max(_list_descriptors()) + 2)
    monkeypatch.setattr(os, "dup", take_first)
    transport = Transport(str(door.path))
    before = _list_descriptors()
    assert transport.send(_FRAME) is Outcome.AWAY
    assert os.strerror(errno.ENOTSOCK) in transport.problem
    os.write(taken[0], b"still there")
    os.close(taken[0])
    assert _list_descriptors() == before
    assert transport.send(_FRAME) is Outcome.SENT
    transport.close()
    assert (directory / "file").read_bytes() == b"still there"
