"""Closed windows -> sinks. A slow, failing or hanging sink costs only itself.

The way of a window: the intake, one task, makes of the windows that close together what each sink is to see
(`route`, `selection`, `interval`), in slices, and has the outbox store it, with the checkpoint and each
sink's ledger, in one transaction. Then each sink's `worker`, a task of its own with a queue (`window_queue`),
sends it. `consignment` says what follows from each answer; `marks` stores it; `sink_ledger` holds the
account. This is the only loop that retries, bisects or quarantines; sinks make one attempt.

Without an outbox all is in memory: what waits when the process ends is lost, and said. While the outbox
cannot be written windows wait in memory as well, and are stored with the next ones.
"""

import asyncio
import logging
import random as random_module
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING

from aiokpl_metricsd.delivering.deadline import Sleep, wait_done
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.removed import RemovedSink
from aiokpl_metricsd.delivering.route import Batches, Prepared, Route, Window
from aiokpl_metricsd.delivering.settings import SinkSettings, Surroundings, build_settings
from aiokpl_metricsd.delivering.shelf import Shelf
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.worker import LEAVE_S
from aiokpl_metricsd.errors import StoreError
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import Committed, Evicted, RecoveredSink, Sealed

if TYPE_CHECKING:
    # Only for its type: without an outbox no database is loaded.
    from aiokpl_metricsd.outbox import Outbox

# Windows that wait for the intake, which only computes: more than one is already a sign of a starved event
# loop.
MAX_UNSELECTED_WINDOWS = 60

# Of a shutdown's time, what is kept for leaving the sinks: half of it, a second at most.
LEAVE_RESERVE_S = 1.0

# How long a closing waits for an attempt to end whose window the outbox does not have, as it failed before.
_UNSTORED_S = 5.0

_LOGGER = logging.getLogger(__name__)


class _Closing:
    """Windows that closed together, on their way through the intake."""

    def __init__(
        self, windows: Sequence[Window], sealed: Sealed | None, counted: Iterable[Route] | None
    ) -> None:
        self.windows = windows
        self.sealed = sealed
        # The sinks that have counted the windows as waiting already; None where each does so in its turn.
        self.counted = None if counted is None else [*counted]
        self.stored: asyncio.Future[bool] | None = None


