"""The producer that docs/protocol.md shows, which has no code of ours, against the real daemon."""

import sys

from tests.protocol.page import read_sample
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.rows import Total, check_balance


def test_the_ten_lines_of_the_page_reach_the_window(nursery: Nursery) -> None:
    program = read_sample("python")
    assert len([line for line in program.splitlines() if line]) == 10
    assert "aiokpl_metrics" not in program
    daemon = DaemonProcess(nursery).wait_until_listening()
    # Isolated: no directory of ours on its path.
    producer = nursery.start(
        [sys.executable, "-I", "-c", program], environ={"AIOKPL_METRICSD_SOCKET": str(daemon.socket_path)}
    )
    assert producer.wait() == 0
    assert (producer.stdout, producer.stderr) == ("", "")
    assert daemon.stop() == 0
    assert daemon.totals() == {
        ("orders.placed", (("country", "CH"),)): Total(1, 1, 1, 1),
        ("orders.total", ()): Total(1, 49.5, 49.5, 49.5),
    }
    forms = {row.name: (row.kind, row.unit) for row in daemon.rows()}
    assert forms == {"orders.placed": ("counter", None), "orders.total": ("histogram", "CHF")}
    check_balance(daemon.ledger)
    assert daemon.ledger.datagrams_decoded == 1


def test_without_a_daemon_the_ten_lines_say_what_they_dropped(nursery: Nursery) -> None:
    nowhere = nursery.directory / "nowhere.sock"
    producer = nursery.start(
        [sys.executable, "-I", "-c", read_sample("python")], environ={"AIOKPL_METRICSD_SOCKET": str(nowhere)}
    )
    assert producer.wait() == 0
    assert producer.stdout.startswith("dropped 2 events: ")
    assert producer.stderr == ""
