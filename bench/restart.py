"""From exec to the first answer on a lane, with a state directory that is new, or has a full journal.

The journal is filled to just below the 32 MiB at which a checkpoint would empty it, and the daemon that wrote
it is killed: nothing but the journal has those events. Each start that follows replays it, acknowledges a
hello, and is killed again, so that the next one finds the same.
"""

import tempfile
import time
from pathlib import Path

from bench.daemon import Sender
from bench.lane import LaneClient
from bench.load import PRODUCER_ID, Load
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service, check_totals

PREFIX = "restart."

# 31 MiB of columns of 100 differing values.
LOADS: dict[str, Load | None] = {"empty": None, "replay": Load(1_000, 34, 100)}

_MIB = 2**20
_JOURNAL_MIB = (28, 32)

_STARTS = 4
_QUICK_STARTS = 1

_WHAT = ("accepting.wall_ms", "accepting.cpu_ms", "ack.wall_ms", "ack.cpu_ms")


def collect(plan: Plan, samples: Samples) -> None:
    """Start the daemon some times with each kind of state directory."""
    starts = _QUICK_STARTS if plan.quick else _STARTS
    for case, load in LOADS.items():
        key = f"{PREFIX}{case}"
        if not plan.wants_any(f"{key}.{what}" for what in _WHAT):
            continue
        try:
            if load is None:
                for _ in range(starts):
                    with tempfile.TemporaryDirectory(prefix="bench-") as name:
                        _start(key, Service(Path(name), sink="null", state=True), samples)
            else:
                _replay(key, load, starts, samples)
        except MeasurementError as error:
            samples.errors.append(f"{key}: {error}")


def _replay(key: str, load: Load, starts: int, samples: Samples) -> None:
    """Fill the journal, and start with it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        service = Service(Path(name), state=True)
        with service, Sender(service.socket_path, load, Path(name) / "expected") as sender:
            sender.send()
            sender.send()
            time.sleep(0.1)
            service.kill()
            expected = sender.read_expected()
        size_mib = service.measure_journal_bytes() / _MIB
        low_mib, high_mib = _JOURNAL_MIB
        if not low_mib < size_mib < high_mib:
            raise MeasurementError(f"the journal has {size_mib:.1f} MiB")
        for _ in range(starts):
            _start(key, service, samples)
        with service:
            service.finish()
        check_totals(expected, service.read_windows())


def _start(key: str, service: Service, samples: Samples) -> None:
    """Start, connect as soon as it accepts, and wait for the answer to the hello."""
    start_s = time.perf_counter()
    try:
        start = service.start(is_reading=False)
        with LaneClient(service.socket_path, PRODUCER_ID) as client:
            client.read_ack()
            ack_s, ack_cpu_ns = time.perf_counter() - start_s, service.read_cpu_ns()
        service.kill()
    finally:
        service.end()
    samples.add(f"{key}.accepting.wall_ms", start.accepting_ms)
    samples.add(f"{key}.accepting.cpu_ms", start.accepting_cpu_ms)
    samples.add(f"{key}.ack.wall_ms", ack_s * 1e3)
    samples.add(f"{key}.ack.cpu_ms", ack_cpu_ns / 1e6)


__all__ = ["LOADS", "PREFIX", "collect"]
