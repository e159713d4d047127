"""The longest time that the daemon's loop serves nobody while 100,000 series close and are exported.

With a state directory the window closes with a checkpoint: it is sealed, encoded and stored in a thread, and
only then exported. How much memory that takes is measured as well.

No answer comes back over the socket, so it is measured inside: the composition root runs in a process of its
own with a heartbeat beside it.

Run as `python -m bench.stall GAPS --config FILE` it is that process; at its end it writes the gaps to GAPS.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec

from bench.daemon import Sender
from bench.heartbeat import Gap, Heartbeat
from bench.load import Load
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service, check_totals

PREFIX = "stall."

_LOADS: dict[str, Load] = {
    "closing_100000": Load(100_000, 2, 1),
    "closing_histograms_100000": Load(100_000, 2, 1, "histogram"),
    "checkpoint_100000": Load(100_000, 2, 1),
}
# Those with a state directory.
_STORED = ("checkpoint_100000",)
_QUICK = ("closing_100000", "checkpoint_100000")
_INTERVAL_S = 5
_GRACE_S = 0.5
# From the end of the grace to the end of the export, with room.
_EXPORT_S = 3.0

# A load is encoded in a few seconds at most; its events are of the window that begins after that.
_ENCODING_S = 3.0


def collect(plan: Plan, samples: Samples) -> None:
    """Fill a window, let it close, and keep the longest gap from then on."""
    for name, load in _LOADS.items():
        case = f"{PREFIX}{name}"
        wanted = plan.wants_any((f"{case}.wall_ms", f"{case}.cpu_ms", f"{case}.peak_mib"))
        if not wanted or (plan.quick and name not in _QUICK):
            continue
        try:
            gaps, peak_mib = _run(load, state=name in _STORED)
        except MeasurementError as error:
            samples.errors.append(f"{case}: {error}")
            continue
        samples.add(f"{case}.wall_ms", max((gap.wall_ms for gap in gaps), default=0.0))
        samples.add(f"{case}.cpu_ms", max((gap.cpu_ms for gap in gaps), default=0.0))
        samples.add(f"{case}.peak_mib", peak_mib)


def _run(load: Load, *, state: bool) -> tuple[list[Gap], float]:
    """Return the gaps while the window closed, and the highest memory until then."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        command = ("bench.stall", str(directory / "gaps"))
        service = Service(directory, interval_s=_INTERVAL_S, grace_s=_GRACE_S, state=state, command=command)
        with service:
            window_s = (int(time.time() + _ENCODING_S) // _INTERVAL_S + 1) * _INTERVAL_S
            timed = msgspec.structs.replace(load, first_second=window_s)
            with Sender(service.socket_path, timed, directory / "expected") as sender:
                sender.send()
                sender.send()
                closing_s = window_s + _INTERVAL_S
                if time.time() > closing_s:
                    raise MeasurementError("the load took longer than a window")
                ended_s = closing_s + _GRACE_S + _EXPORT_S
                time.sleep(ended_s - time.time())
                _, peak_mib = service.read_memory_mib()
                service.finish()
                check_totals(sender.read_expected(), service.read_windows())
        gaps = msgspec.json.decode((directory / "gaps").read_bytes(), type=list[Gap])
    return [gap for gap in gaps if closing_s < gap.at_s < ended_s], peak_mib


def run_daemon(configuration_path: str, gaps_path: Path, at_end: Callable[[], None] = lambda: None) -> int:
    """Run the process until SIGTERM, with the heartbeat on its loop: the place to adapt.

    Args:
        configuration_path: the daemon's configuration.
        gaps_path: where the gaps are written to.
        at_end: called when they are.
    """
    from aiokpl_metricsd import daemon
    from aiokpl_metricsd.process import serve

    class WatchedDaemon(daemon.Daemon):
        """The daemon with a heartbeat beside it."""

        async def run(self) -> None:
            """Serve until told to stop, then write down the gaps: the process may end without coming back."""
            heartbeat = Heartbeat()
            beating = asyncio.create_task(heartbeat.run())
            try:
                await super().run()
            finally:
                beating.cancel()
                await asyncio.wait((beating,))
                _write(gaps_path, heartbeat.gaps)
                at_end()

    # Everything else, as the loop and the garbage collector's settings, is as in the real process.
    with mock.patch.object(daemon, "Daemon", WatchedDaemon):
        return serve(configuration_path)


def _write(path: Path, gaps: list[Gap]) -> None:
    path.write_bytes(msgspec.json.encode(gaps))


def main() -> None:
    """Run the watched daemon."""
    gaps_path, _, configuration_path = sys.argv[1:]
    sys.exit(run_daemon(configuration_path, Path(gaps_path)))


__all__ = ["PREFIX", "collect", "run_daemon"]

if __name__ == "__main__":
    main()
