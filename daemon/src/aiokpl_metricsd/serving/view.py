"""Aggregator -> the open windows as one sink is to see them."""

from collections.abc import Sequence

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.aggregating.open_windows import OpenWindow, SeriesKey
from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.delivering.selection import Selection


class SelectedWindows:
    """The open windows of a daemon through a sink's selection.

    Args:
        aggregator: whose windows they are.
        selection: what the sink sees.
    """

    def __init__(self, aggregator: Aggregator, selection: Selection) -> None:
        """Read nothing yet."""
        self._aggregator = aggregator
        self._selection = selection

    def read(self) -> Sequence[OpenWindow]:
        """Return the open windows, oldest first."""
        return self._aggregator.read_open()

    def select(self, entry: Entry) -> SeriesKey | None:
        """Return the series that an entry belongs to in the sink's eyes, or None where it does not see it."""
        selection = self._selection
        if selection.level is MetricsLevel.NONE or not selection.admits(entry.name):
            return None
        return entry.name, selection.keep_dimensions(entry.dimensions)


__all__ = ["SelectedWindows"]
