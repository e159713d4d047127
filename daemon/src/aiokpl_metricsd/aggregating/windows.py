"""Seconds -> windows: tumbling, aligned to the epoch, each closed once, no two of them overlapping.

A second belongs to the window that contains it. One whose window has closed is late and counts in the oldest
open window; one more than an interval ahead of the clock is early and counts in the current window. What is
late is decided by what has closed, not by the clock, so that producers that were held back find their own
windows.
"""

from msgspec import Struct

from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.statistics import Statistics

# So that no producer can open a window a second for all of the past.
MAX_OPEN_WINDOWS = 64


class Window(Struct, eq=False):
    """One interval, open or closed.

    Attributes:
        number: counts the windows of this daemon, from 1.
        start: epoch seconds, included.
        end: epoch seconds, excluded.
        statistics: by series.
        events: in this window.
    """

    number: int
    start: int
    end: int
    statistics: dict[Entry, Statistics]
    events: int = 0


class Windows:
    """The open windows of one daemon.

    Args:
        interval_s: the windows' length, whole seconds.
        begin: epoch second at which the first window begins; everything before it is late.
    """

    def __init__(self, interval_s: int, begin: int) -> None:
        """Open no window yet."""
        self.interval_s = interval_s
        self._closed_until = begin
        self._open: dict[int, Window] = {}
        self._last_number = 0

    @property
    def opened(self) -> list[Window]:
        """The open windows, oldest first."""
        return sorted(self._open.values(), key=_start_of)

    @property
    def closed_until(self) -> int:
        """The end of the newest closed window: no window begins before it."""
        return self._closed_until

    def find(self, second: int, now: float) -> tuple[Window, bool, bool]:
        """Return the window where an event of `second` counts, whether it is late, whether it is early."""
        if second > now + self.interval_s:
            return self._current(now), False, True
        if second < self._closed_until:
            return self._oldest(now), True, False
        aligned = second - second % self.interval_s
        if self._is_full(aligned):
            return self._oldest(now), True, False
        return self._at(second), False, False

    def close_due(self, now: float, grace_s: float) -> list[Window]:
        """Close the windows whose end and grace have passed; return them, oldest first."""
        due = [window for window in self.opened if window.end + grace_s <= now]
        for window in due:
            self._close(window)
        return due

    def close_all(self, now: float) -> list[Window]:
        """Close every window; return them, oldest first.

        One that has not reached its end ends with the current second; none begins before that. A window that
        lies ahead of the clock keeps its own bounds.
        """
        closing = self.opened
        end = int(now) + 1
        for window in closing:
            if window.start < end < window.end:
                window.end = end
            self._close(window)
        return closing

    def begin_anew(self, now: float) -> None:
        """Forget what has closed, after the clock was set back; the open windows must have been closed."""
        self._closed_until = int(now)

    def next_end(self) -> int | None:
        """Return the end of the oldest open window, or None when none is open."""
        return min([window.end for window in self._open.values()], default=None)

    def _oldest(self, now: float) -> Window:
        if self._open:
            return self._open[min(self._open)]
        return self._at(max(int(now), self._closed_until))

    def _current(self, now: float) -> Window:
        second = max(int(now), self._closed_until)
        return self._oldest(now) if self._is_full(second - second % self.interval_s) else self._at(second)

    def _is_full(self, aligned: int) -> bool:
        return len(self._open) >= MAX_OPEN_WINDOWS and aligned not in self._open

    def _at(self, second: int) -> Window:
        aligned = second - second % self.interval_s
        window = self._open.get(aligned)
        if window is None:
            self._last_number += 1
            start = max(aligned, self._closed_until)
            window = Window(self._last_number, start, aligned + self.interval_s, {})
            self._open[aligned] = window
        return window

    def _close(self, window: Window) -> None:
        del self._open[window.start - window.start % self.interval_s]
        self._closed_until = max(self._closed_until, window.end)


def _start_of(window: Window) -> int:
    return window.start


__all__ = ["MAX_OPEN_WINDOWS", "Window", "Windows"]
