"""Waiting windows -> one sink, one attempt at a time, until each is delivered or counted otherwise.

What one attempt can end with, and what follows:

* it returns: delivered.
* `RetryableExportError`, any other exception, or no answer within `timeout_s`: the same batch after a backoff
  (base 1 s, cap 60 s, full jitter), or after `retry_after_s` where the backend gave one. The backoff is the
  sink's, not the window's, and ends with the first success.
* `PartialExportError`: what remains goes again, at once where some were taken; what was rejected is
  quarantined.
* `PermanentExportError`: bisected. `consignment` has the rule, and how a backend that refuses everything is
  told from data that is poison.

After each failure the window waits among the others again, and the next to be sent is chosen anew: by age
where the sink is `ordered`, which a window that is refused then holds up until the bound drops it, and
otherwise the newest first.

A sink that blocks the event loop in synchronous code stops everything, this loop and every limit included:
that cannot be helped from here.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec import Struct

from aiokpl_metricsd.delivering.backoff import Backoff
from aiokpl_metricsd.delivering.consignment import Batch, Consignment, Effect
from aiokpl_metricsd.delivering.deadline import Sleep, must_escape, run_limited, try_once, wait_event
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog, describe_error
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.window_queue import WindowQueue
from aiokpl_metricsd.errors import ExportError, PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot

# How long a sink may take to close. A shutdown may grant less.
LEAVE_S = 5.0


class SinkSettings(Struct, frozen=True, kw_only=True):
    """How one sink is served.

    Attributes:
        name: the sink's, unique.
        sink: makes one attempt at each call of `export`.
        selection: what it sees.
        timeout_s: the limit of one attempt, and of entering the sink.
        max_windows: how many windows may wait; past it the oldest is dropped.
        max_snapshots: how many snapshots may wait in all; past it the oldest window is dropped. A million are
            about 220 MB, shared between sinks that see the same.
        max_age_s: how old a window may become, from its end; None for any age.
        catch_up_s: at least so long between two windows of the backlog; unordered sinks only.
    """

    name: str
    sink: MetricsSink
    selection: Selection
    timeout_s: float = 30.0
    max_windows: int = 60
    max_snapshots: int = 1_000_000
    max_age_s: float | None = None
    catch_up_s: float = 1.0


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a test replaces.

    Attributes:
        clock: monotonic seconds.
        wall_clock: epoch seconds.
        random: a number in `[0, 1)`.
        sleep: waits so many seconds.
    """

    clock: Callable[[], float]
    wall_clock: Callable[[], float]
    random: Callable[[], float]
    sleep: Sleep


