"""The real daemon, started as an operator starts it, measured from outside, and ended with SIGTERM."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from aiokpl_metrics_protocol import EventsFrame, encode
from bench.load import Expected, build_key, count_unread_bytes
from bench.process import ROOT, build_environment, read_cpu_ns, read_memory_mib, stop
from bench.samples import MeasurementError

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 60.0

_CONFIGURATION = """\
interval_s = {interval_s}
grace_s = {grace_s}
shutdown_timeout_s = 50
{state}
[ingest]
socket = "{socket_path}"

[limits]
max_series = 200000

{sinks}
"""


# Says nothing, and is valid.
_EMPTY_FRAME = encode(EventsFrame([]))


class _Row(msgspec.Struct):
    name: str
    count: int
    sum: float
    dimensions: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Start:
    """What the daemon took, by the wall's clock and in CPU, until its socket accepted and until it read."""

    accepting_ms: float
    accepting_cpu_ms: float
    reading_ms: float
    reading_cpu_ms: float


class Service:
    """One daemon process in a directory of its own.

    Args:
        directory: holds its configuration, its socket and what its sink writes.
        sink: `jsonl`, whose windows `read_windows` reads; another type without options; or the tables of
            several sinks, in TOML.
        interval_s: the length of its windows.
        grace_s: how long a window waits for late events.
        state: whether it has a state directory, and so offers lanes.
        command: the module that is run, with arguments before `--config FILE`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sink: str = "jsonl",
        interval_s: int = 3_600,
        grace_s: float = 2.0,
        state: bool = False,
        command: tuple[str, ...] = ("aiokpl_metricsd",),
    ) -> None:
        """Write the configuration; nothing is started yet."""
        self.socket_path = str(directory / "m.sock")
        self._directory = directory
        self._state_dir = directory / "state"
        self._configuration = directory / "bench.toml"
        tables = sink if sink.startswith("[") else f'[sinks.out]\ntype = "{sink}"'
        if sink == "jsonl":
            tables += f'\npath = "{directory / "windows.jsonl"}"\nkeep = 100'
        text = _CONFIGURATION.format(
            interval_s=interval_s,
            grace_s=grace_s,
            state=f'state_dir = "{self._state_dir}"\n' if state else "",
            socket_path=self.socket_path,
            sinks=tables,
        )
        self._configuration.write_text(text, encoding="utf-8")
        self._command = [sys.executable, "-m", *command, "--config", str(self._configuration)]
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start, and return when the daemon reads."""
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the process, whatever happened."""
        self.end()

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._child is not None
        return self._child.pid

    def start(self, *, is_reading: bool = True) -> Start:
        """Start the daemon, and return when it reads what is sent to it, or else when it accepts.

        Raises:
            MeasurementError: it ended, or did not accept and read in time.
        """
        with (self._directory / "log").open("w", encoding="utf-8") as log:
            start_s = time.perf_counter()
            self._child = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=build_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            self._wait(start_s, lambda: _accepts(probe, self.socket_path))
            accepting_s, accepting_cpu_ns = time.perf_counter() - start_s, self.read_cpu_ns()
            if is_reading:
                probe.send(_EMPTY_FRAME)
                self._wait(start_s, lambda: count_unread_bytes(probe) == 0)
            reading_s = time.perf_counter() - start_s
        return Start(accepting_s * 1e3, accepting_cpu_ns / 1e6, reading_s * 1e3, self.read_cpu_ns() / 1e6)

    def _wait(self, start_s: float, is_done: Callable[[], bool]) -> None:
        assert self._child is not None
        while not is_done():
            if self._child.poll() is not None or time.perf_counter() - start_s > _START_TIMEOUT_S:
                raise MeasurementError(f"the daemon does not accept: {self._read_log()}")
            # Often enough for the figure, seldom enough to leave the processor to the daemon.
            time.sleep(0.0005)

    def read_cpu_ns(self) -> int:
        """Return the CPU time that the daemon has used.

        Raises:
            MeasurementError: it has ended.
        """
        try:
            return read_cpu_ns(self.pid)
        except OSError as error:
            raise MeasurementError(f"the daemon has ended: {self._read_log()}") from error

    def read_memory_mib(self) -> tuple[float, float]:
        """Return the daemon's resident memory, now and at its highest."""
        return read_memory_mib(self.pid)

    def finish(self) -> float:
        """Send SIGTERM, wait until the last windows are exported, and return the highest memory in MiB.

        Raises:
            MeasurementError: it did not end in time, or not with exit status 0.
        """
        assert self._child is not None
        if self._child.poll() is not None:
            raise MeasurementError(f"the daemon ended by itself: {self._read_log()}")
        _, peak_mib = self.read_memory_mib()
        self._child.send_signal(signal.SIGTERM)
        end_s = time.perf_counter() + _STOP_TIMEOUT_S
        while self._child.poll() is None:
            if time.perf_counter() > end_s:
                raise MeasurementError(f"the daemon did not end: {self._read_log()}")
            # getrusage(2) would count the memory of this process as well, which the child shared before exec.
            with contextlib.suppress(MeasurementError):
                peak_mib = max(peak_mib, self.read_memory_mib()[1])
            time.sleep(0.005)
        if self._child.returncode != 0:
            raise MeasurementError(f"the daemon ended with {self._child.returncode}: {self._read_log()}")
        return peak_mib

    def kill(self) -> None:
        """End the process at once, with SIGKILL: what it had not written down is gone."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def end(self) -> None:
        """End the process, by force if need be; nothing, when it has ended."""
        if self._child is not None:
            stop(self._child)

    def read_windows(self) -> Expected:
        """Return count and sum of each series over all windows that the jsonl sink wrote."""
        found: Expected = {}
        decoder = msgspec.json.Decoder(_Row)
        for path in sorted(self._directory.glob("windows.jsonl*")):
            for line in path.read_bytes().splitlines():
                row = decoder.decode(line)
                key = build_key(row.name, row.dimensions)
                count, total = found.get(key, (0, 0.0))
                found[key] = (count + row.count, total + row.sum)
        return found

    def read_journal_position(self) -> int:
        """Return the number of the newest segment of the journal; each checkpoint begins another."""
        return max(int(path.stem) for path in self._state_dir.glob("journal/*.segment"))

    def measure_journal_bytes(self) -> int:
        """Return the size of all segments of the journal."""
        return sum(path.stat().st_size for path in self._state_dir.glob("journal/*.segment"))

    def _read_log(self) -> str:
        lines = (self._directory / "log").read_text(encoding="utf-8").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def check_totals(expected: Expected, found: Expected) -> None:
    """Refuse a run in which a series' count or sum is not exactly what was sent.

    Raises:
        MeasurementError: names the first series that differs, and how many do.
    """
    if expected == found:
        return
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    sent = sum(count for count, _ in expected.values())
    arrived = sum(count for count, _ in found.values())
    raise MeasurementError(
        f"{len(wrong)} series have wrong totals ({arrived} of {sent} events arrived); the first is "
        f"{wrong[0]}: sent {expected.get(wrong[0])}, found {found.get(wrong[0])}"
    )


def _accepts(probe: socket.socket, path: str) -> bool:
    try:
        probe.connect(path)
    except OSError:
        return False
    return True


__all__ = ["Service", "Start", "check_totals"]
