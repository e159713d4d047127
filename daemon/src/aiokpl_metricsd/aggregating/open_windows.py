"""Open windows, read-only: for a sink that shows what has not closed yet.

The composition root gives it to a sink; nothing in it may be changed or kept past the turn of the event
loop in which it was read, since events go on being counted in it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar, overload

from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.statistics import Statistics
from aiokpl_metricsd.aggregating.windows import Window

# A metric's name and its dimensions, as a snapshot of the closed window has them.
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


_Default = TypeVar("_Default")


class WholeWindow(Mapping[Entry, Statistics]):
    """What a window holds at the moment it is asked, whether it is sealed then or not.

    Args:
        window: the window.
        earlier: open windows that begin before it, as for `Window.read`.
    """

    __slots__ = ("_earlier", "_window")

    def __init__(self, window: Window, earlier: Sequence[Window] = ()) -> None:
        """Read nothing yet."""
        self._window = window
        self._earlier = earlier

    def __getitem__(self, key: Entry) -> Statistics:
        """Return what the window holds of a series."""
        statistics = self._window.read(key, self._earlier)
        if statistics is None:
            raise KeyError(key)
        return statistics

    def __iter__(self) -> Iterator[Entry]:
        """Return the series that the window holds now."""
        return iter(self._window.entries())

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self._window.entries())

    @overload
    def get(self, key: Entry, /) -> Statistics | None: ...

    @overload
    def get(self, key: Entry, /, default: Statistics | _Default) -> Statistics | _Default: ...

    def get(
        self, key: Entry, /, default: Statistics | _Default | None = None
    ) -> Statistics | _Default | None:
        """Return what the window holds of a series, or the default."""
        # Asked once a series of a page, it spares the exception that the mixin's own would catch.
        statistics = self._window.read(key, self._earlier)
        return default if statistics is None else statistics


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


__all__ = ["OpenWindow", "OpenWindows", "SeriesKey", "WholeWindow"]