class Worker:
    """Serves one sink: enters it, delivers to it, leaves it, all in one task.

    Attributes:
        is_leaving: nothing more is delivered; the sink is being left, or was.
    """

    def __init__(
        self, settings: SinkSettings, ledger: SinkLedger, around: Surroundings, log: DeliveryLog
    ) -> None:
        """Start with nothing to deliver. `run` is to be called once."""
        self.is_leaving = False
        self._settings = settings
        self._sink = settings.sink
        self._ledger = ledger
        self._around = around
        self._log = log
        self._adds = getattr(settings.sink, "repeat_rule", RepeatRule.ADDS) == RepeatRule.ADDS
        self._queue = WindowQueue(
            ordered=bool(getattr(settings.sink, "ordered", False)),
            max_windows=settings.max_windows,
            max_snapshots=settings.max_snapshots,
            catch_up_s=settings.catch_up_s,
        )
        self._backoff = Backoff(around.random)
        self._current: Consignment | None = None
        self._number = 0
        self._changed = asyncio.Event()
        self._hurried = asyncio.Event()
        self._until: float | None = None
        self._has_ended = False
        self._gave_up = False

    @property
    def window_count(self) -> int:
        """Windows that are not wholly delivered, the one on its way included."""
        return len(self._queue) + (self._current is not None)

    def offer_nowait(self, window: Sequence[MetricSnapshot]) -> None:
        """Let a window wait for delivery. Its snapshots are in the ledger as waiting."""
        if window:
            self._number += 1
            end = window[0].window_end
            self._put(Consignment(self._number, [window], self._around.random, window_end=end))

    def hurry(self, until: float) -> None:
        """End the backoff, hold nothing back, and begin no attempt after `until`."""
        self._until = until
        # Of an attempt under way, too: should it fail, the next wait is a short one.
        self._backoff.reset()
        self._hurried.set()
        self._changed.set()

    def end(self) -> None:
        """Let `run` end when nothing waits any more: no further window comes."""
        self._has_ended = True
        self._changed.set()

    async def run(self) -> None:
        """Enter the sink, deliver, leave the sink."""
        if not await self._enter():
            return
        cause: BaseException | None = None
        try:
            await self._serve()
        except BaseException as error:
            cause = error
            raise
        finally:
            self.is_leaving = True
            await self._leave(cause)

    async def _enter(self) -> bool:
        """Enter the sink, however many attempts it takes.

        Return False when there is no time left to try, or nothing left to try for.
        """
        while not self._gave_up:
            try:
                await run_limited(self._sink.__aenter__(), self._settings.timeout_s, self._around.sleep)
            except BaseException as error:
                task = asyncio.current_task()
                if must_escape(error) or (task is not None and task.cancelling()):
                    raise
                self._ledger.last_error = describe_error(error)
                self._log.fail("entering the sink", error)
            else:
                self._backoff.reset()
                return True
            if self._has_ended and not self._queue:
                break
            await self._pause(self._backoff.next_s())
        return False

    async def _leave(self, cause: BaseException | None) -> None:
        traceback = None if cause is None else cause.__traceback__
        leaving = self._sink.__aexit__(None if cause is None else type(cause), cause, traceback)
        try:
            await run_limited(leaving, LEAVE_S, self._around.sleep)
        except BaseException as error:
            if must_escape(error):
                raise
            self._log.fail("leaving the sink", error)

    async def _serve(self) -> None:
        while (consignment := await self._next()) is not None:
            self._current = consignment
            try:
                delay_s = await self._deliver(consignment)
            except Exception as fault:  # noqa: BLE001 - what a sink raised is dealt with; this would be our own
                self._log.fault("delivery", fault)
                delay_s = self._backoff.next_s()
            self._current = None
            if consignment.remaining_count:
                consignment.failures += 1
                self._put(consignment)
            if delay_s is not None:
                await self._pause(delay_s)

    async def _next(self) -> Consignment | None:
        """Return the next window to be sent, when there is one; None when there will be none."""
        while not self._gave_up:
            self._changed.clear()
            found = self._queue.take(self._around.clock, hurry=self._until is not None)
            if isinstance(found, Consignment):
                return found
            if found is None and self._has_ended:
                return None
            await wait_event(self._changed, found, self._around.sleep)
        return None

    async def _deliver(self, consignment: Consignment) -> float | None:
        """Send the batches of a window. Return how long to wait before anything else is sent."""
        if self._expire(consignment):
            return None
        while (batch := consignment.next_batch()) is not None:
            error = await self._export(batch)
            effect = _judge(consignment, error)
            self._account(effect)
            if effect.pause:
                delay_s = self._backoff.next_s(_retry_after_s(error))
                if consignment.is_stalled:
                    self._log.stall(consignment.remaining_count, delay_s)
                return delay_s
        return None

    async def _export(self, batch: Batch) -> BaseException | None:
        ledger = self._ledger
        ledger.exports += 1
        error = await try_once(lambda: self._sink.export(batch), self._settings.timeout_s, self._around.sleep)
        if error is not None:
            ledger.failures += 1
            ledger.last_error = describe_error(error)
            if self._adds and not isinstance(error, ExportError):
                ledger.ambiguous += len(batch)
            self._log.fail("export", error, snapshots=len(batch))
        return error

    def _account(self, effect: Effect) -> None:
        if effect.delivered_count:
            self._ledger.deliver(effect.delivered_count)
            self._ledger.last_success = self._around.wall_clock()
            self._backoff.reset()
            self._queue.vouch()
        if effect.quarantined:
            self._ledger.quarantine(len(effect.quarantined))
            self._log.quarantine(effect.quarantined)

    def _expire(self, consignment: Consignment) -> bool:
        max_age_s = self._settings.max_age_s
        if max_age_s is None or consignment.window_end <= 0.0:
            return False
        age_s = self._around.wall_clock() - consignment.window_end
        if age_s <= max_age_s:
            return False
        count = consignment.discard()
        self._ledger.expire(count)
        self._log.expire(count, age_s)
        return True

    def _put(self, consignment: Consignment) -> None:
        for oldest in self._queue.put(consignment):
            count = oldest.discard()
            self._ledger.drop(count, DropReason.QUEUE_FULL)
            self._log.drop(count, 1, DropReason.QUEUE_FULL.value)
        self._changed.set()

    async def _pause(self, delay_s: float) -> None:
        """Wait; a shutdown ends the wait, once, and gives up what could only be tried after its end."""
        if self._until is None:
            await wait_event(self._hurried, delay_s, self._around.sleep)
        elif self._around.clock() + delay_s >= self._until:
            self._gave_up = True
        else:
            await self._around.sleep(delay_s)


def _judge(consignment: Consignment, error: BaseException | None) -> Effect:
    if error is None:
        return consignment.accept()
    if isinstance(error, PartialExportError):
        return consignment.split(error)
    if isinstance(error, PermanentExportError):
        return consignment.refuse()
    return Effect(pause=True)


def _retry_after_s(error: BaseException | None) -> float | None:
    return error.retry_after_s if isinstance(error, (RetryableExportError, PartialExportError)) else None


__all__ = ["LEAVE_S", "SinkSettings", "Surroundings", "Worker"]
