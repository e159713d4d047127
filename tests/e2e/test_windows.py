"""Which window an event is in, whatever happens to the daemon; a bad sink changes nothing."""

import signal
import time

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import wait_for
from tests.support.rows import check_balance, check_windows

ACME = add_import_path(ROOT)
GRACE_S = 0.5


def test_events_queued_while_the_daemon_was_stopped_are_in_their_own_windows(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery, grace_s=GRACE_S).wait_until_listening()
    daemon.send_signal(signal.SIGSTOP)
    seconds: list[int] = []
    for number in range(3):
        # Each in a second of its own, the last ones past the end and the grace of the first one's window.
        wait_for(lambda: int(time.time()) not in seconds, "the next second")
        seconds.append(int(time.time()))
        send_datagram(
            daemon.socket_path,
            encode(EventsFrame([MetricEvent(f"event.{number}", 1.0, float(seconds[-1]))])),
        )
    wait_for(lambda: time.time() > seconds[-1] + 1 + GRACE_S, "the last window's end")
    daemon.send_signal(signal.SIGCONT)
    wait_for(lambda: daemon.count_events() == len(seconds), "the windows")
    assert daemon.stop() == 0
    rows = {row.name: (row.window_start, row.window_end) for row in daemon.rows()}
    assert rows == {f"event.{number}": (second, second + 1) for number, second in enumerate(seconds)}
    check_windows(daemon.rows())
    check_balance(daemon.ledger)
    assert daemon.ledger.events_late == 0


def test_a_late_event_counts_in_the_oldest_open_window_and_an_early_one_in_the_current(
    nursery: Nursery,
) -> None:
    daemon = DaemonProcess(nursery, interval_s=3600, grace_s=0).wait_until_listening()
    now = time.time()
    events = [
        MetricEvent("late", 1.0, now - 86_400),
        MetricEvent("early", 1.0, now + 86_400),
        MetricEvent("on_time", 1.0, now),
    ]
    send_datagram(daemon.socket_path, encode(EventsFrame(events)))
    assert daemon.stop() == 0
    assert {row.name for row in daemon.rows()} == {"late", "early", "on_time"}
    assert len({row.window_id for row in daemon.rows()}) == 1
    check_balance(daemon.ledger)
    assert (daemon.ledger.events_late, daemon.ledger.events_early) == (1, 1)


def test_a_failing_sink_is_logged_once_a_minute_and_costs_the_others_nothing(nursery: Nursery) -> None:
    failing = '[sinks.failing]\ntype = "tests.support.acme_sinks:Failing"\n'
    daemon = DaemonProcess(nursery, failing, grace_s=0, environ=ACME).wait_until_listening()
    windows = 4
    recorded = 0
    with MetricsClient(daemon.socket_path) as client:
        events = client.counter("events")

        def has_written_windows() -> bool:
            nonlocal recorded
            events.record(1)
            recorded += 1
            return len({row.window_id for row in daemon.rows()}) >= windows

        wait_for(has_written_windows, "several windows")
        assert client.flush()
    assert daemon.stop() == 0

    assert daemon.count_events() == recorded
    check_windows(daemon.rows())
    ledger = daemon.ledger
    check_balance(ledger)
    failed = ledger.sinks["failing"]
    assert failed["failures"] == failed["exports"] >= 2
    assert failed["dropped_by_reason"] == {"shutdown": failed["closed"]}
    assert failed["last_error"].startswith("ValueError: no backend, for the time number ")
    # Its words differ each time, but it is one failure.
    (line,) = daemon.find_log("export failed")
    assert (line["sink"], line["level"]) == ("failing", "warning")
    assert line["error"] == "ValueError: no backend, for the time number 1"
    (lost,) = [line for line in daemon.log if line["level"] == "error"]
    assert (lost["sink"], lost["snapshots"], lost["reason"]) == ("failing", failed["closed"], "shutdown")
    assert "Traceback" not in daemon.stderr
