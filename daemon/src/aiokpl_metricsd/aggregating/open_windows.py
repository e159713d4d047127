"""Open windows, read-only: for a sink that shows what has not closed yet.

The composition root gives it to a sink; nothing in it may be changed or kept past the turn of the event
loop in which it was read, since events go on being counted in it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.statistics import Statistics

# A metric's name and its dimensions, as a snapshot of the closed window has them.
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


class OpenWindow(NamedTuple):
    """One window that still counts.

    Attributes:
        window_id: what its snapshots will carry.
        start: epoch seconds.
        statistics: by series; live.
    """

    window_id: str
    start: float
    statistics: Mapping[Entry, Statistics]


class OpenWindows(Protocol):
    """What is open now, as one sink is to see it."""

    def read(self) -> Sequence[OpenWindow]:
        """Return the open windows, oldest first."""
        ...

    def select(self, entry: Entry) -> SeriesKey | None:
        """Return the series that an entry belongs to in the sink's eyes, or None where it does not see it."""
        ...


__all__ = ["OpenWindow", "OpenWindows", "SeriesKey"]
