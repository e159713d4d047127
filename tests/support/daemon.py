"""The real daemon as a process of a test, with a configuration, a socket and a file of windows of its own."""

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.child import Child, Nursery
from tests.support.polling import TIMEOUT_S, wait_for
from tests.support.rows import Ledger, Row, Series, Total, read_rows, total_rows

# Shorter than the 107 bytes of a Unix socket's path, with room for what the daemon appends.
_MAX_PATH_BYTES = 100

_COMMAND = (sys.executable, "-m", "aiokpl_metricsd")


class DaemonProcess(Child):
    """`aiokpl-metricsd`, started when it is made; `wait_until_accepting` says when it can be sent to.

    Args:
        nursery: ends it with the test.
        config: the file's text after the socket and the sink `windows`, which appends to `windows_path`.
        top: keys of the top of the file.
        ingest: keys of the table `[ingest]`.
        interval_s: the windows' length.
        grace_s: how long they stay open after their end.
        name: of its files; two daemons of one test have two names.
        socket_path: where it listens; None for a socket of its own.
        command: what to start in place of this interpreter's module.
        environ: variables to add.
        pass_fds: descriptors that it inherits.
    """

    def __init__(
        self,
        nursery: Nursery,
        config: str = "",
        *,
        top: str = "",
        ingest: str = "",
        interval_s: int = 1,
        grace_s: float = 0.5,
        name: str = "daemon",
        socket_path: Path | None = None,
        command: tuple[str, ...] = _COMMAND,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        directory = nursery.directory
        self.socket_path = directory / f"{name}.sock" if socket_path is None else socket_path
        assert len(os.fsencode(self.socket_path)) < _MAX_PATH_BYTES
        self.windows_path = directory / f"{name}.jsonl"
        self.config_path = directory / f"{name}.toml"
        self.config_path.write_text(
            f"interval_s = {interval_s}\ngrace_s = {grace_s}\n{top}\n"
            f"[ingest]\nsocket = {_quote(self.socket_path)}\n{ingest}\n"
            f'[sinks.windows]\ntype = "jsonl"\npath = {_quote(self.windows_path)}\n{config}\n',
            encoding="utf-8",
        )
        arguments = ("--config", str(self.config_path), "--log-format", "json")
        super().__init__([*command, *arguments], directory, name, environ, pass_fds)
        nursery.adopt(self)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log so far; anything else on its standard error fails the test."""
        whole, _, _ = self.stderr.rpartition("\n")
        try:
            return [msgspec.json.decode(line, type=dict[str, Any]) for line in whole.splitlines()]
        except msgspec.DecodeError:
            raise AssertionError(f"no log: {whole}") from None

    @property
    def ledger(self) -> Ledger:
        """The account in its last line; it must have ended."""
        last = self.log[-1]
        assert last["message"] == "stopped"
        return msgspec.convert(last, Ledger)

    def wait_until_accepting(self, timeout_s: float = TIMEOUT_S) -> "DaemonProcess":
        """Return it when a client can connect.

        Raises:
            AssertionError: it does not come up.
        """
        wait_for(lambda: can_connect(self.socket_path) or not self.is_running(), "the socket", timeout_s)
        assert self.is_running(), self.stderr
        return self

    def wait_until_listening(self, timeout_s: float = TIMEOUT_S) -> "DaemonProcess":
        """Return it when its event loop runs, and with it its signal handlers."""
        wait_for(lambda: self.find_log("listening") or not self.is_running(), "the log", timeout_s)
        assert self.is_running(), self.stderr
        return self

    def find_log(self, message: str) -> list[dict[str, Any]]:
        """Return the lines of the log with this message."""
        return [line for line in self.log if line["message"] == message]

    def rows(self) -> list[Row]:
        """Return the rows of the windows it has written so far."""
        return read_rows(self.windows_path)

    def totals(self) -> dict[Series, Total]:
        """Return the totals of each series over all windows so far."""
        return total_rows(self.rows())

    def count_events(self) -> int:
        """Return the events in all windows so far."""
        return sum(row.count for row in self.rows())

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = TIMEOUT_S) -> int:
        """Ask it to end, and return its exit status."""
        self.send_signal(number)
        return self.wait(timeout_s)


def can_connect(path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bool:
    """Tell whether somebody listens at a path."""
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def send_datagram(path: Path, datagram: bytes, timeout_s: float = TIMEOUT_S) -> None:
    """Send one datagram, waiting while the kernel's queue is full."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.settimeout(timeout_s)
        door.connect(str(path))
        door.send(datagram)


def _quote(path: Path) -> str:
    return msgspec.json.encode(str(path)).decode()


__all__ = ["DaemonProcess", "can_connect", "send_datagram"]
