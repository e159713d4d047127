"""What the producers record, and what must be found of it: to the last event, and to the last bucket.

Every series of a producer gets the same number of events, so that this number says everything. The values are
integers, or quarters, whose sums are exact in whatever order they are added.
"""

from collections import Counter
from collections.abc import Iterable
from math import ceil, log2

from msgspec import Struct

from tests.support.rows import Series

# The histograms' values run through all of 1 to 997 before one comes again; the counters' through 1, 2, 3.
_HISTOGRAM_PERIOD = 997
_COUNTER_PERIOD = 3

# The daemon's finest buckets, at scale 3; ten octaves of them fit.
_BUCKETS_PER_OCTAVE = 8


class Metric(Struct, frozen=True):
    """One series of a producer.

    Attributes:
        name: the metric's.
        kind: "counter", "gauge" or "histogram".
        divisor: what the integers are divided by.
        is_put: recorded by `put`, not by an instrument.
        producer: the dimension of this name; None where all producers share the series.
    """

    name: str
    kind: str
    divisor: int = 1
    is_put: bool = False
    producer: int | None = None

    @property
    def dimensions(self) -> dict[str, str]:
        """The dimensions, by key."""
        own = {} if self.producer is None else {"producer": str(self.producer)}
        return {"stream": "orders", **own}

    @property
    def series(self) -> Series:
        """Name and sorted dimensions."""
        return self.name, tuple(sorted(self.dimensions.items()))

    def value_of(self, event: int) -> float:
        """Return the value of an event, counted from 0."""
        if self.kind == "counter":
            return 1 + event % _COUNTER_PERIOD
        integer = event if self.kind == "gauge" else 1 + event * 37 % _HISTOGRAM_PERIOD
        return integer if self.divisor == 1 else integer / self.divisor


class Tally(Struct):
    """What must be found of one series.

    Attributes:
        count: of the events.
        sum: of their values.
        min: the least of them.
        max: the greatest of them.
        buckets: of a histogram, the counts by the bucket's index at the finest scale.
    """

    count: int
    sum: float
    min: float
    max: float
    buckets: dict[int, int] = {}

    def merge(self, other: "Tally") -> "Tally":
        """Return what must be found where both were recorded."""
        return Tally(
            self.count + other.count,
            self.sum + other.sum,
            min(self.min, other.min),
            max(self.max, other.max),
            dict(Counter(self.buckets) + Counter(other.buckets)),
        )


def list_metrics(producer: int, *, shares: bool) -> list[Metric]:
    """Return the series of a producer; those of its own alone, or those that all have as well."""
    own = [
        Metric("crash.orders", "counter", producer=producer),
        Metric("crash.clicks", "counter", is_put=True, producer=producer),
        Metric("crash.depth", "gauge", producer=producer),
        Metric("crash.backlog", "gauge", divisor=4, producer=producer),
        Metric("crash.latency", "histogram", producer=producer),
        Metric("crash.ratio", "histogram", divisor=4, producer=producer),
    ]
    if not shares:
        return own
    shared = [Metric(f"crash.shared.counter{number}", "counter", is_put=number > 2) for number in range(5)]
    shared += [Metric(f"crash.shared.histogram{number}", "histogram", 2**number) for number in range(3)]
    return own + shared


def count_values(metric: Metric, events: int) -> Tally:
    """Return what must be found of a series after so many events, of which there is at least one."""
    if metric.kind == "gauge":
        last = metric.value_of(events - 1)
        return Tally(events, events * (events - 1) / 2 / metric.divisor, metric.value_of(0), last)
    period = _COUNTER_PERIOD if metric.kind == "counter" else _HISTOGRAM_PERIOD
    whole, rest = divmod(events, period)
    counts = {metric.value_of(event): whole + (event < rest) for event in range(min(events, period))}
    total = sum(value * count for value, count in counts.items())
    buckets: Counter[int] = Counter()
    if metric.kind == "histogram":
        for value, count in counts.items():
            buckets[find_bucket(value)] += count
    return Tally(events, total, min(counts), max(counts), dict(buckets))


def find_bucket(value: float) -> int:
    """Return the index of the finest bucket of a value above zero."""
    return ceil(log2(value) * _BUCKETS_PER_OCTAVE) - 1


def expect(producers: Iterable[tuple[Iterable[Metric], int]]) -> dict[Series, Tally]:
    """Return what must be found in all, of each producer's series and the events that each of them got."""
    found: dict[Series, Tally] = {}
    for metrics, events in producers:
        for metric in metrics if events else ():
            tally = count_values(metric, events)
            known = found.get(metric.series)
            found[metric.series] = tally if known is None else known.merge(tally)
    return found


__all__ = ["Metric", "Tally", "count_values", "expect", "find_bucket", "list_metrics"]
