"""opentelemetry-sdk, collected once a round by its reader; it sends nothing. Attributes are built before."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from bench.receiver import Address
from bench.workload import (
    SHARD,
    SLOW_ROUND_CALLS,
    STREAM,
    Build,
    Workload,
    build_shards,
    build_values,
    cycle,
)

_ATTRIBUTES = {"stream": STREAM, "shard": SHARD}


def _add(attributes: list[dict[str, str]]) -> Workload:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    counter = provider.get_meter("bench").create_counter("requests")
    pairs = list(zip(build_values(SLOW_ROUND_CALLS), attributes, strict=True))

    def run() -> None:
        instrument = counter
        for value, attribute in pairs:
            instrument.add(value, attribute)

    return Workload(SLOW_ROUND_CALLS, run, reader.get_metrics_data, close=provider.shutdown)


def build_add(_address: Address) -> Workload:
    """`counter.add(value, attributes)`."""
    return _add([_ATTRIBUTES] * SLOW_ROUND_CALLS)


def build_add_series(_address: Address) -> Workload:
    """`counter.add(value, attributes)`, 1,000 shards in turn."""
    shards = cycle(build_shards(), SLOW_ROUND_CALLS)
    return _add([{"stream": STREAM, "shard": shard} for shard in shards])


def build_record(_address: Address) -> Workload:
    """`histogram.record(value, attributes)`."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    histogram = provider.get_meter("bench").create_histogram("latency")
    values = build_values(SLOW_ROUND_CALLS)

    def run() -> None:
        instrument = histogram
        for value in values:
            instrument.record(value, _ATTRIBUTES)

    return Workload(SLOW_ROUND_CALLS, run, reader.get_metrics_data, close=provider.shutdown)


CASES: dict[str, Build] = {
    "opentelemetry.add": build_add,
    "opentelemetry.add_series": build_add_series,
    "opentelemetry.record": build_record,
}

__all__ = ["CASES"]
