"""Windows that closed together -> what each sink is to see, stored, and released to its worker.

One closing at a time. What each sink sees is made in slices (`route`, `selection`, `interval`); then, in one
step, the ledgers count it, and one transaction stores it with the checkpoint and the ledgers. Only then do
the workers see it. While the outbox cannot be written windows wait in memory, and are stored with the next
ones.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiokpl_metricsd.delivering.removed import RemovedSink
from aiokpl_metricsd.delivering.route import Batches, Prepared, Route, Window
from aiokpl_metricsd.delivering.shelf import Shelf
from aiokpl_metricsd.delivering.sink_ledger import DropReason
from aiokpl_metricsd.errors import StoreError
from aiokpl_metricsd.storing.stored import Committed, Evicted, Sealed

if TYPE_CHECKING:
    # Only for its type: without an outbox no database is loaded.
    from aiokpl_metricsd.outbox import Outbox

# Closings that wait; more is a fault of whoever hands over without waiting. The intake only computes.
MAX_CLOSINGS = 64

# How long a closing waits for an attempt to end whose window the outbox does not have, as it failed before.
_UNSTORED_S = 5.0


class _Closing:
    """Windows that closed together, on their way through the intake."""

    def __init__(self, windows: Sequence[Window], sealed: Sealed | None) -> None:
        self.windows = windows
        self.sealed = sealed
        self.stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Intake:
    """Takes the closings of one delivery.

    Args:
        routes: the ways to the sinks, by name; live, and to be changed while holding `turn`.
        removed: sinks that are gone and whose windows wait; likewise.
        outbox: None keeps all in memory.
        wall_clock: epoch seconds.
        log: where failures are said.

    Attributes:
        turn: held while a closing goes through, and while a sink comes or goes.
        unstored_windows: windows of sinks that were delivered from memory, as the outbox could not be
            written.
        brings_again: set at the daemon's end: whether the journal brings again what cannot be stored. It is
            not sent from memory then, or each restart would double it.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        removed: MutableMapping[str, RemovedSink],
        outbox: "Outbox | None",
        wall_clock: Callable[[], float],
        log: logging.Logger,
    ) -> None:
        """Take nothing yet."""
        self.turn = asyncio.Lock()
        self.unstored_windows = 0
        self.brings_again: Callable[[], bool] | None = None
        self._routes = routes
        self._removed = removed
        self._outbox = outbox
        self._wall_clock = wall_clock
        self._log = log
        self._waiting: deque[_Closing] = deque()
        self._arrived = asyncio.Event()
        self._has_ended = False
        # The last checkpoint could not be stored: windows and parts of longer ones are here that none covers.
        self._is_uncovered = False

    def put(self, windows: Sequence[Window], sealed: Sealed | None) -> "asyncio.Future[bool]":
        """Let a closing wait for its turn; the answer is whether it was stored.

        Raises:
            RuntimeError: too many wait.
        """
        if len(self._waiting) >= MAX_CLOSINGS:
            raise RuntimeError(
                "too many windows are handed over at once: wait for what was handed over before"
            )
        closing = _Closing(windows, sealed)
        self._waiting.append(closing)
        self._arrived.set()
        return closing.stored

    def end(self) -> None:
        """Let `run` end when nothing waits any more: nothing further comes."""
        self._has_ended = True
        self._arrived.set()

    def abandon(self) -> None:
        """Drop what did not get its turn, after `run` has ended. With an outbox it comes from the journal."""
        waiting, self._waiting = self._waiting, deque()
        for closing in waiting:
            if not closing.stored.done():
                closing.stored.set_result(False)
            if self._outbox is None:
                self.refuse(closing.windows)

    def refuse(self, windows: Iterable[Window]) -> None:
        """Count windows as dropped for which there is no time left."""
        for route in self._routes.values():
            for window, _ in windows:
                route.refuse(window, DropReason.SHUTDOWN)

    async def run(self) -> None:
        """Take what comes until `end`, then release what is held for longer windows."""
        while True:
            while self._waiting:
                closing = self._waiting[0]
                try:
                    is_stored = await self._close_windows(closing)
                except Exception as fault:
                    # A fault of ours. Whoever waits must know, or no window would close any more.
                    if not closing.stored.done():
                        closing.stored.set_exception(fault)
                    raise
                # Not sooner: what is interrupted was not taken.
                self._waiting.popleft()
                if not closing.stored.done():
                    closing.stored.set_result(is_stored)
                # Not to be held until the next one comes.
                del closing
            if self._has_ended:
                break
            self._arrived.clear()
            await self._arrived.wait()
        async with self.turn:
            await self.store([(route, await route.flush()) for route in self._routes.values()], None)

    async def store(self, ready: Sequence[tuple[Route, Prepared]], sealed: Sealed | None) -> bool:
        """Let a closing count, store it, and release its windows, from memory where they cannot be stored.

        To be called while holding `turn`. Returns whether it is stored.
        """
        shelf = Shelf()
        known: Batches = {}
        async with AsyncExitStack() as turns:
            is_whole = self._outbox is None or await self._hold_unstored(turns)
            states = await self._dump_owed() if is_whole else None
            if self._outbox is not None and is_whole:
                for route in self._routes.values():
                    for waiting in route.worker.take_unstored():
                        shelf.add(route, waiting.batches, waiting)
            # From here to the transaction nothing is awaited: the stored ledgers are those of the stored
            # windows.
            for route, prepared in ready:
                route.apply(prepared)
                for window in prepared.windows:
                    shelf.add(route, route.cut(window, known))
            if self._outbox is None:
                shelf.release(None)
                return True
            try:
                committed = await self._commit(self._outbox, shelf, sealed, states)
            except StoreError as error:
                is_held = states is not None
                if is_held and self.brings_again is not None and self.brings_again():
                    self._leave(ready, shelf, error)
                else:
                    self._release_unstored(ready, shelf, error)
                return False
            shelf.release(committed)
        await self._drop_evicted(committed.evicted)
        return True

    async def _close_windows(self, closing: _Closing) -> bool:
        async with self.turn:
            await self._expire_removed()
            ready = [
                (route, await route.prepare(closing.windows))
                for route in [*self._routes.values()]
                if not route.is_removed
            ]
            return await self.store(ready, closing.sealed)

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

    async def _dump_owed(self) -> dict[str, bytes | None]:
        """Return what those sinks remember that took what no checkpoint covers. No export is under way."""
        owing = {name: route.marks for name, route in self._routes.items() if route.marks.owes_state}
        return {name: await marks.dump_state() for name, marks in owing.items()}

    async def _commit(
        self, outbox: "Outbox", shelf: Shelf, sealed: Sealed | None, states: Mapping[str, bytes | None] | None
    ) -> Committed:
        if states is None:
            self._is_uncovered = self._is_uncovered or sealed is not None
            raise StoreError("a window that could not be stored before is on its way to its backend")
        if self._is_uncovered and sealed is None:
            # A crash would have what is stored, and replay its events as well.
            raise StoreError("a checkpoint could not be stored before, and its windows wait for the next one")
        merged = [route for route in self._routes.values() if route.has_merged]
        # Until it is stored.
        self._is_uncovered = sealed is not None
        accounts = {
            name: route.marks.build_account(states[name]) if name in states else route.marks.build_ledger()
            for name, route in self._routes.items()
        }
        committed = await outbox.commit(
            sealed,
            shelf.cuts,
            accounts,
            {route.settings.name: route.dump_merging() for route in merged},
        )
        self._is_uncovered = False
        for route in merged:
            route.has_merged = False
        for name in states:
            self._routes[name].marks.note_stored(accounts[name])
        return committed

    def _release_unstored(
        self, ready: Sequence[tuple[Route, Prepared]], shelf: Shelf, error: StoreError
    ) -> None:
        """Let windows wait in memory."""
        self.unstored_windows += sum(len(prepared.windows) for _, prepared in ready)
        fields = {"error": str(error), "windows": len(shelf.cuts)}
        self._log.error("windows cannot be stored, and wait in memory", extra={"fields": fields})
        if self.brings_again is not None:
            # What the journal has of them comes again.
            for route, prepared in ready:
                route.doubt(sum(map(len, prepared.windows)))
        shelf.release(None)

    def _leave(self, ready: Sequence[tuple[Route, Prepared]], shelf: Shelf, error: StoreError) -> None:
        """Leave to the journal what the outbox does not have, as if it had not closed yet."""
        for route, prepared in ready:
            route.ledger.subtract(prepared.change)
        for route, waiting in shelf.waiting:
            if waiting.is_unstored:
                route.ledger.uncount(waiting.discard())
            else:
                # It was evicted: nobody else has it.
                route.worker.return_unstored(waiting)
        fields = {"error": str(error), "windows": len(shelf.cuts)}
        message = "windows cannot be stored, and are not sent: the next daemon counts on from its journal"
        self._log.error(message, extra={"fields": fields})

    async def _drop_evicted(self, evicted: Sequence[Evicted]) -> None:
        """Count the windows that went to make room."""
        for each in evicted:
            route, gone = self._routes.get(each.sink), self._removed.get(each.sink)
            if route is not None:
                route.worker.evict(each.number)
            elif gone is not None:
                gone.evict(each.number)
        for name in {each.sink for each in evicted} & self._routes.keys():
            await self._routes[name].marks.store_account()

    async def _expire_removed(self) -> None:
        """Let windows of removed sinks go that are too old, and then the sinks themselves."""
        for name, gone in [*self._removed.items()]:
            numbers = gone.expire(self._wall_clock())
            if self._outbox is None or not (numbers or gone.is_empty):
                continue
            try:
                if numbers:
                    await self._outbox.discard(name, numbers, gone.build_account())
                if gone.is_empty:
                    await self._outbox.forget_sink(name)
                    del self._removed[name]
            except StoreError as error:
                gone.log.fail("letting windows go", error)


__all__ = ["MAX_CLOSINGS", "Intake"]
