"""Whatever becomes of the daemon and of its path, the client says so, keeps what comes, and finds it again.

The promise is a second from the moment that the daemon can be connected to; what it took is printed.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient, State
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.models import Models
from tests.support.polling import wait_for
from tests.support.rows import read_rows

# A busy machine gets more than the second.
FOUND_S = 15.0


class Life:
    """A client, and the daemons that it has."""

    def __init__(self, nursery: Nursery, path: Path) -> None:
        self.path = path
        self.client = MetricsClient(path)
        self.recorded = 0
        self._nursery = nursery
        self._daemons: list[DaemonProcess] = []

    def start(self, *, has_lanes: bool = True) -> DaemonProcess:
        """Start a daemon; all that have lanes have one state."""
        top = f'state_dir = "{self._nursery.directory}/state"' if has_lanes else ""
        name = f"d{len(self._daemons)}"
        daemon = DaemonProcess(self._nursery, top=top, name=name, socket_path=self.path)
        self._daemons.append(daemon)
        return daemon.wait_until_accepting()

    def record(self, count: int = 10) -> None:
        """Record, and leave the sending to the thread."""
        for _ in range(count):
            self.client.put("n")
        self.recorded += count

    def lose(self, says: str) -> None:
        """Record while there is no daemon, and wait until the client says what the problem is."""
        self.record()
        statistics = self.client.statistics
        wait_for(lambda: says in statistics().problem, f"{says!r}, not {statistics().problem!r}")
        assert statistics().state is State.AWAY
        assert statistics().transport == ""
        self.record()

    def find(self, transport: str = "lane") -> None:
        """Wait until everything is with the daemon, and say how long that took."""
        began = time.monotonic()
        statistics = self.client.statistics
        wait_for(lambda: statistics().events_sent == self.recorded, "the daemon to be found", FOUND_S)
        sys.stdout.write(f"found within {time.monotonic() - began:.2f} s\n")
        assert (statistics().transport, statistics().problem) == (transport, "")
        wait_for(lambda: statistics().events_unacknowledged == 0, "the acks")

    def finish(self) -> None:
        """End everything, and hold what was counted to what was recorded."""
        assert self.client.close(FOUND_S)
        assert self.client.statistics().dropped == {}
        for daemon in self._daemons:
            if daemon.is_running():
                assert daemon.stop() == 0
        assert sum(daemon.count_events() for daemon in self._daemons) == self.recorded


@pytest.fixture
def life(nursery: Nursery, caplog: pytest.LogCaptureFixture) -> Life:
    """A client whose log lines are seen."""
    caplog.set_level(logging.DEBUG, "aiokpl_metrics_client")
    return Life(nursery, nursery.directory / "metrics.sock")


def check_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Assert that there was one line at most: none of these tests takes a minute."""
    assert len([record for record in caplog.records if record.name == "aiokpl_metrics_client"]) <= 1


