"""One pod's life: its daemon, its service, what was recorded, and what of it is in the windows.

Times are taken from outside, and end when something is seen: an accepted connection, an event that the kernel
took, a process that is gone.
"""

import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.pod.cgroup import Limits
from tests.pod.pod import RESULTS, RUN, STATE, Container, Pod, open_pod
from tests.pod.service import Notes, Report, read_notes
from tests.support.admin import AdminConnection, ask
from tests.support.daemon import can_connect
from tests.support.polling import TIMEOUT_S, wait_for
from tests.support.rows import Ledger, Row, check_windows, read_rows

# Some windows are closed by then, and one is open.
_SENT_EVENTS = 1_000

_CONFIG = """\
interval_s = 1
grace_s = 0.3
{top}
[ingest]
socket = "{run}/metrics.sock"
[sinks.windows]
type = "jsonl"
path = "{results}/windows.jsonl"
{sinks}
"""


class Outcome(Struct, frozen=True):
    """What a scenario came to.

    Attributes:
        lost: events that were recorded and are in no window, or snapshots that one backend did not get.
        seconds: how long it took; the scenario says what.
    """

    lost: int
    seconds: float


class Life:
    """A pod that begins empty.

    Args:
        pod: it.
        top: settings of the daemon beside the windows' length.
        sinks: tables of sinks beside the file of windows.
        state: whether the daemon keeps its state in the volume for it.
    """

    def __init__(self, pod: Pod, *, top: str = "", sinks: str = "", state: bool = True) -> None:
        self.pod = pod
        self.socket = pod.run.seen / "metrics.sock"
        self._state = state
        self._config = pod.directory / "sinks.toml"
        top = f'{top}\nstate_dir = "{STATE}/kept"' if state else top
        text = _CONFIG.format(top=top, sinks=sinks, run=RUN, results=RESULTS)
        self._config.write_text(text, encoding="utf-8")
        self._daemons: list[Container] = []
        self._services: list[tuple[Container, Path]] = []

    @property
    def daemon(self) -> Container:
        """The last daemon."""
        return self._daemons[-1]

    @property
    def service(self) -> Container:
        """The last service."""
        return self._services[-1][0]

    @property
    def notes(self) -> Notes:
        """What the last service has noted."""
        return read_notes(self._services[-1][1])

    # ---- what happens

    def start_daemon(
        self, *, environ: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> Container:
        """Start a daemon, and return at once."""
        self._daemons.append(self.pod.start_daemon(self._config, environ=environ, limits=limits))
        return self.daemon

    def start_service(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Container:
        """Start a service, and return at once."""
        notes = self.pod.results.seen / self.pod.notes_name()
        self._services.append((self.pod.start_service(*arguments, environ=environ), notes))
        return self.service

    def begin(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Start both in a pod's order, and return when windows have closed and more is under way."""
        self.start_daemon(environ=environ, limits=limits)
        self.wait_until_accepting()
        self.start_service(*arguments, environ=environ)
        self.wait_until_sent(_SENT_EVENTS)
        self.wait("the first windows", self.rows)

    def kill_daemon(self) -> float:
        """End the daemon with SIGKILL, and return the time."""
        began = time.monotonic()
        self.daemon.send_signal(signal.SIGKILL)
        # Not every `unshare` hands on by which signal its child died.
        assert self.daemon.wait() != 0
        return began

    def end_service(self) -> None:
        """Tell the service to end, as a pod does first; it hands over everything."""
        self.service.send_signal(signal.SIGTERM)
        self.await_service()

    def await_service(self) -> None:
        """Wait until the service has ended by itself, with everything handed over."""
        assert self.service.wait() == 0, self.service.stderr
        assert msgspec.json.decode(self.service.stdout, type=Report) == Report(flushed=True, dropped={})

    def stop_daemon(self) -> int:
        """Tell the daemon to end, and return its exit status."""
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait()

    def end_daemon(self, status: int = 0) -> float:
        """Tell the daemon to end, and return how long that takes."""
        began = time.monotonic()
        assert self.stop_daemon() == status, self.daemon.stderr
        assert "Traceback" not in self.daemon.stderr
        return since(began)

    # ---- what is waited for

    def wait(self, what: str, read: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Wait for something that needs the daemon."""
        wait_for(lambda: read() or not self.daemon.is_running(), what, timeout_s)
        assert self.daemon.is_running(), self.daemon.stderr

    def wait_until_accepting(self) -> None:
        """Wait until the startup probe succeeds, after which a pod starts its service."""
        self.wait("the socket", lambda: can_connect(self.socket))

    def wait_until_sent(self, events: int = 1) -> None:
        """Wait until the daemon has been sent so many events by the service."""
        self.wait("the events", lambda: self.notes.sent >= events)

    def wait_until_recorded(self, events: int = 500) -> None:
        """Wait until the service has recorded so many events."""
        wait_for(lambda: self.notes.recorded >= events, "the service")

    # ---- what came of it

    def rows(self) -> list[Row]:
        """Return what the windows have."""
        return read_rows(self.pod.results.seen / "windows.jsonl")

    def count_recorded(self) -> int:
        """Return the events that all services have recorded."""
        return sum(read_notes(path).recorded for _, path in self._services)

    def count_lost(self) -> int:
        """Return how many events are in no window; none is in two, and no value has changed."""
        rows = self.rows()
        if self._state:
            # Without it, a daemon does not know which time the last one has used.
            check_windows(rows)
        lost = self.count_recorded() - sum(row.count for row in rows)
        assert lost >= 0
        if not lost:
            noted = (read_notes(path).recorded for _, path in self._services)
            assert sum(row.sum for row in rows) == sum(number * (number + 1) // 2 for number in noted)
        return lost

    def finish(self, seconds: float) -> Outcome:
        """End the service and then the daemon, and return what is missing in the windows."""
        self.end_service()
        self.end_daemon()
        return Outcome(self.count_lost(), seconds)

    def read_log(self, message: str) -> list[dict[str, Any]]:
        """Return the last daemon's lines with this message."""
        whole, _, _ = self.daemon.stderr.rpartition("\n")
        lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in whole.splitlines()]
        return [line for line in lines if line["message"] == message]

    def read_ledger(self) -> Ledger:
        """Return the account in the last line of the last daemon, which has ended."""
        (line,) = self.read_log("stopped")
        return msgspec.convert(line, Ledger)

    def ask_statement(self) -> dict[str, Any]:
        """Return the account that the running daemon gives."""
        connection = AdminConnection(self.pod.run.seen / "admin.sock")
        try:
            status, body = ask(connection, "/ledger")
        finally:
            connection.close()
        assert status == 200, body
        return msgspec.json.decode(body, type=dict[str, Any])


def since(began: float) -> float:
    """Return the seconds since a time of the monotonic clock."""
    return time.monotonic() - began


@contextmanager
def open_life(*, top: str = "", sinks: str = "", state: bool = True) -> Generator[Life]:
    """Make a pod and begin with nothing in it; skip the test where there can be none."""
    with open_pod() as pod:
        yield Life(pod, top=top, sinks=sinks, state=state)


__all__ = ["Life", "Outcome", "open_life", "since"]
