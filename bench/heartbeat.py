"""A heartbeat on an event loop: what comes late says how long the loop served nobody.

A heartbeat that is late by wall time may have waited for the machine; the CPU time that the loop's thread
used between two heartbeats says what the process itself did. It runs inside the daemon, so it imports next
to nothing.
"""

import asyncio
import time

import msgspec

_BEAT_S = 0.001
# Shorter gaps are what any turn of the loop takes.
_WORTH_KEEPING_S = 0.002


class Gap(msgspec.Struct, frozen=True):
    """A late heartbeat: when it came (epoch seconds), and how late it was by either clock."""

    at_s: float
    wall_ms: float
    cpu_ms: float


class Heartbeat:
    """Wakes every millisecond.

    Attributes:
        gaps: the late ones.
        count: all of them.
    """

    def __init__(self) -> None:
        """Count nothing yet."""
        self.gaps: list[Gap] = []
        self.count = 0

    async def run(self) -> None:
        """Wake and keep the gaps, until cancelled."""
        wall_s, cpu_s = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(_BEAT_S)
            late_s = time.monotonic() - wall_s - _BEAT_S
            used_s = time.thread_time() - cpu_s
            if late_s > _WORTH_KEEPING_S or used_s > _WORTH_KEEPING_S:
                self.gaps.append(Gap(time.time(), late_s * 1e3, used_s * 1e3))
            self.count += 1
            wall_s, cpu_s = time.monotonic(), time.thread_time()


__all__ = ["Gap", "Heartbeat"]
