"""Discarded events, counted by reason: exactly, from any thread, signal handler or finalizer; never waits."""

import threading

from aiokpl_metrics_client.statistics import DropReason

# So many reports wait, at most, for whoever adds them up.
_MAX_NEWS = 256


class DropCounter:
    """Counts what is discarded.

    Adding to a number is several steps, and another thread may come in between; a lock would have a signal
    handler wait for the very thread that it interrupted. So a report is appended to a list, in one step, and
    added up by whoever gets the lock without waiting for it.
    """

    __slots__ = ("_counts", "_lock", "_news")

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._news: list[tuple[DropReason, int]] = []
        self._counts: dict[str, int] = {}

    def add(self, reason: DropReason, count: int) -> None:
        """Count `count` events more."""
        self._news.append((reason, count))
        if len(self._news) >= _MAX_NEWS:
            self._add_up()

    def counts(self) -> dict[str, int]:
        """Return the events discarded so far, by the reason's word."""
        self._add_up()
        return dict(self._counts)

    def _add_up(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            news, counts = self._news, self._counts
            length = len(news)
            for reason, count in news[:length]:
                counts[reason.value] = counts.get(reason.value, 0) + count
            del news[:length]
        finally:
            self._lock.release()


__all__ = ["DropCounter"]
