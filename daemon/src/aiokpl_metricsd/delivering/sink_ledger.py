"""What became of the snapshots of closed windows, for one sink. The columns always add up.

    closed = delivered + waiting + merging + merged + filtered + expired + quarantined + dropped + uncertain

Everything is counted in snapshots of closed windows as they are handed to the sink's selection, before
anything is filtered or merged. Where N snapshots become M, by merging dimensions or windows, N - M are
counted as merged: what they said is in the M that go on. So each column is a number of snapshots, and one
delivered snapshot may stand for several merged ones.

With an outbox a ledger is stored with the windows it speaks of, in the same transaction, so what is counted
of a part of a window is counted when that is stored. After a crash `reconcile` says what differs all the
same.
"""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import asdict


class DropReason(StrEnum):
    """Why snapshots were dropped. The value is the word that is counted and logged."""

    QUEUE_FULL = "queue_full"
    SHUTDOWN = "shutdown"
    FAULT = "fault"
    REMOVED = "removed"
    UNREADABLE = "unreadable"
    LOST = "lost"


class SinkLedger(Struct):
    """The account of one sink. Every method moves snapshots from one column to another.

    Attributes:
        closed: snapshots of closed windows handed to the sink.
        delivered: the backend took them.
        waiting: not yet delivered: in the queue, in an export, or between two attempts.
        merging: in a longer window that is not complete.
        merged: became part of another snapshot.
        filtered: the sink does not want to see them.
        expired: too old for the backend, or for the operator.
        quarantined: refused for good, each by itself.
        dropped: discarded, for one of the reasons.
        dropped_by_reason: the same by the word of a `DropReason`.
        uncertain: tried once, without an answer, where no second attempt is allowed.
        ambiguous: sent again although the first attempt may have succeeded, to a backend that adds; no column
            of the sum, since these are in another one too.
        exports: attempts to export.
        failures: attempts that did not wholly succeed.
        last_error: what the last failure said; "" when there was none.
        last_success: epoch seconds when the backend last took anything; 0.0 when it never did.
    """

    closed: int = 0
    delivered: int = 0
    waiting: int = 0
    merging: int = 0
    merged: int = 0
    filtered: int = 0
    expired: int = 0
    quarantined: int = 0
    dropped: int = 0
    dropped_by_reason: dict[str, int] = {}
    uncertain: int = 0
    ambiguous: int = 0
    exports: int = 0
    failures: int = 0
    last_error: str = ""
    last_success: float = 0.0

    def close_window(self, count: int) -> None:
        """Take the snapshots of a closed window: they wait."""
        self.closed += count
        self.waiting += count

    def select(self, filtered_count: int, merged_count: int) -> None:
        """Count what a selection took away from those that wait."""
        self.waiting -= filtered_count + merged_count
        self.filtered += filtered_count
        self.merged += merged_count

    def hold(self, count: int, merged_count: int) -> None:
        """Move those that wait into a longer window, where some become part of others."""
        self.waiting -= count
        self.merging += count - merged_count
        self.merged += merged_count

    def release(self, count: int) -> None:
        """Let those of a complete longer window wait for delivery."""
        self.merging -= count
        self.waiting += count

    def deliver(self, count: int) -> None:
        """Count those that the backend took."""
        self.waiting -= count
        self.delivered += count

    def quarantine(self, count: int) -> None:
        """Count those that were refused for good."""
        self.waiting -= count
        self.quarantined += count

    def expire(self, count: int) -> None:
        """Count those that became too old."""
        self.waiting -= count
        self.expired += count

    def drop(self, count: int, reason: DropReason) -> None:
        """Count those that were discarded."""
        self.waiting -= count
        self._add_dropped(count, reason)

    def drop_merging(self, count: int, reason: DropReason) -> None:
        """Count those of an incomplete longer window that were discarded."""
        self.merging -= count
        if count:
            self._add_dropped(count, reason)

    def give_up(self, count: int) -> None:
        """Count those that were tried, without an answer, and are not tried again."""
        self.waiting -= count
        self.uncertain += count

    def abandon(self, reason: DropReason, *, kept: int = 0, kept_merging: int = 0) -> int:
        """Drop all that has no fate yet, but for what is kept, and return how many these are."""
        waiting, merging = self.waiting - kept, self.merging - kept_merging
        if waiting:
            self.drop(waiting, reason)
        self.drop_merging(merging, reason)
        return waiting + merging

    def add(self, change: "SinkLedger") -> None:
        """Take the figures of another ledger on top."""
        for name in _FIGURES:
            setattr(self, name, getattr(self, name) + getattr(change, name))
        for reason, count in change.dropped_by_reason.items():
            self.dropped_by_reason[reason] = self.dropped_by_reason.get(reason, 0) + count

    def subtract(self, change: "SinkLedger") -> None:
        """Take the figures of another ledger away again."""
        for name in _FIGURES:
            setattr(self, name, getattr(self, name) - getattr(change, name))
        for reason, count in change.dropped_by_reason.items():
            self.dropped_by_reason[reason] -= count

    def uncount(self, count: int) -> None:
        """Take those away that wait, and come again from the journal."""
        self.closed -= count
        self.waiting -= count

    def go_on(self, earlier: "SinkLedger") -> None:
        """Take over the account of the daemon, or of the sink, before this one."""
        self.add(earlier)
        self.last_error = self.last_error or earlier.last_error
        self.last_success = max(self.last_success, earlier.last_success)

    def reconcile(self, waiting: int, merging: int) -> int:
        """Agree with what a restart found; return how many snapshots are lost.

        What is not there was evicted, or could be stored nowhere. What is there although it was counted as
        delivered could not be marked, and will be sent again.
        """
        lost = self.waiting - waiting
        if lost > 0:
            self.drop(lost, DropReason.LOST)
        elif lost < 0:
            repeated = min(-lost, self.delivered)
            self.delivered -= repeated
            self.closed += -lost - repeated
            self.waiting = waiting
        missing = self.merging - merging
        if missing > 0:
            self.drop_merging(missing, DropReason.LOST)
        else:
            self.closed -= missing
            self.merging = merging
        return max(lost, 0) + max(missing, 0)

    def balance(self) -> int:
        """Return what the columns do not explain: 0, or there is a fault in the daemon."""
        return self.closed - (
            self.delivered
            + self.waiting
            + self.merging
            + self.merged
            + self.filtered
            + self.expired
            + self.quarantined
            + self.dropped
            + self.uncertain
        )

    def as_dict(self) -> dict[str, object]:
        """Return the columns by name, as built-in types."""
        columns: dict[str, object] = asdict(self)
        columns["dropped_by_reason"] = dict(self.dropped_by_reason)
        return columns

    def _add_dropped(self, count: int, reason: DropReason) -> None:
        self.dropped += count
        self.dropped_by_reason[reason.value] = self.dropped_by_reason.get(reason.value, 0) + count


_FIGURES = tuple(
    name
    for name in SinkLedger.__struct_fields__
    if name not in {"dropped_by_reason", "last_error", "last_success"}
)


__all__ = ["DropReason", "SinkLedger"]
