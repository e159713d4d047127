"""Columns -> open windows and the live view. Pure: no socket, no task, no clock of its own.

Cost is a matter of columns, not of events: `sum`, `min` and `max` run over a column in C, and a column's
series is found by the bytes that name it, which are decoded once.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import isfinite
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import MAX_COLUMN_COUNT, Column, Folded, Reason, Row, decode_dimensions
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.limits import check_folded
from aiokpl_metricsd.live import LIVE_SECONDS, Live
from aiokpl_metricsd.registry import (
    NO_STATISTICS,
    NO_WINDOW_NUMBER,
    Alias,
    Entry,
    Registry,
    RowAlias,
)
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.statistics import Statistics, build_statistics
from aiokpl_metricsd.windows import Window, Windows

# A place in the live view passes to another series once its holder was idle for this long.
_LIVE_IDLE_S = 10

# A series that was in no window for this long, or for two windows, is forgotten. The live view needs a
# minute.
_FORGET_AFTER_S = 120

# A second that no window is open for, later than any clock's.
_FAR_AHEAD = 2**62

# Stands where there is no window yet: it has no second.
_NO_WINDOW = Window(0, 0, 0, {})


class RowColumn(Struct, frozen=True, gc=False):
    """A row in the shape of a column of one value."""

    series: RowAlias
    second: int
    values: float
    count: int = 1


class Aggregator:
    """Counts events into windows.

    Args:
        registry: finds the series.
        windows: finds the windows.
        ledger: where events are counted.
        live_series: how many series have their last 60 seconds kept, the most recently active ones.
        daemon_id: goes into the windows' ids.
    """

    def __init__(
        self,
        registry: Registry,
        windows: Windows,
        ledger: Ledger,
        *,
        live_series: int,
        daemon_id: int = 0,
    ) -> None:
        """Start empty."""
        self._registry = registry
        self._windows = windows
        self._ledger = ledger
        self._live_series = live_series
        self._daemon_id = daemon_id
        # The window of the last event, where the next one most likely belongs as well.
        self._window = _NO_WINDOW
        # The holders of places in the live view, the most recently active one last.
        self._live: OrderedDict[Entry, None] = OrderedDict()
        # No place in the live view is free for an event of a second before this one.
        self._live_from = -(2**63)

    @property
    def events_open(self) -> int:
        """Events in open windows."""
        return sum(window.events for window in self._windows.opened)

    def add_columns(self, columns: Sequence[Column] | Sequence[RowColumn], now: float) -> int:
        """Count the events of columns at epoch second `now`. Return how many came, refused ones included."""
        events = self._add_columns(columns, now)
        self._ledger.events_decoded += events
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
            second = int(timestamp) if timestamp - timestamp == 0.0 else _FAR_AHEAD
            columns.append(RowColumn(alias, second, row.value))
        return self.add_columns(columns, now)

    def add_sets(self, sets: Sequence[Folded], now: float) -> int:
        """Count folded events at epoch second `now`. Return how many came, refused ones included."""
        events = 0
        for folded in sets:
            reason = check_folded(folded)
            if reason is not None:
                events += 1
                self._ledger.refuse_events(reason, 1)
                continue
            events += folded.count
            entry = self._registry.by_alias.get(folded.series)
            if entry is None:
                found = self._resolve(folded.series, folded.count)
                if found is None:
                    continue
                entry = found
            self._ledger.events_folded += folded.count
            statistics = self._count(
                entry, folded.second, folded.count, folded.sum, folded.min, folded.max, now
            )
            statistics.add_folded(folded)
        self._ledger.events_decoded += events
        return events

    def close_due(self, now: float, grace_s: float) -> list[Window]:
        """Close the windows whose end and grace have passed by `now`; return them, oldest first."""
        self._window = _NO_WINDOW
        return self._closed(self._windows.close_due(now, grace_s))

    def close_all(self, now: float) -> list[Window]:
        """Close every window, the current one with the current second; return them, oldest first."""
        self._window = _NO_WINDOW
        return self._closed(self._windows.close_all(now))

    def freeze(self, window: Window, slice_series: int) -> Iterator[list[MetricSnapshot]]:
        """Turn a closed window into snapshots, `slice_series` of them at a time, and empty it on the way."""
        window_id = f"{self._daemon_id:016x}-{window.number}"
        start, end = float(window.start), float(window.end)
        statistics_of = window.statistics
        while statistics_of:
            snapshots: list[MetricSnapshot] = []
            for _ in range(min(slice_series, len(statistics_of))):
                entry, statistics = statistics_of.popitem()
                if entry.window_number == window.number:
                    entry.statistics = NO_STATISTICS
                    entry.window_number = NO_WINDOW_NUMBER
                entry.active_until = max(entry.active_until, window.end)
                snapshots.append(
                    MetricSnapshot(
                        entry.name,
                        statistics.count,
                        _clamp(statistics.sum),
                        statistics.min + 0.0,
                        statistics.max + 0.0,
                        entry.dimensions,
                        start,
                        end,
                        entry.kind,
                        entry.unit,
                        statistics.last + 0.0,
                        statistics.freeze_histogram(),
                        window_id,
                    ),
                )
            yield snapshots

    def forget_idle(self, now: float, slice_series: int) -> Iterator[int]:
        """Forget series that were in no window lately, `slice_series` at a time; yield how many went."""
        before_s = now - max(_FORGET_AFTER_S, 2 * self._windows.interval_s)
        entries = self._registry.entries()
        for start in range(0, len(entries), slice_series):
            forgotten = self._registry.forget_idle(entries[start : start + slice_series], before_s)
            for entry in forgotten:
                if entry.live is not None:
                    entry.live = None
                    self._live.pop(entry, None)
            yield len(forgotten)

    def view_live(self, now: float, seconds: int = LIVE_SECONDS) -> list[MetricSnapshot]:
        """Return the last 1 to 60 seconds of every series that has any, from the open window where no more is kept."""
        end = int(now) + 1
        snapshots: list[MetricSnapshot] = []
        for entry in self._registry.entries():
            if entry.live is not None:
                found = entry.live.read(int(now), seconds)
            else:
                kept = entry.statistics
                found = (kept.count, kept.sum, kept.min, kept.max) if kept.count else None
            if found is not None:
                count, total, low, high = found
                snapshot = MetricSnapshot(
                    entry.name, count, total, low, high, entry.dimensions, float(end - seconds), float(end)
                )
                snapshots.append(snapshot)
        return snapshots

    def _add_columns(  # noqa: C901, PLR0912, PLR0915 - see below
        self,
        columns: Sequence[Column] | Sequence[RowColumn],
        now: float,
    ) -> int:
        # The hot loop: one turn a column. What `_count`, `Statistics.add_values` and `Live.add` do is written
        # out here for the common case, since the calls alone were a fifth of a column's cost.
        events = 0
        by_alias = self._registry.by_alias
        window = self._window
        start, end, number = window.start, window.end, window.number
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
                    events += self._add_suspects(column, values, now)
                    continue
            else:
                count = column.count
                total = values * count
                low = high = last = values
                if total - total != 0.0 or not 0 < count <= MAX_COLUMN_COUNT:
                    events += self._refuse_column(values, count)
                    continue
            events += count
            entry = by_alias.get(column.series)
            if entry is None:
                found = self._resolve(column.series, count)
                if found is None:
                    continue
                entry = found
            second = column.second
            if not start <= second < end:
                window.events += counted
                counted = 0
                window, second = self._find_window(second, count, now)
                start, end, number = window.start, window.end, window.number
            counted += count
            if entry.window_number == number:
                statistics = entry.statistics
            else:
                statistics = _open_statistics(entry, window)
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
                if second >= self._live_from:
                    self._claim_live(entry, second, count, total, low, high)
                continue
            cell = live.newest
            if cell.second == second:
                cell.count += count
                cell.sum += total
                if low < cell.min:  # noqa: PLR1730
                    cell.min = low
                if high > cell.max:  # noqa: PLR1730
                    cell.max = high
            elif live.add(second, count, total, low, high):
                self._live.move_to_end(entry)
        window.events += counted
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

    def _count(
        self,
        entry: Entry,
        second: int,
        count: int,
        total: float,
        low: float,
        high: float,
        now: float,
    ) -> Statistics:
        """Count events in their window and in the live view; return the statistics that they belong to."""
        window = self._window
        if not window.start <= second < window.end:
            window, second = self._find_window(second, count, now)
        window.events += count
        live = entry.live
        if live is not None:
            if live.add(second, count, total, low, high):
                self._live.move_to_end(entry)
        elif second >= self._live_from:
            self._claim_live(entry, second, count, total, low, high)
        return entry.statistics if entry.window_number == window.number else _open_statistics(entry, window)

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

    def _claim_live(
        self, entry: Entry, second: int, count: int, total: float, low: float, high: float
    ) -> None:
        """Give the series a place in the live view, if one is free or its holder idle."""
        if len(self._live) >= self._live_series:
            oldest = next(iter(self._live), None)
            idle_since = None if oldest is None or oldest.live is None else oldest.live.last_second
            if oldest is None or (idle_since is not None and idle_since > second - _LIVE_IDLE_S):
                self._live_from = second + 1
                return
            oldest.live = None
            del self._live[oldest]
        entry.live = Live()
        entry.live.add(second, count, total, low, high)
        self._live[entry] = None

    def _add_suspects(self, column: Column | RowColumn, values: list[float], now: float) -> int:
        """Count a column whose sum is not finite: refuse the values that are not, count the others singly."""
        finite = [value for value in values if isfinite(value)]
        refused = len(values) - len(finite)
        if refused:
            self._ledger.refuse_events(Reason.VALUE_NOT_FINITE, refused)
        return refused + self._add_columns(
            [Column(column.series, column.second, value) for value in finite], now
        )

    def _refuse_column(self, value: float, count: int) -> int:
        """Refuse a column of equal values; return how many events that counts as."""
        if not 1 <= count <= MAX_COLUMN_COUNT:
            self._ledger.refuse_events(Reason.COUNT_OUT_OF_RANGE, 1)
            return 1
        self._ledger.refuse_events(Reason.VALUE_NOT_FINITE, count)
        return count

    def _closed(self, windows: list[Window]) -> list[Window]:
        self._ledger.events_closed += sum(window.events for window in windows)
        return windows


def _open_statistics(entry: Entry, window: Window) -> Statistics:
    """Return the statistics of a series in a window, and remember them in its entry."""
    statistics = window.statistics.get(entry)
    if statistics is None:
        statistics = window.statistics[entry] = build_statistics(entry.kind)
    entry.statistics = statistics
    entry.window_number = window.number
    return statistics


def _clamp(total: float) -> float:
    """Return a sum that overflowed as the largest finite number: backends refuse infinity."""
    return min(max(total, -float_info.max), float_info.max)


__all__ = ["Aggregator"]
