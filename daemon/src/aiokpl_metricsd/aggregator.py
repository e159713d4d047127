"""Columns -> open windows and the live view. Pure: no socket, no task, no clock of its own.

Cost is a matter of columns, not of events: `sum`, `min` and `max` run over a column in C, and a column's
series is found by the bytes that name it, which are decoded once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import copysign, isfinite
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import MAX_COLUMN_COUNT, Column, Folded, Reason, Row, decode_dimensions
from aiokpl_metricsd.aggregating.ahead import take_in
from aiokpl_metricsd.aggregating.limits import check_folded
from aiokpl_metricsd.aggregating.live import LIVE_SECONDS
from aiokpl_metricsd.aggregating.live_view import LiveView, clamp
from aiokpl_metricsd.aggregating.open_windows import OpenWindow, WholeWindow
from aiokpl_metricsd.aggregating.registry import (
    NO_STATISTICS,
    NO_WINDOW_KEY,
    Alias,
    Entry,
    Registry,
)
from aiokpl_metricsd.aggregating.sealing import SealedWindow, decode_sealed, fill_window, unseal
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.snapshot import MetricSnapshot

# A series that was in no window for this long, or for two windows, is forgotten. The live view needs a
# minute.
_FORGET_AFTER_S = 120

# Shares of summed gauges in open windows, about 160 bytes each: a hundred processes with five hundred such
# gauges, in two windows. Past it, values of other producers are refused, so that endless many ids, which
# anybody may draw, take no more memory than this.
MAX_SHARES = 100_000

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


class Aggregator:
    """Counts events into windows.

    Args:
        registry: finds the series.
        windows: finds the windows.
        ledger: where events are counted.
        live_series: how many series have their last 60 seconds kept, the most recently active ones.
        daemon_id: goes into the windows' ids.
        max_shares: producers' last values that summed gauges may have in all open windows.
    """

    def __init__(
        self,
        registry: Registry,
        windows: Windows,
        ledger: Ledger,
        *,
        live_series: int,
        daemon_id: int = 0,
        max_shares: int = MAX_SHARES,
    ) -> None:
        """Start empty."""
        self._max_shares = max_shares
        self._shares = 0
        self._registry = registry
        self._windows = windows
        self._ledger = ledger
        self._daemon_id = daemon_id
        # The window of the last event, where the next one most likely belongs as well.
        self._window = _NO_WINDOW
        self._sealed: list[Window] | None = None
        self._live_view = LiveView(live_series)

    @property
    def events_open(self) -> int:
        """Events in open windows."""
        return sum(window.events for window in self._windows.opened)

    def add_columns(
        self, columns: Sequence[Column] | Sequence[RowColumn], now: float, producer_id: int = 0
    ) -> int:
        """Count the events of columns at epoch second `now`. Return how many came, refused ones included.

        Those without a producer's number are of one producer, as far as summed gauges are concerned.
        """
        events = self._add_columns(columns, now, producer_id)
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
        self._ledger.events_decoded += events
        return events

    def close_due(self, now: float, grace_s: float) -> list[Window]:
        """Close the windows whose end and grace have passed by `now`; return them, oldest first."""
        self._check_unsealed()
        self._window = _NO_WINDOW
        return self._closed(self._windows.close_due(now, grace_s))

    def close_all(self, now: float) -> list[Window]:
        """Close every window, as the clock was set back; return them, oldest first."""
        self._check_unsealed()
        self._window = _NO_WINDOW
        return self._closed(self._windows.close_all(now))

    def close_for_good(self, now: float, *, keeps: bool = False) -> list[Window]:
        """Close every window at the daemon's end; return them, oldest first.

        What lies wholly ahead of the clock counts in the current window, as early.

        Args:
            now: epoch seconds.
            keeps: as for `Windows.close_early`.
        """
        self._check_unsealed()
        ahead = [window for window in self._windows.opened if window.start > now]
        if ahead:
            current = self._windows.current(now)
            ahead = [window for window in ahead if window is not current]
            self._ledger.events_early += take_in(current, ahead)
            self._windows.discard(ahead)
        self._window = _NO_WINDOW
        return self._closed(self._windows.close_early(now, keeps=keeps))

    def begin_anew(self, now: float) -> None:
        """Begin windows at `now`, after the clock was set back; the open ones must have been closed."""
        self._windows.begin_anew(now)

    def forget_live(self) -> None:
        """Empty the live view, whose seconds lie in the future after the clock was set back."""
        self._live_view.begin_anew()

    def freeze(self, window: Window, slice_series: int) -> Iterator[list[MetricSnapshot]]:
        """Turn a closed window into snapshots, `slice_series` of them at a time, and empty it on the way."""
        window_id = self.name_window(window)
        start, end = float(window.start), float(window.end)
        statistics_of = window.statistics
        while statistics_of:
            snapshots: list[MetricSnapshot] = []
            for _ in range(min(slice_series, len(statistics_of))):
                entry, statistics = statistics_of.popitem()
                if entry.window_key == window.key:
                    entry.statistics = NO_STATISTICS
                    entry.window_key = NO_WINDOW_KEY
                entry.active_until = max(entry.active_until, window.end)
                if statistics.shares is not None:
                    self._shares -= len(statistics.shares)
                    if not statistics.shares:
                        # All that came was late, and no producer was heard of in this window.
                        continue
                    statistics = statistics.sum_up()
                snapshots.append(
                    MetricSnapshot(
                        entry.name,
                        statistics.count,
                        clamp(statistics.sum),
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
                        entry.is_summed,
                    ),
                )
            yield snapshots

    def seal(self) -> list[SealedWindow]:
        """Set aside what the open windows hold, for a checkpoint, at a cost of their number alone.

        Events go on being counted. No window may close until `unseal` has put it back.
        """
        self._check_unsealed()
        self._sealed = self._windows.seal()
        return [
            SealedWindow(window.number, window.start, window.end, window.events, window.sealed or {})
            for window in self._sealed
        ]

    def unseal(self, slice_series: int) -> Iterator[None]:
        """Put back what was set aside, `slice_series` series at a time; nobody may be reading it any more."""
        for window in self._sealed or ():
            for twice in unseal(window, slice_series):
                self._shares -= twice
                yield
        self._sealed = None

    def restore(self, number: int, start: int, end: int, events: int, blobs: Iterable[bytes]) -> None:
        """Open a window as a checkpoint has it: its bounds, its events, and its series as they were encoded.

        Raises:
            ValueError: what was encoded is damaged, or of another version; nothing is restored then.
        """
        series = [each for blob in blobs for each in decode_sealed(blob)]
        window = self._windows.restore(number, start, end)
        window.events = events
        fill_window(window, series, self._registry)
        self._shares += sum([statistics.count_shares() for statistics in window.statistics.values()])

    def forget_idle(self, now: float, slice_series: int) -> Iterator[int]:
        """Forget series that were in no window lately, `slice_series` at a time; yield how many went."""
        interval_s = self._windows.interval_s
        before_s = now - max(_FORGET_AFTER_S, 2 * interval_s)
        # No window that is open now ends later; one that did was of a clock that has been set back since.
        latest_s = int(now) + 2 * interval_s
        entries = self._registry.entries()
        for start in range(0, len(entries), slice_series):
            forgotten = self._registry.forget_idle(entries[start : start + slice_series], before_s, latest_s)
            for entry in forgotten:
                self._live_view.forget(entry)
            yield len(forgotten)

    def view_live(self, now: float, seconds: int = LIVE_SECONDS) -> list[MetricSnapshot]:
        """Return the last 1 to 60 seconds of every series that has any, as `LiveView.read` has them."""
        return self._live_view.read(self._registry.entries(), self._windows.opened, int(now), seconds)

    def view_live_sliced(
        self, now: float, seconds: int, slice_series: int, admits: Callable[[str], bool]
    ) -> Iterator[list[MetricSnapshot]]:
        """Return the same of the metrics whose name is admitted, `slice_series` at a time."""
        entries = self._registry.entries()
        for start in range(0, len(entries), slice_series):
            part = [entry for entry in entries[start : start + slice_series] if admits(entry.name)]
            yield self._live_view.read(part, self._windows.opened, int(now), seconds)

    def read_open(self) -> list[OpenWindow]:
        """Return the open windows, oldest first; what they hold is live and not to be changed."""
        opened = self._windows.opened
        return [
            OpenWindow(self.name_window(window), float(window.start), WholeWindow(window, opened[:index]))
            for index, window in enumerate(opened)
        ]

    def name_window(self, window: Window) -> str:
        """Return the id of a window, which no other window of any daemon has."""
        return f"{self._daemon_id:016x}-{window.number}"

    def _check_unsealed(self) -> None:
        if self._sealed is not None:
            raise RuntimeError("windows are sealed: unseal them first")

    def _add_columns(  # noqa: C901, PLR0912, PLR0915 - see below
        self,
        columns: Sequence[Column] | Sequence[RowColumn],
        now: float,
        producer_id: int,
    ) -> int:
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
            if self._shares >= self._max_shares and source not in statistics.shares:
                self._ledger.refuse_events(Reason.TOO_MANY_PRODUCERS, folded.count)
                return False
            # What was folded over the window's end would make all others look dead.
            self._shares += statistics.add_share(source, folded.last, min(last_second, window.end - 1))
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
        return refused + self._add_columns(
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

    def _closed(self, windows: list[Window]) -> list[Window]:
        self._ledger.events_closed += sum(window.events for window in windows)
        return windows


def _open_statistics(entry: Entry, window: Window) -> Statistics:
    """Return the statistics of a series in a window, and remember them in its entry."""
    statistics = window.statistics.get(entry)
    if statistics is None:
        statistics = window.statistics[entry] = build_statistics(entry.kind, is_summed=entry.is_summed)
    entry.statistics = statistics
    entry.window_key = window.key
    return statistics


__all__ = ["MAX_SHARES", "Aggregator"]
