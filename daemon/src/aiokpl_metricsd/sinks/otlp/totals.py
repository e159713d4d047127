"""Windows -> totals since the start, for cumulative temporality. Takes each window of a series once.

A retry brings the same window again: a series remembers the window it took last, so the same total is sent
again, with the same time. Windows come oldest first, since the sink is `ordered`.

A series that is not kept any more (the bound) or whose total does not fit any more begins anew, with the
start of its window as the start of its total: that is how OTLP tells a reset, and no count is lost by it.

`dump` and `load` are for whoever keeps the totals across restarts; nobody does yet.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from threading import Lock
from typing import TypeAlias

import msgspec
from msgspec import Struct

from aiokpl_metrics_protocol import Buckets
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: the bound on series kept. A counter takes 0.3 KB beside its name and dimensions (measured 2026-11).
MAX_TOTALS = 200_000

# Points carry counts as unsigned 64-bit integers, sums as doubles (opentelemetry-proto 1.7, read 2026-11);
# the encoder refuses from here on.
MAX_COUNT = 2**63 - 1

# The kind is its word: the garbage collector does not walk through tuples of nothing but text.
_Identity: TypeAlias = tuple[str, tuple[tuple[str, str], ...], str]
_Window: TypeAlias = str | tuple[float, float] | MetricSnapshot | None


class Figures(Struct, frozen=True, gc=False):
    """What one point says.

    Attributes:
        start_ns: epoch nanoseconds; 0 where unknown.
        time_ns: epoch nanoseconds.
        count: of the values.
        sum: of the values.
        min: the least one.
        max: the greatest one.
        buckets: of a histogram, unless it has none.
    """

    start_ns: int
    time_ns: int
    count: int
    sum: float
    min: float
    max: float
    buckets: Buckets | None


class _Total(Struct, gc=False):
    """The total of one series, and the window that it took last."""

    window: _Window
    start_ns: int
    time_ns: int
    count: int = 0
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")
    histogram: Histogram | None = None


class _Stored(Struct, array_like=True):
    """A total as it is dumped."""

    name: str
    dimensions: tuple[tuple[str, str], ...]
    kind: str
    window: str | tuple[float, float] | None
    start_ns: int
    time_ns: int
    count: int
    sum: float
    min: float
    max: float
    buckets: Buckets | None


class _Dump(Struct, array_like=True):
    """All totals, those not updated for the longest time first."""

    first_start_ns: int
    evicted: int
    totals: Sequence[_Stored]


class Totals:
    """The totals of all series. Every method may be called from any thread.

    Args:
        max_series: how many are kept; of more, the one not updated for the longest time is forgotten.

    Attributes:
        evicted: series forgotten so far.
    """

    def __init__(self, max_series: int = MAX_TOTALS) -> None:
        """Start with no series."""
        self.evicted = 0
        self._max_series = max_series
        self._lock = Lock()
        self._first_start_ns = 0
        self._totals: OrderedDict[_Identity, _Total] = OrderedDict()

    def __len__(self) -> int:
        """Return how many series are kept."""
        return len(self._totals)

    def add(self, snapshot: MetricSnapshot, start_ns: int, time_ns: int) -> Figures:
        """Take a window of a series, unless it was taken already, and return the total.

        Args:
            snapshot: finite; counters and histograms only.
            start_ns: the window's start; 0 where unknown.
            time_ns: the window's end, or now.
        """
        with self._lock:
            identity = (snapshot.name, snapshot.dimensions, snapshot.kind.value)
            window = _identify_window(snapshot)
            total = self._totals.get(identity)
            if total is None:
                total = self._open(identity, start_ns)
            if not _is_same(total.window, window):
                if total.count + snapshot.count > MAX_COUNT or not isfinite(total.sum + snapshot.sum):
                    total = self._totals[identity] = _Total(None, start_ns, time_ns)
                _take(total, snapshot)
                total.window = window
                # Never backwards, even where an older window comes late.
                total.time_ns = max(total.time_ns, time_ns)
            self._totals.move_to_end(identity)
            buckets = None if total.histogram is None else total.histogram.freeze()
            return Figures(
                total.start_ns, total.time_ns, total.count, total.sum, total.min, total.max, buckets
            )

    def dump(self) -> bytes:
        """Return all totals, for `load`."""
        with self._lock:
            totals = [_store(identity, total) for identity, total in self._totals.items()]
            return msgspec.msgpack.encode(_Dump(self._first_start_ns, self.evicted, totals))

    def load(self, dumped: bytes) -> None:
        """Go on from what `dump` returned, in place of what is kept now.

        Raises:
            msgspec.MsgspecError: these are no totals.
        """
        dump = msgspec.msgpack.decode(dumped, type=_Dump)
        with self._lock:
            self._first_start_ns = dump.first_start_ns
            self.evicted = dump.evicted
            self._totals = OrderedDict(_restore(stored) for stored in dump.totals)
            self._make_room(0)

    def _open(self, identity: _Identity, start_ns: int) -> _Total:
        self._make_room(1)
        if not self._first_start_ns:
            self._first_start_ns = start_ns
        # A new series was 0 since the beginning; but after an eviction nobody knows whether it is new.
        since_ns = start_ns if self.evicted else min(self._first_start_ns, start_ns) or start_ns
        total = self._totals[identity] = _Total(None, since_ns, 0)
        return total

    def _make_room(self, count: int) -> None:
        while self._totals and len(self._totals) + count > self._max_series:
            self._totals.popitem(last=False)
            self.evicted += 1


def _take(total: _Total, snapshot: MetricSnapshot) -> None:
    total.count += snapshot.count
    total.sum += snapshot.sum
    total.min = min(total.min, snapshot.min)
    total.max = max(total.max, snapshot.max)
    if snapshot.histogram is not None:
        if total.histogram is None:
            total.histogram = Histogram(scale=snapshot.histogram.scale)
        total.histogram.add_buckets(snapshot.histogram)


def _identify_window(snapshot: MetricSnapshot) -> _Window:
    """Return what the same window has again, and no other one: without id and times, the snapshot itself."""
    if snapshot.window_id:
        return snapshot.window_id
    return (snapshot.window_start, snapshot.window_end) if snapshot.window_end else snapshot


def _is_same(taken: _Window, window: _Window) -> bool:
    # Two snapshots without a time may be equal and yet be two windows.
    return taken is window or (not isinstance(window, MetricSnapshot) and taken == window)


def _store(identity: _Identity, total: _Total) -> _Stored:
    name, dimensions, kind = identity
    return _Stored(
        name,
        dimensions,
        kind,
        None if isinstance(total.window, MetricSnapshot) else total.window,
        total.start_ns,
        total.time_ns,
        total.count,
        total.sum,
        total.min,
        total.max,
        None if total.histogram is None else total.histogram.freeze(),
    )


def _restore(stored: _Stored) -> tuple[_Identity, _Total]:
    histogram = None
    if stored.buckets is not None:
        histogram = Histogram(scale=stored.buckets.scale)
        histogram.add_buckets(stored.buckets)
    total = _Total(
        stored.window,
        stored.start_ns,
        stored.time_ns,
        stored.count,
        stored.sum,
        stored.min,
        stored.max,
        histogram,
    )
    return (stored.name, stored.dimensions, stored.kind), total


__all__ = ["MAX_COUNT", "MAX_TOTALS", "Figures", "Totals"]
