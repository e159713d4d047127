"""Closed windows -> sinks. A slow, failing or hanging sink costs only itself.

The way of a window: `offer_nowait` counts it for every sink and returns; the intake, one task, makes of it
what each sink is to see (`selection`, `interval`), in slices; the sink's `worker`, a task of its own with a
bounded queue (`window_queue`), sends it. `consignment` says what follows from each answer; `sink_ledger`
holds the account. This is the only loop that retries, bisects or quarantines; sinks make one attempt. All is
in memory: what waits when the process ends is lost, and said.
"""

import asyncio
import logging
import random as random_module
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from aiokpl_metricsd.delivering.deadline import Sleep, wait_done
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.interval import Merger
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.slicing import run_sliced
from aiokpl_metricsd.delivering.worker import SinkSettings, Surroundings, Worker
from aiokpl_metricsd.snapshot import MetricSnapshot

# Windows that wait for the intake, which only computes: more than one is already a sign of a starved event
# loop.
MAX_UNSELECTED_WINDOWS = 60

# Of a shutdown's time, what is kept for leaving the sinks: half of it, a second at most.
LEAVE_RESERVE_S = 1.0

_LOGGER = logging.getLogger(__name__)


class _Route:
    """The way to one sink."""

    def __init__(self, settings: SinkSettings, around: Surroundings, log: DeliveryLog) -> None:
        self.settings = settings
        self.log = log
        self.ledger = SinkLedger()
        self.worker = Worker(settings, self.ledger, around, log)
        self.merger = self._build_merger()
        self.unselected_windows = 0

    async def select(self, window: Sequence[MetricSnapshot], window_end: float) -> None:
        """Make of a window what the sink sees and let it wait for the worker."""
        undecided = len(window)
        try:
            selected = await run_sliced(self.settings.selection.steps(window))
            self.ledger.select(selected.filtered_count, selected.merged_count)
            undecided = len(selected.snapshots)
            if self.merger is None:
                self.worker.offer_nowait(selected.snapshots)
            else:
                merged = await run_sliced(self.merger.steps(selected.snapshots, window_end))
                self.ledger.hold(undecided, merged.merged_count)
                undecided = 0
                for longer in merged.windows:
                    self._release(longer)
        except Exception as fault:  # noqa: BLE001 - a fault in one sink's selection is no other sink's
            self.ledger.drop(undecided, DropReason.FAULT)
            self.ledger.drop_merging(DropReason.FAULT)
            self.merger = self._build_merger()
            self.log.fault("selection", fault)
        self.unselected_windows -= 1

    async def flush(self) -> None:
        """Let what is held for a longer window wait for the worker, as no more of it comes."""
        if self.merger is not None:
            self._release(await run_sliced(self.merger.flush()))
        self.worker.end()

    def forget(self, window: Sequence[MetricSnapshot], reason: DropReason) -> None:
        """Drop a window that was not selected yet."""
        self.ledger.drop(len(window), reason)
        self.log.drop(len(window), 1, reason.value)

    def abandon(self) -> None:
        """Drop all that was not delivered, and say so in one line."""
        windows = self.unselected_windows + self.worker.window_count + (self.ledger.merging > 0)
        count = self.ledger.abandon(DropReason.SHUTDOWN)
        if count:
            self.log.drop(count, windows, DropReason.SHUTDOWN.value)

    def _release(self, window: Sequence[MetricSnapshot]) -> None:
        self.ledger.release(len(window))
        self.worker.offer_nowait(window)

    def _build_merger(self) -> Merger | None:
        interval_s = self.settings.selection.interval_s
        return None if interval_s is None else Merger(interval_s)


