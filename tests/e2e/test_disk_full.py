"""A state directory that cannot be written: events come in and go out, the fault is seen, and passes."""

import json
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from aiokpl_metrics_client import MetricsClient
from tests.support.admin import ask, open_admin
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.polling import wait_for
from tests.support.rows import check_balance, check_windows
from tests.support.small_disk import Filler, mount_disk

# More than fits in what is left of a page, and no two values alike.
EVENTS = 20_000

FLUSH_S = 30.0

UNWRITABLE = "the journal cannot be written; frames are in memory only until the next checkpoint"


class Producer:
    """Records integers, which add up exactly, and knows how many and how much."""

    def __init__(self, path: Path) -> None:
        self.client = MetricsClient(path)
        self.events = 0
        self.sum = 0
        self._random = Random(5)

    def send(self, events: int = EVENTS) -> bool:
        """Record events and hand them over. Return whether the daemon says that they are on disk."""
        for _ in range(events):
            value = self._random.randrange(1 << 32)
            self.client.put("disk.events", value, stream="orders")
            self.events += 1
            self.sum += value
        assert self.client.flush(FLUSH_S)
        statistics = self.client.statistics()
        assert statistics.transport == "lane"
        assert statistics.events_unacknowledged == 0
        return statistics.journaled

    def wait_until_in_windows(self, daemon: DaemonProcess) -> None:
        """Wait until all of it was exported."""
        wait_for(lambda: daemon.count_events() == self.events, "the windows")

    def check(self, daemon: DaemonProcess) -> None:
        """Assert that the windows hold each event once."""
        rows = daemon.rows()
        check_windows(rows)
        assert (sum(row.count for row in rows), sum(row.sum for row in rows)) == (self.events, self.sum)


@contextmanager
def producing(daemon: DaemonProcess) -> Generator[Producer]:
    """Return a producer of a daemon, and end it."""
    producer = Producer(daemon.socket_path)
    try:
        yield producer
    finally:
        producer.client.close(0.0)


@pytest.fixture
def state(nursery: Nursery) -> Iterator[Path]:
    """A state directory on a disk of 24 MiB of its own."""
    with mount_disk(nursery.directory / "state", "size=24m") as disk:
        yield disk
        # Before the disk goes.
        nursery.end()


def start(nursery: Nursery, state: Path, name: str = "first") -> DaemonProcess:
    """Start a daemon; whatever its name, it has the socket and the windows of all."""
    daemon = DaemonProcess(
        nursery,
        # The sink `windows` has a file of its own for each name.
        f'[sinks.kept]\ntype = "jsonl"\npath = "{nursery.directory}/kept.jsonl"\n',
        top=f'state_dir = "{state}"\n',
        name=name,
        socket_path=nursery.directory / "d.sock",
    )
    daemon.windows_path = nursery.directory / "kept.jsonl"
    return daemon.wait_until_listening()


def read_states(daemon: DaemonProcess) -> tuple[str, str]:
    """Return what the ledger says of the journal and of the outbox."""
    with open_admin(daemon) as connection:
        status, body = ask(connection, "/ledger")
    assert status == 200, body
    ledger = json.loads(body)
    return ledger["journal"]["state"], ledger["outbox"]["state"]


def read_metric(daemon: DaemonProcess, name: str) -> float:
    """Return the sum of a metric's samples on the daemon's page."""
    with open_admin(daemon) as connection:
        status, page = ask(connection, "/metrics")
    assert status == 200, page
    values = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name)]
    assert values, name
    return sum(map(float, values))


def test_on_a_full_disk_events_come_in_and_go_out_and_the_journal_returns_with_the_space(
    nursery: Nursery, state: Path
) -> None:
    daemon = start(nursery, state)
    with producing(daemon) as producer:
        assert producer.send()
        producer.wait_until_in_windows(daemon)
        assert read_metric(daemon, "metricsd_frames_unjournaled_total") == 0

        with Filler(state):
            assert not producer.send()
            producer.wait_until_in_windows(daemon)
            assert not producer.send()
            producer.wait_until_in_windows(daemon)
            assert read_states(daemon) == ("failing", "failing")
            assert read_metric(daemon, "metricsd_frames_unjournaled_total") > 0
            assert daemon.find_log(UNWRITABLE)
            assert daemon.find_log("the outbox cannot be written: windows wait in memory")

        wait_for(lambda: producer.send(1_000), "the journal")
        assert daemon.find_log("the journal is written again")
        # All that was ever acknowledged is on disk now, what came while that was full as well.
        assert producer.send()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()

        daemon = start(nursery, state, "second")
        assert producer.send()
    assert daemon.stop() == 0
    producer.check(daemon)
    check_balance(daemon.ledger)
    assert daemon.ledger.events_decoded == producer.events
    assert daemon.ledger.events_missing == 0


def test_a_disk_that_becomes_read_only_costs_no_event_either(nursery: Nursery, state: Path) -> None:
    daemon = start(nursery, state)
    with producing(daemon) as producer:
        assert producer.send()
        producer.wait_until_in_windows(daemon)

        # What is open stays so; no file can be made any more.
        with mount_disk(state / "journal", "ro,size=4k"):
            wait_for(lambda: not producer.send(1_000), "the next segment")
            producer.wait_until_in_windows(daemon)
            assert read_states(daemon) == ("failing", "stored")
            assert read_metric(daemon, "metricsd_frames_unjournaled_total") > 0
            assert daemon.find_log(UNWRITABLE)

        wait_for(lambda: producer.send(1_000), "the journal")
        assert read_states(daemon) == ("journaled", "stored")
        assert producer.send()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()

        daemon = start(nursery, state, "second")
        assert producer.send()
    assert daemon.stop() == 0
    producer.check(daemon)
    check_balance(daemon.ledger)


def test_a_daemon_does_not_start_on_a_read_only_disk_and_names_it(nursery: Nursery) -> None:
    with mount_disk(nursery.directory / "state", "ro,size=4k") as state:
        daemon = DaemonProcess(nursery, top=f'state_dir = "{state}"\n')
        assert daemon.wait() == 2
        (line,) = daemon.stderr.splitlines()
        assert str(state) in line
        assert "Read-only" in line
        assert not daemon.socket_path.exists()
