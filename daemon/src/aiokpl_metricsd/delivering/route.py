"""The way to one sink: selection, longer windows, ledger, worker."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from aiokpl_metricsd.delivering.answer import Batch
from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.interval import Merger
from aiokpl_metricsd.delivering.marks import Marks, decode_ledger
from aiokpl_metricsd.delivering.settings import SinkSettings, Surroundings
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivering.slicing import run_at_once, run_sliced
from aiokpl_metricsd.delivering.worker import Worker
from aiokpl_metricsd.sinks.contract import RememberingSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import RecoveredSink, StoredWindow

if TYPE_CHECKING:
    # Only for its type: without an outbox no database is loaded.
    from aiokpl_metricsd.outbox import Outbox

Window = tuple[Sequence[MetricSnapshot], float]

# The batches of a closing's windows, by a window's identity and the size of its batches.
Batches = dict[tuple[int, int], tuple[Batch, ...]]


class Prepared(Struct):
    """What a closing is to one sink, before any of it counts.

    Attributes:
        change: of the ledger.
        windows: what is to be delivered, oldest first, none of them empty.
    """

    change: SinkLedger
    windows: list[Sequence[MetricSnapshot]]

    def release(self, window: Sequence[MetricSnapshot]) -> None:
        """Let a longer window that is complete be delivered."""
        self.change.release(len(window))
        if window:
            self.windows.append(window)


class Route:
    """The way to one sink.

    Args:
        settings: the sink.
        around: what a test replaces.
        log: where failures are said.
        outbox: None keeps all in memory.

    Attributes:
        settings: as given, or those of `renew`.
        ledger: the sink's account.
        log: as given.
        marks: where what became of stored windows is noted.
        worker: delivers.
        is_removed: the sink gets nothing any more.
        has_merged: what is held for a longer window is not the same as in the outbox.
    """

    def __init__(
        self, settings: SinkSettings, around: Surroundings, log: DeliveryLog, outbox: "Outbox | None"
    ) -> None:
        """Start with nothing to deliver."""
        self.settings = settings
        self.ledger = SinkLedger()
        self.log = log
        self.is_removed = False
        self.has_merged = False
        self._around = around
        self._outbox = outbox
        self._build()

    def _build(self) -> None:
        self.log.hide(self.settings.secrets)
        self.marks = Marks(self.settings, self.ledger, self._outbox, self.log)
        self.worker = Worker(self.settings, self.ledger, self.marks, self._around, self.log)
        self._merger = self._build_merger()
        # Held for a longer window when the sink still had longer windows.
        self._leftover: Sequence[MetricSnapshot] = ()

    @property
    def window_count(self) -> int:
        """Windows that are not wholly delivered."""
        return self.worker.window_count

    def recover(self, found: RecoveredSink) -> None:
        """Go on where another daemon, or another sink of this name, ended."""
        if found.account is not None:
            try:
                self.ledger.go_on(decode_ledger(found.account.ledger))
            except msgspec.MsgspecError as error:
                self.log.fail("reading the sink's ledger", error)
            self._load_state(found.account.state)
            self.marks.keep(found.account.marks)
        lost = self.ledger.reconcile(sum(sum(each.counts) for each in found.windows), len(found.merging))
        if lost:
            self.log.lose(lost)
        for window in found.windows:
            again = window if self.settings.at_most_once else self._send_again(window)
            self.worker.offer_stored(again, is_new=False)
        self._restore_merging(found.merging)

    def _send_again(self, window: StoredWindow) -> StoredWindow:
        """Let the parts wait that were on their way when the daemon died; where a repeat adds, say so."""
        if not window.attempted:
            return window
        if self.settings.adds:
            self.ledger.ambiguous += sum(window.counts[part] for part in window.attempted)
        return replace(window, attempted=frozenset())

    def renew(self, settings: SinkSettings) -> None:
        """Serve the sink by other settings, after the worker has ended. What waits is theirs."""
        waiting = self.worker.take_all()
        state = self.dump_state()
        held = self.dump_merging()
        marks = self.marks
        self.settings = settings
        self._build()
        self.marks.inherit(marks)
        self._load_state(state)
        self._restore_merging(held)
        self.worker.inherit(waiting)

    def dump_merging(self) -> Sequence[MetricSnapshot]:
        """Return what is held for a longer window."""
        return self._leftover or (() if self._merger is None else self._merger.dump())

    def dump_state(self) -> bytes | None:
        """Return what the sink remembers, None where it does not."""
        sink = self.settings.sink
        if not isinstance(sink, RememberingSink):
            return None
        try:
            return sink.dump_state()
        except Exception as error:  # noqa: BLE001 - a sink may raise anything
            self.log.fail("dumping the sink's state", error)
            return None

    def describe(self) -> RecoveredSink:
        """Return what the outbox has of the sink, after the worker has ended."""
        windows = [
            StoredWindow(each.stored, self.settings.name, each.window_id, each.window_end, tuple(each.counts))
            for each in self.worker.take_all()
            if each.stored is not None
        ]
        return RecoveredSink(
            account=self.marks.build_account(self.dump_state()),
            windows=windows,
            merging=[*self.dump_merging()],
            removed_at=self._around.wall_clock(),
            max_age_s=self.settings.max_age_s,
        )

    async def prepare(self, windows: Sequence[Window]) -> Prepared:
        """Make of closed windows what the sink sees, oldest first; in slices."""
        prepared = self._begin()
        for window, end in windows:
            prepared.change.close_window(len(window))
            await self._prepare(prepared, window, end)
        return prepared

    async def flush(self) -> Prepared:
        """Return what is held for a longer window, as no more of it comes."""
        prepared = self._begin()
        if self._merger is not None:
            self.has_merged = True
            prepared.release(await run_sliced(self._merger.flush()))
        return prepared

    def apply(self, prepared: Prepared) -> None:
        """Let a closing count."""
        self.ledger.add(prepared.change)

    def cut(self, window: Sequence[MetricSnapshot], known: Batches) -> tuple[Batch, ...]:
        """Return a window in batches: the same ones for every sink that sees the same."""
        size = self.settings.max_batch
        if size is None or len(window) <= size:
            return (window,)
        batches = known.get((id(window), size))
        if batches is None:
            batches = tuple(window[start : start + size] for start in range(0, len(window), size))
            known[id(window), size] = batches
        return batches

    def refuse(self, window: Sequence[MetricSnapshot], reason: DropReason) -> None:
        """Drop a window that comes too late."""
        self.ledger.close_window(len(window))
        self.ledger.drop(len(window), reason)
        self.log.drop(len(window), 1, reason.value)

    def doubt(self, count: int) -> None:
        """Count snapshots that the next daemon will send again, where a repeat adds."""
        if self.settings.adds:
            self.ledger.ambiguous += count

    def abandon(self, reason: DropReason) -> None:
        """Drop all that is not delivered and not in the outbox either, and say so in one line."""
        kept = self.worker.stored_count
        kept_merging = 0 if self._outbox is None else self.ledger.merging
        windows = self.window_count + (self.ledger.merging > kept_merging)
        count = self.ledger.abandon(reason, kept=kept, kept_merging=kept_merging)
        if count:
            self.log.drop(count, windows, reason.value)
        if kept:
            self.log.keep(kept, self.worker.window_count)

    async def _prepare(self, prepared: Prepared, window: Sequence[MetricSnapshot], end: float) -> None:
        change = prepared.change
        undecided = len(window)
        try:
            selected = await run_sliced(self.settings.selection.steps(window))
            change.select(selected.filtered_count, selected.merged_count)
            undecided = len(selected.snapshots)
            if self._merger is None:
                if selected.snapshots:
                    prepared.windows.append(selected.snapshots)
                return
            self.has_merged = True
            merged = await run_sliced(self._merger.steps(selected.snapshots, end))
            change.hold(undecided, merged.merged_count)
            undecided = 0
            for longer in merged.windows:
                prepared.release(longer)
        except Exception as fault:  # noqa: BLE001 - a fault in one sink's selection is no other sink's
            change.drop(undecided, DropReason.FAULT)
            change.drop_merging(self.ledger.merging + change.merging, DropReason.FAULT)
            self._merger = self._build_merger()
            self.log.fault("selection", fault)

    def _begin(self) -> Prepared:
        prepared = Prepared(SinkLedger(), [])
        if self._leftover:
            self.has_merged = True
            prepared.release(self._leftover)
            self._leftover = ()
        return prepared

    def _restore_merging(self, held: Sequence[MetricSnapshot]) -> None:
        merger = self._merger or Merger(1)
        merger.restore(held)
        if self._merger is None:
            self._leftover = run_at_once(merger.flush())

    def _load_state(self, state: bytes | None) -> None:
        sink = self.settings.sink
        if state is None or not isinstance(sink, RememberingSink):
            return
        try:
            sink.load_state(state)
        except Exception as error:  # noqa: BLE001 - of another version, or another sink's: it begins anew
            self.log.fail("loading what the sink remembered, which is lost,", error)

    def _build_merger(self) -> Merger | None:
        interval_s = self.settings.selection.interval_s
        return None if interval_s is None else Merger(interval_s)


__all__ = ["Batches", "Prepared", "Route", "Window"]
