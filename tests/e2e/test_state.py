"""What outlives the daemon: cumulative totals, after an orderly end and after a SIGKILL."""

import signal

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
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