def bind_stream(path: Path) -> None:
    """Have a program of another kind listen, which nobody accepts from; its file outlives it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.detach()


@pytest.mark.parametrize(
    ("obstruct", "says"),
    [
        (lambda path: None, "no daemon listens"),
        (lambda path: path.write_text("a file"), "Connection refused"),
        (lambda path: path.mkdir(), "Connection refused"),
        (lambda path: path.symlink_to("nowhere"), "no daemon listens"),
        (bind_stream, "Protocol wrong type for socket"),
    ],
    ids=["nothing", "file", "directory", "dangling link", "stream socket"],
)
def test_a_daemon_that_comes_later_is_found_whatever_was_in_its_place(
    life: Life, caplog: pytest.LogCaptureFixture, obstruct: Callable[[Path], object], says: str
) -> None:
    obstruct(life.path)
    life.lose(says)
    if life.path.is_dir():
        life.path.rmdir()
    else:
        life.path.unlink(missing_ok=True)
    life.start()
    life.find()
    life.finish()
    check_quiet(caplog)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["in order", "by force"])
@pytest.mark.parametrize("has_lanes", [True, False], ids=["lanes", "front door"])
def test_a_daemon_that_is_restarted_is_found_again_and_counts_everything(
    life: Life, caplog: pytest.LogCaptureFixture, number: signal.Signals, *, has_lanes: bool
) -> None:
    transport = "lane" if has_lanes else "front_door"
    daemon = life.start(has_lanes=has_lanes)
    for _ in range(2):
        before = life.recorded
        life.record()
        life.find(transport)
        if not has_lanes:
            # What is open when it is killed would be lost.
            own = life.recorded - before
            wait_for(lambda: daemon.count_events() >= own, "the windows")  # noqa: B023
        daemon.stop(number)
        life.lose(str(life.path))
        daemon = life.start(has_lanes=has_lanes)
        life.find(transport)
    life.finish()
    check_quiet(caplog)


def test_files_that_are_deleted_under_a_daemon_cost_nothing_and_the_next_one_is_found(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = life.start()
    life.record()
    life.find()
    for path in life.path.parent.glob("metrics.sock*"):
        path.unlink()
    life.record()
    life.find()
    assert daemon.stop() == 0
    life.lose("no daemon listens")
    life.start()
    life.find()
    life.finish()
    check_quiet(caplog)


def test_a_directory_that_is_mounted_later_and_replaced_is_looked_into_each_time(
    nursery: Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    directory = nursery.directory / "mounted"
    life = Life(nursery, directory / "metrics.sock")
    life.lose("no daemon listens")
    directory.mkdir()
    daemon = life.start()
    life.find()
    assert daemon.stop() == 0
    # Another volume, with other inodes.
    shutil.rmtree(directory)
    life.lose(str(life.path))
    directory.mkdir()
    life.start()
    life.find()
    life.finish()
    check_quiet(caplog)


def test_a_daemon_is_found_once_lanes_are_offered_or_are_no_longer(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    # As an upgrade does that brings a state directory, and one that takes it away.
    transport = {True: "lane", False: "front_door"}
    daemon = life.start(has_lanes=False)
    for has_lanes in (True, False):
        life.record()
        life.find(transport[not has_lanes])
        assert daemon.stop() == 0
        life.lose(str(life.path))
        daemon = life.start(has_lanes=has_lanes)
    life.find(transport[False])
    life.finish()
    check_quiet(caplog)


def test_a_path_that_is_too_long_is_said_once_and_holds_up_no_end(nursery: Nursery) -> None:
    models = Models(nursery, starts=False)
    models.socket_path = nursery.directory / ("x" * 120)
    child = models.run(
        """
metrics.put("n")
for _ in range(20):
    assert not metrics.flush(0.05)
assert "too long" in metrics.statistics().problem, metrics.statistics()
metrics.put("n")
""",
        quiet=False,
    )
    assert child.stderr.count("\n") == 1
    assert "path too long" in child.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_socket_that_may_not_be_used_is_found_once_it_may(nursery: Nursery) -> None:
    models = Models(nursery)
    models.directory.chmod(0o755)
    sockets = [path for path in models.directory.glob("daemon.sock*") if path.is_socket()]
    assert len(sockets) == 2
    child = models.start(
        """
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
metrics.put("n")
deadline = time.monotonic() + 20
while not metrics.statistics().problem:
    assert time.monotonic() < deadline
    time.sleep(0.01)
print(metrics.statistics().problem, flush=True)
while metrics.statistics().events_sent < 1:
    assert time.monotonic() < deadline, metrics.statistics()
    time.sleep(0.01)
assert metrics.flush()
assert metrics.statistics().problem == ""
"""
    )
    wait_for(lambda: child.stdout or not child.is_running(), "the refusal")
    assert "Permission denied" in child.stdout, child.stderr
    for path in sockets:
        path.chmod(0o666)
    assert child.wait() == 0, child.stderr
    assert child.stderr.count("\n") == 1
    assert models.stop() == {"n": 1}


def test_a_process_that_ends_while_its_daemon_is_restarted_waits_for_the_next_one(nursery: Nursery) -> None:
    models = Models(nursery)
    go = nursery.directory / "go"
    child = models.start(
        """
metrics.put("n")
assert metrics.flush()
print("flushed", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
metrics.put("n")
""",
        str(go),
    )
    wait_for(lambda: child.stdout or not child.is_running(), "the child")
    models.daemon.stop(signal.SIGKILL)
    go.touch()
    # Half a second is what it would wait for one that has never been there; a busy machine needs more.
    daemon = models.start_daemon(name="second")
    assert child.wait() == 0
    assert child.stderr.count("\n") <= 1
    assert daemon.stop() == 0
    assert read_first(nursery) + daemon.count_events() == 2


def read_first(nursery: Nursery) -> int:
    """Return what the first daemon's windows have."""
    return sum(row.count for row in read_rows(nursery.directory / "daemon.jsonl"))
