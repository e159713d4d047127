"""Discarded events, counted by reason: exactly, from any thread, signal handler or finalizer; never waits.

Of a reason that is a mistake in the application, the first case is told in words as well, once.
"""

from aiokpl_metrics_client.exclusive import Exclusive
from aiokpl_metrics_client.statistics import DropReason

# So many reports wait, at most, for whoever adds them up.
_MAX_NEWS = 256


class DropCounter:
    """Counts what is discarded.

    Adding to a number is several steps, and another thread may come in between; a lock would have a signal
    handler wait for the very thread that it interrupted. So a report is appended to a list, in one step, and
    added up by whoever may do so without waiting. A Ctrl-C may come in the midst of that: the counts and what
    they are the counts of change in one step.

    Attributes:
        news: reports that are not added up yet; who cannot even call `add` extends it.
    """

    __slots__ = ("_added_up", "_exclusive", "_mistakes", "_untold", "news")

    def __init__(self) -> None:
        """Start at nothing."""
        self._exclusive = Exclusive()
        self.news: list[tuple[DropReason, int]] = []
        # The counts; how many reports of the list's beginning are in them, and the last one of those: where
        # that is no longer in its place, they were taken out of the list. Never changed, only replaced.
        self._added_up: tuple[dict[str, int], int, tuple[DropReason, int] | None] = ({}, 0, None)
        self._mistakes: dict[DropReason, str] = {}
        self._untold: list[str] = []

    def add(self, reason: DropReason, count: int) -> None:
        """Count `count` events more."""
        self.news.append((reason, count))
        if len(self.news) >= _MAX_NEWS:
            try:
                self._add_up()
            except RecursionError:
                # It is counted; whoever comes next adds up.
                return

    def explain(self, reason: DropReason, mistake: str) -> None:
        """Have the first mistake of a reason told: a sentence that names it."""
        text = f"{mistake}; it is dropped, and those that follow are counted only, as {reason}"
        # One step, so that of two threads one is the first.
        if self._mistakes.setdefault(reason, text) is text:
            self._untold.append(text)

    def is_told(self, reason: DropReason) -> bool:
        """Whether a mistake of this reason needs no explaining any more."""
        return reason in self._mistakes

    def take_untold(self) -> list[str]:
        """Return what is to be told, and forget it."""
        if not self._untold:
            return []
        untold, self._untold = self._untold, []
        return untold

    def counts(self) -> dict[str, int]:
        """Return the events discarded so far, by the reason's word."""
        self._add_up()
        return dict(self._added_up[0])

    def _add_up(self) -> None:
        self._exclusive.run(self._add_news, 0.0, _ignore)

    def _add_news(self) -> bool:
        news = self.news
        counts, length, last = self._added_up
        if length and len(news) >= length and news[length - 1] is last:
            del news[:length]
        waiting = tuple(news)
        if waiting:
            counts = dict(counts)
            for reason, count in waiting:
                # Not `value`, a property of the enumeration's: it takes half of the time.
                word = reason._value_
                counts[word] = counts.get(word, 0) + count
            self._added_up = (counts, len(waiting), waiting[-1])
            del news[: len(waiting)]
        return True


def _ignore() -> None:
    """Nothing is to be mended: what was not added up still waits."""


__all__ = ["DropCounter"]
