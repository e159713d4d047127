"""One stream of events from several producers: counters, gauges, histograms, whose integer sums are known.

Run as `python -m tests.support.stream SOCKET PRODUCER` it is one of the producers; it prints the client's
statistics as its last words. It takes a few seconds, so that the events are in several windows.
"""

import sys
import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from aiokpl_metrics_client import MetricsClient
from tests.support.rows import Series, Total

PRODUCERS = 4
EVENTS_PER_SERIES = 250

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

_EVENTS_PER_ROUND = 10
_PAUSE_S = 0.1
_FLUSH_S = 30.0


class Metric(Struct, frozen=True):
    """One series of the stream.

    Attributes:
        name: the metric's.
        kind: COUNTER, GAUGE or HISTOGRAM.
        unit: as the producers declare it.
        shard: of the dimension; with the stream it is all that shared series have.
        producer: who alone writes it, as a gauge's last value has one author; None if all do.
    """

    name: str
    kind: str
    unit: str
    shard: str
    producer: int | None = None

    @property
    def dimensions(self) -> dict[str, str]:
        """The dimensions, by key."""
        own = {} if self.producer is None else {"producer": str(self.producer)}
        return {"stream": "orders", "shard": self.shard, **own}

    @property
    def series(self) -> Series:
        """Name and sorted dimensions."""
        return self.name, tuple(sorted(self.dimensions.items()))

    def value_of(self, producer: int, event: int) -> int:
        """Return the value of a producer's event, counted from 0."""
        if self.kind == GAUGE:
            return 1_000 * producer + event
        if self.kind == HISTOGRAM:
            # From 1 to 997, in no order: ten octaves, which the finest buckets hold.
            return 1 + (event * 37 + producer * 11 + len(self.shard)) % 997
        return 1 + event % 3 if self.unit == "count" else 100 * event + producer

    def list_values(self) -> list[int]:
        """Return all values that all producers record."""
        producers = range(PRODUCERS) if self.producer is None else (self.producer,)
        return [self.value_of(number, event) for number in producers for event in range(EVENTS_PER_SERIES)]

    def total(self) -> Total:
        """Return what all producers together record."""
        values = self.list_values()
        return Total(len(values), sum(values), min(values), max(values))


def _list_metrics() -> Iterator[Metric]:
    for shard in ("shard-0", "shard-10"):
        yield Metric("shop.orders", COUNTER, "count", shard)
        yield Metric("shop.sent_bytes", COUNTER, "bytes", shard)
        yield Metric("shop.latency", HISTOGRAM, "ms", shard)
        for producer in range(PRODUCERS):
            yield Metric("shop.depth", GAUGE, "count", shard, producer)


METRICS = tuple(_list_metrics())
BY_SERIES = {metric.series: metric for metric in METRICS}
HISTOGRAMS = tuple(metric for metric in METRICS if metric.kind == HISTOGRAM)

EVENTS = sum(metric.total().count for metric in METRICS)


def main(socket_path: str, producer: int) -> None:
    """Record this producer's part, hand it over, and say what became of it."""
    own = [metric for metric in METRICS if metric.producer in {None, producer}]
    with MetricsClient(socket_path) as client:
        records = [
            getattr(client, metric.kind)(
                metric.name,
                unit=metric.unit,
                stream="orders",
                shard_id=metric.shard,
                **({} if metric.producer is None else {"producer": str(producer)}),
            ).record
            for metric in own
        ]
        for start in range(0, EVENTS_PER_SERIES, _EVENTS_PER_ROUND):
            for event in range(start, start + _EVENTS_PER_ROUND):
                for metric, record in zip(own, records, strict=True):
                    record(metric.value_of(producer, event))
            time.sleep(_PAUSE_S)
        assert client.flush(_FLUSH_S)
        sys.stdout.write(msgspec.json.encode(client.statistics()).decode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))


__all__ = [
    "BY_SERIES",
    "COUNTER",
    "EVENTS",
    "EVENTS_PER_SERIES",
    "GAUGE",
    "HISTOGRAM",
    "HISTOGRAMS",
    "METRICS",
    "PRODUCERS",
    "Metric",
    "main",
]
