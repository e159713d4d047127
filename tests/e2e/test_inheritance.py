"""Sockets that a service manager binds and keeps: the test holds them as systemd does."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import TIMEOUT_S, wait_for
from tests.support.rows import check_balance

# What systemd does between fork and exec: descriptors from 3 on, and for whom they are.
PASSING = """
import os, sys
numbers = [int(text) for text in sys.argv[1].split(",")]
# Out of the way of the places that they are to have.
numbers = [os.dup2(number, 100 + place) for place, number in enumerate(numbers)]
for place, number in enumerate(numbers):
    os.dup2(number, 3 + place)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[2]))
os.environ["LISTEN_FDS"] = str(len(numbers))
os.execv(sys.executable, [sys.executable, "-m", "aiokpl_metricsd", *sys.argv[3:]])
"""


class Manager:
    """Binds the sockets and starts daemons with them."""

    def __init__(self, nursery: Nursery, stack: ExitStack, *, lane: bool) -> None:
        self.path = nursery.directory / "metrics.sock"
        self._nursery = nursery
        self._top = f'state_dir = "{nursery.directory}/state"' if lane else ""
        self.sockets = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))]
        self.sockets[0].bind(str(self.path))
        if lane:
            self.sockets.append(stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)))
            self.sockets[1].bind(f"{self.path}.lane")
            self.sockets[1].listen()

    def start(self, name: str, *, pid_offset: int = 0, socket_path: Path | None = None) -> DaemonProcess:
        """Start a daemon; an offset makes the sockets another process's."""
        numbers = [each.fileno() for each in self.sockets]
        listed = ",".join(str(number) for number in numbers)
        return DaemonProcess(
            self._nursery,
            top=self._top,
            interval_s=3600,
            name=name,
            socket_path=socket_path or self.path,
            command=(sys.executable, "-c", PASSING, listed, str(pid_offset)),
            pass_fds=numbers,
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def send(path: Path, value: float) -> None:
    send_datagram(path, encode(EventsFrame([MetricEvent("m", value, 0.0)])))


def test_what_is_sent_between_two_daemons_waits_for_the_second(nursery: Nursery, stack: ExitStack) -> None:
    manager = Manager(nursery, stack, lane=False)
    inode = manager.path.stat().st_ino
    # Before the first daemon, which systemd may start only now.
    send(manager.path, 1.0)
    first = manager.start("first").wait_until_listening()
    wait_for(lambda: manager.path.with_name("admin.sock").exists(), "admin.sock")
    send(manager.path, 2.0)
    assert first.stop() == 0
    assert [row.sum for row in first.rows()] == [3.0]

    assert manager.path.stat().st_ino == inode
    for _ in range(3):
        send(manager.path, 10.0)
    second = manager.start("second").wait_until_listening()
    assert second.stop() == 0
    assert [row.sum for row in second.rows()] == [30.0]
    check_balance(second.ledger)
    assert manager.path.stat().st_ino == inode


def test_lanes_go_on_with_the_next_daemon_and_nothing_is_lost_or_counted_twice(
    nursery: Nursery, stack: ExitStack
) -> None:
    manager = Manager(nursery, stack, lane=True)
    first = manager.start("first").wait_until_listening()
    client = stack.enter_context(MetricsClient(str(manager.path)))
    counter = client.counter("m")
    for _ in range(1_000):
        counter.record(1)
    assert client.flush(TIMEOUT_S)
    assert first.stop() == 0
    for _ in range(1_000):
        counter.record(1)
    second = manager.start("second").wait_until_listening()
    assert client.flush(TIMEOUT_S)
    assert second.stop() == 0
    assert first.count_events() + second.count_events() == 2_000
    assert Path(f"{manager.path}.lane").exists()
    assert second.ledger.events_missing == 0


def test_a_daemon_that_is_killed_leaves_the_sockets_to_the_next(nursery: Nursery, stack: ExitStack) -> None:
    manager = Manager(nursery, stack, lane=True)
    first = manager.start("first").wait_until_listening()
    first.end()
    send(manager.path, 5.0)
    second = manager.start("second").wait_until_listening()
    assert second.stop() == 0
    assert [row.sum for row in second.rows()] == [5.0]


def test_a_stream_of_datagrams_does_not_keep_the_daemon_from_ending(
    nursery: Nursery, stack: ExitStack
) -> None:
    manager = Manager(nursery, stack, lane=False)
    flood = """
import socket, sys
door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
door.connect(sys.argv[1])
print("sending", flush=True)
while True:
    door.send(b"nonsense")
"""
    daemon = manager.start("first").wait_until_listening()
    child = nursery.start_python("-c", flood, str(manager.path))
    wait_for(lambda: child.stdout, "the flood")
    assert daemon.stop() == 0
    assert child.is_running()


def test_sockets_of_another_process_are_left_alone(nursery: Nursery, stack: ExitStack) -> None:
    manager = Manager(nursery, stack, lane=False)
    own = nursery.directory / "own.sock"
    daemon = manager.start("first", pid_offset=1, socket_path=own).wait_until_listening()
    assert own.exists()
    assert daemon.stop() == 0
    assert not own.exists()


def test_a_second_daemon_beside_the_first_is_refused(nursery: Nursery, stack: ExitStack) -> None:
    manager = Manager(nursery, stack, lane=False)
    manager.start("first").wait_until_listening()
    second = manager.start("second")
    assert second.wait() == 1
    assert "another daemon runs here" in second.stderr


def test_another_path_in_the_configuration_is_said(nursery: Nursery, stack: ExitStack) -> None:
    manager = Manager(nursery, stack, lane=False)
    daemon = manager.start("first", socket_path=nursery.directory / "other.sock")
    assert daemon.wait() == 2
    assert str(manager.path) in daemon.stderr
    assert os.path.lexists(manager.path)
