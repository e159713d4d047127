"""How the daemon ends: it drains, closes, delivers, says what became of everything, and is gone in time."""

import signal
import time

import pytest

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, can_connect, send_datagram
from tests.support.polling import wait_for
from tests.support.rows import Total, check_balance, check_windows

ACME = add_import_path(ROOT)
HANGING = '[sinks.hanging]\ntype = "tests.support.acme_sinks:Hanging"\n'

# The kernel's queue holds at least so many, whatever `net.unix.max_dgram_qlen` is.
QUEUED = 10

# A daemon that works uses more than so much of a core; one that waits looks at its clock four times a second.
BUSY_RATIO = 0.3
SAMPLE_S = 0.02


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_is_queued_and_closes_the_open_window(
    nursery: Nursery, number: signal.Signals
) -> None:
    daemon = DaemonProcess(nursery, interval_s=3600, grace_s=2).wait_until_listening()
    with MetricsClient(daemon.socket_path) as client:
        client.counter("before").record(7)
        assert client.flush()
    # Nothing is read from here on, so what is sent now is still queued when the signal is seen.
    daemon.send_signal(signal.SIGSTOP)
    for value in range(QUEUED):
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("queued", float(value), 0.0)])))
    daemon.send_signal(number)
    daemon.send_signal(signal.SIGCONT)
    assert daemon.wait() == 0
    ended = time.time()

    assert daemon.totals() == {
        ("before", ()): Total(1, 7, 7, 7),
        ("queued", ()): Total(QUEUED, sum(range(QUEUED)), 0, QUEUED - 1),
    }
    # A window that is closed early ends with the second of its closing.
    assert {row.window_end <= ended + 1 for row in daemon.rows()} == {True}
    check_windows(daemon.rows())
    check_balance(daemon.ledger)
    assert daemon.ledger.events_closed == QUEUED + 1
    assert not can_connect(daemon.socket_path)
    assert not daemon.socket_path.exists()


def test_a_daemon_without_events_ends_as_well(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    assert daemon.stop() == 0
    assert daemon.rows() == []
    check_balance(daemon.ledger)


def test_a_signal_before_the_event_loop_runs_waits_for_it_and_loses_nothing(nursery: Nursery) -> None:
    marker = nursery.directory / "building"
    slow = f'[sinks.slow]\ntype = "tests.support.acme_sinks:SlowToBuild"\nmarker = "{marker}"\nseconds = 2\n'
    daemon = DaemonProcess(nursery, slow, environ=ACME)
    wait_for(lambda: marker.exists() and can_connect(daemon.socket_path), "the sink to be built")
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("early", 1.0, 0.0)])))
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.totals() == {("early", ()): Total(1, 1, 1, 1)}
    check_balance(daemon.ledger)


@pytest.mark.slow
def test_a_signal_in_the_midst_of_closing_a_large_window_loses_nothing(nursery: Nursery) -> None:
    series = 60_000
    daemon = DaemonProcess(nursery, interval_s=4, grace_s=0).wait_until_listening()
    with MetricsClient(daemon.socket_path, max_series=series) as client:
        for number in range(series):
            client.put("wide", 1, number=number)
        assert client.flush()
    wait_for(lambda: is_idle(daemon), "everything to be read")
    # On a busy machine the window may have been closed, and written, before it was seen to be idle.
    wait_for(lambda: not is_idle(daemon) or daemon.windows_path.stat().st_size, "the window to be closed")
    assert daemon.stop() == 0
    assert daemon.count_events() == series
    assert daemon.ledger.sinks["windows"]["closed"] == len(daemon.rows())
    check_balance(daemon.ledger)


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancellable", "stubborn"])
def test_a_hanging_sink_ends_with_the_shutdown_timeout_and_costs_the_others_nothing(
    nursery: Nursery, stubborn: bool
) -> None:
    config = f"{HANGING}stubborn = {str(stubborn).lower()}\n"
    daemon = DaemonProcess(
        nursery, config, top="shutdown_timeout_s = 1", interval_s=3600, environ=ACME
    ).wait_until_listening()
    with MetricsClient(daemon.socket_path) as client:
        client.counter("events").record(3)
        assert client.flush()
    assert daemon.stop(timeout_s=20.0) == 0
    assert daemon.totals() == {("events", ()): Total(1, 3, 3, 3)}
    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.sinks["hanging"]["dropped_by_reason"] == {"shutdown": 1}
    assert ledger.sinks["windows"]["delivered"] == 1
    (line,) = [line for line in daemon.log if line["level"] == "error"]
    assert (line["sink"], line["snapshots"], line["reason"]) == ("hanging", 1, "shutdown")
    assert "Traceback" not in daemon.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(nursery: Nursery, number: signal.Signals) -> None:
    daemon = DaemonProcess(
        nursery, HANGING, top="shutdown_timeout_s = 300", interval_s=3600, environ=ACME
    ).wait_until_listening()
    with MetricsClient(daemon.socket_path) as client:
        client.counter("events").record(3)
        assert client.flush()
    daemon.send_signal(signal.SIGTERM)
    # The path goes as soon as the first signal is seen; two that come together would be one.
    wait_for(lambda: not daemon.socket_path.exists(), "the path to go")
    wait_for(daemon.rows, "the other sink")
    assert daemon.is_running()
    assert daemon.stop(number, timeout_s=20.0) == 1
    assert daemon.find_log("told twice to stop; ending at once, what is not delivered is lost")
    assert "Traceback" not in daemon.stderr


def is_idle(daemon: DaemonProcess) -> bool:
    """Tell whether the daemon uses next to no CPU time just now."""
    before_ns = read_cpu_ns(daemon)
    time.sleep(SAMPLE_S)
    return read_cpu_ns(daemon) - before_ns < BUSY_RATIO * SAMPLE_S * 1e9


def read_cpu_ns(daemon: DaemonProcess) -> int:
    """Return the CPU time that a process has used: `clock_getcpuclockid` of its number."""
    return time.clock_gettime_ns((~daemon.pid << 3) | 2)
