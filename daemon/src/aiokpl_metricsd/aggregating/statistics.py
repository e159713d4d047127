"""Values -> count, sum, min, max and last of one series in one window, while it is open.

Of a summed gauge, the value that holds is the sum of its producers' shares: the last value of each that was
alive, which is to say that its share is not older than `ALIVE_S` before the newest one. So a worker that was
recycled in the midst of a window does not count beside its successor, and no clock is asked.
"""

from math import inf
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, Folded, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram

# Before any second that an event can have.
_NO_SECOND = -(2**63)

# A producer tells its share each second. One that did not for this long has ended, or is so held up that
# nobody can tell; half a second of either is ordinary on a busy machine.
ALIVE_S = 10


class Share(Struct, gc=False, array_like=True):
    """What one producer adds to a summed gauge.

    Attributes:
        second: in which it said so last.
        value: its last value.
    """

    second: int
    value: float


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
        shares: by producer, where the series is a summed gauge.
    """

    count: int = 0
    sum: float = 0.0
    min: float = inf
    max: float = -inf
    last: float = 0.0
    last_second: int = _NO_SECOND
    histogram: Histogram | None = None
    shares: dict[int, Share] | None = None

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
        self.add_shares(other)

    def add_share(self, producer: int, value: float, second: int) -> bool:
        """Note a producer's last value, of equal seconds the last to arrive. Return whether it is new."""
        shares = self.shares
        if shares is None:
            shares = self.shares = {}
        share = shares.get(producer)
        if share is None:
            shares[producer] = Share(second, value + 0.0)
            return True
        if second >= share.second:
            share.second, share.value = second, value + 0.0
        return False

    def add_shares(self, other: "Statistics") -> None:
        """Note the shares of other statistics which are newer than these; they stay as they are."""
        if other.shares is None:
            return
        shares = self.shares
        if shares is None:
            shares = self.shares = {}
        for producer, share in other.shares.items():
            known = shares.get(producer)
            if known is None or share.second > known.second:
                shares[producer] = share

    def sum_shares(self, alive_s: float = ALIVE_S) -> float:
        """Return the sum of the shares of those that were alive at the newest one's second."""
        shares = self.shares
        if not shares:
            return 0.0
        since = max([share.second for share in shares.values()]) - alive_s
        # Sorted, since the order in which producers came must not show in the last bit of the sum.
        total = sum(sorted([share.value for share in shares.values() if share.second > since]), 0.0)
        return min(max(-float_info.max, total), float_info.max)

    def count_shares(self) -> int:
        """Return how many producers have a share."""
        return 0 if self.shares is None else len(self.shares)

    def sum_up(self) -> "Statistics":
        """Return what a closed window says of a summed gauge: one value, the sum of the shares."""
        total = self.sum_shares()
        return Statistics(1, total, total, total, total, self.last_second)

    def convert(self, kind: MetricKind, *, is_summed: bool = False) -> None:
        """Hold what a series of this kind holds. A histogram that had no buckets has the mean in one."""
        if not is_summed:
            self.shares = None
        elif self.shares is None:
            # Whose it was is not known any more.
            self.shares = {0: Share(self.last_second, self.last)} if self.count else {}
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


def build_statistics(kind: MetricKind, *, is_summed: bool = False) -> Statistics:
    """Return empty statistics for a series of this kind."""
    if is_summed:
        return Statistics(shares={})
    return Statistics(histogram=Histogram()) if kind is MetricKind.HISTOGRAM else Statistics()


__all__ = ["ALIVE_S", "Share", "Statistics", "build_statistics"]
