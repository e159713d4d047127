"""How long a full lane waits between two acknowledgements, noted inside the daemon.

What a client sees is longer by the time that it waits for a processor itself, while the daemon goes on with
the others; so neither the wall's clock nor the daemon's CPU time, read by a client, say what the daemon did.

Run as `python -m bench.lane_waits GAPS WAITS --config FILE` it is the daemon of `bench.stall`; at its end it
writes the waits to WAITS as well.
"""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msgspec

from aiokpl_metricsd.receiving.lane import Lane
from bench.stall import run_daemon


class Wait(NamedTuple):
    """A wait: when it was over (epoch seconds), and how long it took by three clocks.

    `running_ms` is the wall's time without that in which the loop's thread could run and had no processor.
    """

    at_s: float
    wall_ms: float
    running_ms: float
    cpu_ms: float


class LaneWaits:
    """Notes when each lane is acknowledged, and whether it still had something queued then.

    Attributes:
        waits: those in which the lane had something queued from the beginning.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self.waits: list[Wait] = []
        self._since: dict[Lane, tuple[int, int, int]] = {}
        # CPU time, time on a run queue, and how often (sched-stats.rst of Linux, read 2026-11): of the
        # thread that makes this, which has the loop.
        self._account = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def note(self, lane: Lane) -> None:
        """Take note that a lane was acknowledged."""
        wall_ns = time.monotonic_ns()
        held_up_ns = int(os.pread(self._account, 100, 0).split()[1])
        now = (wall_ns, wall_ns - held_up_ns, time.process_time_ns())
        since = self._since.pop(lane, None)
        if since is not None:
            wall, running, cpu = ((later - earlier) / 1e6 for later, earlier in zip(now, since, strict=True))
            self.waits.append(Wait(time.time(), wall, running, cpu))
        if not lane.measure_queued().take_off(0, 0):
            self._since[lane] = now


def main() -> None:
    """Run the daemon, and note."""
    gaps_path, waits_path, _, configuration_path = sys.argv[1:]
    lane_waits = LaneWaits()
    send = Lane.send

    def send_noted(lane: Lane, message: bytes) -> int:
        trouble = send(lane, message)
        lane_waits.note(lane)
        return trouble

    def write() -> None:
        Path(waits_path).write_bytes(msgspec.json.encode(lane_waits.waits))

    with mock.patch.object(Lane, "send", send_noted):
        sys.exit(run_daemon(configuration_path, Path(gaps_path), write))


__all__ = ["LaneWaits", "Wait"]

if __name__ == "__main__":
    main()
