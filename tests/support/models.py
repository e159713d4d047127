"""A real daemon that acknowledges, and programs that record for it; at the end every event counts once."""

from collections.abc import Mapping
from pathlib import Path

from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess
from tests.support.rows import Ledger, check_balance

# Every program begins with it. Python 3.12 and later warn of a fork beside threads.
HEAD = """
import os, signal, sys, threading, time, warnings
from aiokpl_metrics_client import MetricsClient
warnings.simplefilter("ignore", DeprecationWarning)
metrics = MetricsClient()

def reap(*pids):
    deadline = time.monotonic() + 30
    for pid in pids:
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise SystemExit("a child hangs")
            time.sleep(0.005)
        assert status == 0, status
"""


class Models:
    """One daemon, and what recorded for it.

    Args:
        nursery: of the test.
        starts: whether the daemon is there from the beginning.
    """

    def __init__(self, nursery: Nursery, *, starts: bool = True) -> None:
        self.nursery = nursery
        self.socket_path = nursery.directory / "daemon.sock"
        self.ledger = Ledger()
        self._daemon: DaemonProcess | None = None
        self._programs = 0
        if starts:
            self.start_daemon()

    @property
    def daemon(self) -> DaemonProcess:
        """The one that runs, or was the last to."""
        assert self._daemon is not None
        return self._daemon

    def start_daemon(self, *, name: str = "daemon", has_lanes: bool = True) -> DaemonProcess:
        """Start it; those of one test have names of their own, and one state."""
        top = f'state_dir = "{self.directory}/state"' if has_lanes else ""
        daemon = DaemonProcess(self.nursery, top=top, name=name, socket_path=self.socket_path)
        self._daemon = daemon
        return daemon.wait_until_accepting()

    @property
    def environ(self) -> Mapping[str, str]:
        """What leads a program to the daemon."""
        return {"AIOKPL_METRICSD_SOCKET": str(self.socket_path)}

    @property
    def directory(self) -> Path:
        """Of the test."""
        return self.nursery.directory

    def start(self, body: str, *arguments: str) -> Child:
        """Start a program: the head, and `body`."""
        self._programs += 1
        script = self.directory / f"program_{self._programs}.py"
        script.write_text(HEAD + body)
        return self.nursery.start_python(str(script), *arguments, environ=self.environ)

    def run(self, body: str, *arguments: str, quiet: bool = True) -> Child:
        """Run a program to its end, which must be a quiet one.

        An exception that comes while the interpreter runs a callback is only reported by it: not quiet.
        """
        child = self.start(body, *arguments)
        assert child.wait() == 0, child.stderr
        assert not quiet or child.stderr == ""
        return child

    def stop(self, *, loses: bool = False) -> dict[str, int]:
        """End the daemon, check its account, and return the events that it counted, by name."""
        assert self.daemon.stop() == 0
        self.ledger = self.daemon.ledger
        check_balance(self.ledger)
        assert loses or self.ledger.events_missing == 0
        counts: dict[str, int] = {}
        for (name, _), total in self.daemon.totals().items():
            counts[name] = counts.get(name, 0) + total.count
        return counts


__all__ = ["Models"]
