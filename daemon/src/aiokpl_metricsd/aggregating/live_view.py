"""Which series have their last 60 seconds kept, and what the live view answers.

At most `live_series` of them have, the most recently active ones; the others answer from their open window.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from sys import float_info

from aiokpl_metricsd.aggregating.live import Live
from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.windows import Window
from aiokpl_metricsd.snapshot import MetricSnapshot

# A place passes to another series once its holder was idle for this long.
_IDLE_S = 10

# Before any second that an event can have.
_NO_SECOND = -(2**63)


class LiveView:
    """The places of the live view.

    Args:
        live_series: how many there are.

    Attributes:
        free_from: no place is free for an event of a second before this one. Asked before `claim`, it spares
            most series past `live_series` the call.
        touch: notes that a series which has a place was active; the holders' own method, to spare a call.
    """

    def __init__(self, live_series: int) -> None:
        """Have every place free."""
        self._live_series = live_series
        # The holders, the most recently active one last.
        self._holders: OrderedDict[Entry, None] = OrderedDict()
        self.touch = self._holders.move_to_end
        self.free_from = _NO_SECOND

    def __len__(self) -> int:
        """Return the number of places taken."""
        return len(self._holders)

    def add(self, entry: Entry, second: int, count: int, total: float, low: float, high: float) -> None:
        """Show events of one second, if the series has a place or finds one."""
        live = entry.live
        if live is None:
            live = self._claim(entry, second)
            if live is None:
                return
        if live.add(second, count, total, low, high):
            self.touch(entry)

    def forget(self, entry: Entry) -> None:
        """Free the place of a series, if it has one."""
        if entry.live is not None:
            entry.live = None
            del self._holders[entry]

    def begin_anew(self) -> None:
        """Free every place, after the clock was set back: what is kept lies in its future."""
        for entry in self._holders:
            entry.live = None
        self._holders.clear()
        self.free_from = _NO_SECOND

    def read(
        self, entries: Iterable[Entry], opened: Sequence[Window], now: int, seconds: int
    ) -> list[MetricSnapshot]:
        """Return what `entries` show of the last seconds, `now` included.

        Where no seconds are kept, the series answers from its open window, and with the bounds of that.
        """
        windows: dict[int, Window] = {}
        for each in opened:
            windows[each.key] = windows[each.sealed_key] = each
        snapshots: list[MetricSnapshot] = []
        for entry in entries:
            if entry.live is not None:
                found = entry.live.read(now, seconds)
                start, end = now + 1 - seconds, now + 1
            else:
                window = windows.get(entry.window_key)
                kept = None if window is None else window.read(entry, _find_earlier(entry, window, opened))
                if window is None or kept is None:
                    continue
                found = kept.count, kept.sum, kept.min, kept.max
                if entry.is_summed:
                    found = 1, kept.last, kept.last, kept.last
                start, end = window.start, window.end
            if found is not None:
                snapshots.append(_build_snapshot(entry, found, start, end))
        return snapshots

    def _claim(self, entry: Entry, second: int) -> Live | None:
        """Give the series a place, if one is free or its holder idle."""
        if second < self.free_from:
            return None
        if len(self._holders) >= self._live_series:
            oldest = next(iter(self._holders), None)
            if oldest is None or not _is_idle(oldest, second - _IDLE_S):
                self.free_from = second + 1
                return None
            self.forget(oldest)
        entry.live = Live()
        self._holders[entry] = None
        return entry.live


def _find_earlier(entry: Entry, window: Window, opened: Sequence[Window]) -> Sequence[Window]:
    """Return the windows before one, where they matter."""
    return [each for each in opened if each.start < window.start] if entry.is_summed else ()


def _is_idle(entry: Entry, since: int) -> bool:
    last_second = None if entry.live is None else entry.live.last_second
    return last_second is None or last_second <= since


def _build_snapshot(
    entry: Entry, found: tuple[int, float, float, float], start: int, end: int
) -> MetricSnapshot:
    count, total, low, high = found
    return MetricSnapshot(
        entry.name,
        count,
        clamp(total),
        # A true that was sent as a value is 1.0 from here on, and so is -0.0 zero.
        low + 0.0,
        high + 0.0,
        entry.dimensions,
        float(start),
        float(end),
        entry.kind,
        entry.unit,
    )


def clamp(total: float) -> float:
    """Return a sum that overflowed as the largest finite number: backends refuse infinity."""
    # In this order even a sum of both infinities becomes a number.
    return min(max(-float_info.max, total), float_info.max)


__all__ = ["LiveView", "clamp"]
