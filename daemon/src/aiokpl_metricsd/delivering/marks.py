"""What becomes of stored windows <-> the outbox, for one sink: parts come out, marks go in.

With the marks goes the sink's account: its ledger, and what the sink remembers. The ledger counts an outcome
in the same step in which its transaction is asked for, and transactions keep the order in which they are
asked for: so a stored ledger says what the stored windows say.

What a sink remembers says all that it has taken. So it is stored with all the marks there are, in one
transaction, and not while a part is divided: what it says and no mark does would be taken twice after a
crash, what a mark says and it does not would be lost. A window that the outbox does not have comes again from
the journal until a checkpoint covers it: what a sink remembers from there on is stored with that checkpoint,
and so are all its marks (`owes_state`).

Marks that could not be stored go with the next ones. Without an outbox there is only the ledger.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from anyio import to_thread

from aiokpl_metricsd.delivering.answer import Outcome
from aiokpl_metricsd.delivering.consignment import Consignment
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.settings import SinkSettings
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.errors import LostPartError, StoreError
from aiokpl_metricsd.sinks.contract import RememberingSink
from aiokpl_metricsd.storing.stored import Mark, SinkAccount

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
        unmarked: marks that are not stored yet, by the window's number and the part's.
        owes_state: the sink remembers a window that no checkpoint covers: to be stored with the next one.
    """

    def __init__(
        self, settings: SinkSettings, ledger: SinkLedger, outbox: "Outbox | None", log: DeliveryLog
    ) -> None:
        """Start with nothing to be marked."""
        self.owes_state = False
        self._name = settings.name
        self._sink = settings.sink if isinstance(settings.sink, RememberingSink) else None
        self._ledger = ledger
        self._outbox = outbox
        self._log = log
        self.unmarked: dict[tuple[int, int], Mark] = {}

    def build_ledger(self) -> SinkAccount:
        """Return the account as it is now, without marks: what is stored of the sink's state stays."""
        return SinkAccount(_encoder.encode(self._ledger))

    def build_account(self, state: bytes | None) -> SinkAccount:
        """Return the account as it is now, with the marks that are not stored yet and the state of now."""
        return SinkAccount(_encoder.encode(self._ledger), state, tuple(self.unmarked.values()))

    def note_stored(self, account: SinkAccount) -> None:
        """Note that an account with marks and state is stored."""
        self.owes_state = False
        for mark in account.marks:
            if self.unmarked.get((mark.number, mark.part)) is mark:
                del self.unmarked[mark.number, mark.part]

    def keep(self, marks: Iterable[Mark]) -> None:
        """Keep marks that are to be stored; of a part the last one holds."""
        self.unmarked |= {(mark.number, mark.part): mark for mark in marks}

    def inherit(self, earlier: "Marks") -> None:
        """Owe what the sink before this one owed."""
        self.keep(earlier.unmarked.values())
        self.owes_state = earlier.owes_state

    async def note_entered(self) -> None:
        """Store what the sink remembers before its first export: a crash goes back to that."""
        if self._sink is not None and not self.owes_state:
            await self.store_all()

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
            return not consignment.is_unstored
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
        if self._sink is not None and consignment.is_divided and not is_back:
            return
        waits = self._outbox is None or self.owes_state or consignment.is_unstored
        state = None if waits else await self.dump_state()
        outcomes = consignment.let_go() if is_back else consignment.take_done()
        if self._note(consignment, outcomes) and not waits:
            await self._store(state)
        if is_back and consignment.stored is not None:
            # What is not stored as it is now stays in memory until it is.
            consignment.unload({part for number, part in self.unmarked if number == consignment.stored})

    def mark_at_end(self, consignment: Consignment) -> None:
        """Do what `mark` does, and wait for nothing: the worker was cancelled."""
        is_known = self._note(consignment, consignment.let_go())
        if self._outbox is not None and is_known and not self.owes_state:
            self._outbox.settle(self._name, self.build_account(self._dump_state_now()))

    async def store_account(self) -> None:
        """Store the ledger alone. Where that fails the next mark brings it."""
        if self._outbox is not None:
            with suppress(StoreError):
                await self._outbox.settle(self._name, self.build_ledger())

    async def store_all(self) -> None:
        """Store what there is: the ledger, the state, and the marks that are not stored yet."""
        if self._outbox is not None:
            await self._store(await self.dump_state())

    async def discard(self, consignment: Consignment, count: int) -> None:
        """Let a window go that expired, with what is left of it."""
        parts = [part for part, waiting in enumerate(consignment.counts) if waiting]
        consignment.discard()
        self._ledger.expire(count)
        if self._outbox is None or consignment.stored is None:
            return
        try:
            await self._outbox.discard(self._name, [consignment.stored], self.build_ledger())
        except StoreError as error:
            self._log.fail("marking in the outbox", error)
            self.keep(Mark(consignment.stored, part) for part in parts)

    async def retry(self) -> None:
        """Store the marks that could not be stored so far; called while no export is under way."""
        if self.unmarked and not self.owes_state:
            await self.store_all()

    async def dump_state(self) -> bytes | None:
        """Return what the sink remembers, None where it does not; no export is under way."""
        # In a thread: totals of many series take longer than the event loop may stand still.
        return None if self._sink is None else await to_thread.run_sync(self._dump_state_now)

    def _note(self, consignment: Consignment, outcomes: Sequence[Outcome]) -> bool:
        """Count outcomes, and keep their marks; return whether there is anything to be stored."""
        for outcome in outcomes:
            self._ledger.deliver(outcome.delivered)
            self._ledger.quarantine(outcome.quarantined)
            self._ledger.give_up(outcome.uncertain)
            if outcome.unreadable:
                self._ledger.drop(outcome.unreadable, DropReason.UNREADABLE)
        if self._outbox is None:
            return False
        if consignment.is_unstored:
            is_taken = any(outcome.delivered for outcome in outcomes)
            self.owes_state = self.owes_state or (self._sink is not None and is_taken)
            return False
        number = consignment.stored
        if number is not None:
            self.keep(Mark(number, outcome.part, outcome.remaining or None) for outcome in outcomes)
        return bool(outcomes)

    async def _store(self, state: bytes | None) -> None:
        """Store all marks; `state` is of this moment, as no export is under way."""
        if self._outbox is None:
            return
        account = self.build_account(state)
        try:
            await self._outbox.settle(self._name, account)
        except StoreError as error:
            self._log.fail("marking in the outbox", error)
        else:
            self.note_stored(account)

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
