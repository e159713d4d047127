"""What an event costs the daemon, in CPU and memory, over the real socket into the real process.

Every run checks its totals: each series' count and sum in the windows that the daemon wrote, exactly.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.load import Expected, Load
from bench.process import ROOT, build_environment, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service, check_totals

# A tenth of a CPU second where that many events fit into three seconds, so that no run waits longer; ten
# drains make a second. --quick divides the drains.
LOADS: dict[str, Load] = {
    "columns_ones_1": Load(1, 30, 100_000, ones=True),
    "columns_ones_100": Load(100, 30, 1_000, ones=True),
    "columns_ones_1000": Load(1_000, 30, 100, ones=True),
    "columns_ones_100000": Load(100_000, 10, 1, ones=True),
    "columns_values_1": Load(1, 20, 100_000),
    "columns_values_100": Load(100, 20, 1_000),
    "columns_values_1000": Load(1_000, 20, 100),
    "columns_values_100000": Load(100_000, 10, 1),
    "columns_histograms_1": Load(1, 20, 100_000, "histogram"),
    "columns_histograms_100": Load(100, 20, 1_000, "histogram"),
    "columns_histograms_1000": Load(1_000, 20, 100, "histogram"),
    "columns_histograms_100000": Load(100_000, 10, 1, "histogram"),
    "columns_two_100000": Load(100_000, 2, 1),
    "columns_short_1000": Load(1_000, 30, 4),
    "columns_short_histograms_1000": Load(1_000, 30, 4, "histogram"),
    "rows_ones_1": Load(1, 4, 100_000, ones=True, rows=True),
    "rows_values_1": Load(1, 4, 100_000, rows=True),
    "rows_histograms_1": Load(1, 4, 100_000, "histogram", rows=True),
    "rows_values_100": Load(100, 3_000, 1, rows=True),
    "rows_ones_1000": Load(1_000, 300, 1, ones=True, rows=True),
    "rows_values_1000": Load(1_000, 300, 1, rows=True),
    "rows_histograms_1000": Load(1_000, 300, 1, "histogram", rows=True),
    "rows_values_100000": Load(100_000, 5, 1, rows=True),
}

# The cases of --quick: those that are held to a budget.
_QUICK = (
    "columns_ones_1000",
    "columns_values_1000",
    "columns_histograms_1000",
    "columns_short_1000",
    "columns_values_100000",
    "columns_two_100000",
    "rows_values_1000",
)

PREFIX = "daemon."

# A load of that many series also says what a new one costs.
_MANY_SERIES = 100_000

_QUANTITIES = ("cpu_s_per_million", "new_cpu_s_per_million", "rss_mib", "peak_mib")

_IDLE_S = 0.3
_SETTLE_S = 0.1


def collect(plan: Plan, samples: Samples) -> None:
    """Run every wanted load once."""
    for case, load in LOADS.items():
        key = f"{PREFIX}{case}"
        wanted = plan.wants_any(f"{key}.{quantity}" for quantity in _QUANTITIES)
        if not wanted or (plan.quick and case not in _QUICK):
            continue
        shorter = msgspec.structs.replace(load, drains=max(2, load.drains // 3)) if plan.quick else load
        try:
            _run(key, shorter, samples)
        except MeasurementError as error:
            samples.errors.append(f"{key}: {error}")


def _run(key: str, load: Load, samples: Samples) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        Service(Path(name)) as service,
        Sender(service.socket_path, load, Path(name) / "expected") as sender,
    ):
        idle_per_s = measure_idle(service)
        first_s = _measure_drain(service, sender, idle_per_s)
        rest_s = _measure_drain(service, sender, idle_per_s)
        resident_mib, _ = service.read_memory_mib()
        peak_mib = service.finish()
        check_totals(sender.read_expected(), service.read_windows())
    if load.series == _MANY_SERIES:
        samples.add(f"{key}.new_cpu_s_per_million", first_s / (load.drain_events / 1e6))
    samples.add(f"{key}.cpu_s_per_million", rest_s / (load.drain_events * (load.drains - 1) / 1e6))
    samples.add(f"{key}.rss_mib", resident_mib)
    samples.add(f"{key}.peak_mib", peak_mib)


def _measure_drain(service: Service, sender: "Sender", idle_per_s: float) -> float:
    """Send the next part of the load; return the CPU seconds that it took the daemon."""
    start_s, before_ns = time.perf_counter(), service.read_cpu_ns()
    sender.send()
    # The last datagram has been read, not yet counted.
    time.sleep(_SETTLE_S)
    used_ns, elapsed_s = service.read_cpu_ns() - before_ns, time.perf_counter() - start_s
    return used_ns / 1e9 - idle_per_s * elapsed_s


class Sender:
    """A process that has a load encoded, and sends it when it is told to.

    Args:
        socket_path: the daemon's socket.
        load: what it sends.
        expected_path: the file for the totals that the load adds up to.
        command: the module that is run, with its first arguments.
    """

    def __init__(
        self, socket_path: str, load: Load, expected_path: Path, command: tuple[str, ...] = ("bench.load",)
    ) -> None:
        """Start the process."""
        self._expected_path = expected_path
        text = msgspec.json.encode(load).decode()
        self._child = subprocess.Popen(
            [sys.executable, "-m", *command, socket_path, str(expected_path), text],
            cwd=ROOT,
            env=build_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # When the daemon ends, so does the sender: its traceback says nothing that the log does not.
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        """Wait until the load is encoded."""
        self._read_line()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End the process."""
        stop(self._child)

    def send(self) -> dict[str, float]:
        """Send the first drain, or the rest; return what the sender says, when the daemon has read it.

        Raises:
            MeasurementError: the sender failed.
        """
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        return msgspec.json.decode(self._read_line(), type=dict[str, float])

    def read_expected(self) -> Expected:
        """Return the totals that the load adds up to."""
        return msgspec.msgpack.decode(self._expected_path.read_bytes(), type=Expected)

    def _read_line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise MeasurementError("the sender failed")
        return line


def measure_idle(service: Service) -> float:
    """Return the CPU seconds that a second without events costs."""
    start_s, before_ns = time.perf_counter(), service.read_cpu_ns()
    time.sleep(_IDLE_S)
    return (service.read_cpu_ns() - before_ns) / 1e9 / (time.perf_counter() - start_s)


__all__ = ["LOADS", "PREFIX", "Sender", "collect", "measure_idle"]
