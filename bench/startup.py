"""From exec to accepting on the socket, and what the daemon holds while it is idle."""

import tempfile
import time
from pathlib import Path

from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service

PREFIX = "startup."

_WHAT = ("accepting.wall_ms", "accepting.cpu_ms", "reading.wall_ms", "reading.cpu_ms")

_STARTS = 12
# Long enough for everything that comes up after the socket.
_IDLE_S = 1.5


def collect(plan: Plan, samples: Samples) -> None:
    """Start the daemon, over all passes `_STARTS` times or more, and let one be idle."""
    try:
        if plan.wants_any(f"{PREFIX}{what}" for what in _WHAT):
            for _ in range(-(-_STARTS // plan.passes)):
                _start(samples)
        if plan.wants(f"{PREFIX}idle.rss_mib"):
            _idle(samples)
    except MeasurementError as error:
        samples.errors.append(f"{PREFIX}: {error}")


def _start(samples: Samples) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        service = Service(Path(name), sink="null")
        try:
            start = service.start()
            service.finish()
        finally:
            service.end()
    samples.add(f"{PREFIX}accepting.wall_ms", start.accepting_ms)
    samples.add(f"{PREFIX}accepting.cpu_ms", start.accepting_cpu_ms)
    samples.add(f"{PREFIX}reading.wall_ms", start.reading_ms)
    samples.add(f"{PREFIX}reading.cpu_ms", start.reading_cpu_ms)


def _idle(samples: Samples) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Service(Path(name), sink="console") as service:
        time.sleep(_IDLE_S)
        resident_mib, _ = service.read_memory_mib()
        service.finish()
    samples.add(f"{PREFIX}idle.rss_mib", resident_mib)


__all__ = ["PREFIX", "collect"]
