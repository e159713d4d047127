"""Batches -> one sink, oldest first, one attempt each. What the sink did not take waits for the next call.

This is the in-process library's queue. It never loses a batch silently and never changes one: a batch leaves
when the sink took it, when the sink refused it for good, or when 60 younger ones wait behind it; each way is
counted. It has no loop of its own, does not bisect and does not wait: the manager's interval is the pause
between attempts.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from anyio import get_cancelled_exc_class
from msgspec import Struct

from aiokpl_metricsd.errors import ExportError, PartialExportError, PermanentExportError
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.snapshot import MetricSnapshot

# An hour of batches at the default interval.
MAX_BATCHES = 60

# A log line names this many series, and counts the rest.
_NAMED_SERIES = 10

# Users of the library see one logger, whichever module writes.
_logger = logging.getLogger("aiokpl_metricsd.metrics")


class MetricsLedger(Struct):
    """What became of the events and snapshots of one manager, since it was made.

    `snapshots_closed` = delivered + waiting + rejected + dropped. What came since the last flush is in no
    snapshot yet.

    Attributes:
        events_refused: events that did not count, by the word of their `Reason`.
        records_failed: events that the sink's `record` raised at; they count in the snapshots all the same.
        exports_failed: exports that raised.
        batches_waiting: flushes whose snapshots are offered again.
        batches_dropped: flushes given up because 60 younger ones waited.
        snapshots_closed: snapshots that flushes made.
        snapshots_delivered: of these, taken by the sink.
        snapshots_waiting: of these, to be offered again.
        snapshots_rejected: of these, refused by the sink for good.
        snapshots_dropped: of these, in dropped batches.
    """

    events_refused: dict[str, int] = {}
    records_failed: int = 0
    exports_failed: int = 0
    batches_waiting: int = 0
    batches_dropped: int = 0
    snapshots_closed: int = 0
    snapshots_delivered: int = 0
    snapshots_waiting: int = 0
    snapshots_rejected: int = 0
    snapshots_dropped: int = 0


class UploadQueue:
    """The batches that a sink has not taken yet.

    Args:
        sink: takes the batches; entered and left by the caller.
        ledger: counts what becomes of them.
    """

    def __init__(self, sink: MetricsSink, ledger: MetricsLedger) -> None:
        """Start with no batch."""
        self._ledger = ledger
        self._sink = sink
        self._batches: deque[tuple[MetricSnapshot, ...]] = deque()

    @property
    def batches_waiting(self) -> int:
        """How many batches wait to be offered."""
        return len(self._batches)

    @property
    def snapshots_waiting(self) -> int:
        """How many snapshots are in these batches."""
        return sum(map(len, self._batches))

    def append(self, batch: tuple[MetricSnapshot, ...]) -> None:
        """Put a batch, which is not empty, behind all others."""
        self._batches.append(batch)
        self._ledger.snapshots_closed += len(batch)

    async def offer(self) -> None:
        """Offer every batch, oldest first, until the sink fails to take one. One caller at a time.

        What the sink raises is logged and counted, not raised. When the caller is cancelled, the batch that
        was under way stays, because nothing tells whether the sink took it.
        """
        try:
            while self._batches and await self._offer_oldest():
                pass
        finally:
            # Only now, so that even the oldest had one more chance.
            while len(self._batches) > MAX_BATCHES:
                self._drop_oldest()

    async def _offer_oldest(self) -> bool:
        """Make one attempt with the oldest batch. Return whether it is done with, taken or refused."""
        batch = self._batches[0]
        try:
            await self._sink.export(batch)
        except PartialExportError as error:
            self._ledger.exports_failed += 1
            return self._keep_remaining(batch, error)
        except PermanentExportError as error:
            self._ledger.exports_failed += 1
            self._batches.popleft()
            self._reject(batch, error)
            return True
        except BaseException as error:
            if must_propagate(error):
                raise
            self._ledger.exports_failed += 1
            _logger.warning(
                "an export failed (%d so far); its %d snapshots are offered again at the next flush: %r",
                self._ledger.exports_failed,
                len(batch),
                error,
                exc_info=None if isinstance(error, ExportError) else error,
            )
            return False
        self._batches.popleft()
        self._ledger.snapshots_delivered += len(batch)
        return True

    def _keep_remaining(self, batch: tuple[MetricSnapshot, ...], error: PartialExportError) -> bool:
        """Keep of the oldest batch what the sink wants again. Return whether that is nothing."""
        taken = len(batch) - len(error.remaining) - len(error.rejected)
        self._ledger.snapshots_delivered += taken
        if error.rejected:
            self._reject(error.rejected, error)
        if not error.remaining:
            self._batches.popleft()
            return True
        self._batches[0] = error.remaining
        text = (
            "an export (%d failed so far) took %d of %d snapshots; %d are offered again at the next flush: %r"
        )
        _logger.warning(text, self._ledger.exports_failed, taken, len(batch), len(error.remaining), error)
        return False

    def _reject(self, snapshots: Sequence[MetricSnapshot], error: ExportError) -> None:
        self._ledger.snapshots_rejected += len(snapshots)
        text = "the sink refused %d snapshots for good, they are lost: %s: %r"
        _logger.error(text, len(snapshots), describe_series(snapshots), error)

    def _drop_oldest(self) -> None:
        batch = self._batches.popleft()
        self._ledger.batches_dropped += 1
        self._ledger.snapshots_dropped += len(batch)
        text = "more than %d batches wait; the oldest, of %.3f to %.3f, is lost with its %d snapshots: %s"
        first = batch[0]
        names = describe_series(batch)
        _logger.error(text, MAX_BATCHES, first.window_start, first.window_end, len(batch), names)


def describe_series(snapshots: Sequence[MetricSnapshot]) -> str:
    """Name the first series of some snapshots, for a log line."""
    names = [
        snapshot.name + "".join(f" {key}={value}" for key, value in snapshot.dimensions)
        for snapshot in snapshots[:_NAMED_SERIES]
    ]
    more = len(snapshots) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def must_propagate(error: BaseException) -> bool:
    """Tell whether what foreign code raised is meant for the running task, and no failure of that code.

    A cancellation is the task's only if the task was cancelled. Under asyncio a sink that waits for some task
    of its own gets that task's CancelledError as well, and would end the application's `async with` if that
    passed.
    """
    if isinstance(error, Exception):
        return False
    cancelled = get_cancelled_exc_class()
    if cancelled is asyncio.CancelledError and isinstance(error, cancelled):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return True


__all__ = ["MAX_BATCHES", "MetricsLedger", "UploadQueue", "describe_series", "must_propagate"]
