"""Events -> one statistic set a series and window, for a client that is held back.

Exact but for the single events: count, sum, minimum, maximum, last and buckets are those of the events. At
most 60 windows; past them, or past the bytes that it may take, windows become coarser, never fewer events.
"""

from collections.abc import Iterator
from math import isfinite
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import (
    CATALOG,
    MAX_COLUMN_COUNT,
    Folded,
    Histogram,
    MetricKind,
    decode_series,
)

MAX_WINDOWS = 60

# What a set, its histogram and a bucket of that take in memory (measured with tracemalloc on CPython 3.11,
# 2026-11: 268, 300 and 56 to 79 bytes).
_SET_BYTES = 300
_HISTOGRAM_BYTES = 300
_BUCKET_BYTES = 75

# What a series takes once, however many sets it has: the object of its bytes beside the bytes themselves, and
# its entries in dictionaries (tracemalloc, CPython 3.11, 2026-12: 33 and up to 105 bytes).
_SERIES_BYTES = 140

# Windows of the daemon are this long at least and at most, whatever an answer says.
_LEAST_WIDTH_S = 1.0
_GREATEST_WIDTH_S = 86_400.0


class StatisticSet(Struct, gc=False):
    """What is known of the events of one series in one window. As `Folded`, and may grow."""

    series: bytes
    second: int
    count: int
    sum: float
    min: float
    max: float
    last: float
    last_second: int
    histogram: Histogram | None

    def size_bytes(self) -> int:
        """Return about how much memory it takes."""
        histogram = self.histogram
        if histogram is None:
            return _SET_BYTES
        sides = (histogram.positive, histogram.negative)
        buckets = sum([len(side.counts) for side in sides if side is not None])
        return _SET_BYTES + _HISTOGRAM_BYTES + _BUCKET_BYTES * buckets

    def freeze(self) -> Folded:
        """Return it as it goes over the wire."""
        # Finite values may add up to an infinite sum, for which the daemon would refuse the whole set.
        most = float_info.max
        total = self.sum if isfinite(self.sum) else (most if self.sum > 0 else -most)
        return Folded(
            self.series,
            self.second,
            self.count,
            total,
            self.min,
            self.max,
            self.last,
            self.last_second,
            None if self.histogram is None else self.histogram.freeze(),
        )


