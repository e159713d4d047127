"""What becomes of stored windows <-> the outbox, for one sink: parts come out, marks go in.

With each mark goes the sink's account: its ledger, and what the sink remembers. The ledger counts an outcome
in the same step in which its transaction is asked for, and transactions keep the order in which they are
asked for: so a stored ledger says what the stored windows say, and a stored state is that of the marks.

A mark that could not be stored is tried again before the next one. Without an outbox there is only the
ledger.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from anyio import to_thread

from aiokpl_metricsd.delivering.consignment import Consignment, Outcome
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.settings import SinkSettings
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.errors import LostPartError, StoreError
from aiokpl_metricsd.sinks.contract import RememberingSink
from aiokpl_metricsd.storing.stored import SinkAccount

if TYPE_CHECKING:
    # Only for its type: without an outbox no database is loaded.
    from aiokpl_metricsd.outbox import Outbox

# A part that could not be read so often is given up, so that it holds up nothing else. Once more than once
# for one that is not there: it may have been evicted, which is told a moment later.
MAX_LOAD_FAILURES = 10
MAX_LOST_FAILURES = 2

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SinkLedger)


class Marks:
    """The marks of one sink.

    Args:
        settings: the sink.
        ledger: its account.
        outbox: None keeps all in memory.
        log: where failures are said.

    Attributes:
        unmarked: parts that are done and could not be marked yet, by the window's number and their own.
    """

    def __init__(
        self, settings: SinkSettings, ledger: SinkLedger, outbox: "Outbox | None", log: DeliveryLog
    ) -> None:
        """Start with nothing to be marked."""
        self._name = settings.name
        self._sink = settings.sink if isinstance(settings.sink, RememberingSink) else None
        self._ledger = ledger
        self._outbox = outbox
        self._log = log
        self.unmarked: list[tuple[int, int]] = []

    def build_account(self, state: bytes | None = None) -> SinkAccount:
        """Return the account as it is now."""
        return SinkAccount(_encoder.encode(self._ledger), state)

    async def note_entered(self) -> None:
        """Store what the sink remembers before its first export: a crash goes back to that."""
        if self._outbox is not None and self._sink is not None:
            await self.store_account(await self._dump_state())

    async def load(self, consignment: Consignment, part: int) -> bool:
        """Load a part that is to be sent next; False where that failed, and a pause is due."""
        if self._outbox is None or consignment.stored is None:
            return True
        try:
            batch = await self._outbox.load(consignment.stored, self._name, part)
        except StoreError as error:
            # Meanwhile it may have been evicted.
            if consignment.next_part() != part:
                return True
            self._log.fail("reading the outbox", error)
            consignment.load_failures += 1
            is_lost = isinstance(error, LostPartError)
            if consignment.load_failures < (MAX_LOST_FAILURES if is_lost else MAX_LOAD_FAILURES):
                return False
            self._log.drop(consignment.counts[part], 1, DropReason.UNREADABLE.value)
            consignment.lose(part)
            await self.mark(consignment)
            return True
        if consignment.next_part() == part:
            consignment.load(part, batch)
        return True

    async def attempt(self, consignment: Consignment) -> bool:
        """Note that a batch is about to be sent; False where that failed, and it must not be."""
        if self._outbox is None:
            return True
        if consignment.stored is None:
            # Evicted, nobody else knows it. Never stored, it comes again from the journal after a crash,
            # so that it must be stored first.
            return bool(consignment.window_id)
        consignment.note_attempt()
        try:
            await self._outbox.attempt(self._name, consignment.stored, consignment.current_part)
        except StoreError as error:
            self._log.fail("noting an attempt in the outbox", error)
            return False
        return True

    def announce(self, consignment: Consignment) -> None:
        """Note that a batch is about to be sent, and do not wait: after a crash it may go a second time.

        Done where that would add, so that it can be said. A sink that remembers goes back to its last mark.
        """
        if self._outbox is None or consignment.stored is None or self._sink is not None:
            return
        consignment.note_attempt()
        self._outbox.announce(self._name, consignment.stored, consignment.current_part)

    async def mark(self, consignment: Consignment, *, is_back: bool = False) -> None:
        """Store what became of a window's parts.

        Args:
            consignment: no export of it is under way.
            is_back: it goes back to those that wait, so parts that are not done are stored and let go as
            well.
        """
        if self._outbox is None:
            self._count(consignment.let_go() if is_back else consignment.take_done())
            return
        await self.retry()
        state = await self._dump_state()
        number = consignment.stored
        outcomes = consignment.let_go() if is_back else consignment.take_done()
        if number is None:
            self._count(outcomes)
            if outcomes:
                await self.store_account(state)
            return
        futures = self._submit(self._outbox, number, outcomes, state)
        failed: set[int] = set()
        for outcome, future in zip(outcomes, futures, strict=True):
            try:
                await future
            except StoreError as error:
                self._log.fail("marking in the outbox", error)
                failed.add(outcome.part)
                if not outcome.remaining:
                    self.unmarked.append((number, outcome.part))
        if is_back and consignment.stored is not None:
            # What could not be stored as it is now stays in memory, and is stored with its next outcome.
            consignment.unload(failed)

    def mark_at_end(self, consignment: Consignment) -> None:
        """Do what `mark` does, and wait for nothing: the worker was cancelled."""
        if self._outbox is None:
            self._count(consignment.let_go())
            return
        number, outcomes = consignment.stored, consignment.let_go()
        if number is None:
            self._count(outcomes)
        elif outcomes:
            self._submit(self._outbox, number, outcomes, self._dump_state_now())

    async def store_account(self, state: bytes | None = None) -> None:
        """Store the account alone. Where that fails the next mark brings it."""
        if self._outbox is not None:
            with suppress(StoreError):
                await self._outbox.commit(None, (), {self._name: self.build_account(state)}, {})

    async def discard(self, consignment: Consignment, count: int) -> None:
        """Let a window go that expired, with what is left of it."""
        parts = [part for part, waiting in enumerate(consignment.counts) if waiting]
        consignment.discard()
        self._ledger.expire(count)
        if self._outbox is None or consignment.stored is None:
            return
        try:
            await self._outbox.discard(self._name, [consignment.stored], self.build_account())
        except StoreError as error:
            self._log.fail("marking in the outbox", error)
            self.unmarked += [(consignment.stored, part) for part in parts]

    async def retry(self) -> None:
        """Store the marks that could not be stored so far; called while no export is under way."""
        if self._outbox is None or not self.unmarked:
            return
        state = await self._dump_state()
        while self.unmarked:
            number, part = self.unmarked[0]
            account = self.build_account(state)
            try:
                await self._outbox.settle(self._name, number, part, remaining=None, account=account)
            except StoreError:
                return
            del self.unmarked[0]

    def _submit(
        self, outbox: "Outbox", number: int, outcomes: Sequence[Outcome], state: bytes | None
    ) -> list[asyncio.Future[None]]:
        """Count the outcomes and ask for their transactions, all in one step."""
        futures: list[asyncio.Future[None]] = []
        for outcome in outcomes:
            self._count([outcome])
            account = self.build_account(state)
            futures.append(
                outbox.settle(
                    self._name, number, outcome.part, remaining=outcome.remaining or None, account=account
                )
            )
            # Several at once are those of a window that was bisected; the first one brings the state.
            state = None
        return futures

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._ledger.deliver(outcome.delivered)
            self._ledger.quarantine(outcome.quarantined)
            self._ledger.give_up(outcome.uncertain)
            if outcome.unreadable:
                self._ledger.drop(outcome.unreadable, DropReason.UNREADABLE)

    async def _dump_state(self) -> bytes | None:
        # In a thread: totals of many series take longer than the event loop may stand still.
        return None if self._sink is None else await to_thread.run_sync(self._dump_state_now)

    def _dump_state_now(self) -> bytes | None:
        if self._sink is None:
            return None
        try:
            return self._sink.dump_state()
        except Exception as error:  # noqa: BLE001 - a sink may raise anything; what is stored stays
            self._log.fail("dumping the sink's state", error)
            return None


def decode_ledger(data: bytes) -> SinkLedger:
    """Return the ledger of an account.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decoder.decode(data)


__all__ = ["MAX_LOAD_FAILURES", "MAX_LOST_FAILURES", "Marks", "decode_ledger"]
