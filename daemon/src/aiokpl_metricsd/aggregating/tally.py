"""Columns, rows and folded sets -> the open windows and the live view: which events count, and where.

The cost is a matter of columns, not of events: `sum`, `min` and `max` run over a column in C, and a column's
series is found by the bytes that name it, which are decoded once.
It refuses what is no finite number, what is out of range and what breaks a limit, by a reason each, and a set
or a column that is refused costs only itself.
"""

from collections.abc import Sequence
from math import copysign, isfinite
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import MAX_COLUMN_COUNT, Column, Folded, Reason, Row, decode_dimensions
from aiokpl_metricsd.aggregating.limits import check_folded
from aiokpl_metricsd.aggregating.live_view import LiveView
from aiokpl_metricsd.aggregating.registry import Alias, Entry, Registry
from aiokpl_metricsd.aggregating.shares import Shares
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.ledger import Ledger

# A second that no window is open for, later than any clock's.
_FAR_AHEAD = 2**62
_FAR_AHEAD_S = float(_FAR_AHEAD)

# Stands where there is no window yet: it has no second.
_NO_WINDOW = Window(0, 0, 0, {})


class RowColumn(Struct, frozen=True, gc=False):
    """A row, or any single value, in the shape of a column."""

    series: Alias
    second: int
    values: float
    count: int = 1


