"""gunicorn with preloaded, recycled workers, a daemon that is restarted again and again, and load on both.

At the end every answered request is in the windows exactly once, and nothing has grown.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.soak.load import Report
from tests.soak.samples import Sample, find_growth, list_children, read_sample
from tests.soak.service import PUTS
from tests.support.child import Child, Nursery
from tests.support.daemon import can_connect
from tests.support.polling import wait_for
from tests.support.rows import Ledger, Row, check_balance, check_windows, read_rows

_WORKERS = 4
_TIMEOUT_S = 120.0

_CONFIG = """\
interval_s = 1
grace_s = 0.5
state_dir = "{directory}/state"
shutdown_timeout_s = 30
[ingest]
socket = "{directory}/d.sock"
[sinks.windows]
type = "jsonl"
path = "{directory}/windows.jsonl"
max_bytes = 1073741824
"""


class Plan(NamedTuple):
    """How long, and how rough."""

    seconds: float = 600.0
    restart_s: float = 30.0
    requests_per_worker: int = 300
    sample_s: float = 5.0


class Soak:
    """What runs, and what is known of it.

    Attributes:
        faults: what is wrong, in words.
        samples: by what they are of: "master", "workers", "daemon".
        restarts: of the daemon.
    """

    def __init__(self, directory: Path, plan: Plan, say: Callable[[str], None]) -> None:
        """Start nothing yet."""
        self.faults: list[str] = []
        self.samples: dict[str, list[Sample]] = {"master": [], "workers": [], "daemon": []}
        self.restarts = 0
        self._directory = directory
        self._plan = plan
        self._say = say
        self._nursery = Nursery(directory)
        self._workers = self._starts = 0

    def run(self) -> None:
        """Run it, and note what is wrong."""
        (self._directory / "d.toml").write_text(_CONFIG.format(directory=self._directory), encoding="utf-8")
        try:
            daemon = self._start_daemon()
            master = self._start_server()
            load = self._start("load", "-m", "tests.soak.load", str(self._directory / "http.sock"))
            daemon = self._trouble(daemon, master)
            report = self._finish(load, master)
            # Every window is closed by its end; what the last one could not deliver, the next one does.
            self._stop(daemon, signal.SIGTERM)
            last = self._start_daemon()
            wait_for(lambda: '"listening"' in last.stderr, "the last daemon", _TIMEOUT_S)
            self._stop(last, signal.SIGTERM)
            self._judge(report, last)
        finally:
            self._nursery.end()

    def _trouble(self, daemon: Child, master: Child) -> Child:
        """Restart the daemon now and then, by turns in order and by force, and look at everything."""
        began = time.monotonic()
        ends = cycle((signal.SIGTERM, signal.SIGKILL))
        next_restart, next_sample = self._plan.restart_s, 0.0
        while (at_s := time.monotonic() - began) < self._plan.seconds:
            if at_s >= next_restart:
                # All of the same age, since a young one has not grown up yet.
                self.samples["daemon"] += filter(None, [read_sample(at_s, daemon.pid)])
                self._stop(daemon, next(ends))
                daemon = self._start_daemon()
                self.restarts += 1
                next_restart += self._plan.restart_s
            if at_s >= next_sample:
                self._sample(at_s, daemon, master)
                next_sample += self._plan.sample_s
            time.sleep(0.05)
        return daemon

    def _sample(self, at_s: float, daemon: Child, master: Child) -> None:
        workers = list_children(master.pid)
        of = [("daemon", daemon.pid), ("master", master.pid), *(("workers", pid) for pid in workers)]
        taken: dict[str, Sample] = {}
        for name, pid in of:
            sample = read_sample(at_s, pid)
            if sample is not None:
                if name != "daemon":
                    self.samples[name].append(sample)
                taken[name] = max(taken.get(name, sample), sample, key=lambda each: each.memory_bytes)
        figures = ", ".join(
            f"{name} {each.descriptors} fd {each.memory_bytes / 2**20:.1f} MiB"
            for name, each in taken.items()
        )
        self._say(f"{at_s:4.0f} s: {figures}")

    def _start(self, name: str, *arguments: str) -> Child:
        environ = {"AIOKPL_METRICSD_SOCKET": str(self._directory / "d.sock")}
        return self._nursery.start([sys.executable, *arguments], name, environ)

    def _start_daemon(self) -> Child:
        config = str(self._directory / "d.toml")
        name = (
            f"daemon-{self.restarts}"
            if not (self._directory / f"daemon-{self.restarts}.err").exists()
            else "last"
        )
        daemon = self._start(name, "-m", "aiokpl_metricsd", "--config", config, "--log-format", "json")
        socket = self._directory / "d.sock"
        wait_for(lambda: can_connect(socket) or not daemon.is_running(), "the daemon", _TIMEOUT_S)
        return daemon

    def _start_server(self) -> Child:
        path = self._directory / "http.sock"
        options = ["--workers", str(_WORKERS), "--bind", f"unix:{path}", "--preload", "--no-control-socket"]
        often = str(self._plan.requests_per_worker)
        options += [
            "--max-requests",
            often,
            "--max-requests-jitter",
            str(self._plan.requests_per_worker // 5),
        ]
        master = self._start("gunicorn", "-m", "gunicorn", "tests.soak.service:application", *options)
        wait_for(lambda: path.exists() or not master.is_running(), "the server", _TIMEOUT_S)
        return master

    def _stop(self, daemon: Child, number: signal.Signals) -> None:
        if not daemon.is_running():
            self.faults.append(f"the daemon ended by itself: {daemon.stderr[-1_000:]}")
            return
        daemon.send_signal(number)
        status = daemon.wait(_TIMEOUT_S)
        if status != (-number if number is signal.SIGKILL else 0):
            self.faults.append(f"the daemon ended with {status}: {daemon.stderr[-1_000:]}")

    def _finish(self, load: Child, master: Child) -> Report:
        load.send_signal(signal.SIGTERM)
        if load.wait(_TIMEOUT_S):
            self.faults.append(f"the load ended with a failure: {load.stderr[-1_000:]}")
            return Report(0, 0)
        # As an orchestrator does: the workers finish what they have, and end.
        master.send_signal(signal.SIGTERM)
        if master.wait(_TIMEOUT_S):
            self.faults.append(f"gunicorn ended with a failure: {master.stderr[-1_000:]}")
        self._workers = master.stderr.count("Booting worker")
        return msgspec.json.decode(load.stdout, type=Report)

    def _judge(self, report: Report, last: Child) -> None:
        rows = read_rows(self._directory / "windows.jsonl")
        check_windows(rows)
        # With a state directory, the account goes on over every restart.
        ledger = msgspec.json.decode(last.stderr.splitlines()[-1], type=Ledger)
        check_balance(ledger)
        counts = _count(rows)
        expected = {"requests": report.answered}
        expected |= dict.fromkeys(("events", "put", "nothing"), PUTS * report.answered)
        if counts != expected:
            self.faults.append(f"counted {counts}, expected {expected}")
        if ledger.events_decoded != sum(expected.values()) or ledger.events_missing:
            self.faults.append(f"the ledger has {ledger}, for {sum(expected.values())} events")
        if ledger.events_dropped_by_clients:
            self.faults.append(f"clients dropped {ledger.events_dropped_by_clients}")
        for name, samples in self.samples.items():
            self.faults += [f"{name}: {growth}" for growth in find_growth(samples)]
        self._say(
            f"{report.answered:,} requests answered, {report.unanswered} tried in vain, "
            f"{self._workers} workers, {self.restarts} restarts of the daemon, "
            f"{ledger.datagrams_repeated} datagrams repeated, all counted once: {counts == expected}"
        )
        self._say(
            f"slowest put {_find_slowest(rows, 'put')}, slowest nothing {_find_slowest(rows, 'nothing')}"
        )


def _count(rows: list[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.name] = counts.get(row.name, 0) + row.count
    return counts


def _find_slowest(rows: list[Row], name: str) -> str:
    own = [row for row in rows if row.name == name]
    if not own:
        return "unknown"
    medians = sorted(row.p50 or 0.0 for row in own)
    return f"{max(row.max for row in own) / 1e6:.2f} ms (median {medians[len(medians) // 2]:,.0f} ns)"


def soak(plan: Plan, say: Callable[[str], None]) -> list[str]:
    """Run a soak, and return what is wrong."""
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        run = Soak(Path(name), plan, say)
        run.run()
        return run.faults


__all__ = ["Plan", "Soak", "soak"]
