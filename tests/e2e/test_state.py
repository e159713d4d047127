"""What outlives the daemon: cumulative totals, after an orderly end and after a SIGKILL."""

import re
import signal
import socket

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.admin import AdminConnection, admin_of, ask
from tests.support.child import ROOT, Nursery, add_import_path
from tests.support.daemon import DaemonProcess, can_connect, send_datagram
from tests.support.otlp_receiver import Receiver, serve_grpc
from tests.support.polling import wait_for

SINK = """
[sinks.collector]
type = "opentelemetry"
endpoint = "{endpoint}"
temporality = "cumulative"
"""


def run_once(
    nursery: Nursery, receiver: Receiver, value: float, number: int = signal.SIGTERM
) -> tuple[float, int]:
    """Count one event in a daemon's life; return the total that was exported last, and its start."""
    before = len(receiver.points)
    top = f'state_dir = "{nursery.directory}/state"'
    config = SINK.format(endpoint=receiver.endpoint)
    daemon = DaemonProcess(nursery, config, top=top).wait_until_listening()
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("Put", value, 0.0)])))
    if number == signal.SIGKILL:
        wait_for(lambda: len(receiver.points) > before, "an export")
        daemon.stop(number)
    else:
        assert daemon.stop(number) == 0
    name, _, point = receiver.points[-1]
    assert name == "aiokpl.Put"
    return point.as_double or float(point.as_int), point.start_time_unix_nano


def test_cumulative_totals_go_on_after_an_orderly_restart(nursery: Nursery) -> None:
    with serve_grpc() as receiver:
        first, begin = run_once(nursery, receiver, 3.0)
        second, same = run_once(nursery, receiver, 4.0)
    assert (first, second) == (3.0, 7.0)
    assert same == begin


def test_cumulative_totals_go_on_after_a_sigkill(nursery: Nursery) -> None:
    with serve_grpc() as receiver:
        _, begin = run_once(nursery, receiver, 3.0)
        killed, _ = run_once(nursery, receiver, 4.0, signal.SIGKILL)
        last, same = run_once(nursery, receiver, 5.0)
    assert (killed, last) == (7.0, 12.0)
    assert same == begin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_page_goes_on_with_its_totals_and_never_back(nursery: Nursery, number: int) -> None:
    top = f'state_dir = "{nursery.directory}/state"'
    shown: list[float] = []
    created: set[float] = set()
    for value in (100.0, 20.0, 3.0):
        daemon = DaemonProcess(nursery, '[sinks.page]\ntype = "prometheus"\n', top=top).wait_until_listening()
        send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("Put", value, 0.0)])))
        total = sum(shown[-1:]) + value
        connection = AdminConnection(admin_of(daemon))

        def read_page(connection: AdminConnection = connection) -> dict[str, float]:
            page = ask(connection, "/metrics", "application/openmetrics-text")[1]
            return dict(re.findall(r"^(Put_\w+) (\S+)$", page, re.MULTILINE))

        wait_for(lambda: float(read_page().get("Put_total", -1)) == total, f"a total of {total}")  # noqa: B023
        shown.append(float(read_page()["Put_total"]))
        created.add(float(read_page()["Put_created"]))
        connection.close()
        daemon.stop(number)
    assert shown == [100.0, 120.0, 123.0]
    assert len(created) == 1


def ask_at_once(daemon: DaemonProcess) -> str:
    """Return the page of a daemon that has not begun to serve: the question is there before it does."""
    path = admin_of(daemon)
    wait_for(lambda: can_connect(path, socket.SOCK_STREAM), "the admin socket")
    connection = AdminConnection(path)
    status, page = ask(connection, "/metrics", "application/openmetrics-text")
    connection.close()
    assert status == 200
    return page


def test_whoever_asks_first_sees_what_the_last_daemon_left(nursery: Nursery) -> None:
    top = f'state_dir = "{nursery.directory}/state"\nshutdown_timeout_s = 1'
    # What the page would have taken waits in the outbox.
    hanging = '[sinks.page]\ntype = "tests.support.acme_sinks:Hanging"\n'
    daemon = DaemonProcess(nursery, hanging, top=top, environ=add_import_path(ROOT)).wait_until_listening()
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("Put", 100.0, 0.0)])))
    (row,) = wait_for(daemon.rows, "the window in the other sink")
    daemon.stop(signal.SIGKILL)
    daemon = DaemonProcess(nursery, '[sinks.page]\ntype = "prometheus"\n', top=top)
    page = ask_at_once(daemon)
    assert re.findall(r"^(Put_\w+) (\S+)$", page, re.MULTILINE) == [
        ("Put_total", "100.0"),
        ("Put_created", repr(row.window_start)),
    ]
    assert daemon.stop() == 0
