"""Columns -> open windows and the live view -> snapshots. Pure: no socket, no task, no clock of its own.

What is counted, and where, is the tally's; here is what becomes of the windows: they are read, sealed for a
checkpoint, restored, closed and frozen, and the ledger's account balances all the while.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from aiokpl_metrics_protocol import Column, Folded, Row
from aiokpl_metricsd.aggregating.ahead import take_in
from aiokpl_metricsd.aggregating.live import LIVE_SECONDS
from aiokpl_metricsd.aggregating.live_view import LiveView, clamp
from aiokpl_metricsd.aggregating.open_windows import OpenWindow, WholeWindow
from aiokpl_metricsd.aggregating.registry import NO_STATISTICS, NO_WINDOW_KEY, Registry
from aiokpl_metricsd.aggregating.sealing import SealedWindow, decode_sealed, fill_window, unseal
from aiokpl_metricsd.aggregating.shares import MAX_SHARES, Shares
from aiokpl_metricsd.aggregating.tally import Tally
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.snapshot import MetricSnapshot

# A series that was in no window for this long, or for two windows, is forgotten. The live view needs a
# minute.
_FORGET_AFTER_S = 120


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
        self._registry = registry
        self._windows = windows
        self._ledger = ledger
        self._daemon_id = daemon_id
        self._sealed: list[Window] | None = None
        self._live_view = LiveView(live_series)
        self._shares = Shares(max_shares)
        self._tally = Tally(registry, windows, ledger, self._live_view, self._shares)

    @property
    def events_open(self) -> int:
        """Events in open windows."""
        return sum(window.events for window in self._windows.opened)

    def add_columns(self, columns: Sequence[Column], now: float, producer_id: int = 0) -> int:
        """Count the events of columns at epoch second `now`. Return how many came, refused ones included.

        Those without a producer's number are of one producer, as far as summed gauges are concerned.
        """
        events = self._tally.add_columns(columns, now, producer_id)
        self._ledger.events_decoded += events
        return events

    def add_rows(self, rows: Sequence[Row], now: float) -> int:
        """Count rows at epoch second `now`. Return how many came, refused ones included.

        Raises:
            ProtocolError: a row's dimensions do not decode; none of the rows is counted then.
        """
        events = self._tally.add_rows(rows, now)
        self._ledger.events_decoded += events
        return events

    def add_sets(self, sets: Sequence[Folded], now: float, producer_id: int = 0) -> int:
        """Count folded events at epoch second `now`. Return how many came, refused ones included."""
        events = self._tally.add_sets(sets, now, producer_id)
        self._ledger.events_decoded += events
        return events

    def close_due(self, now: float, grace_s: float) -> list[Window]:
        """Close the windows whose end and grace have passed by `now`; return them, oldest first."""
        self._check_unsealed()
        self._tally.leave_window()
        return self._closed(self._windows.close_due(now, grace_s))

    def close_all(self, now: float) -> list[Window]:
        """Close every window, as the clock was set back; return them, oldest first."""
        self._check_unsealed()
        self._tally.leave_window()
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
        self._tally.leave_window()
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
                    self._shares.give_back(len(statistics.shares))
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
                self._shares.give_back(twice)
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
        self._shares.take(sum([statistics.count_shares() for statistics in window.statistics.values()]))

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

    def _closed(self, windows: list[Window]) -> list[Window]:
        self._ledger.events_closed += sum(window.events for window in windows)
        return windows


__all__ = ["Aggregator"]
