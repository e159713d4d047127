"""One trial: a daemon with a state directory that is started again and again, and its producers.

The trial notes what goes wrong, and goes on; at its end it compares what every sink was given with what the
producers recorded.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.crash.producer import Report, read_notes
from tests.crash.tally import expect, list_metrics
from tests.crash.verdict import (
    count_by_producer,
    find_bound_faults,
    find_faults,
    find_ledger_faults,
    find_stale_gauges,
    read_all_rows,
)
from tests.support.admin import AdminConnection, ask
from tests.support.child import Child
from tests.support.daemon import can_connect
from tests.support.keyed_sink import count_changed, count_repeats, read_keyed_rows
from tests.support.polling import wait_for
from tests.support.rows import Ledger

UVLOOP, ASYNCIO = "uvloop", "asyncio"
LOOPS: Mapping[str, tuple[str, ...]] = {
    UVLOOP: (sys.executable, "-m", "aiokpl_metricsd"),
    ASYNCIO: (sys.executable, "-m", "tests.support.asyncio_daemon"),
}

GRACE_S = 0.3

# How often the journal is looked at, where that is waited for.
_LOOK_S = 0.0005

# How soon a daemon that listens has written the first frames.
_FIRST_SEGMENT_S = 0.1

_TIMEOUT_S = 60.0
_PRODUCER_TIMEOUT_S = 120.0

# Two daemons of a trial never run at once, so one name is enough for the socket.
_CONFIG = """\
interval_s = 1
grace_s = {grace_s}
state_dir = "{directory}/state"
# The least that is allowed, so that checkpoints come between closes, too.
journal_max_bytes = 1048576
shutdown_timeout_s = 30
[ingest]
socket = "{directory}/d.sock"
[sinks.windows]
type = "jsonl"
path = "{directory}/windows.jsonl"
max_bytes = 1048576
keep = 9999
timeout_s = {timeout_s}
[sinks.longer]
type = "jsonl"
path = "{directory}/longer.jsonl"
interval_s = 3
max_bytes = 1048576
keep = 9999
timeout_s = {timeout_s}
[sinks.keyed]
type = "tests.support.keyed_sink:KeyedSink"
path = "{directory}/keyed.db"
failing_ratio = {failing_ratio}
"""


class TrialError(Exception):
    """The daemon is not there any more, by its own doing: no use in going on."""


class Trial:
    """Producers, a daemon, and what is known of them.

    Args:
        directory: short, so that a socket fits in it.
        loop: a key of `LOOPS`.
        seed: of all that is left to chance here.

    Attributes:
        random: draws the moments.
        faults: what went wrong so far, in words.
        starts: of the daemon.
    """

    def __init__(self, directory: Path, loop: str, seed: int) -> None:
        """Start nothing yet."""
        self.directory = directory
        self.random = Random(seed)
        self.faults: list[str] = []
        self.starts = 0
        self.events = 0
        self.notes = ""
        self._command = LOOPS[loop]
        self._daemon: Child | None = None
        self._producers: dict[int, Child] = {}
        self._killed: list[int] = []
        self._reports: dict[int, Report] = {}
        self._shares = True
        self._number = 0
        self._reloads = 0
        self._write_config(0.2)

    @property
    def daemon(self) -> Child:
        """The daemon that runs, or was the last to."""
        assert self._daemon is not None
        return self._daemon

    @property
    def producers(self) -> list[int]:
        """The numbers of the producers that run."""
        return list(self._producers)

    # ---- the daemon

    def start_daemon(self) -> Child:
        """Start it, and return at once."""
        self.starts += 1
        command = [*self._command, "--config", str(self.directory / "d.toml"), "--log-format", "json"]
        self._daemon = Child(command, self.directory, f"daemon-{self.starts:04d}")
        return self._daemon

    def wait_until_accepting(self) -> None:
        """Wait until producers can connect.

        Raises:
            TrialError: the daemon ended before that.
        """
        socket = self.directory / "d.sock"
        wait_for(lambda: can_connect(socket) or not self.daemon.is_running(), "the socket", _TIMEOUT_S)
        self.check_running("before it accepted anything")

    def wait_until_listening(self) -> None:
        """Wait until the event loop runs, and what the journal had is replayed.

        Raises:
            TrialError: the daemon ended before that.
        """
        daemon = self.daemon
        wait_for(lambda: '"listening"' in daemon.stderr or not daemon.is_running(), "the log", _TIMEOUT_S)
        self.check_running("before it listened")

    def wait_for_checkpoint(self, timeout_s: float) -> None:
        """Wait until the journal has a segment more, and return at once; or when it takes too long."""
        deadline = time.monotonic() + timeout_s
        # The first one after the start is of no checkpoint.
        while time.monotonic() < deadline and '"listening"' not in self.daemon.stderr:
            time.sleep(_FIRST_SEGMENT_S)
        time.sleep(_FIRST_SEGMENT_S)
        known = self._read_segments()
        while time.monotonic() < deadline and self._read_segments() <= known:
            time.sleep(_LOOK_S)

    def kill_daemon(self) -> None:
        """End it with SIGKILL.

        Raises:
            TrialError: it had ended before that.
        """
        self.check_running("before it was killed")
        self.daemon.end()

    def stop_daemon(self) -> None:
        """Ask it to end, and wait for that.

        Raises:
            TrialError: it had ended before that, or ended with a failure.
        """
        self.check_running("before it was told to stop")
        self.daemon.send_signal(signal.SIGTERM)
        status = self.daemon.wait(_TIMEOUT_S)
        # Before its first statement an interpreter dies of it; nothing was accepted by then.
        if status and not (status == -signal.SIGTERM and not self.daemon.stderr):
            raise TrialError(self._describe_end(status, "after SIGTERM"))

    def reload_daemon(self) -> None:
        """Have it read another configuration, by which all sinks are replaced.

        Raises:
            TrialError: it had ended before that.
        """
        self.wait_until_listening()
        self._reloads += 1
        self._write_config(self.random.uniform(0.0, 0.4), 10 + self._reloads)
        self.daemon.send_signal(signal.SIGHUP)

    def check_running(self, when: str) -> None:
        """Make sure that the daemon runs.

        Raises:
            TrialError: it does not.
        """
        status = self.daemon.poll()
        if status is not None:
            raise TrialError(self._describe_end(status, when))

    def _describe_end(self, status: int, when: str) -> str:
        tail = self.daemon.stderr[-2_000:]
        return f"start {self.starts} of the daemon ended with {status} {when}: {tail}"

    # ---- the producers

    def start_producers(self, count: int, *, shares: bool) -> None:
        """Start producers; those of one trial all share series, or none does."""
        self._shares = shares
        for _ in range(count):
            self.start_producer()

    def start_producer(self) -> int:
        """Start one more, and return its number."""
        number, self._number = self._number, self._number + 1
        command = [sys.executable, "-m", "tests.crash.producer", str(self.directory / "d.sock"), str(number)]
        command += [str(self._notes_of(number)), *([] if self._shares else ["own"])]
        self._producers[number] = Child(command, self.directory, f"producer-{number:03d}")
        return number

    def kill_producer(self, number: int) -> None:
        """End one with SIGKILL."""
        producer = self._producers.pop(number)
        if not producer.is_running():
            self.faults.append(f"producer {number} ended by itself: {producer.stderr[-2_000:]}")
        producer.end()
        self._killed.append(number)

    def stop_producers(self) -> None:
        """Have all of them hand over what they have, and wait for their reports."""
        for number, producer in self._producers.items():
            # Before it notes anything, the signal would end it without a word.
            began = self._notes_of(number).exists
            wait_for(lambda: began() or not producer.is_running(), f"producer {number}", _TIMEOUT_S)  # noqa: B023
            producer.send_signal(signal.SIGTERM)
        for number, producer in self._producers.items():
            status = producer.wait(_PRODUCER_TIMEOUT_S)
            if status:
                self.faults.append(f"producer {number} ended with {status}: {producer.stderr[-2_000:]}")
                continue
            report = msgspec.json.decode(producer.stdout, type=Report)
            self._reports[number] = report
            dropped = report.statistics["dropped"]
            if not report.flushed or dropped or report.statistics["events_unacknowledged"]:
                self.faults.append(f"producer {number} could not hand over everything: {report.statistics}")
        self._producers = {}

    # ---- the end

    def finish(self) -> None:
        """End everything in order, and note what is wrong with what there is."""
        self.stop_producers()
        self.stop_daemon()
        self._write_config(0.0)
        self.start_daemon()
        self.wait_until_listening()
        wait_for(self._is_delivered, "the last windows", _TIMEOUT_S)
        self.stop_daemon()
        self._judge()

    def end(self) -> None:
        """End by force whatever runs."""
        for child in (*self._producers.values(), *(() if self._daemon is None else (self._daemon,))):
            child.end()

    def _judge(self) -> None:
        expected = expect(
            (list_metrics(number, shares=self._shares), report.events)
            for number, report in self._reports.items()
        )
        notes = {number: read_notes(self._notes_of(number)) for number in self._killed}
        sinks = {
            "windows": read_all_rows(self.directory / "windows.jsonl"),
            "longer": read_all_rows(self.directory / "longer.jsonl"),
            "keyed": read_keyed_rows(self.directory / "keyed.db"),
        }
        for name, rows in sinks.items():
            faults = find_faults(rows, expected, self._killed)
            if name != "longer":
                # A longer window ends with what its last part ends with, late as that may be.
                faults += find_stale_gauges(rows)
            faults += find_bound_faults(rows, notes)
            self.faults += [f"{name}: {fault}" for fault in faults]
        changed = count_changed(self.directory / "keyed.db")
        if changed:
            self.faults.append(f"keyed: {changed} rows came again and said something else")
        counts = count_by_producer(sinks["windows"])
        events = sum(tally.count for tally in expected.values()) + sum(counts[each] for each in self._killed)
        self.events = events
        self._check_logs(events)
        folded = sum(int(str(each.statistics["events_folded"])) for each in self._reports.values())
        self.notes = (
            f"{len({row.window_id for row in sinks['windows']})} windows, {folded:,} events folded, "
            f"{count_repeats(self.directory / 'keyed.db')} rows repeated to the idempotent sink"
        )

    def _check_logs(self, events: int) -> None:
        """Note what any daemon said that it should not have to, and what is wrong with the last account."""
        last: dict[str, Any] = {}
        said: dict[str, str] = {}
        for path in sorted(self.directory.glob("daemon-*.err")):
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            for line in whole.splitlines():
                try:
                    last = msgspec.json.decode(line, type=dict[str, Any])
                except msgspec.DecodeError:
                    said.setdefault(line, path.name)
                    continue
                if last["level"] in {"error", "critical"}:
                    said.setdefault(last["message"], f"{path.name}: {line}")
        self.faults += [f"a daemon said: {message} ({where})" for message, where in said.items()]
        if last.get("message") == "stopped":
            # Of the daemons that were killed none could say that its lanes ended.
            lanes = last.get("lanes_accepted", 0) - sum(last.get("lanes_ended", {}).values())
            self.faults += [f"{lanes} lanes more were accepted than ended"] if lanes else []
            self.faults += find_ledger_faults(msgspec.convert(last, Ledger), events)
        else:
            self.faults.append(f"the last daemon did not say what it counted, but: {last}")

    def _is_delivered(self) -> bool:
        """Tell whether nothing waits any more."""
        connection = AdminConnection(self.directory / "admin.sock")
        try:
            status, page = ask(connection, "/metrics")
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
        waiting = {
            "metricsd_sink_waiting_snapshots",
            "metricsd_sink_merging_snapshots",
            "metricsd_open_events",
        }
        samples = [sample for family in parse_text(page) for sample in family.samples]
        return status == 200 and not any(each.value for each in samples if each.name in waiting)

    def _read_segments(self) -> set[str]:
        try:
            return set(os.listdir(self.directory / "state" / "journal"))  # noqa: PTH208 - hundreds of times a second
        except FileNotFoundError:
            return set()

    def _notes_of(self, number: int) -> Path:
        return self.directory / f"producer-{number:03d}.notes"

    def _write_config(self, failing_ratio: float, timeout_s: int = 10) -> None:
        text = _CONFIG.format(
            directory=self.directory, grace_s=GRACE_S, failing_ratio=failing_ratio, timeout_s=timeout_s
        )
        (self.directory / "d.toml").write_text(text, encoding="utf-8")


@contextmanager
def open_trial(loop: str, seed: int) -> Generator[Trial]:
    """Make a trial with a directory of its own, which stays if anything goes wrong."""
    directory = Path(tempfile.mkdtemp(prefix="crash-"))
    trial = Trial(directory, loop, seed)
    try:
        yield trial
    except TrialError as error:
        trial.faults.append(str(error))
    except Exception:  # noqa: BLE001 - a fault like any other, and the other rounds go on
        trial.faults.append(f"the trial did not come to its end: {traceback.format_exc()}")
    finally:
        trial.end()
    if trial.faults:
        trial.faults.append(f"what there is was kept in {directory}")
    else:
        shutil.rmtree(directory)


__all__ = ["ASYNCIO", "GRACE_S", "LOOPS", "UVLOOP", "Trial", "TrialError", "open_trial"]
