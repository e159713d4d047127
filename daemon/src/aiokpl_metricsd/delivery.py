"""Closed windows -> sinks. A slow, failing or hanging sink costs only itself.

The way of a window: the `intake`, one task, makes of the windows that close together what each sink is to
see, and has the outbox store it, with the checkpoint and each sink's ledger, in one transaction. Then each
sink's `worker`, a task of its own with a queue (`window_queue`), sends it. `consignment` says what follows
from each answer; `marks` stores it; `sink_ledger` holds the account. This is the only loop that retries,
bisects or quarantines; sinks make one attempt. Here is how sinks come, go and end.

Without an outbox all is in memory: what waits when the process ends is lost, and said. While the outbox
cannot be written windows wait in memory as well, and are stored with the next ones.
"""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from aiokpl_metricsd.delivering.deadline import Sleep, wait_done
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.intake import Intake
from aiokpl_metricsd.delivering.removed import RemovedSink
from aiokpl_metricsd.delivering.route import Route, Window
from aiokpl_metricsd.delivering.settings import SinkSettings, Surroundings, build_settings
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.worker import LEAVE_S
from aiokpl_metricsd.errors import StoreError
from aiokpl_metricsd.storing.stored import RecoveredSink, Sealed

if TYPE_CHECKING:
    # Only for its type: without an outbox no database is loaded.
    from aiokpl_metricsd.outbox import Outbox

# Of a shutdown's time, what is kept for leaving the sinks: half of it, a second at most.
LEAVE_RESERVE_S = 1.0

# After so long the end says what it waits for: a sidecar may have its SIGKILL two seconds after its SIGTERM
# (kubelet's minimumGracePeriodInSeconds, read 2026-11), and no last line then.
NAME_AFTER_S = 1.0

