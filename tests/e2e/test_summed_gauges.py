"""Workers with a summed gauge, and the daemon's windows: the sum of those that live, over any death."""

import signal

import pytest

from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess
from tests.support.polling import wait_for
from tests.support.rows import check_balance, check_windows

WORKER = """
import sys, time
from aiokpl_metrics_client import MetricsClient
client = MetricsClient(sys.argv[1])
client.gauge("open", merge="sum", unit="count").record(float(sys.argv[2]))
client.gauge("level").record(float(sys.argv[2]))
time.sleep(600)
"""

INTERVAL_S = 3


def start(nursery: Nursery) -> DaemonProcess:
    """Start a daemon, the next one of a state directory and of a file of windows."""
    top = f'state_dir = "{nursery.directory}/state"'
    return DaemonProcess(nursery, top=top, interval_s=INTERVAL_S).wait_until_listening()


def work(nursery: Nursery, daemon: DaemonProcess, value: int) -> Child:
    return nursery.start_python("-c", WORKER, str(daemon.socket_path), str(value))


def read_totals(daemon: DaemonProcess) -> list[float]:
    """Return the sum in each window, in order."""
    return [row.last for row in daemon.rows() if row.name == "open"]


@pytest.mark.slow
def test_the_sum_is_that_of_the_living_over_deaths_of_workers_and_of_the_daemon(nursery: Nursery) -> None:
    first = start(nursery)
    workers = [work(nursery, first, value) for value in (1, 10, 100)]
    wait_for(lambda: read_totals(first)[-1:] == [111.0], "a window with all three")
    workers[2].send_signal(signal.SIGKILL)
    wait_for(lambda: read_totals(first)[-1:] == [11.0], "a window without the one that died")

    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(nursery)
    workers.append(work(nursery, second, 1_000))
    wait_for(lambda: read_totals(second)[-1:] == [1_011.0], "a window with the new one")
    workers[0].send_signal(signal.SIGKILL)
    wait_for(lambda: read_totals(second)[-1:] == [1_010.0], "a window without the one that died")
    assert second.stop() == 0

    totals = read_totals(second)
    # Whoever starts or dies in the midst of a window is in it, or not; nobody is in it twice, or missing.
    steps = [total for total, before in zip(totals, [0.0, *totals], strict=False) if total != before]
    assert steps == [*steps[: steps.index(111.0)], 111.0, 11.0, 1_011.0, 1_010.0]
    assert set(steps[: steps.index(111.0)]) <= {1.0, 10.0, 100.0, 11.0, 101.0, 110.0}
    for row in second.rows():
        if row.name == "open":
            assert (row.kind, row.unit, row.count) == ("gauge", "count", 1)
            assert row.sum == row.min == row.max == row.last
    check_windows(second.rows())
    check_balance(second.ledger)
