"""Closed windows made on the spot, as the aggregator freezes them: what a sink is given to export."""

import random
import time

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.snapshot import MetricSnapshot

# Of every five series four are counters and one is a histogram, or all are counters.
HISTOGRAM_EVERY = 5
COUNTER_EVENTS = 5
HISTOGRAM_EVENTS = 200

WINDOW_S = 60.0
# The first window begins so long ago: every backend takes it, and all that follow.
_FIRST_AGO_S = 1_800.0

# Ten metrics of either kind.
_NAMES = 10
_STREAMS = 50
_PODS = 7

# Differing floats, log-normal as latencies are.
_POOL_VALUES = 65_536
_SEED = 20_261_120


class WindowBuilder:
    """Builds windows of the same series, which share name and dimensions as those of the daemon do."""

    def __init__(self) -> None:
        """Draw the values."""
        draw = random.Random(_SEED).lognormvariate
        # Twice, so that a slice may begin anywhere.
        self._pool = [draw(3.0, 1.0) for _ in range(_POOL_VALUES)] * 2
        self._first_s = time.time() // WINDOW_S * WINDOW_S - _FIRST_AGO_S
        self._series: list[tuple[str, str, tuple[tuple[str, str], ...]]] = []
        self._built = 0

    def build(self, series: int, *, plain: bool = False) -> list[MetricSnapshot]:
        """Return the next window, a minute after the one before.

        Args:
            series: how many, of three dimensions each; a smaller window holds the first ones of a larger.
            plain: all of them are counters.
        """
        known = self._series
        known += (_name_series(number) for number in range(len(known), series))
        self._built += 1
        start = self._first_s + self._built * WINDOW_S
        return [self._build_snapshot(number, start, plain=plain) for number in range(series)]

    def _build_snapshot(self, number: int, start: float, *, plain: bool) -> MetricSnapshot:
        counter, latency, dimensions = self._series[number]
        is_histogram = not plain and number % HISTOGRAM_EVERY == 0
        offset = (number + self._built) * 7_919 % _POOL_VALUES
        values = self._pool[offset : offset + (HISTOGRAM_EVENTS if is_histogram else COUNTER_EVENTS)]
        low, high = min(values), max(values)
        buckets = None
        if is_histogram:
            histogram = Histogram()
            histogram.add_values(values, low, high)
            buckets = histogram.freeze()
        return MetricSnapshot(
            latency if is_histogram else counter,
            len(values),
            sum(values),
            low,
            high,
            dimensions,
            start,
            start + WINDOW_S,
            MetricKind.HISTOGRAM if is_histogram else MetricKind.COUNTER,
            "ms" if is_histogram else "count",
            values[-1],
            buckets,
            f"bench-{self._built}",
        )


def _name_series(number: int) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    dimensions = (
        ("pod", f"worker-{number % _PODS}"),
        ("shard", f"shardId-{number:012d}"),
        ("stream", f"stream-{number % _STREAMS}"),
    )
    name = number // HISTOGRAM_EVERY % _NAMES
    return f"bench.sent.{name}", f"bench.latency.{name}", dimensions


__all__ = ["COUNTER_EVENTS", "HISTOGRAM_EVENTS", "HISTOGRAM_EVERY", "WINDOW_S", "WindowBuilder"]