class Fold:
    """The statistic sets of one producer that are not yet in a frame.

    Attributes:
        events: folded and still here.
        size_bytes: about what it takes in memory.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.events = 0
        self.size_bytes = 0
        self._windows: dict[int, dict[bytes, StatisticSet]] = {}
        self._full: list[StatisticSet] = []
        # Of the series that have a set, and of no others: those that came in vain are without end.
        self._has_buckets: dict[bytes, bool] = {}
        self._width_s = _LEAST_WIDTH_S
        self._is_known = False
        self._oldest: int | None = None

    def begin(self, interval_s: float) -> None:
        """Fold into windows of this length from now on; 0 where it is unknown. Only while it is empty."""
        self._is_known = _LEAST_WIDTH_S <= interval_s <= _GREATEST_WIDTH_S
        self._width_s = interval_s if self._is_known else _LEAST_WIDTH_S
        self._oldest = None

    def add(self, series: bytes, second: int, values: list[float], room_bytes: int) -> bool:
        """Add finite floats, the events of one series in one second. Return whether there was room."""
        # Histograms grow, so that there may be too much although each set fitted once.
        while self.size_bytes > room_bytes and self._coarsen():
            pass
        window = self._windows.get(self._find(second))
        found = None if window is None else window.get(series)
        if found is None:
            found = self._open(series, second, room_bytes)
        if found is None or (found.histogram is not None and self.size_bytes > room_bytes):
            return False
        if found.count + len(values) > MAX_COLUMN_COUNT:
            found = self._replace_full(found)
        if found.histogram is None:
            _add_values(found, second, values)
        else:
            before = found.size_bytes()
            _add_values(found, second, values)
            self.size_bytes += found.size_bytes() - before
        self.events += len(values)
        return True

    def take(self) -> Iterator[Folded]:
        """Empty it, and yield the sets, the oldest window first."""
        windows, full = self._windows, self._full
        self._windows, self._full, self._has_buckets = {}, [], {}
        self.events = self.size_bytes = 0
        self._oldest = None
        for each in full:
            yield each.freeze()
        for number in sorted(windows):
            for each in windows.pop(number).values():
                yield each.freeze()

    def _find(self, second: int) -> int:
        number = int(second // self._width_s)
        return number if self._oldest is None or number >= self._oldest else self._oldest

    def _open(self, series: bytes, second: int, room_bytes: int) -> StatisticSet | None:
        """Return a set for the series, in a new window if need be; None when there is no room."""
        known = self._has_buckets.get(series)
        has_buckets = _has_buckets(series) if known is None else known
        size = _SET_BYTES + (_HISTOGRAM_BYTES if has_buckets else 0)
        if known is None:
            # Nobody else may have a series any more that has long been idle.
            size += _SERIES_BYTES + len(series)
        while True:
            number = self._find(second)
            window = self._windows.get(number)
            if window is not None and series in window:
                # It is in there by now, since windows became coarser.
                return window[series]
            is_one_too_many = window is None and len(self._windows) >= MAX_WINDOWS
            if not is_one_too_many and self.size_bytes + size <= room_bytes:
                break
            if not self._coarsen():
                # One window is left: what has a set there goes into it, whatever its second.
                return next((only.get(series) for only in self._windows.values()), None)
        if window is None:
            window = self._windows[number] = {}
        histogram = Histogram() if has_buckets else None
        opened = StatisticSet(series, second, 0, 0.0, float_info.max, -float_info.max, 0.0, second, histogram)
        self.size_bytes += size
        self._has_buckets[series] = has_buckets
        window[series] = opened
        return opened

    def _coarsen(self) -> bool:
        """Make fewer windows of those there are. Return False when there is but one."""
        if len(self._windows) < 2:  # noqa: PLR2004 - two are needed to make one
            return False
        before = len(self._windows)
        while not self._is_known and len(self._windows) == before and self._width_s < _GREATEST_WIDTH_S:
            self._width_s *= 2
            windows, self._windows = self._windows, {}
            for number in sorted(windows, reverse=True):
                into = self._windows.setdefault(number >> 1, {})
                self._merge(into, windows[number])
        if len(self._windows) == before:
            # The daemon has closed the oldest ones first; the younger ones may still be open.
            numbers = sorted(self._windows)
            self._oldest = numbers[1]
            self._merge(self._windows[numbers[1]], self._windows.pop(numbers[0]))
        return True

    def _merge(self, into: dict[bytes, StatisticSet], earlier: dict[bytes, StatisticSet]) -> None:
        for series, other in earlier.items():
            mine = into.get(series)
            if mine is None:
                into[series] = other
            elif mine.count + other.count > MAX_COLUMN_COUNT:
                self._full.append(other)
            else:
                before = mine.size_bytes() + other.size_bytes()
                _add_set(mine, other)
                self.size_bytes += mine.size_bytes() - before

    def _replace_full(self, full: StatisticSet) -> StatisticSet:
        """Set aside a set that can take no more events, and begin another one in its place."""
        histogram = None if full.histogram is None else Histogram()
        fresh = StatisticSet(
            full.series, full.second, 0, 0.0, float_info.max, -float_info.max, 0.0, full.second, histogram
        )
        self._windows[self._find(full.second)][full.series] = fresh
        self._full.append(full)
        self.size_bytes += fresh.size_bytes()
        return fresh


def _add_values(into: StatisticSet, second: int, values: list[float]) -> None:
    count = len(values)
    low = high = values[0]
    is_same = values.count(low) == count
    if not is_same:
        low, high = min(values), max(values)
    into.count += count
    into.sum += low * count if is_same else sum(values)
    if low < into.min:  # noqa: PLR1730 - comparing costs a third of calling `min`
        into.min = low
    if high > into.max:  # noqa: PLR1730
        into.max = high
    if second < into.second:  # noqa: PLR1730
        into.second = second
    if second >= into.last_second:
        into.last_second = second
        into.last = values[-1]
    if into.histogram is not None:
        if is_same:
            into.histogram.add_same(low, count)
        else:
            into.histogram.add_values(values, low, high)


def _add_set(into: StatisticSet, earlier: StatisticSet) -> None:
    into.count += earlier.count
    into.sum += earlier.sum
    into.min = min(into.min, earlier.min)
    into.max = max(into.max, earlier.max)
    into.second = min(into.second, earlier.second)
    if earlier.last_second > into.last_second:
        into.last_second = earlier.last_second
        into.last = earlier.last
    if into.histogram is not None and earlier.histogram is not None:
        into.histogram.add_histogram(earlier.histogram)


def _has_buckets(encoded: bytes) -> bool:
    """Tell whether the series may be a histogram: one of undeclared kind is what the daemon says it is."""
    series = decode_series(encoded)
    kind = series.kind
    if kind is None and series.name in CATALOG:
        kind = CATALOG[series.name].kind.value
    return kind is None or kind == MetricKind.HISTOGRAM.value


__all__ = ["MAX_WINDOWS", "Fold", "StatisticSet"]
