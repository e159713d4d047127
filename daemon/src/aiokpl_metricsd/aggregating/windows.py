"""Seconds -> windows: tumbling, aligned to the epoch, each closed once, no two of them overlapping.

A second belongs to the window that contains it. One whose window has closed is late and counts in the oldest
open window, or in the current one where none is open: an interval in which nothing was counted has none. One
more than an interval ahead of the clock is early and counts in the current window. What is late is decided by
what has closed, not by the clock, so that producers that were held back find their own windows.

A daemon's end closes every window early, and the next daemon's first one begins there: a second that was in
any window is in no other one. So a window of which not even the first second has begun, as its time was used
up before or the clock was set back, is closed with that second alone, ahead of the clock. `latest_begin` is
how far that may go; where the next daemon would take its clock for one that was set back, the window is left
open for it.
"""

from collections.abc import Iterable

from msgspec import Struct

from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics

# So that no producer can open a window a second for all of the past.
MAX_OPEN_WINDOWS = 64


class Window(Struct, eq=False):
    """One interval, open or closed.

    Attributes:
        number: counts the windows of this daemon, from 1.
        start: epoch seconds, included.
        end: epoch seconds, excluded.
        statistics: by series; while the window is sealed, what came since.
        events: in this window, sealed ones included.
        key: of `statistics`, by which entries remember theirs; no other dictionary has it.
        sealed: what was counted before it was sealed, while it is: another thread may be reading it.
        sealed_key: the key that `sealed` had, and `key` where there is none.
    """

    number: int
    start: int
    end: int
    statistics: dict[Entry, Statistics]
    events: int = 0
    key: int = 0
    sealed: dict[Entry, Statistics] | None = None
    sealed_key: int = 0

    def read(self, entry: Entry, earlier: "Iterable[Window]" = ()) -> Statistics | None:
        """Return what the window holds of a series, or None; it is not to be changed.

        Args:
            entry: the series.
            earlier: windows that are open and begin before this one. In this one's first second, what they
                hold of a summed gauge stands for the producers that have not told theirs yet.
        """
        if entry.is_summed:
            return self._read_summed(entry, earlier)
        statistics = self.statistics.get(entry)
        if self.sealed is None:
            return statistics
        sealed = self.sealed.get(entry)
        if statistics is None or sealed is None:
            return statistics or sealed
        whole = build_statistics(entry.kind)
        whole.add_earlier(statistics)
        whole.add_earlier(sealed)
        return whole

    def _read_summed(self, entry: Entry, earlier: "Iterable[Window]") -> Statistics | None:
        """Return what the window holds of a summed gauge; its `last` is the sum of the shares."""
        whole = build_statistics(entry.kind, is_summed=True)
        for statistics in self._parts(entry):
            whole.add_earlier(statistics)
        if not whole.shares:
            return None
        for window in earlier:
            for statistics in window._parts(entry):  # noqa: SLF001 - another one of this class
                whole.add_shares(statistics)
        whole.last = whole.sum_shares()
        return whole

    def _parts(self, entry: Entry) -> list[Statistics]:
        """Return what came since the window was sealed, and what came before."""
        parts = [self.statistics.get(entry), None if self.sealed is None else self.sealed.get(entry)]
        return [part for part in parts if part is not None]

    def entries(self) -> list[Entry]:
        """Return the series that the window holds."""
        if not self.sealed:
            return list(self.statistics)
        return [*self.sealed, *[entry for entry in self.statistics if entry not in self.sealed]]


