"""What the daemon has counted -> one transaction: what a crash at any moment goes on from.

A checkpoint holds the windows that close, what every window still open holds so far, the producers' numbers
and the ledger, and the journal's position up to which all this is so. The position is fixed in one step of
the event loop, the one that seals the parts: what comes afterwards is in the journal behind it. So each event
is either in the checkpoint or in the journal after its position, never in both, whatever was late, early or
out of order. Neither a time nor a position alone can say that (`docs/adr/0009`).

It is taken at every close, and between closes when the journal has grown past its bound, or when the journal
could not be written and the disk may have room again. Only when it is on disk does what it covers go from the
journal, and only then does a sink see a window.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from aiokpl_metricsd.aggregating.sealing import SealedWindow, encode_sealed
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.journal import Journal
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.storing.stored import OpenPart, Recovered, Sealed

_log = logging.getLogger("aiokpl_metricsd.checkpoint")

# Series in a blob, and series that are put back between two looks at the sockets: 1,000 take about 1 ms.
SLICE_SERIES = 1_000

# After a failure, how long until the disk is tried again between closes. A full disk stays full for a while.
RETRY_S = 5.0


class Checkpointer:
    """Seals what the daemon knows, and lets go of what has been stored.

    Args:
        aggregator: whose windows are sealed.
        windows: the same windows.
        decoder: knows the producers.
        ledger: of the daemon.
        journal: what came since the last checkpoint.
        journal_max_bytes: past it a checkpoint is due.
        clock: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - wired in one place
        self,
        aggregator: Aggregator,
        windows: Windows,
        decoder: Decoder,
        ledger: Ledger,
        journal: Journal,
        *,
        journal_max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        """Seal nothing yet."""
        self._aggregator = aggregator
        self._windows = windows
        self._decoder = decoder
        self._ledger = ledger
        self._journal = journal
        self._journal_max_bytes = journal_max_bytes
        self._clock = clock
        self._retry_at = 0.0
        self._failed = False

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is to be taken although no window closes."""
        journal = self._journal
        if self._failed or not journal.is_writable:
            return self._clock() >= self._retry_at
        return journal.size_bytes > self._journal_max_bytes

    def seal(self) -> Sealed:
        """Fix what the checkpoint holds, in one step. What was sealed before must have been let go of."""
        self._journal.write()
        position = self._journal.rotate()
        opened = self._aggregator.seal()
        return Sealed(
            position,
            self._windows.closed_until,
            self._windows.last_number,
            self._ledger.dump(),
            tuple(_build_part(window) for window in opened),
            self._decoder.dump_changed(),
            self._decoder.forgotten(),
        )

    async def release(self, sealed: Sealed, *, is_stored: bool) -> None:
        """Count on with what was sealed; where it is stored, forget what the journal has of it."""
        for _ in self._aggregator.unseal(SLICE_SERIES):
            await asyncio.sleep(0)
        if is_stored:
            for _ in self._journal.forget_before_sliced(sealed.position):
                await asyncio.sleep(0)
        else:
            self._decoder.keep_changed(sealed.producers, sealed.forgotten)
        self._failed = not is_stored
        if self._failed or not self._journal.is_writable:
            # Of two disks one may be well, or the database may have room that the journal does not get.
            self._retry_at = self._clock() + RETRY_S


def restore(recovered: Recovered, aggregator: Aggregator, decoder: Decoder, ledger: Ledger) -> None:
    """Count on from a checkpoint: what was open is open again. What cannot be read is said, and counted."""
    if recovered.ledger is not None:
        try:
            ledger.restore(recovered.ledger)
        except msgspec.MsgspecError as error:
            # With what is open, so that its equations hold.
            ledger.events_decoded += sum(part.events for part in recovered.opened)
            _say_lost("the ledger begins anew", error)
    unreadable = decoder.restore(recovered.producers)
    if unreadable:
        _say_lost("producers' numbers begin anew", unreadable[0], producers=len(unreadable))
    for part in recovered.opened:
        try:
            aggregator.restore(part.number, part.start, part.end, part.events, part.blobs)
        except ValueError as error:
            ledger.events_unreadable += part.events
            _say_lost("a window's events are lost", error, window=part.number, events=part.events)


def _say_lost(what: str, error: Exception, **fields: object) -> None:
    shown = {**fields, "error": str(error)}
    _log.critical(f"the checkpoint cannot be read: {what}", extra={"fields": shown})


def _build_part(window: SealedWindow) -> OpenPart:
    blobs = partial(encode_sealed, window, SLICE_SERIES)
    return OpenPart(window.number, window.start, window.end, window.events, blobs)


__all__ = ["RETRY_S", "SLICE_SERIES", "Checkpointer", "restore"]