_LOGGER = logging.getLogger(__name__)


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
        self._outbox = outbox
        self._log = log
        self._around = Surroundings(clock=clock, wall_clock=wall_clock, random=random, sleep=sleep)
        self._routes = {each.name: self._build_route(each) for each in settings}
        self._removed: dict[str, RemovedSink] = {}
        self._intake = Intake(self._routes, self._removed, outbox, wall_clock, log)
        self._taking_in: asyncio.Task[None] | None = None
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False
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
    def unstored_windows(self) -> int:
        """Windows of sinks that were delivered from memory, as the outbox could not be written."""
        return self._intake.unstored_windows

    @property
    def removed_sinks(self) -> Sequence[str]:
        """The names of sinks that are not configured any more, and whose windows wait until they expire."""
        return tuple(self._removed)

    def note_backlog(self) -> None:
        """Call what waits for each sink now its backlog."""
        for route in self._routes.values():
            route.worker.note_backlog()

    def has_backlog(self, name: str) -> bool:
        """Tell whether a sink still has to take something of what waited for it at `note_backlog`."""
        route = self._routes.get(name)
        return route is not None and route.worker.has_backlog

    async def start(self) -> None:
        """Start a worker for each sink and return; each enters its sink in its own time."""
        for route in self._routes.values():
            self._start_worker(route)
        self._taking_in = asyncio.create_task(self._take_in(), name="select windows")
        self._taking_in.add_done_callback(self._report_end)
        if self._removed:
            fields = {"sinks": {name: gone.window_count for name, gone in self._removed.items()}}
            self._log.warning("windows wait for sinks that are not configured", extra={"fields": fields})
        await self._note_sinks()

    def hand_over(self, windows: Sequence[Window], sealed: Sealed | None = None) -> "asyncio.Future[bool]":
        """Take windows that closed together, for every sink; never blocks.

        Closings are stored in the order in which they come. Whoever waits for the answer may go away: it is
        done all the same.

        Args:
            windows: snapshots and the window's end in epoch seconds, oldest first. Windows without snapshots
                complete the longer window of a sink. Nothing of it must be changed afterwards.
            sealed: the checkpoint, stored in the same transaction.

        Returns:
            Done when all is stored: true. If it could not be, the windows are delivered from memory, and the
            checkpoint is not taken: what it covers must be kept. Without an outbox there is nothing to be
            stored: true. After `close` it is false, and without an outbox the windows are dropped.

        Raises:
            RuntimeError: so much was handed over, and not waited for, that it cannot be held.
        """
        if not self._is_closing:
            return self._intake.put(windows, sealed)
        if self._outbox is None:
            self._intake.refuse(windows)
        refused: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        refused.set_result(False)
        return refused

    def begin_end(self, brings_again: Callable[[], bool]) -> None:
        """Take note that the next closing is the last one.

        Args:
            brings_again: whether the journal brings all of it again that cannot be stored, which is not sent
                from memory then.
        """
        self._intake.brings_again = brings_again

    async def add(self, settings: SinkSettings) -> None:
        """Start one more sink, with the next closing, and with the windows that still wait for its name.

        Raises:
            ValueError: there is a sink of this name.
        """
        async with self._intake.turn:
            if settings.name in self._routes:
                raise ValueError(f"there is a sink {settings.name!r} already")
            route = self._build_route(settings)
            gone = self._removed.pop(settings.name, None)
            if gone is not None:
                route.recover(gone.describe())
            self._routes[settings.name] = route
            if self._taking_in is not None:
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
        # Whoever waits may go away, as the daemon ends: what has begun is done to its end.
        await asyncio.shield(self._release_held(route))
        await self._stop_worker(route, timeout_s)
        await asyncio.shield(self._give_up(route))
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
        async with self._intake.turn:
            route.renew(settings)
            if self._taking_in is not None:
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
        self._intake.end()
        tasks = [*self._workers.values()]
        if self._taking_in is not None:
            tasks.append(self._taking_in)
        try:
            await wait_done(tasks, min(NAME_AFTER_S, deliver_until - clock()), sleep)
            if clock() < deliver_until:
                self._name_waiting()
            await wait_done(tasks, deliver_until - clock(), sleep)
            for name, task in self._workers.items():
                if not self._routes[name].worker.is_leaving:
                    task.cancel()
            if self._taking_in is not None:
                self._taking_in.cancel()
            await wait_done(tasks, deadline - clock(), sleep)
        finally:
            for task in tasks:
                task.cancel()
            self._abandon()
        # The cancelled ones run once more, to end.
        await asyncio.sleep(0)
        if self._outbox is not None:
            storing = asyncio.ensure_future(self._store_accounts())
            await wait_done([storing], deadline - clock(), sleep)

    def _name_waiting(self) -> None:
        """Say which sinks the end waits for, and for how much, before it may be cut off."""
        waiting = {name: route.ledger.waiting for name, route in self._routes.items()}
        snapshots = {name: count for name, count in waiting.items() if count}
        if snapshots:
            self._log.warning("the end waits for sinks", extra={"fields": {"snapshots": snapshots}})

    def _abandon(self) -> None:
        """Drop what is not delivered, and not in the outbox either."""
        self._intake.abandon()
        for route in self._routes.values():
            route.abandon(DropReason.SHUTDOWN)

    async def _take_in(self) -> None:
        """Let the workers end when no further window comes."""
        await self._intake.run()
        for route in self._routes.values():
            route.worker.end()

    async def _store_accounts(self) -> None:
        for route in self._routes.values():
            await route.marks.store_account()

    async def _release_held(self, route: Route) -> None:
        """Give nothing more to a sink than what it holds for a longer window."""
        async with self._intake.turn:
            route.is_removed = True
            await self._intake.store([(route, await route.flush())], None)

    async def _give_up(self, route: Route) -> None:
        """Let a sink go, and leave its windows in the outbox."""
        name = route.settings.name
        async with self._intake.turn:
            route.abandon(DropReason.REMOVED)
            del self._routes[name]
            if self._outbox is not None:
                gone = RemovedSink(route.describe(), route.log, self._around.wall_clock())
                await route.marks.store_all()
                self._removed[name] = gone

    async def _note_sinks(self) -> None:
        if self._outbox is None:
            return
        names = {name: route.settings.max_age_s for name, route in self._routes.items()}
        try:
            await self._outbox.note_sinks(names, self._around.wall_clock())
        except StoreError as error:
            self._log.warning("the sinks' names cannot be stored", extra={"fields": {"error": str(error)}})

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
        task = self._workers.get(route.settings.name)
        if task is None:
            return
        await wait_done([task], timeout_s, self._around.sleep)
        task.cancel()
        await wait_done([task], LEAVE_S, self._around.sleep)
        # Not sooner: where this is cut off, `close` waits for it.
        del self._workers[route.settings.name]

    def _report_end(self, task: asyncio.Task[None]) -> None:
        """Say when a task ended by an error, which none should."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            fields = {"task": task.get_name()}
            self._log.critical("a task of the delivery ended", extra={"fields": fields}, exc_info=error)


__all__ = ["LEAVE_RESERVE_S", "Delivery", "SinkSettings", "build_settings"]
