"""An exception out of a signal handler takes no acknowledgement away, whenever it comes: none comes again."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.transport import Transport
from aiokpl_metrics_protocol import AckFrame, Series
from tests.client.lane_door import LaneDoor


class Interrupted:
    """A socket of which one `recv` is interrupted when it has received."""

    def __init__(self, connection: socket.socket | None, calls: int) -> None:
        assert connection is not None
        self._connection = connection
        self._left = calls

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a socket has
        return getattr(self._connection, name)

    def recv(self, size: int, flags: int) -> bytes:
        """Receive, and raise at the last one of the calls."""
        message = self._connection.recv(size, flags)
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return message


@pytest.fixture
def outbound(lanes: LaneDoor, directory: Path) -> Iterator[Outbound]:
    """A way out on a lane that is answered, with one event that is drained."""
    table, transport = BufferTable(10), Transport(str(directory / "metrics.sock"))
    outbound = Outbound(table, transport, 7)
    table.put(None, Series("n"), 1.0, 0.0)
    outbound.drain(all_of_it=True)
    assert not outbound.send()
    assert lanes.read() == 1, "the hello"
    yield outbound
    transport.close()


def _check(lanes: LaneDoor, outbound: Outbound) -> None:
    lanes.read()
    outbound.recount()
    assert outbound.send(), "nothing waits"
    assert outbound.progress.events_unacknowledged == 0
    assert outbound.progress.is_journaled
    assert lanes.events() == 1
    lanes.check()


@pytest.mark.parametrize("calls", [1, 2], ids=["looked at", "taken out of the socket"])
def test_an_ack_that_was_just_received_is_taken_in_by_who_comes_next(
    lanes: LaneDoor, outbound: Outbound, calls: int
) -> None:
    outbound.send()
    lanes.read()
    transport = outbound.transport
    transport._socket = Interrupted(transport._socket, calls)  # type: ignore[assignment]
    assert outbound.progress.events_unacknowledged == 1
    with pytest.raises(KeyboardInterrupt):
        outbound.send()
    _check(lanes, outbound)


@pytest.mark.parametrize("is_taken_in", [False, True])
def test_an_ack_that_was_being_taken_in_is_taken_in_anew(
    lanes: LaneDoor, outbound: Outbound, monkeypatch: pytest.MonkeyPatch, is_taken_in: bool
) -> None:
    outbound.send()
    lanes.read()
    acknowledge = outbound._acknowledge

    def be_interrupted(ack: AckFrame) -> None:
        if is_taken_in:
            acknowledge(ack)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(outbound, "_acknowledge", be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            outbound.send()
    _check(lanes, outbound)


@pytest.mark.parametrize("calls", [1, 2], ids=["looked at", "taken out of the socket"])
def test_the_answer_to_a_hello_that_was_just_received_opens_the_lane_for_who_comes_next(
    lanes: LaneDoor, outbound: Outbound, calls: int
) -> None:
    transport = outbound.transport
    transport._socket = Interrupted(transport._socket, calls)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        outbound.send()
    assert not outbound.send()
    _check(lanes, outbound)
    assert transport.lanes_answered == 1
    assert len(lanes.hellos) == 1
