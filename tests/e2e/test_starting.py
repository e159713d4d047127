"""How the daemon starts: alone at its path, whatever it finds there, and stoppable from the first moment."""

import signal
import socket
import stat
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess, can_connect, send_datagram
from tests.support.halting import halt_import
from tests.support.polling import wait_for
from tests.support.rows import Total, check_balance

STARTS = 8

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


# ---- signals before there is an event loop


@pytest.mark.parametrize(
    "module",
    [
        "aiokpl_metricsd.process",
        "aiokpl_metrics_protocol",
        "msgspec",
        "aiokpl_metricsd.config",
        "tomllib",
        "aiokpl_metricsd.listener",
    ],
)
@SIGNALS
def test_a_signal_in_the_midst_of_an_import_ends_the_daemon_without_a_traceback(
    nursery: Nursery, module: str, number: signal.Signals
) -> None:
    daemon = start_halted(nursery, module)
    assert daemon.stop(number) == 0
    assert daemon.stderr == ""
    assert not daemon.socket_path.exists()


@pytest.mark.parametrize("module", ["asyncio", "uvloop", "aiokpl_metricsd.daemon"])
@SIGNALS
def test_a_signal_once_the_socket_is_there_waits_for_the_event_loop(
    nursery: Nursery, module: str, number: signal.Signals
) -> None:
    daemon = start_halted(nursery, module)
    assert can_connect(daemon.socket_path)
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("early", 1.0, 0.0)])))
    daemon.send_signal(number)
    (nursery.directory / "marker").unlink()
    assert daemon.wait() == 0
    assert daemon.totals() == {("early", ()): Total(1, 1, 1, 1)}
    assert "Traceback" not in daemon.stderr
    assert not daemon.socket_path.exists()


@pytest.mark.parametrize("command", [("check",), ("send", "name")])
def test_sigterm_in_the_midst_of_a_command_ends_it_without_a_traceback(
    nursery: Nursery, command: tuple[str, ...]
) -> None:
    marker = nursery.directory / "marker"
    child = nursery.start_python("-m", "aiokpl_metricsd", *command, environ=halt_import("typer", marker))
    wait_for(marker.exists, "the import")
    child.send_signal(signal.SIGTERM)
    assert child.wait() == 0
    assert child.stderr == ""


def start_halted(nursery: Nursery, module: str) -> DaemonProcess:
    """Start a daemon and return it when it is about to import a module."""
    daemon = DaemonProcess(nursery, environ=halt_import(module, nursery.directory / "marker"))
    wait_for((nursery.directory / "marker").exists, f"the import of {module}")
    return daemon


# ---- the path and who owns it


def test_a_stale_socket_of_a_killed_daemon_is_taken_over(nursery: Nursery) -> None:
    killed = DaemonProcess(nursery).wait_until_listening()
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    assert killed.socket_path.exists()
    daemon = DaemonProcess(nursery, name="second", socket_path=killed.socket_path).wait_until_listening()
    send_datagram(daemon.socket_path, encode(EventsFrame([MetricEvent("events", 1.0, 0.0)])))
    assert daemon.stop() == 0
    assert daemon.totals() == {("events", ()): Total(1, 1, 1, 1)}
    check_balance(daemon.ledger)


def test_a_live_owner_is_never_displaced_and_the_second_daemon_says_so(nursery: Nursery) -> None:
    owner = DaemonProcess(nursery).wait_until_listening()
    second = DaemonProcess(nursery, name="second", socket_path=owner.socket_path)
    assert second.wait() == 1
    assert second.stdout == ""
    assert second.stderr == (
        f"{owner.socket_path}: another daemon runs here; stop it, or set [ingest] socket to another path\n"
    )
    send_datagram(owner.socket_path, encode(EventsFrame([MetricEvent("events", 1.0, 0.0)])))
    assert owner.stop() == 0
    assert owner.totals() == {("events", ()): Total(1, 1, 1, 1)}


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_another_program_that_listens_there_is_never_displaced(
    nursery: Nursery, directory: Path, kind: int
) -> None:
    path = directory / "foreign.sock"
    with socket.socket(socket.AF_UNIX, kind) as foreign:
        foreign.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            foreign.listen()
        inode = path.stat().st_ino
        daemon = DaemonProcess(nursery, socket_path=path)
        assert daemon.wait() == 1
        assert path.stat().st_ino == inode
    (line,) = daemon.stderr.splitlines()
    assert line.startswith(f"{path}: another program listens here")


def test_a_file_that_is_no_socket_is_left_alone(nursery: Nursery, directory: Path) -> None:
    path = directory / "precious"
    path.write_text("keep me", encoding="utf-8")
    daemon = DaemonProcess(nursery, socket_path=path)
    assert daemon.wait() == 2
    assert path.read_text(encoding="utf-8") == "keep me"
    (line,) = daemon.stderr.splitlines()
    assert str(path) in line


def test_of_simultaneous_starts_one_owns_the_path_and_works(nursery: Nursery, directory: Path) -> None:
    path = directory / "shared.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
        stale.bind(str(path))
    daemons = [DaemonProcess(nursery, name=f"d{number}", socket_path=path) for number in range(STARTS)]

    def list_running() -> list[DaemonProcess]:
        return [daemon for daemon in daemons if daemon.is_running()]

    wait_for(lambda: len(list_running()) <= 1 and can_connect(path), "all but one to give up", 60.0)
    (owner,) = list_running()
    owner.wait_until_listening()
    send_datagram(path, encode(EventsFrame([MetricEvent("events", 1.0, 0.0)])))
    assert owner.stop() == 0
    assert owner.totals() == {("events", ()): Total(1, 1, 1, 1)}
    others = [daemon for daemon in daemons if daemon is not owner]
    assert [daemon.wait() for daemon in others] == [1] * (STARTS - 1)
    assert all("another daemon runs here" in daemon.stderr for daemon in others)


def test_the_socket_has_the_mode_that_the_configuration_gives(nursery: Nursery) -> None:
    default = DaemonProcess(nursery).wait_until_accepting()
    assert stat.S_IMODE(default.socket_path.stat().st_mode) == 0o660
    path = nursery.directory / "open.sock"
    config = nursery.directory / "open.toml"
    config.write_text(
        f'[ingest]\nsocket = "{path}"\nmode = "0622"\n[sinks.null]\ntype = "null"\n', encoding="utf-8"
    )
    nursery.start_python("-m", "aiokpl_metricsd", "--config", str(config))
    wait_for(lambda: can_connect(path), "the socket")
    assert stat.S_IMODE(path.stat().st_mode) == 0o622