class Delivery:
    """Hands every closed window to every sink.

    Args:
        settings: the sinks; their names differ.
        log: where failures are said.
        clock: monotonic seconds.
        wall_clock: epoch seconds, for the age of windows and for people.
        random: a number in `[0, 1)`.
        sleep: waits so many seconds.

    Raises:
        ValueError: two sinks have one name.
    """

    def __init__(
        self,
        settings: Sequence[SinkSettings],
        *,
        log: logging.Logger = _LOGGER,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Build the way to each sink; nothing runs yet."""
        if len({each.name for each in settings}) != len(settings):
            raise ValueError("two sinks have one name")
        self._clock = clock
        self._sleep = sleep
        self._log = log
        around = Surroundings(clock=clock, wall_clock=wall_clock, random=random, sleep=sleep)
        self._routes = {
            each.name: _Route(each, around, DeliveryLog(each.name, log, clock)) for each in settings
        }
        self._unselected: deque[tuple[Sequence[MetricSnapshot], float]] = deque()
        self._arrived = asyncio.Event()
        self._intake: asyncio.Task[None] | None = None
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False

    @property
    def ledgers(self) -> Mapping[str, SinkLedger]:
        """The account of each sink, by its name; live."""
        return MappingProxyType({name: route.ledger for name, route in self._routes.items()})

    @property
    def queue_windows(self) -> Mapping[str, int]:
        """The windows that are not wholly delivered, by the sink's name."""
        return {
            name: route.unselected_windows + route.worker.window_count for name, route in self._routes.items()
        }

    async def start(self) -> None:
        """Start a worker for each sink and return; each enters its sink in its own time."""
        for name, route in self._routes.items():
            task = asyncio.create_task(route.worker.run(), name=f"deliver to {name}")
            task.add_done_callback(self._report_end)
            self._workers[name] = task
        self._intake = asyncio.create_task(self._select(), name="select windows")
        self._intake.add_done_callback(self._report_end)

    def offer_nowait(self, window: Sequence[MetricSnapshot], *, window_end: float = 0.0) -> None:
        """Take a closed window for every sink; never blocks.

        Args:
            window: its snapshots; must not be changed afterwards. Sinks share it.
            window_end: its end in epoch seconds. Needed for a window without snapshots alone, which completes
                the longer window of a sink all the same.
        """
        end = window[0].window_end if window else window_end
        for route in self._routes.values():
            route.ledger.close_window(len(window))
            if self._is_closing:
                route.forget(window, DropReason.SHUTDOWN)
            else:
                route.unselected_windows += 1
        if self._is_closing:
            return
        self._unselected.append((window, end))
        if len(self._unselected) > MAX_UNSELECTED_WINDOWS:
            oldest, _ = self._unselected.popleft()
            for route in self._routes.values():
                route.unselected_windows -= 1
                route.forget(oldest, DropReason.QUEUE_FULL)
        self._arrived.set()

    async def close(self, timeout_s: float) -> None:
        """Deliver what waits and leave every sink, within the timeout; drop the rest, one log line a sink.

        A sink in backoff is tried once more, at once. The last `LEAVE_RESERVE_S` are kept for leaving the
        sinks. What was on its way when the time was over counts as dropped, although the backend may have
        taken it.
        """
        if self._is_closing:
            return
        self._is_closing = True
        deadline = self._clock() + timeout_s
        deliver_until = deadline - min(LEAVE_RESERVE_S, timeout_s / 2)
        for route in self._routes.values():
            route.worker.hurry(deliver_until)
        self._arrived.set()
        tasks = [*self._workers.values()] if self._intake is None else [self._intake, *self._workers.values()]
        try:
            await wait_done(tasks, deliver_until - self._clock(), self._sleep)
            for name, task in self._workers.items():
                if not self._routes[name].worker.is_leaving:
                    task.cancel()
            if self._intake is not None:
                self._intake.cancel()
            await wait_done(tasks, deadline - self._clock(), self._sleep)
        finally:
            for task in tasks:
                task.cancel()
            for route in self._routes.values():
                route.abandon()
        # The cancelled ones run once more, to end.
        await asyncio.sleep(0)

    async def _select(self) -> None:
        """Make of each window what each sink sees."""
        while True:
            while self._unselected:
                window, end = self._unselected.popleft()
                for route in self._routes.values():
                    await route.select(window, end)
            if self._is_closing:
                break
            self._arrived.clear()
            await self._arrived.wait()
        for route in self._routes.values():
            await route.flush()

    def _report_end(self, task: asyncio.Task[None]) -> None:
        """Say when a task ended by an error, which none should."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            fields = {"task": task.get_name()}
            self._log.critical("a task of the delivery ended", extra={"fields": fields}, exc_info=error)


__all__ = ["LEAVE_RESERVE_S", "MAX_UNSELECTED_WINDOWS", "Delivery", "SinkSettings"]
