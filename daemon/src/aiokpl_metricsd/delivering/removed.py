"""A sink that the configuration no longer has <-> its windows, which wait in the outbox until they expire.

Who removes a sink by mistake, or renames it for a moment, finds them again.
"""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from aiokpl_metricsd.delivering.delivery_log import DeliveryLog
from aiokpl_metricsd.delivering.marks import decode_ledger
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.storing.stored import RecoveredSink, SinkAccount, StoredWindow

# Of a sink without an age of its own. Ours: a day is enough to notice.
DEFAULT_MAX_AGE_S = 86_400.0


class RemovedSink:
    """What waits for a sink that is not there.

    Args:
        found: what the outbox has of it.
        log: where it is said.
        now: epoch seconds.

    Attributes:
        ledger: the sink's account.
        log: as given.
    """

    def __init__(self, found: RecoveredSink, log: DeliveryLog, now: float) -> None:
        """Read the ledger."""
        self.ledger = SinkLedger()
        if found.account is not None:
            try:
                self.ledger = decode_ledger(found.account.ledger)
            except msgspec.MsgspecError as error:
                log.fail("reading the sink's ledger", error)
        self._found = found
        self.log = log
        self._windows = {window.number: window for window in found.windows}
        self._removed_at = now if found.removed_at is None else found.removed_at
        self._max_age_s = DEFAULT_MAX_AGE_S if found.max_age_s is None else found.max_age_s
        self._merging = [*found.merging]
        self.ledger.reconcile(sum(map(_size, found.windows)), len(found.merging))

    @property
    def window_count(self) -> int:
        """Windows that wait."""
        return len(self._windows)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be kept."""
        return not self._windows and not self._merging

    def describe(self) -> RecoveredSink:
        """Return what there is, for the sink should it come again."""
        return replace(
            self._found,
            account=self.build_account(),
            windows=[*self._windows.values()],
            merging=self._merging,
        )

    def build_account(self) -> SinkAccount:
        """Return the account as it is now."""
        state = None if self._found.account is None else self._found.account.state
        return SinkAccount(msgspec.msgpack.encode(self.ledger), state)

    def expire(self, now: float) -> Sequence[int]:
        """Let go what is too old; return the windows' numbers."""
        old = [each for each in self._windows.values() if now - self._end_of(each) > self._max_age_s]
        for window in old:
            del self._windows[window.number]
            self.ledger.expire(_size(window))
            self.log.expire(_size(window), now - self._end_of(window))
        if self._merging and now - self._removed_at > self._max_age_s:
            self.ledger.release(len(self._merging))
            self.ledger.expire(len(self._merging))
            self._merging = []
        return [window.number for window in old]

    def evict(self, number: int) -> bool:
        """Drop a window that the outbox does not have any more. False: it is not here."""
        window = self._windows.pop(number, None)
        if window is None:
            return False
        self.ledger.drop(_size(window), DropReason.QUEUE_FULL)
        self.log.drop(_size(window), 1, DropReason.QUEUE_FULL.value)
        return True

    def _end_of(self, window: StoredWindow) -> float:
        return window.window_end or self._removed_at


def _size(window: StoredWindow) -> int:
    return sum(window.counts)


__all__ = ["DEFAULT_MAX_AGE_S", "RemovedSink"]
