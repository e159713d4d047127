"""Our client's workloads: every form of the call, and the floors below them."""

from collections.abc import Callable

from aiokpl_metrics_client import MetricsClient, MetricsdSink
from aiokpl_metrics_protocol import MetricEvent, MetricKind, MetricsLevel
from bench.receiver import Address
from bench.workload import (
    ROUND_CALLS,
    SHARD,
    SLOW_ROUND_CALLS,
    STREAM,
    Build,
    Workload,
    build_shards,
    build_values,
    cycle,
    pair_series,
    require_equal,
)

_NAME = "app.requests"


def _wrap(client: MetricsClient, calls: int, run: Callable[[], None]) -> Workload:
    """Make a workload of our client: flushed over its socket, and refused if it dropped an event."""

    def flush() -> None:
        require_equal("flushes of our client", 1, client.flush(30.0))

    def verify(events: int) -> None:
        statistics = client.statistics()
        require_equal("events sent by our client", events, statistics.events_sent)
        require_equal("events dropped by our client", 0, sum(statistics.dropped.values()))

    return Workload(calls, run, flush, verify, client.close)


def _record(address: Address, values: list[float], kind: MetricKind = MetricKind.COUNTER) -> Workload:
    client = MetricsClient(address.socket_path)
    make = client.histogram if kind is MetricKind.HISTOGRAM else client.counter
    bound = make(_NAME, stream=STREAM)

    def run() -> None:
        instrument = bound
        for value in values:
            instrument.record(value)

    return _wrap(client, len(values), run)


def build_record_ones(address: Address) -> Workload:
    """`counter.record(1.0)`."""
    return _record(address, [1.0] * ROUND_CALLS)


def build_record_values(address: Address) -> Workload:
    """`counter.record(value)`."""
    return _record(address, build_values(ROUND_CALLS))


def build_record_histogram(address: Address) -> Workload:
    """`histogram.record(value)`."""
    return _record(address, build_values(ROUND_CALLS), MetricKind.HISTOGRAM)


def build_record_series(address: Address) -> Workload:
    """`counter.record(value)`, 1,000 instruments in turn."""
    client = MetricsClient(address.socket_path)
    counters = [client.counter(_NAME, stream=STREAM, shard_id=shard) for shard in build_shards()]
    pairs = pair_series(counters, build_values(ROUND_CALLS))

    def run() -> None:
        for instrument, value in pairs:
            instrument.record(value)

    return _wrap(client, ROUND_CALLS, run)


def build_put(address: Address) -> Workload:
    """`client.put(name, value)`."""
    client = MetricsClient(address.socket_path)
    values = build_values(ROUND_CALLS)

    def run() -> None:
        measured = client
        for value in values:
            measured.put(_NAME, value)

    return _wrap(client, ROUND_CALLS, run)


def build_put_dimensions(address: Address) -> Workload:
    """`client.put(name, value, stream=…, shard_id=…)`."""
    client = MetricsClient(address.socket_path)
    values = build_values(ROUND_CALLS)

    def run() -> None:
        measured = client
        for value in values:
            measured.put(_NAME, value, stream=STREAM, shard_id=SHARD)

    return _wrap(client, ROUND_CALLS, run)


def build_put_extra(address: Address) -> Workload:
    """`client.put(name, value, stream=…, shard_id=…, region=…)`: a dimension of the application's own."""
    client = MetricsClient(address.socket_path)
    values = build_values(ROUND_CALLS)

    def run() -> None:
        measured = client
        for value in values:
            measured.put(_NAME, value, stream=STREAM, shard_id=SHARD, region="eu-west-1")

    return _wrap(client, ROUND_CALLS, run)


def build_put_series(address: Address) -> Workload:
    """`client.put(name, value, stream=…, shard_id=…)`, 1,000 shards in turn."""
    client = MetricsClient(address.socket_path)
    pairs = list(zip(cycle(build_shards(), ROUND_CALLS), build_values(ROUND_CALLS), strict=True))

    def run() -> None:
        measured = client
        for shard, value in pairs:
            measured.put(_NAME, value, stream=STREAM, shard_id=shard)

    return _wrap(client, ROUND_CALLS, run)


def build_put_none(address: Address) -> Workload:
    """`client.put(name, value, stream=…, shard_id=…)` at level NONE."""
    client = MetricsClient(address.socket_path, level=MetricsLevel.NONE)
    values = build_values(ROUND_CALLS)

    def run() -> None:
        measured = client
        for value in values:
            measured.put(_NAME, value, stream=STREAM, shard_id=SHARD)

    return Workload(ROUND_CALLS, run)


def build_timer(address: Address) -> Workload:
    """`with timer: pass`."""
    client = MetricsClient(address.socket_path)
    timer = client.timer("app.latency", stream=STREAM)
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        timed = timer
        for _ in numbers:
            with timed:
                pass

    return _wrap(client, SLOW_ROUND_CALLS, run)


def build_sink(address: Address) -> Workload:
    """`MetricsdSink.record(event)`: what aiokpl's producer calls for each of its events."""
    client = MetricsClient(address.socket_path)
    dimensions = (("stream", STREAM), ("shard", SHARD))
    events = [MetricEvent(_NAME, value, 1.0, dimensions) for value in build_values(ROUND_CALLS)]

    sink = MetricsdSink(client=client)

    def run() -> None:
        measured = sink
        for event in events:
            measured.record(event)

    return _wrap(client, ROUND_CALLS, run)


def build_floor_loop(_address: Address) -> Workload:
    """The loop alone."""
    values = build_values(ROUND_CALLS)

    def run() -> None:
        for _ in values:
            pass

    return Workload(ROUND_CALLS, run)


def build_floor_append(_address: Address) -> Workload:
    """A list's `append(value)`, bound: the least that an instrument can do."""
    kept: list[float] = []
    values = build_values(ROUND_CALLS)

    def run() -> None:
        append = kept.append
        for value in values:
            append(value)

    return Workload(ROUND_CALLS, run, kept.clear)


CASES: dict[str, Build] = {
    "floor.loop": build_floor_loop,
    "floor.append": build_floor_append,
    "producer.record_ones": build_record_ones,
    "producer.record_values": build_record_values,
    "producer.record_histogram": build_record_histogram,
    "producer.record_series": build_record_series,
    "producer.put": build_put,
    "producer.put_dimensions": build_put_dimensions,
    "producer.put_extra": build_put_extra,
    "producer.put_series": build_put_series,
    "producer.put_none": build_put_none,
    "producer.timer": build_timer,
    "producer.sink": build_sink,
}

__all__ = ["CASES"]