class Windows:
    """The open windows of one daemon.

    Args:
        interval_s: the windows' length, whole seconds.
        begin: epoch second at which the first window begins; everything before it is late.
        last_number: of the newest window that there was before.
    """

    def __init__(self, interval_s: int, begin: int, last_number: int = 0) -> None:
        """Open no window yet."""
        self.interval_s = interval_s
        self._closed_until = begin
        self._open: dict[int, Window] = {}
        # Restored ones whose length is another interval's, and the end of them and of what has closed: no
        # other window begins before it.
        self._odd: list[Window] = []
        self._horizon = begin
        self._last_number = last_number
        self._last_key = 0

    @property
    def opened(self) -> list[Window]:
        """The open windows, oldest first."""
        return sorted([*self._odd, *self._open.values()], key=_start_of)

    @property
    def last_number(self) -> int:
        """The number of the newest window."""
        return self._last_number

    @property
    def closed_until(self) -> int:
        """The end of the newest closed window: no window begins before it."""
        return self._closed_until

    def find(self, second: int, now: float) -> tuple[Window, bool, bool]:
        """Return the window where an event of `second` counts, whether it is late, whether it is early."""
        if second > now + self.interval_s:
            return self.current(now), False, True
        if second < self._horizon:
            restored = self._find_restored(second)
            return (self._oldest(now), True, False) if restored is None else (restored, False, False)
        aligned = second - second % self.interval_s
        if self._is_full(aligned):
            return self._oldest(now), True, False
        return self._at(second), False, False

    def current(self, now: float) -> Window:
        """Return the window of the current second, or the one that begins next where that is used up."""
        restored = self._find_restored(int(now))
        if restored is not None:
            return restored
        second = max(int(now), self._horizon)
        return self._oldest(now) if self._is_full(second - second % self.interval_s) else self._at(second)

    def close_due(self, now: float, grace_s: float) -> list[Window]:
        """Close the windows whose end and grace have passed; return them, oldest first."""
        due = [window for window in self.opened if window.end + grace_s <= now]
        for window in due:
            self._close(window)
        return due

    def close_all(self, now: float) -> list[Window]:
        """Close every window, as the clock was set back; return them, oldest first.

        One that contains the current second ends with it. Those that lie ahead of the clock keep their own
        bounds: that time has been.
        """
        closing = self.opened
        end = int(now) + 1
        for window in closing:
            if window.start < end < window.end:
                window.end = end
            self._close(window)
        return closing

    def close_early(self, now: float, *, keeps: bool) -> list[Window]:
        """Close every window, as the daemon ends; return them, oldest first.

        One that has not reached its end ends with the current second, or with its own first one.

        Args:
            now: epoch seconds.
            keeps: what is still open is kept for the next daemon: a window that would end too late for it to
                go on there is not closed.
        """
        latest = latest_begin(now, self.interval_s)
        closed: list[Window] = []
        for window in self.opened:
            end = min(window.end, max(int(now), window.start) + 1)
            if keeps and end > latest:
                continue
            window.end = end
            self._close(window)
            closed.append(window)
        return closed

    def discard(self, windows: Iterable[Window]) -> None:
        """Let open windows go that are empty, as if they had never been opened."""
        for window in windows:
            self._remove(window)

    def begin_anew(self, now: float) -> None:
        """Forget what has closed, after the clock was set back; the open windows must have been closed."""
        self._closed_until = self._horizon = int(now)

    def next_end(self) -> int | None:
        """Return the end of the oldest open window, or None when none is open."""
        return min([window.end for window in (*self._odd, *self._open.values())], default=None)

    def seal(self) -> list[Window]:
        """Set aside what the open windows hold, and let them begin to count anew; return them."""
        opened = self.opened
        for window in opened:
            window.sealed, window.statistics = window.statistics, {}
            window.sealed_key, window.key = window.key, self._new_key()
        return opened

    def restore(self, number: int, start: int, end: int) -> Window:
        """Open a window as it was, empty. Those that are restored do not overlap."""
        self._last_number = max(self._last_number, number)
        key = self._new_key()
        window = Window(number, start, end, {}, key=key, sealed_key=key)
        aligned = start - start % self.interval_s
        if end == aligned + self.interval_s:
            self._open[aligned] = window
        else:
            self._odd.append(window)
            self._horizon = max(self._horizon, end)
        return window

    def _new_key(self) -> int:
        self._last_key += 1
        return self._last_key

    def _oldest(self, now: float) -> Window:
        if self._odd:
            return self.opened[0]
        if self._open:
            return self._open[min(self._open)]
        return self._at(max(int(now), self._horizon))

    def _find_restored(self, second: int) -> Window | None:
        """Return the window that contains a second before the horizon; there is none but those restored."""
        for window in self.opened if self._odd else ():
            if window.start <= second < window.end:
                return window
        return None

    def _is_full(self, aligned: int) -> bool:
        return len(self._open) >= MAX_OPEN_WINDOWS and aligned not in self._open

    def _at(self, second: int) -> Window:
        aligned = second - second % self.interval_s
        window = self._open.get(aligned)
        if window is None:
            self._last_number += 1
            start = max(aligned, self._horizon)
            key = self._new_key()
            end = aligned + self.interval_s
            window = Window(self._last_number, start, end, {}, key=key, sealed_key=key)
            self._open[aligned] = window
        return window

    def _close(self, window: Window) -> None:
        self._closed_until = max(self._closed_until, window.end)
        self._remove(window)

    def _remove(self, window: Window) -> None:
        if window in self._odd:
            self._odd.remove(window)
        else:
            del self._open[window.start - window.start % self.interval_s]
        self._horizon = max([self._closed_until, *[odd.end for odd in self._odd]])


def latest_begin(now: float, interval_s: int) -> int:
    """Return the latest second at which the windows of a daemon that starts now can begin.

    The last daemon's ended with its last second, or at most an interval later. Where they ended later still,
    the clock has been set back since, by more than an interval.
    """
    return int(now) + interval_s + 1


def _start_of(window: Window) -> int:
    return window.start


__all__ = ["MAX_OPEN_WINDOWS", "Window", "Windows", "latest_begin"]
