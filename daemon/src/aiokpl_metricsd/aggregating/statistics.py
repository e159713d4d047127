"""Values -> count, sum, min, max and last of one series in one window, while it is open."""

from math import inf

from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, Folded, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram

# Before any second that an event can have.
_NO_SECOND = -(2**63)


class Statistics(Struct, gc=False, array_like=True):
    """What is known of one series in one open window.

    It has no cycle, so the garbage collector need not look at it. Its fields, in this order, are what a
    checkpoint stores.

    Attributes:
        count: events so far.
        sum: of their values.
        min: the least value.
        max: the greatest value.
        last: the value with the greatest second; of equal seconds, the one that arrived last.
        last_second: that second.
        histogram: the distribution, where the series is a histogram.
    """

    count: int = 0
    sum: float = 0.0
    min: float = inf
    max: float = -inf
    last: float = 0.0
    last_second: int = _NO_SECOND
    histogram: Histogram | None = None

    def add_same(self, value: float, count: int, second: int) -> None:
        """Add `count` events of one finite value."""
        self.count += count
        self.sum += value * count
        if value < self.min:  # noqa: PLR1730 - comparing costs a third of calling `min`
            self.min = value
        if value > self.max:  # noqa: PLR1730
            self.max = value
        if second >= self.last_second:
            self.last_second = second
            self.last = value
        if self.histogram is not None:
            self.histogram.add_same(value, count)

    def add_values(self, values: list[float], total: float, low: float, high: float, second: int) -> None:
        """Add the events of one column, whose finite values have this sum, minimum and maximum."""
        self.count += len(values)
        self.sum += total
        if low < self.min:  # noqa: PLR1730
            self.min = low
        if high > self.max:  # noqa: PLR1730
            self.max = high
        if second >= self.last_second:
            self.last_second = second
            self.last = values[-1]
        if self.histogram is not None:
            self.histogram.add_values(values, low, high)

    def add_folded(self, folded: Folded, last_second: int) -> None:
        """Add a statistic set that a producer folded. One without buckets adds its mean to a histogram."""
        self.count += folded.count
        self.sum += folded.sum
        self.min = min(self.min, folded.min)
        self.max = max(self.max, folded.max)
        if last_second >= self.last_second:
            self.last_second = last_second
            self.last = folded.last
        if self.histogram is None:
            return
        if folded.buckets is not None:
            self.histogram.add_buckets(folded.buckets)
        else:
            self.histogram.add_same(min(max(folded.sum / folded.count, folded.min), folded.max), folded.count)

    def add_earlier(self, other: "Statistics") -> None:
        """Add what the same series in the same window held before any of this arrived; it stays as it is."""
        if other.last_second > self.last_second or not self.count:
            self.last_second = other.last_second
            self.last = other.last
        self.count += other.count
        self.sum = other.sum + self.sum
        self.min = min(other.min, self.min)
        self.max = max(other.max, self.max)
        if self.histogram is not None and other.histogram is not None:
            self.histogram.add_histogram(other.histogram)

    def convert(self, kind: MetricKind) -> None:
        """Hold what a series of this kind holds. A histogram that had no buckets has the mean in one."""
        if kind is not MetricKind.HISTOGRAM:
            self.histogram = None
        elif self.histogram is None:
            self.histogram = Histogram()
            if self.count:
                mean = min(max(self.sum / self.count, self.min), self.max)
                self.histogram.add_same(mean, self.count)

    def freeze_histogram(self) -> Buckets | None:
        """Return the distribution as it is now, or None where there is none."""
        return None if self.histogram is None else self.histogram.freeze()


def build_statistics(kind: MetricKind) -> Statistics:
    """Return empty statistics for a series of this kind."""
    return Statistics(histogram=Histogram()) if kind is MetricKind.HISTOGRAM else Statistics()


__all__ = ["Statistics", "build_statistics"]
