"""What leaves the aggregator: the statistics of one series in one window, immutable."""

from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, MetricKind


class MetricSnapshot(Struct, frozen=True, gc=False):
    """Count, sum, min and max of one series in one window.

    Attributes:
        name: the metric's name.
        count: events in the window, at least 1.
        sum: of their values, in `unit`.
        min: the least value.
        max: the greatest value.
        dimensions: `(key, value)` pairs.
        window_start: epoch seconds, included.
        window_end: epoch seconds, excluded; 0.0 where the snapshot has no time and is sent as now.
        kind: counter, gauge or histogram.
        unit: as "ms", "bytes" or "count"; None where nobody declared one.
        last: the value with the greatest second; what holds for a gauge.
        histogram: of a histogram, the distribution of the values; None otherwise.
        window_id: the same for all snapshots of one window, another for every other window of any daemon;
            "" where the snapshot comes from no daemon.
        is_summed: a gauge whose value is the sum of its producers' last values: of snapshots of one window
            that become one, the values add up.
    """

    name: str
    count: int
    sum: float
    min: float
    max: float
    dimensions: tuple[tuple[str, str], ...] = ()
    window_start: float = 0.0
    window_end: float = 0.0
    kind: MetricKind = MetricKind.COUNTER
    unit: str | None = None
    last: float = 0.0
    histogram: Buckets | None = None
    window_id: str = ""
    is_summed: bool = False


__all__ = ["MetricSnapshot"]