class Tally:
    """Counts events into windows.

    Of what it returns, the number of events that came, the aggregator keeps the account.

    Args:
        registry: finds the series.
        windows: finds the windows.
        ledger: where events are counted that were refused, late, early or past a limit.
        live_view: shows their last 60 seconds.
        shares: bounds what summed gauges hold.
    """

    def __init__(
        self, registry: Registry, windows: Windows, ledger: Ledger, live_view: LiveView, shares: Shares
    ) -> None:
        """Start in no window."""
        self._registry = registry
        self._windows = windows
        self._ledger = ledger
        self._live_view = live_view
        self._shares = shares
        # The window of the last event, where the next one most likely belongs as well.
        self._window = _NO_WINDOW

    def leave_window(self) -> None:
        """Forget the window of the last event, before windows close."""
        self._window = _NO_WINDOW

    def add_columns(  # noqa: C901, PLR0912, PLR0915 - see below
        self,
        columns: Sequence[Column] | Sequence[RowColumn],
        now: float,
        producer_id: int = 0,
    ) -> int:
        """Count the events of columns at epoch second `now`. Return how many came, refused ones included."""
        # The hot loop: one turn a column. What `Statistics.add_values` and `Live.add` do is written out here
        # for the common case, since the calls alone were a fifth of a column's cost.
        events = 0
        by_alias = self._registry.by_alias
        live_view = self._live_view
        window = self._window
        start, end, key = window.start, window.end, window.key
        counted = 0
        for column in columns:
            values = column.values
            if isinstance(values, list):
                count = len(values)
                if count > 1:
                    total = sum(values)
                    low = min(values)
                    high = max(values)
                    last = values[-1]
                elif count:
                    total = low = high = last = values[0]
                else:
                    continue
                # Only of a finite number this is zero; a sum with NaN or infinity in it is neither.
                if total - total != 0.0:
                    events += self._add_suspects(column, values, now, producer_id)
                    continue
            else:
                count = column.count
                total = values * count
                low = high = last = values
                if total - total != 0.0 or not 0 < count <= MAX_COLUMN_COUNT:
                    refused = self._refuse_column(values, count)
                    if refused:
                        events += refused
                        continue
                    total = copysign(float_info.max, values)
            events += count
            entry = by_alias.get(column.series)
            if entry is None:
                entry = self._resolve(column.series, count)
                if entry is None:
                    continue
                if entry.is_summed:
                    second = column.second
                    folded = Folded(b"", second, count, total, low, high, last, second)
                    self._count_set(entry, folded, now, producer_id, column.series)
                    continue
            second = column.second
            if not start <= second < end:
                window.events += counted
                counted = 0
                window, second = self._find_window(second, count, now)
                start, end, key = window.start, window.end, window.key
            counted += count
            statistics = entry.statistics if entry.window_key == key else _open_statistics(entry, window)
            statistics.count += count
            statistics.sum += total
            if low < statistics.min:  # noqa: PLR1730
                statistics.min = low
            if high > statistics.max:  # noqa: PLR1730
                statistics.max = high
            if second >= statistics.last_second:
                statistics.last_second = second
                statistics.last = last
            if statistics.histogram is not None:
                if isinstance(values, list):
                    statistics.histogram.add_values(values, low, high)
                else:
                    statistics.histogram.add_same(values, count)
            live = entry.live
            if live is None:
                if second >= live_view.free_from:
                    live_view.add(entry, second if second <= now else int(now), count, total, low, high)
                continue
            cell = live.newest
            if cell.second == second:
                cell.count += count
                cell.sum += total
                if low < cell.min:  # noqa: PLR1730
                    cell.min = low
                if high > cell.max:  # noqa: PLR1730
                    cell.max = high
            elif live.add(second if second <= now else int(now), count, total, low, high):
                # A second ahead of the clock is shown as now: it would push the present out of the view.
                live_view.touch(entry)
        window.events += counted
        return events

    def add_rows(self, rows: Sequence[Row], now: float) -> int:
        """Count rows at epoch second `now`. Return how many came, refused ones included.

        Raises:
            ProtocolError: a row's dimensions do not decode; none of the rows is counted then.
        """
        by_alias = self._registry.by_alias
        columns: list[RowColumn] = []
        for row in rows:
            alias = (row.name, bytes(row.dimensions), row.kind, row.unit)
            if alias not in by_alias:
                decode_dimensions(alias[1])
            timestamp = row.timestamp or now
            # A time that is no number is as wrong as one far ahead, and counts the same way: as early, now.
            second = int(timestamp) if -_FAR_AHEAD_S < timestamp < _FAR_AHEAD_S else _FAR_AHEAD
            columns.append(RowColumn(alias, second, row.value))
        return self.add_columns(columns, now)

    def add_sets(self, sets: Sequence[Folded], now: float, producer_id: int = 0) -> int:
        """Count folded events at epoch second `now`. Return how many came, refused ones included."""
        events = 0
        for folded in sets:
            reason = check_folded(folded)
            if reason is not None:
                events += self._refuse_set(folded, reason)
                continue
            events += folded.count
            entry = self._registry.by_alias.get(folded.series)
            if entry is None:
                entry = self._resolve(folded.series, folded.count)
                if entry is None:
                    continue
            if self._count_set(entry, folded, now, producer_id):
                self._ledger.events_folded += folded.count
        return events

    def _resolve(self, alias: Alias, count: int) -> Entry | None:
        """Return the series that is not remembered under its alias, or None when its events are refused."""
        found = self._registry.resolve(alias)
        if isinstance(found, Reason):
            self._ledger.refuse_events(found, count)
            return None
        if found.overflow:
            # An overflow series is remembered under no alias, so that all of its events come by here.
            self._ledger.events_overflowed += count
        return found

    def _count_set(
        self, entry: Entry, folded: Folded, now: float, producer_id: int, alias: Alias = b""
    ) -> bool:
        """Count a folded set in its window and in the live view. Return whether it was not refused."""
        window, second = self._window, folded.second
        if not window.start <= second < window.end:
            window, second = self._find_window(second, folded.count, now)
        last_second = folded.last_second
        if last_second > now + self._windows.interval_s:
            # It is as early as an event of that second would be, and must not outlast all that follow.
            last_second = int(now)
        known = entry.window_key == window.key
        statistics = entry.statistics if known else _open_statistics(entry, window)
        if statistics.shares is not None and last_second >= window.start:
            # A share of before the window is of a producer that has told a later one by now, or has ended.
            source = producer_id ^ self._registry.number_source(alias or folded.series)
            # What was folded over the window's end would make all others look dead.
            if not self._shares.add(statistics, source, folded.last, min(last_second, window.end - 1)):
                self._ledger.refuse_events(Reason.TOO_MANY_PRODUCERS, folded.count)
                return False
        window.events += folded.count
        statistics.add_folded(folded, last_second)
        if not entry.is_summed:
            shown = second if second <= now else int(now)
            self._live_view.add(entry, shown, folded.count, folded.sum, folded.min, folded.max)
        return True

    def _find_window(self, second: int, count: int, now: float) -> tuple[Window, int]:
        """Return the window where events of `second` count, and the second that the live view shows."""
        window, late, early = self._windows.find(second, now)
        if late:
            self._ledger.events_late += count
        elif early:
            self._ledger.events_early += count
            second = int(now)
        else:
            self._window = window
        return window, second

    def _add_suspects(
        self, column: Column | RowColumn, values: list[float], now: float, producer_id: int
    ) -> int:
        """Count a column whose sum is not finite: refuse the values that are not, count the others singly."""
        finite = [value for value in values if isfinite(value)]
        refused = len(values) - len(finite)
        if refused:
            self._ledger.refuse_events(Reason.VALUE_NOT_FINITE, refused)
        return refused + self.add_columns(
            [RowColumn(column.series, column.second, value) for value in finite], now, producer_id
        )

    def _refuse_column(self, value: float, count: int) -> int:
        """Refuse a column of equal values; return how many events that is, 0 if it is to be counted."""
        if not 1 <= count <= MAX_COLUMN_COUNT:
            self._ledger.refuse_events(Reason.COUNT_OUT_OF_RANGE, 1)
            return 1
        if isfinite(value):
            return 0
        self._ledger.refuse_events(Reason.VALUE_NOT_FINITE, count)
        return count

    def _refuse_set(self, folded: Folded, reason: Reason) -> int:
        """Refuse a folded set; return how many events that counts as."""
        # A count out of range is no count; any other is how many events its producer has sent.
        count = 1 if reason is Reason.COUNT_OUT_OF_RANGE else folded.count
        self._ledger.refuse_events(reason, count)
        return count


def _open_statistics(entry: Entry, window: Window) -> Statistics:
    """Return the statistics of a series in a window, and remember them in its entry."""
    statistics = window.statistics.get(entry)
    if statistics is None:
        statistics = window.statistics[entry] = build_statistics(entry.kind, is_summed=entry.is_summed)
    entry.statistics = statistics
    entry.window_key = window.key
    return statistics


__all__ = ["RowColumn", "Tally"]
