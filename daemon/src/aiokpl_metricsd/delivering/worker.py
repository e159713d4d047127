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
from collections.abc import Iterable, Sequence

from aiokpl_metricsd.delivering.answer import Batch, Effect, find_uncertain, read_retry_after_s
from aiokpl_metricsd.delivering.backoff import Backoff
from aiokpl_metricsd.delivering.consignment import Consignment
from aiokpl_metricsd.delivering.deadline import must_escape, run_limited, try_once, wait_event
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.marks import Marks
from aiokpl_metricsd.delivering.settings import SinkSettings, Surroundings
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.slicing import SLICE_SNAPSHOTS, let_go
from aiokpl_metricsd.delivering.window_queue import WindowQueue
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError
from aiokpl_metricsd.storing.stored import StoredWindow

# How long a sink may take to close. A shutdown may grant less.
LEAVE_S = 5.0


class Worker:
    """Serves one sink: enters it, delivers to it, leaves it, all in one task.

    Args:
        settings: the sink.
        ledger: its account.
        marks: where what became of stored windows is noted.
        around: what a test replaces.
        log: where failures are said.

    Attributes:
        is_leaving: nothing more is delivered; the sink is being left, or was.
        unstored_turn: held while something is sent that the outbox does not have, and while it is stored.
    """

    def __init__(
        self,
        settings: SinkSettings,
        ledger: SinkLedger,
        marks: Marks,
        around: Surroundings,
        log: DeliveryLog,
    ) -> None:
        """Start with nothing to deliver. `run` is to be called once."""
        self.is_leaving = False
        self.unstored_turn = asyncio.Lock()
        self._settings = settings
        self._sink = settings.sink
        self._ledger = ledger
        self._marks = marks
        self._around = around
        self._log = log
        self._queue = WindowQueue(
            ordered=settings.is_ordered,
            max_windows=settings.max_windows,
            max_snapshots=settings.max_snapshots,
            catch_up_s=settings.catch_up_s,
        )
        self._backoff = Backoff(around.random)
        self._current: Consignment | None = None
        self._attempted: list[Consignment] = []
        self._number = self._backlog_end = 0
        self._is_exporting = False
        self._changed = asyncio.Event()
        self._hurried = asyncio.Event()
        self._until: float | None = None
        self._has_ended = False
        self._gave_up = False

    @property
    def window_count(self) -> int:
        """Windows that are not wholly delivered, the one on its way included."""
        return len(self._queue) + (self._current is not None)

    @property
    def stored_count(self) -> int:
        """Snapshots without a fate that are in the outbox."""
        waiting = self._queue if self._current is None else (*self._queue, self._current)
        return sum(each.remaining_count for each in waiting if each.stored is not None)

    def note_backlog(self) -> None:
        """Call what waits now the backlog."""
        self._backlog_end = self._number

    @property
    def has_backlog(self) -> bool:
        """Whether any of what waited at `note_backlog` still waits, or is on its way."""
        end = self._backlog_end
        is_on_its_way = self._current is not None and self._current.number <= end
        return is_on_its_way or any(each.number <= end for each in self._queue)

    def offer_nowait(self, batches: Sequence[Batch], window_end: float) -> None:
        """Let a window wait in memory for delivery. Its snapshots are in the ledger as waiting."""
        if any(batches):
            number = self._next_number()
            consignment = Consignment(number, batches, self._around.random, window_end=window_end)
            self._hold_back(consignment)
            self.put(consignment)

    def offer_stored(self, window: StoredWindow, *, is_new: bool = True) -> None:
        """Let a window of the outbox wait for delivery.

        Of the parts that an earlier daemon attempted nobody knows what became: they are not sent again.

        Args:
            window: what the outbox has of it.
            is_new: it closed just now, and no earlier daemon left it.
        """
        consignment = Consignment(self._next_number(), (), self._around.random, stored=window)
        if is_new:
            self._hold_back(consignment)
        if consignment.has_done:
            self._attempted.append(consignment)
        if consignment.remaining_count:
            self.put(consignment)

    def evict(self, stored: int) -> bool:
        """Drop what the outbox does not have any more; what is on its way goes on. False: it is not here."""
        consignment = self._queue.remove(stored)
        if consignment is not None:
            count = consignment.discard()
        elif self._current is not None and self._current.stored == stored:
            count = self._current.evict()
        else:
            return False
        self._drop(count)
        return True

    def take_unstored(self) -> list[Consignment]:
        """Give those away that wait in memory alone, to be stored after all.

        To be called while holding `unstored_turn`. They are to be given back with `return_unstored`.
        """
        unstored = self._queue.take_unstored()
        if self._current is not None and self._current.is_unstored:
            # Chosen, and not sent yet: it waits for its turn.
            unstored.append(self._current)
        return unstored

    def return_unstored(self, consignment: Consignment) -> None:
        """Take one back, stored or not."""
        if consignment is not self._current:
            self.put(consignment)

    def take_all(self) -> list[Consignment]:
        """Give all away that waits, after `run` has ended."""
        waiting = self._queue.take_all()
        return waiting + [each for each in self._attempted if each not in waiting]

    def put(self, consignment: Consignment) -> None:
        """Let a window wait, a new one or one that was tried."""
        for oldest in self._queue.put(consignment):
            self._drop(oldest.discard())
        self._changed.set()

    def inherit(self, consignments: Iterable[Consignment]) -> None:
        """Take what waited for the worker before this one."""
        for consignment in consignments:
            self._number = max(self._number, consignment.number)
            if consignment.has_done:
                self._attempted.append(consignment)
            if consignment.remaining_count:
                self.put(consignment)

    def stop(self) -> None:
        """Begin no further attempt, and leave the sink."""
        self._gave_up = True
        self._hurried.set()
        self._changed.set()

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
        for consignment in self._attempted:
            await self._marks.mark(consignment)
        self._attempted.clear()
        if not await self._enter():
            return
        cause: BaseException | None = None
        try:
            await self._marks.note_entered()
            await self._serve()
        except BaseException as error:
            cause = error
            raise
        finally:
            self.is_leaving = True
            self._end_current()
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
                self._ledger.last_error = self._log.describe(error)
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
            if consignment.is_unstored or self._marks.owes_state:
                # Not while the outbox takes what it does not have: it would cover what is on its way.
                async with self.unstored_turn:
                    delay_s = await self._serve_one(consignment)
            else:
                delay_s = await self._serve_one(consignment)
            if delay_s is not None:
                await self._pause(delay_s)

    async def _serve_one(self, consignment: Consignment) -> float | None:
        """Send one window, as far as that goes, and return how long to wait before anything else is sent."""
        try:
            delay_s = await self._deliver(consignment)
        except Exception as fault:  # noqa: BLE001 - what a sink raised is dealt with; this would be our own
            self._log.fault("delivery", fault)
            delay_s = self._backoff.next_s()
        if consignment.remaining_count:
            consignment.failures += 1
            await self._marks.mark(consignment, is_back=True)
        self._current = None
        if consignment.remaining_count:
            self.put(consignment)
        return delay_s

    async def _next(self) -> Consignment | None:
        """Return the next window to be sent, when there is one; None when there will be none."""
        while not self._gave_up:
            self._changed.clear()
            await self._marks.retry()
            found = self._queue.take(self._around.clock, hurry=self._until is not None)
            if isinstance(found, Consignment):
                return found
            if found is None and self._has_ended:
                return None
            await wait_event(self._changed, found, self._around.sleep)
        return None

    async def _deliver(self, consignment: Consignment) -> float | None:
        """Send the batches of a window. Return how long to wait before anything else is sent."""
        if await self._expire(consignment):
            return None
        while not self._gave_up:
            part = consignment.next_part()
            if part is not None:
                if not await self._marks.load(consignment, part):
                    return self._backoff.next_s()
                # It may be lost, or evicted, or there after all.
                continue
            batch = consignment.next_batch()
            if batch is None:
                return None
            if not await self._may_send(consignment):
                return self._backoff.next_s()
            # In memory, and delivered, this may hold the last reference to them.
            kept = list(batch) if len(batch) > SLICE_SNAPSHOTS else []
            error = await self._export(batch)
            effect = self._judge(consignment, batch, error)
            self._account(effect)
            if consignment.has_done:
                await self._marks.mark(consignment)
            del batch
            await let_go(kept)
            if effect.pause:
                delay_s = self._backoff.next_s(read_retry_after_s(error))
                if consignment.is_stalled:
                    self._log.stall(consignment.remaining_count, delay_s)
                return delay_s
        return None

    async def _may_send(self, consignment: Consignment) -> bool:
        """Note the attempt where it matters whether there was one."""
        if self._settings.at_most_once:
            return await self._marks.attempt(consignment)
        if self._settings.adds:
            self._marks.announce(consignment)
        return True

    async def _export(self, batch: Batch) -> BaseException | None:
        ledger = self._ledger
        ledger.exports += 1
        self._is_exporting = True
        error = await try_once(lambda: self._sink.export(batch), self._settings.timeout_s, self._around.sleep)
        self._is_exporting = False
        if error is not None:
            ledger.failures += 1
            ledger.last_error = self._log.describe(error)
            self._log.fail("export", error, snapshots=len(batch))
        return error

    def _judge(self, consignment: Consignment, batch: Batch, error: BaseException | None) -> Effect:
        if error is None:
            return consignment.accept()
        if self._settings.adds:
            uncertain = find_uncertain(batch, error)
            if not self._settings.at_most_once:
                self._ledger.ambiguous += len(uncertain)
            elif uncertain:
                count = consignment.give_up(uncertain)
                self._log.give_up(count)
                if count == len(batch):
                    return Effect(pause=True)
        if isinstance(error, PartialExportError):
            return consignment.split(error)
        if isinstance(error, PermanentExportError):
            return consignment.refuse()
        return Effect(pause=True)

    def _account(self, effect: Effect) -> None:
        if effect.delivered_count:
            self._ledger.last_success = self._around.wall_clock()
            self._backoff.reset()
            self._queue.vouch()
        if effect.quarantined:
            self._log.quarantine(effect.quarantined)

    async def _expire(self, consignment: Consignment) -> bool:
        max_age_s = self._settings.max_age_s
        if max_age_s is None or consignment.window_end <= 0.0:
            return False
        age_s = self._around.wall_clock() - consignment.window_end
        if age_s <= max_age_s:
            return False
        count = consignment.remaining_count
        self._log.expire(count, age_s)
        await self._marks.discard(consignment, count)
        return True

    def _end_current(self) -> None:
        """Note what became of the window on its way, as this task was cancelled."""
        consignment, self._current = self._current, None
        if consignment is None:
            return
        batch = consignment.next_batch() if self._is_exporting else None
        if batch is not None and self._settings.at_most_once:
            self._log.give_up(consignment.give_up())
        elif batch is not None and self._settings.adds and consignment.stored is not None:
            # The backend may have taken it, and the next daemon sends it again.
            self._ledger.ambiguous += len(batch)
        self._marks.mark_at_end(consignment)
        if consignment.remaining_count:
            self.put(consignment)

    def _drop(self, count: int) -> None:
        if count:
            self._ledger.drop(count, DropReason.QUEUE_FULL)
            self._log.drop(count, 1, DropReason.QUEUE_FULL.value)

    def _hold_back(self, consignment: Consignment) -> None:
        if self._settings.hold_s:
            consignment.due_at = self._around.clock() + self._settings.hold_s

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    async def _pause(self, delay_s: float) -> None:
        """Wait; a shutdown ends the wait, once, and gives up what could only be tried after its end."""
        if self._until is None:
            await wait_event(self._hurried, delay_s, self._around.sleep)
        elif self._around.clock() + delay_s >= self._until:
            self._gave_up = True
        else:
            await self._around.sleep(delay_s)


__all__ = ["LEAVE_S", "Worker"]
