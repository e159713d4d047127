"""What a daemon says over HTTP on its Unix socket, as an operator asks it."""

import http.client
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.daemon import DaemonProcess
from tests.support.polling import TIMEOUT_S


class AdminConnection(http.client.HTTPConnection):
    """A connection over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def admin_of(daemon: DaemonProcess) -> Path:
    """Return the path of a daemon's admin socket."""
    return daemon.socket_path.with_name("admin.sock")


def ask(connection: http.client.HTTPConnection, path: str, accept: str = "*/*") -> tuple[int, str]:
    """Return the status and the body of an answer."""
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@contextmanager
def open_admin(daemon: DaemonProcess) -> Generator[AdminConnection]:
    """Connect, for as long as the context lasts."""
    connection = AdminConnection(admin_of(daemon))
    try:
        yield connection
    finally:
        connection.close()


def read_sinks(connection: AdminConnection) -> dict[str, dict[str, float]]:
    """Return the figures of each sink by the sink's name, each without its `metricsd_sink_`.

    Those of several reasons are added.
    """
    status, page = ask(connection, "/metrics")
    assert status == 200, page
    found: dict[str, dict[str, float]] = {}
    for family in parse_text(page):
        for sample in family.samples:
            if sample.name.startswith("metricsd_sink_"):
                figures = found.setdefault(sample.labels["sink"], {})
                name = sample.name.removeprefix("metricsd_sink_")
                figures[name] = figures.get(name, 0.0) + sample.value
    return found


__all__ = ["AdminConnection", "admin_of", "ask", "open_admin", "read_sinks"]
