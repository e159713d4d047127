"""Time -> closed windows. Wall time says which second it is, monotonic time how long to wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from aiokpl_metricsd.aggregating.live import LIVE_SECONDS
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.delivering.slicing import Work, run_sliced
from aiokpl_metricsd.ledger import Ledger

# How often the clock looks whether a window is due, and whether the wall clock was set.
TICK_S = 0.25


class Clock(Protocol):
    """Where time comes from. `SystemClock` in the daemon, one that is moved by hand in tests."""

    def time(self) -> float:
        """Return the wall time in epoch seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        """Return the wall time in epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait, on the running event loop."""
        await asyncio.sleep(seconds)


class WindowClock:
    """Closes windows when they are due.

    A window is due `grace_s` after its end, and closes only after a pass over the socket that began when it
    was due: what was queued in time is counted in time, even when the daemon was stopped meanwhile. None
    closes in the first `grace_s` of the daemon.

    Args:
        clock: where time comes from.
        aggregator: whose windows are closed.
        windows: the same windows.
        ledger: where clock steps are counted.
        grace_s: how long after its end a window waits for events of its own.
    """

    def __init__(
        self,
        clock: Clock,
        aggregator: Aggregator,
        windows: Windows,
        ledger: Ledger,
        *,
        grace_s: float,
    ) -> None:
        """Begin now."""
        self._clock = clock
        self._aggregator = aggregator
        self._windows = windows
        self._ledger = ledger
        self._grace_s = grace_s
        self._began = clock.monotonic()
        self._offset = clock.time() - self._began

    async def run(
        self,
        read_pass: Callable[[], Iterator[None]],
        hand_over: Callable[[list[Window], int | None], Awaitable[None]],
        is_due: Callable[[], bool] = lambda: False,
    ) -> None:
        """Close windows for ever: read what is queued, close what is due, hand it over.

        What is handed over comes with the end of the newest interval that is over, once for each interval
        even when nothing happened in it: a sink with longer windows waits for that. Cancelled in the
        midst of handing over, it does that first.

        Args:
            read_pass: reads what is queued, in slices, so that forty full lanes hold nothing else up.
            hand_over: takes what has closed, and the end of the interval; None while it goes on.
            is_due: whether to hand over, be it nothing, although no interval is over.
        """
        # An interval that ended before the daemon began is none of its own.
        handed_until = int(self._clock.time())
        while True:
            await self._clock.sleep(TICK_S)
            closed = await run_sliced(self.tick(read_pass))
            over = self._over()
            if closed or over > handed_until:
                handed_until = over
                await _complete(hand_over(closed, over))
            elif is_due():
                await _complete(hand_over([], None))

    def tick(self, read_pass: Callable[[], Iterator[None]]) -> Work[list[Window]]:
        """Close what is due now, after a pass in slices; return it, oldest first."""
        now, monotonic = self._clock.time(), self._clock.monotonic()
        step_s, self._offset = now - monotonic - self._offset, now - monotonic
        if step_s < -min(self._windows.interval_s, LIVE_SECONDS):
            self._aggregator.forget_live()
        if step_s < -self._windows.interval_s:
            # The clock was set back by more than a window. To wait until it is there again would hold
            # everything up, so the windows close, and new ones begin at the time that is now.
            yield from read_pass()
            self._ledger.clock_steps += 1
            closed = self._aggregator.close_all(now)
            self._aggregator.begin_anew(now)
            return closed
        if monotonic - self._began < self._grace_s:
            return []
        next_end = self._windows.next_end()
        if next_end is None or next_end + self._grace_s > now:
            return []
        yield from read_pass()
        return self._aggregator.close_due(now, self._grace_s)

    def _over(self) -> int:
        """Return the end of the newest interval whose grace is over."""
        settled = int(self._clock.time() - self._grace_s)
        return settled - settled % self._windows.interval_s


async def _complete(work: Awaitable[None]) -> None:
    """Await work to its end, even when cancelled: what is closed is nowhere else."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


__all__ = ["TICK_S", "Clock", "SystemClock", "WindowClock"]
