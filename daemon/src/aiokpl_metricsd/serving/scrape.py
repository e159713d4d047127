"""Readings of the metrics page -> what has come since the last one, which nobody but a next daemon can tell.

A page counts as delivered when it could be read. Whether somebody reads it is another matter, so each one
that was sent whole is noted with what had come in when it was begun. Who read it is not known: a person
counts as a scraper does. What comes in while a page is being made counts as not read, though some of it
may have been.
"""

from collections.abc import Callable
from typing import NamedTuple


class Reading(NamedTuple):
    """One page, or the daemon's start.

    Attributes:
        at: monotonic seconds when it was begun.
        events: that had come in, all told.
        snapshots: that the page had, all told.
    """

    at: float
    events: int
    snapshots: int


class Unread(NamedTuple):
    """What no page had that somebody read.

    Attributes:
        age_s: seconds since the last one was begun; None where there was none.
        events: that have come in since.
        snapshots: closed and put on the page since; some may have been there while they were open.
    """

    age_s: float | None
    events: int
    snapshots: int


class Scrapes:
    """Remembers the last reading.

    Args:
        count: returns the events that have come in and the snapshots on the page, all told.
        monotonic: seconds.
    """

    def __init__(self, count: Callable[[], tuple[int, int]], monotonic: Callable[[], float]) -> None:
        """Count from nothing."""
        self._count = count
        self._monotonic = monotonic
        self._last = Reading(monotonic(), 0, 0)
        self._is_read = False

    def reset(self) -> None:
        """Count from what there is now: an earlier daemon has counted it."""
        self._last = self.begin()
        self._is_read = False

    def begin(self) -> Reading:
        """Return what a page that is begun now will have."""
        return Reading(self._monotonic(), *self._count())

    def note(self, reading: Reading) -> None:
        """Note that a page was read whole. Of several that were made at once the last begun counts."""
        self._last = max(self._last, reading)
        self._is_read = True

    def read(self) -> Unread:
        """Return what has come since the last reading."""
        now = self.begin()
        last = self._last
        age_s = now.at - last.at if self._is_read else None
        return Unread(age_s, now.events - last.events, now.snapshots - last.snapshots)


__all__ = ["Reading", "Scrapes", "Unread"]
