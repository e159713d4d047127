"""SIGHUP: sinks come, go and change while the rest of the daemon notices nothing."""

import signal
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import wait_for
from tests.support.rows import check_balance, read_rows

RELOADED = "the configuration is reloaded"
REFUSED = "the configuration cannot be reloaded, and nothing is changed"


def add_file(path: Path, name: str = "more", **options: object) -> str:
    """Return the table of one more sink that writes a file."""
    lines = [f"[sinks.{name}]", 'type = "jsonl"', f'path = "{path}"']
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in options.items())])


def reload(daemon: DaemonProcess, config: str, message: str = RELOADED) -> dict[str, object]:
    """Write another configuration, have it read, and return the line that answers."""
    before = len(daemon.find_log(message))
    daemon.config_path.write_text(config)
    daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: len(daemon.find_log(message)) > before, message)
    return daemon.find_log(message)[-1]


def put(daemon: DaemonProcess, value: float) -> None:
    """Send one event."""
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("m", value, 0.0)])))


def sum_rows(path: Path) -> float:
    """Return the sum of all rows of a file, which may not be there yet."""
    return sum(row.sum for row in read_rows(path)) if path.exists() else 0.0


@pytest.mark.parametrize("has_state", [False, True])
def test_a_sink_comes_changes_and_goes_and_the_others_miss_nothing(
    nursery: Nursery, *, has_state: bool
) -> None:
    top = f'state_dir = "{nursery.directory}/state"' if has_state else ""
    daemon = DaemonProcess(nursery, top=top).wait_until_listening()
    base = daemon.config_path.read_text()
    more, other = nursery.directory / "more.jsonl", nursery.directory / "other.jsonl"
    put(daemon, 1.0)
    wait_for(lambda: daemon.count_events() == 1, "the first window")

    assert reload(daemon, base + add_file(more))["added"] == ["more"]
    put(daemon, 2.0)
    wait_for(lambda: sum_rows(more) == 2.0, "the new sink's first window")

    assert reload(daemon, base + add_file(other))["replaced"] == ["more"]
    put(daemon, 4.0)
    wait_for(lambda: sum_rows(other) == 4.0, "the changed sink's window")
    assert sum_rows(more) == 2.0

    assert reload(daemon, base)["removed"] == ["more"]
    put(daemon, 8.0)
    wait_for(lambda: sum_rows(daemon.windows_path) == 15.0, "the window after it")
    assert sum_rows(other) == 4.0

    assert daemon.stop() == 0
    check_balance(daemon.ledger)
    assert daemon.ledger.events_decoded == 4


def test_a_configuration_that_cannot_be_used_changes_nothing_and_is_reported(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    base = daemon.config_path.read_text()
    for broken, reason in (
        (base + "[sinks.", "line"),
        (base + '[sinks.more]\ntype = "jsonl"\nkep = 3\n', "kep: unknown key"),
        (
            base + '[sinks.a]\ntype = "prometheus"\n[sinks.b]\ntype = "prometheus"\n',
            "one page shows one sink",
        ),
    ):
        assert reason in str(reload(daemon, broken, REFUSED)["error"])
    put(daemon, 1.0)
    wait_for(lambda: daemon.count_events() == 1, "a window")
    assert not daemon.find_log(RELOADED)
    assert daemon.stop() == 0


def test_settings_that_need_a_restart_are_named(nursery: Nursery) -> None:
    daemon = DaemonProcess(nursery).wait_until_listening()
    base = daemon.config_path.read_text()
    changed = base.replace("interval_s = 1", f'interval_s = 2\nstate_dir = "{nursery.directory}/state"')
    reload(daemon, changed.replace("[ingest]", '[ingest]\nmode = "0600"'))
    (line,) = daemon.find_log("these settings have changed, and take effect with the next start")
    assert line["settings"] == ["interval_s", "state_dir", "ingest"]
    assert not (nursery.directory / "state").exists()
    put(daemon, 1.0)
    wait_for(lambda: daemon.count_events() == 1, "a window")
    (row,) = daemon.rows()
    assert row.window_end - row.window_start == 1.0
    assert daemon.stop() == 0
