"""Values -> what is known of one metric: its last 60 seconds, and what came since the last flush.

The sync half of the in-process library: no task and no sink. `metrics` holds many of these and exports them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from msgspec import Struct

from aiokpl_metrics_protocol import CATALOG, Description, MetricKind, Reason, check_series
from aiokpl_metricsd.aggregating.live import LIVE_SECONDS, Live
from aiokpl_metricsd.aggregating.statistics import Statistics, build_statistics
from aiokpl_metricsd.snapshot import MetricSnapshot

# Values wait in a list, as in a column on the wire, since sum, min and max over it run in C. This bounds it.
MAX_VALUES = 1_024

_UNKNOWN = Description(MetricKind.COUNTER, None)


@dataclass(slots=True, frozen=True)
class MetricKey:
    """What tells one metric from another.

    Attributes:
        name: the metric's name.
        stream: the Kinesis stream, or None.
        shard_id: the shard, or None; its dimension is `shard`.
        error_code: the error, or None.
    """

    name: str
    stream: str | None = None
    shard_id: str | None = None
    error_code: str | None = None

    def dimensions(self) -> tuple[tuple[str, str], ...]:
        """Return the `(key, value)` pairs that are set, in the order stream, shard, error_code."""
        pairs = (("stream", self.stream), ("shard", self.shard_id), ("error_code", self.error_code))
        return tuple((key, value) for key, value in pairs if value is not None)


class Metric:
    """The last 60 seconds of one metric.

    Args:
        key: which metric.
        clock: seconds, from any beginning.

    Attributes:
        key: which metric.
        values_refused: values that were no finite numbers, and so did not count.
    """

    __slots__ = ("_clock", "_live", "key", "values_refused")

    def __init__(self, key: MetricKey, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty."""
        self.key = key
        self.values_refused = 0
        self._clock = clock
        self._live = Live()

    def put(self, value: float = 1.0) -> None:
        """Add one value. Never raises: one that is no finite number is counted and ignored."""
        number = to_number(value)
        if number is None:
            self.values_refused += 1
        else:
            self._live.add(int(self._clock()), 1, number, number, number)

    def stats(self) -> tuple[int, float, float, float] | None:
        """Return `(count, sum, min, max)` of the last 60 seconds, or None when they are empty."""
        return self._live.read(int(self._clock()))

    def window_bounds(self) -> tuple[float, float]:
        """Return the first second with a value and the end of the last, by the clock; zeros when empty."""
        return self._live.bounds(int(self._clock()))


class OpenSeries(Struct, gc=False):
    """One series of a manager. It has no cycle, so the garbage collector need not look at it.

    Attributes:
        key: which metric.
        dimensions: the key's.
        kind: what the values measure.
        unit: their unit, or None.
        live: the last 60 seconds, without `values`.
        pending: what came since the last flush, without `values`.
        values: the newest values, all of one second.
        second: that second, on the manager's clock.
        last: the last value before the last flush.
    """

    key: MetricKey
    dimensions: tuple[tuple[str, str], ...]
    kind: MetricKind
    unit: str | None
    live: Live
    pending: Statistics
    values: list[float]
    second: int = 0
    last: float = 0.0

    def fold(self, second: int) -> None:
        """Move the values into the statistics; those that come next are of `second`."""
        values = self.values
        if len(values) == 1:
            value = values[0]
            self.live.add(self.second, 1, value, value, value)
            self.pending.add_same(value, 1, self.second)
            values.clear()
        elif values:
            total, low, high = sum(values), min(values), max(values)
            self.live.add(self.second, len(values), total, low, high)
            self.pending.add_values(values, total, low, high, self.second)
            values.clear()
        self.second = second

    def has_pending(self) -> bool:
        """Tell whether anything came since the last flush."""
        return bool(self.values or self.pending.count)

    def is_idle(self, now: int) -> bool:
        """Tell whether it can be forgotten: nothing to export, and nothing in the last 60 seconds."""
        last_second = self.live.last_second
        return not self.has_pending() and (last_second is None or last_second <= now - LIVE_SECONDS)

    def take(self, start: float, end: float) -> MetricSnapshot:
        """Return what came since the last flush, and begin anew. The bounds are epoch seconds."""
        self.fold(self.second)
        pending = self.pending
        self.pending = build_statistics(self.kind)
        self.last = pending.last
        return MetricSnapshot(
            name=self.key.name,
            count=pending.count,
            sum=pending.sum,
            min=pending.min,
            max=pending.max,
            dimensions=self.dimensions,
            window_start=start,
            window_end=end,
            kind=self.kind,
            unit=self.unit,
            last=pending.last,
            histogram=pending.freeze_histogram(),
        )

    def read_live(self, now: int) -> tuple[int, float, float, float] | None:
        """Return `(count, sum, min, max)` of the last 60 seconds, or None when they are empty."""
        self.fold(self.second)
        return self.live.read(now)

    def read_snapshot(self, now: int, offset_s: float) -> MetricSnapshot | None:
        """Return the last 60 seconds as a snapshot, or None; `offset_s` leads from the clock to the epoch."""
        statistics = self.read_live(now)
        if statistics is None:
            return None
        count, total, low, high = statistics
        start, end = self.live.bounds(now)
        return MetricSnapshot(
            name=self.key.name,
            count=count,
            sum=total,
            min=low,
            max=high,
            dimensions=self.dimensions,
            window_start=start + offset_s,
            window_end=end + offset_s,
            kind=self.kind,
            unit=self.unit,
            last=self.pending.last if self.pending.count else self.last,
        )


def open_series(name: object, stream: object, shard_id: object, error_code: object) -> OpenSeries | Reason:
    """Return an empty series of the catalog's kind and unit, or the daemon's limit that it would break."""
    if not isinstance(name, str):
        return Reason.WRONG_TYPE
    parts: list[str | None] = []
    for part in (stream, shard_id, error_code):
        if not isinstance(part, str | None):
            return Reason.WRONG_TYPE
        # Members of a string enum become plain strings, which every backend's encoder takes.
        parts.append(None if part is None else str.__str__(part))
    key = MetricKey(str.__str__(name), *parts)
    dimensions = key.dimensions()
    reason = check_series(key.name, None, None, dimensions)
    if reason is not None:
        return reason
    kind, unit = CATALOG.get(key.name, _UNKNOWN)
    return OpenSeries(key, dimensions, kind, unit, Live(), build_statistics(kind), [])


def to_number(value: object) -> float | None:
    """Return a finite float, or None where there is none. A string of digits is no number."""
    if isinstance(value, str | bytes | bytearray):
        return None
    try:
        number = float(value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    except Exception:  # noqa: BLE001 - `float` runs the value's own code
        return None
    return number if isfinite(number) else None


__all__ = ["MAX_VALUES", "Metric", "MetricKey", "OpenSeries", "open_series", "to_number"]
