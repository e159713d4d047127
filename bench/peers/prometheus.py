"""prometheus_client: it sends nothing, so it is collected and rendered once a round."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from bench.receiver import Address
from bench.workload import (
    ROUND_CALLS,
    SHARD,
    STREAM,
    Build,
    Workload,
    build_shards,
    build_values,
    cycle,
    pair_series,
)


def _wrap(registry: CollectorRegistry, run: Callable[[], None]) -> Workload:
    return Workload(ROUND_CALLS, run, lambda: generate_latest(registry))


def build_inc_bound(_address: Address) -> Workload:
    """`counter.labels(…)` once, then `inc(value)`."""
    registry = CollectorRegistry()
    counter = Counter("requests", "-", ["stream", "shard"], registry=registry)
    bound, values = counter.labels(STREAM, SHARD), build_values(ROUND_CALLS)

    def run() -> None:
        instrument = bound
        for value in values:
            instrument.inc(value)

    return _wrap(registry, run)


def build_inc_series(_address: Address) -> Workload:
    """`inc(value)` of 1,000 bound counters in turn."""
    registry = CollectorRegistry()
    counter = Counter("requests", "-", ["stream", "shard"], registry=registry)
    bound = [counter.labels(STREAM, shard) for shard in build_shards()]
    pairs = pair_series(bound, build_values(ROUND_CALLS))

    def run() -> None:
        for instrument, value in pairs:
            instrument.inc(value)

    return _wrap(registry, run)


def build_labels(_address: Address) -> Workload:
    """`counter.labels(stream, shard).inc(value)`."""
    registry = CollectorRegistry()
    counter = Counter("requests", "-", ["stream", "shard"], registry=registry)
    values = build_values(ROUND_CALLS)

    def run() -> None:
        measured = counter
        for value in values:
            measured.labels(STREAM, SHARD).inc(value)

    return _wrap(registry, run)


def build_labels_series(_address: Address) -> Workload:
    """`counter.labels(stream, shard).inc(value)`, 1,000 shards in turn."""
    registry = CollectorRegistry()
    counter = Counter("requests", "-", ["stream", "shard"], registry=registry)
    pairs = list(zip(cycle(build_shards(), ROUND_CALLS), build_values(ROUND_CALLS), strict=True))

    def run() -> None:
        measured = counter
        for shard, value in pairs:
            measured.labels(STREAM, shard).inc(value)

    return _wrap(registry, run)


def build_observe(_address: Address) -> Workload:
    """`histogram.labels(…)` once, then `observe(value)`."""
    registry = CollectorRegistry()
    histogram = Histogram("latency", "-", ["stream", "shard"], registry=registry)
    bound, values = histogram.labels(STREAM, SHARD), build_values(ROUND_CALLS)

    def run() -> None:
        instrument = bound
        for value in values:
            instrument.observe(value)

    return _wrap(registry, run)


def build_time(_address: Address) -> Workload:
    """`with histogram.time(): pass`, bound."""
    registry = CollectorRegistry()
    histogram = Histogram("latency", "-", ["stream"], registry=registry).labels(STREAM)
    numbers = range(ROUND_CALLS)

    def run() -> None:
        instrument = histogram
        for _ in numbers:
            with instrument.time():
                pass

    return _wrap(registry, run)


CASES: dict[str, Build] = {
    "prometheus.inc_bound": build_inc_bound,
    "prometheus.inc_series": build_inc_series,
    "prometheus.labels": build_labels,
    "prometheus.labels_series": build_labels_series,
    "prometheus.observe": build_observe,
    "prometheus.time": build_time,
}

__all__ = ["CASES"]
