"""Base windows -> the longer windows of a sink whose interval is a multiple of the base. Pure.

A longer window is `[n * interval_s, (n + 1) * interval_s)` from the epoch. The base window that ends at or
after its end completes it; so does a base window of another interval, which a stepped clock brings, and the
shutdown. It begins where its first base window began and ends where its last one ended.

Base windows are merged as they come, not when the longer one is complete: of sixty windows of 100,000 series
only one is held, and the work is spread.
"""

from collections.abc import Sequence
from math import floor

from msgspec import Struct

from aiokpl_metricsd.delivering.merge import merge_snapshots
from aiokpl_metricsd.delivering.slicing import SLICE_MERGES, Work, cut_slices, run_at_once
from aiokpl_metricsd.snapshot import MetricSnapshot

# Between the ids of the first and the last base window, in that of the longer one.
_TO = ".."

_Series = tuple[str, tuple[tuple[str, str], ...]]


class Merged(Struct, frozen=True):
    """What became of one base window.

    Attributes:
        windows: the longer windows that are now complete, oldest first; seldom more than one.
        merged_count: snapshots that became part of another one.
    """

    windows: tuple[Sequence[MetricSnapshot], ...] = ()
    merged_count: int = 0


class Merger:
    """Holds the longer window that is being put together, for one sink.

    Args:
        interval_s: the longer interval.
    """

    def __init__(self, interval_s: int) -> None:
        """Start with nothing held."""
        self.interval_s = interval_s
        self._held: dict[_Series, MetricSnapshot] = {}
        self._number = 0
        self._start = self._end = 0.0
        self._first_id = self._last_id = ""

    @property
    def held_count(self) -> int:
        """Snapshots held: the series of the longer window so far."""
        return len(self._held)

    def add(self, window: Sequence[MetricSnapshot], window_end: float = 0.0) -> Merged:
        """Take one base window, at once. Arguments as for `steps`."""
        return run_at_once(self.steps(window, window_end))

    def steps(self, window: Sequence[MetricSnapshot], window_end: float = 0.0) -> Work[Merged]:
        """Take one base window, in slices.

        Args:
            window: its snapshots.
            window_end: its end, needed where it has no snapshot to say so.
        """
        end = window[0].window_end if window else window_end
        if end <= 0.0:
            # Without a time it belongs to no interval.
            return Merged((window,) if window else ())
        done: list[Sequence[MetricSnapshot]] = []
        number = self._number_of(window, end)
        if self._held and number != self._number:
            done.append((yield from self._release()))
        completes = end >= (number + 1) * self.interval_s
        if completes and not self._held:
            done.extend([window] if window else [])
            return Merged(tuple(done))
        if not self._held and window:
            self._number, self._start, self._first_id = number, window[0].window_start, window[0].window_id
        merged_count = yield from self._take(window, end)
        if completes:
            done.append((yield from self._release()))
        return Merged(tuple(done), merged_count)

    def dump(self) -> list[MetricSnapshot]:
        """Return what is held, for `restore`: the first snapshot has the window's time and ids."""
        held = list(self._held.values())
        if held:
            ids = f"{self._first_id}{_TO}{self._last_id}"
            held[0] = _restamp(held[0], self._start, self._end, ids)
        return held

    def restore(self, held: Sequence[MetricSnapshot]) -> None:
        """Hold what another merger dumped, of whatever interval; this one holds nothing yet."""
        if not held:
            return
        self._start, self._end = held[0].window_start, held[0].window_end
        self._first_id, _, self._last_id = held[0].window_id.partition(_TO)
        self._number = floor(self._start / self.interval_s)
        self._held = {(snapshot.name, snapshot.dimensions): snapshot for snapshot in held}

    def flush(self) -> Work[Sequence[MetricSnapshot]]:
        """Return what is held as a window, complete or not, in slices; empty where nothing is held."""
        return self._release()

    def _number_of(self, window: Sequence[MetricSnapshot], end: float) -> int:
        if window:
            return floor(window[0].window_start / self.interval_s)
        # An empty window only says that time has passed. Its start is not known: its last instant places it.
        number = floor(end / self.interval_s)
        return number - 1 if number * self.interval_s == end else number

    def _take(self, window: Sequence[MetricSnapshot], end: float) -> Work[int]:
        held = self._held
        before = len(held)
        self._end = end
        self._last_id = window[0].window_id if window else self._last_id
        for number, part in enumerate(cut_slices(window, SLICE_MERGES)):
            if number:
                yield
            for snapshot in part:
                series = (snapshot.name, snapshot.dimensions)
                other = held.get(series)
                held[series] = snapshot if other is None else merge_snapshots(other, snapshot)
        return before + len(window) - len(held)

    def _release(self) -> Work[Sequence[MetricSnapshot]]:
        held, self._held = list(self._held.values()), {}
        start, end = self._start, self._end
        window_id = (
            self._first_id if self._first_id == self._last_id else f"{self._first_id}{_TO}{self._last_id}"
        )
        window: list[MetricSnapshot] = []
        for number, part in enumerate(cut_slices(held, SLICE_MERGES)):
            if number:
                yield
            window.extend([_restamp(snapshot, start, end, window_id) for snapshot in part])
        return window


def _restamp(snapshot: MetricSnapshot, start: float, end: float, window_id: str) -> MetricSnapshot:
    """Give the snapshot the longer window. `structs.replace` would cost three times as much."""
    return MetricSnapshot(
        snapshot.name,
        snapshot.count,
        snapshot.sum,
        snapshot.min,
        snapshot.max,
        snapshot.dimensions,
        start,
        end,
        snapshot.kind,
        snapshot.unit,
        snapshot.last,
        snapshot.histogram,
        window_id,
        snapshot.is_summed,
    )


__all__ = ["Merged", "Merger"]