class Delivery:
    """Hands every closed window to every sink.

    Args:
        settings: the sinks; their names differ.
        outbox: where windows wait, with what an earlier daemon left; None keeps all in memory.
        log: where failures are said.
        clock: monotonic seconds.
        wall_clock: epoch seconds, for the age of windows and for people.
        random: a number in `[0, 1)`.
        sleep: waits so many seconds.

    Attributes:
        unstored_windows: windows of sinks that were delivered from memory, as the outbox could not be
        written.

    Raises:
        ValueError: two sinks have one name.
    """

    def __init__(  # noqa: PLR0913 - the last five are what a test replaces, and the outbox
        self,
        settings: Sequence[SinkSettings],
        *,
        outbox: "Outbox | None" = None,
        log: logging.Logger = _LOGGER,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Build the way to each sink, which goes on where it ended; nothing runs yet."""
        if len({each.name for each in settings}) != len(settings):
            raise ValueError("two sinks have one name")
        self.unstored_windows = 0
        self._outbox = outbox
        self._log = log
        self._around = Surroundings(clock=clock, wall_clock=wall_clock, random=random, sleep=sleep)
        self._routes = {each.name: self._build_route(each) for each in settings}
        self._removed: dict[str, RemovedSink] = {}
        self._waiting: deque[_Closing] = deque()
        self._arrived = asyncio.Event()
        # Held while a closing goes through, and while a sink comes or goes.
        self._turn = asyncio.Lock()
        self._intake: asyncio.Task[None] | None = None
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False
        # The last checkpoint could not be stored: windows and parts of longer ones are here that none covers.
        self._is_uncovered = False
        recovered: Mapping[str, RecoveredSink] = {} if outbox is None else outbox.recovered.sinks
        for name, found in recovered.items():
            if name in self._routes:
                self._routes[name].recover(found)
            else:
                self._removed[name] = RemovedSink(found, self._build_log(name), wall_clock())

    @property
    def ledgers(self) -> Mapping[str, SinkLedger]:
        """The account of each sink, by its name, also of removed ones whose windows wait; live."""
        ledgers = {name: route.ledger for name, route in self._routes.items()}
        return MappingProxyType({**{name: gone.ledger for name, gone in self._removed.items()}, **ledgers})

    @property
    def queue_windows(self) -> Mapping[str, int]:
        """The windows that are not wholly delivered, by the sink's name; of the same sinks as `ledgers`."""
        counts = {name: route.window_count for name, route in self._routes.items()}
        return {**{name: gone.window_count for name, gone in self._removed.items()}, **counts}

    @property
    def removed_sinks(self) -> Sequence[str]:
        """The names of sinks that are not configured any more, and whose windows wait until they expire."""
        return tuple(self._removed)

    async def start(self) -> None:
        """Start a worker for each sink and return; each enters its sink in its own time."""
        for route in self._routes.values():
            self._start_worker(route)
        self._intake = asyncio.create_task(self._take_in(), name="select windows")
        self._intake.add_done_callback(self._report_end)
        if self._removed:
            fields = {"sinks": {name: gone.window_count for name, gone in self._removed.items()}}
            self._log.warning("windows wait for sinks that are not configured", extra={"fields": fields})
        await self._note_sinks()

    def offer_nowait(self, window: Sequence[MetricSnapshot], *, window_end: float = 0.0) -> None:
        """Take a closed window for every sink; never blocks.

        Args:
            window: its snapshots; must not be changed afterwards. Sinks share it.
            window_end: its end in epoch seconds. Needed for a window without snapshots alone, which completes
                the longer window of a sink all the same.
        """
        closing = self._count([(window, window_end)], None)
        if self._is_closing:
            self._forget(closing, DropReason.SHUTDOWN)
            return
        self._waiting.append(closing)
        counted = [each for each in self._waiting if each.counted is not None]
        if len(counted) > MAX_UNSELECTED_WINDOWS:
            self._waiting.remove(counted[0])
            self._forget(counted[0], DropReason.QUEUE_FULL)
        self._arrived.set()

    async def hand_over(
        self, windows: Sequence[tuple[Sequence[MetricSnapshot], float]], sealed: Sealed | None
    ) -> bool:
        """Take windows that closed together, for every sink, and wait until they are stored.

        To be called between `start` and `close`, one call at a time. If the call is cancelled it is done all
        the same.

        Args:
            windows: snapshots and the window's end in epoch seconds, oldest first. Windows without snapshots
                complete the longer window of a sink. Nothing of it must be changed afterwards.
            sealed: the checkpoint, stored in the same transaction.

        Returns:
            Whether all is stored. If not, the windows are delivered from memory, and the checkpoint is not
            taken: what it covers must be kept. Without an outbox there is nothing to be stored: true.
        """
        if self._is_closing:
            if self._outbox is None:
                self._forget(self._count(windows, sealed), DropReason.SHUTDOWN)
            return False
        closing = _Closing(windows, sealed, None)
        closing.stored = asyncio.get_running_loop().create_future()
        self._waiting.append(closing)
        self._arrived.set()
        return await closing.stored

    async def add(self, settings: SinkSettings) -> None:
        """Start one more sink, with the next closing, and with the windows that still wait for its name.

        Raises:
            ValueError: there is a sink of this name.
        """
        async with self._turn:
            if settings.name in self._routes:
                raise ValueError(f"there is a sink {settings.name!r} already")
            route = self._build_route(settings)
            gone = self._removed.pop(settings.name, None)
            if gone is not None:
                route.recover(gone.describe())
            self._routes[settings.name] = route
            if self._intake is not None:
                self._start_worker(route)
        await self._note_sinks()

    async def remove(self, name: str, *, timeout_s: float = LEAVE_S) -> None:
        """Leave a sink. In the outbox its windows stay until they expire; in memory they are dropped.

        Args:
            name: the sink's.
            timeout_s: how long the attempt under way may still take.

        Raises:
            KeyError: there is no such sink.
        """
        route = self._routes[name]
        async with self._turn:
            route.is_removed = True
            await self._store([(route, await route.flush())], None)
        await self._stop_worker(route, timeout_s)
        async with self._turn:
            route.abandon(DropReason.REMOVED)
            del self._routes[name]
            if self._outbox is not None:
                gone = RemovedSink(route.describe(), route.log, self._around.wall_clock())
                await route.marks.store_account(gone.build_account().state)
                self._removed[name] = gone
        await self._note_sinks()

    async def replace(self, settings: SinkSettings, *, timeout_s: float = LEAVE_S) -> None:
        """Leave a sink and go on with another one of the same name, which gets what waits.

        Args:
            settings: the new ones, with a sink that was not entered.
            timeout_s: how long the old sink's attempt under way may still take.

        Raises:
            KeyError: there is no such sink.
        """
        route = self._routes[settings.name]
        await self._stop_worker(route, timeout_s)
        async with self._turn:
            route.renew(settings)
            if self._intake is not None:
                self._start_worker(route)
        await self._note_sinks()

    async def close(self, timeout_s: float) -> None:
        """Deliver what waits and leave every sink, within the timeout.

        What is left then stays in the outbox; without one it is dropped, one log line a sink. A sink in
        backoff is tried once more, at once. The last `LEAVE_RESERVE_S` are kept for leaving the sinks. What
        was on its way when the time was over counts as not delivered, although the backend may have taken it.
        """
        if self._is_closing:
            return
        self._is_closing = True
        clock, sleep = self._around.clock, self._around.sleep
        deadline = clock() + timeout_s
        deliver_until = deadline - min(LEAVE_RESERVE_S, timeout_s / 2)
        for route in self._routes.values():
            route.worker.hurry(deliver_until)
        self._arrived.set()
        tasks = [*self._workers.values()] if self._intake is None else [self._intake, *self._workers.values()]
        try:
            await wait_done(tasks, deliver_until - clock(), sleep)
            for name, task in self._workers.items():
                if not self._routes[name].worker.is_leaving:
                    task.cancel()
            if self._intake is not None:
                self._intake.cancel()
            await wait_done(tasks, deadline - clock(), sleep)
        finally:
            for task in tasks:
                task.cancel()
            self._abandon()
        # The cancelled ones run once more, to end.
        await asyncio.sleep(0)
        if self._outbox is not None:
            storing = asyncio.ensure_future(self._store_accounts(self._routes.values()))
            await wait_done([storing], deadline - clock(), sleep)

    def _abandon(self) -> None:
        """Drop what is not delivered, and not in the outbox either."""
        for closing in self._waiting:
            if closing.stored is not None and not closing.stored.done():
                closing.stored.set_result(False)
        for route in self._routes.values():
            route.abandon(DropReason.SHUTDOWN)

    async def _take_in(self) -> None:
        """Make of each closing what each sink sees, have it stored, and hand it to the workers."""
        while True:
            while self._waiting:
                closing = self._waiting.popleft()
                is_stored = await self._close_windows(closing)
                if closing.stored is not None and not closing.stored.done():
                    closing.stored.set_result(is_stored)
                # Not to be held until the next one comes.
                del closing
            if self._is_closing:
                break
            self._arrived.clear()
            await self._arrived.wait()
        async with self._turn:
            await self._store([(route, await route.flush()) for route in self._routes.values()], None)
        for route in self._routes.values():
            route.worker.end()

    async def _close_windows(self, closing: _Closing) -> bool:
        async with self._turn:
            await self._expire_removed()
            ready: list[tuple[Route, Prepared]] = []
            for route in self._routes.values():
                is_counted = closing.counted is not None
                # One that came after the windows does not know them.
                if not route.is_removed and (closing.counted is None or route in closing.counted):
                    ready.append((route, await route.prepare(closing.windows, is_counted=is_counted)))
            counted_windows = 0 if closing.counted is None else len(closing.windows)
            for route in closing.counted or ():
                if route.is_removed:
                    self._forget_counted(route, closing, DropReason.REMOVED)
            return await self._store(ready, closing.sealed, counted_windows)

    async def _store(
        self, ready: Sequence[tuple[Route, Prepared]], sealed: Sealed | None, counted_windows: int = 0
    ) -> bool:
        """Let a closing count, store it, and release its windows, from memory where they cannot be stored."""
        shelf = Shelf()
        known: Batches = {}
        async with AsyncExitStack() as turns:
            is_whole = self._outbox is None or await self._hold_unstored(turns)
            if self._outbox is not None and is_whole:
                for route in self._routes.values():
                    for waiting in route.worker.take_unstored():
                        shelf.add(route, waiting.batches, waiting)
            # From here to the transaction nothing is awaited: the stored ledgers are those of the stored
            # windows.
            for route, prepared in ready:
                route.apply(prepared, counted_windows)
                for window in prepared.windows:
                    shelf.add(route, route.cut(window, known))
            if self._outbox is None:
                shelf.release(None)
                return True
            try:
                committed = await self._commit(self._outbox, shelf, sealed, is_whole=is_whole)
            except StoreError as error:
                self.unstored_windows += sum(len(prepared.windows) for _, prepared in ready)
                fields = {"error": str(error), "windows": len(shelf.cuts)}
                self._log.error("windows cannot be stored, and wait in memory", extra={"fields": fields})
                shelf.release(None)
                return False
            shelf.release(committed)
        await self._drop_evicted(committed.evicted)
        return True

    async def _hold_unstored(self, turns: AsyncExitStack) -> bool:
        """Keep what is in memory alone from being sent. Return whether none of it is on its way.

        What a checkpoint covers is replayed no more: what is on its way then would be nowhere, after a crash.
        """
        try:
            async with asyncio.timeout(_UNSTORED_S):
                for route in self._routes.values():
                    await turns.enter_async_context(route.worker.unstored_turn)
        except TimeoutError:
            return False
        return True

    async def _commit(
        self, outbox: "Outbox", shelf: Shelf, sealed: Sealed | None, *, is_whole: bool
    ) -> Committed:
        if not is_whole:
            self._is_uncovered = self._is_uncovered or sealed is not None
            raise StoreError("a window that could not be stored before is on its way to its backend")
        if self._is_uncovered and sealed is None:
            # A crash would have what is stored, and replay its events as well.
            raise StoreError("a checkpoint could not be stored before, and its windows wait for the next one")
        merged = [route for route in self._routes.values() if route.has_merged]
        # Until it is stored.
        self._is_uncovered = sealed is not None
        committed = await outbox.commit(
            sealed,
            shelf.cuts,
            {name: route.marks.build_account() for name, route in self._routes.items()},
            {route.settings.name: route.dump_merging() for route in merged},
        )
        self._is_uncovered = False
        for route in merged:
            route.has_merged = False
        return committed

    async def _drop_evicted(self, evicted: Sequence[Evicted]) -> None:
        """Count the windows that went to make room."""
        for each in evicted:
            route, gone = self._routes.get(each.sink), self._removed.get(each.sink)
            if route is not None:
                route.worker.evict(each.number)
            elif gone is not None:
                gone.evict(each.number)
        names = {each.sink for each in evicted} & self._routes.keys()
        await self._store_accounts([self._routes[name] for name in names])

    async def _store_accounts(self, routes: Iterable[Route]) -> None:
        for route in routes:
            await route.marks.store_account()

    async def _expire_removed(self) -> None:
        """Let windows of removed sinks go that are too old, and then the sinks themselves."""
        for name, gone in [*self._removed.items()]:
            numbers = gone.expire(self._around.wall_clock())
            if self._outbox is None or not (numbers or gone.is_empty):
                continue
            try:
                if numbers:
                    await self._outbox.discard(name, numbers, gone.build_account())
                if gone.is_empty:
                    await self._outbox.forget_sink(name)
                    del self._removed[name]
            except StoreError as error:
                self._build_log(name).fail("letting windows go", error)

    async def _note_sinks(self) -> None:
        if self._outbox is None:
            return
        names = {name: route.settings.max_age_s for name, route in self._routes.items()}
        try:
            await self._outbox.note_sinks(names, self._around.wall_clock())
        except StoreError as error:
            self._log.warning("the sinks' names cannot be stored", extra={"fields": {"error": str(error)}})

    def _count(self, windows: Sequence[Window], sealed: Sealed | None) -> _Closing:
        """Let windows count as waiting, at once."""
        routes = [route for route in self._routes.values() if not route.is_removed]
        for route in routes:
            for window, _ in windows:
                route.count(len(window))
        return _Closing(windows, sealed, routes)

    def _forget(self, closing: _Closing, reason: DropReason) -> None:
        for route in closing.counted or ():
            self._forget_counted(route, closing, reason)

    def _forget_counted(self, route: Route, closing: _Closing, reason: DropReason) -> None:
        for window, _ in closing.windows:
            route.unselected_windows -= 1
            route.forget(window, reason)

    def _build_route(self, settings: SinkSettings) -> Route:
        return Route(settings, self._around, self._build_log(settings.name), self._outbox)

    def _build_log(self, name: str) -> DeliveryLog:
        return DeliveryLog(name, self._log, self._around.clock)

    def _start_worker(self, route: Route) -> None:
        name = route.settings.name
        task = asyncio.create_task(route.worker.run(), name=f"deliver to {name}")
        task.add_done_callback(self._report_end)
        self._workers[name] = task

    async def _stop_worker(self, route: Route, timeout_s: float) -> None:
        """Let the attempt under way end, and leave the sink."""
        route.worker.stop()
        task = self._workers.pop(route.settings.name, None)
        if task is None:
            return
        await wait_done([task], timeout_s, self._around.sleep)
        task.cancel()
        await wait_done([task], LEAVE_S, self._around.sleep)

    def _report_end(self, task: asyncio.Task[None]) -> None:
        """Say when a task ended by an error, which none should."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            fields = {"task": task.get_name()}
            self._log.critical("a task of the delivery ended", extra={"fields": fields}, exc_info=error)


__all__ = ["LEAVE_RESERVE_S", "MAX_UNSELECTED_WINDOWS", "Delivery", "SinkSettings", "build_settings"]
