"""Events -> the sinks that want each one. Best effort, counted; windows never depend on it.

A sink with a method `record` gets each event that came as a row or in a column, with the column's second as
its time. It gets none that was folded, and at most `MAX_EVENTS_PER_COLUMN` of a column, since thirty
bytes can claim four billion.
"""

import logging
import time
from collections.abc import Callable, Sequence

from aiokpl_metrics_protocol import SUMMED_GAUGE, Column, MetricEvent, Row
from aiokpl_metricsd.aggregating.registry import Alias, Registry
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.log import Throttle

# A column of more has its first ones recorded; the rest are counted as withheld.
MAX_EVENTS_PER_COLUMN = 10_000

_log = logging.getLogger("aiokpl_metricsd.tap")


class Outlet:
    """One sink's share of the events.

    Attributes:
        name: the sink's.
        selection: what it wants to see; names and dimensions are selected as for its windows.
        record: takes one event, at once.
        recorded: events that it took.
        withheld: events that it did not get, or that it raised at.
    """

    __slots__ = ("name", "record", "recorded", "selection", "withheld")

    def __init__(self, name: str, selection: Selection, record: Callable[[MetricEvent], None]) -> None:
        """Start with nothing recorded."""
        self.name = name
        self.selection = selection
        self.record = record
        self.recorded = 0
        self.withheld = 0


class Tap:
    """Gives the events of counted frames to the outlets.

    Args:
        registry: knows the series by their aliases.
        outlets: of the sinks that want events.
        clock: monotonic seconds, for the log.
    """

    def __init__(
        self,
        registry: Registry,
        outlets: Sequence[Outlet],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Record nothing yet."""
        self._registry = registry
        self.outlets = tuple(outlets)
        self._throttle = Throttle(clock=clock)

    def record_columns(self, columns: Sequence[Column]) -> None:
        """Record the events of columns that were counted before."""
        for column in columns:
            values = column.values
            if isinstance(values, list):
                self._record(column.series, float(column.second), values[:MAX_EVENTS_PER_COLUMN], len(values))
            else:
                shown = min(column.count, MAX_EVENTS_PER_COLUMN)
                self._record(column.series, float(column.second), [values] * shown, column.count)

    def record_rows(self, rows: Sequence[Row], now: float) -> None:
        """Record rows that were counted before, `now` being the time of those that have none."""
        for row in rows:
            alias = (row.name, bytes(row.dimensions), row.kind, row.unit)
            self._record(alias, row.timestamp or now, [row.value], 1)

    def _record(self, alias: Alias, timestamp: float, values: list[float], count: int) -> None:
        entry = self._registry.find(alias)
        for outlet in self.outlets:
            if entry is None:
                # Refused, or in an overflow series: it has no series of its own that could be named.
                outlet.withheld += count
                continue
            if not outlet.selection.admits(entry.name):
                continue
            dimensions = outlet.selection.keep_dimensions(entry.dimensions)
            kind, unit = SUMMED_GAUGE if entry.is_summed else entry.kind.value, entry.unit
            recorded = 0
            for value in values:
                if value - value != 0.0:
                    continue
                event = MetricEvent(entry.name, float(value), timestamp, dimensions, kind, unit)
                try:
                    outlet.record(event)
                except Exception as error:  # noqa: BLE001 - a sink's fault is no other sink's, and no producer's
                    self._report(outlet, error)
                else:
                    recorded += 1
            outlet.recorded += recorded
            outlet.withheld += count - recorded

    def _report(self, outlet: Outlet, error: Exception) -> None:
        times = self._throttle.admit(f"{outlet.name} {type(error).__name__}")
        if times:
            fields = {"sink": outlet.name, "error": repr(error), "times": times}
            _log.error("a sink's record raised; the event is counted as withheld", extra={"fields": fields})


__all__ = ["MAX_EVENTS_PER_COLUMN", "Outlet", "Tap"]
