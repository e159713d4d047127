"""Producers outlive daemons: what was recorded while there was none arrives at the next one."""

import signal
import time

from aiokpl_metrics_client import MetricsClient
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.polling import wait_for
from tests.support.rows import Total, check_balance

# The promise is a second or so; a busy machine gets more.
RECONNECT_S = 15.0


def test_events_recorded_before_the_daemon_starts_arrive_without_a_flush(nursery: Nursery) -> None:
    path = nursery.directory / "daemon.sock"
    with MetricsClient(path) as client:
        events = client.counter("events", unit="count")
        for _ in range(1_000):
            events.record(2)
        assert not client.flush(timeout_s=0.2)
        assert str(path) in client.statistics().problem
        assert client.statistics().events_sent == 0
        daemon = DaemonProcess(nursery, socket_path=path).wait_until_accepting()
        wait_for(lambda: client.statistics().events_sent == 1_000, "the client to connect", RECONNECT_S)
        assert client.statistics().dropped == {}
    assert daemon.stop() == 0
    assert daemon.totals() == {("events", ()): Total(1_000, 2_000, 2, 2)}
    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.events_missing == 0


def test_a_client_reconnects_by_itself_when_a_killed_daemon_is_started_again(nursery: Nursery) -> None:
    killed = DaemonProcess(nursery).wait_until_listening()
    with MetricsClient(killed.socket_path) as client:
        events = client.counter("events")
        record(client, 100)
        wait_for(lambda: killed.count_events() == 100, "the window to be written")
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
        for _ in range(200):
            events.record(1)
        wait_for(lambda: client.statistics().problem, "the client to notice")
        daemon = DaemonProcess(nursery, name="second", socket_path=killed.socket_path).wait_until_accepting()
        wait_for(lambda: client.statistics().events_sent == 300, "the client to reconnect", RECONNECT_S)
        assert client.statistics().problem == ""
        record(client, 50)
        assert client.statistics().dropped == {}
    assert daemon.stop() == 0
    assert daemon.totals() == {("events", ()): Total(250, 250, 1, 1)}
    ledger = daemon.ledger
    check_balance(ledger)
    # What went to the daemon before is not missing here.
    assert ledger.events_missing == 0


def test_nothing_is_lost_or_doubled_when_daemons_take_turns(nursery: Nursery) -> None:
    path = nursery.directory / "shared.sock"
    daemons: list[DaemonProcess] = []
    recorded = 0
    with MetricsClient(path) as client:
        events = client.counter("events")
        for number in range(3):
            daemon = DaemonProcess(nursery, name=f"d{number}", socket_path=path).wait_until_listening()
            daemons.append(daemon)
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                events.record(1)
                recorded += 1
                time.sleep(0.001)
            # Told to stop while events come: what it took it counts, what it refuses the client keeps.
            assert daemon.stop() == 0
        last = DaemonProcess(nursery, name="last", socket_path=path).wait_until_listening()
        daemons.append(last)
        assert client.flush(RECONNECT_S)
        assert client.statistics().events_sent == recorded
    assert last.stop() == 0
    assert sum(daemon.count_events() for daemon in daemons) == recorded
    for daemon in daemons:
        check_balance(daemon.ledger)
        assert daemon.ledger.events_missing == 0


def test_a_process_that_ends_hands_over_what_it_recorded_last(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    program = (
        "from aiokpl_metrics_client import MetricsClient\n"
        "client = MetricsClient()\n"
        "client.put('events', 5, stream='orders')\n"
        "client.histogram('sizes').record(7)\n"
    )
    producer = nursery.start_python(
        "-c", program, environ={"AIOKPL_METRICSD_SOCKET": str(daemon.socket_path)}
    )
    assert producer.wait() == 0
    assert producer.stderr == ""
    assert daemon.stop() == 0
    assert daemon.totals() == {
        ("events", (("stream", "orders"),)): Total(1, 5, 5, 5),
        ("sizes", ()): Total(1, 7, 7, 7),
    }


def record(client: MetricsClient, count: int) -> None:
    """Record so many events and hand them over."""
    for _ in range(count):
        client.put("events", 1)
    assert client.flush(RECONNECT_S)
