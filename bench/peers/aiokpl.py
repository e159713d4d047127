"""aiokpl's own MetricsManager, in process: without a sink, with its sink in memory, and with ours.

A manager asks at each `put` whether its sink takes events, and makes one for a sink that does; both is part
of what a sink costs.
"""

from aiokpl.metrics import MetricsLevel, MetricsManager
from aiokpl.sinks import InMemorySink, MetricsSink

from aiokpl_metrics_client import MetricsClient, MetricsdSink
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
    require_equal,
)

_NAME = "UserRecordsPut"


def _build(level: MetricsLevel, shards: list[str], sink: MetricsSink | None = None) -> Workload:
    manager = MetricsManager(level=level, sink=sink)
    pairs = list(zip(shards, build_values(SLOW_ROUND_CALLS), strict=True))

    def run() -> None:
        measured = manager
        for shard, value in pairs:
            measured.put(_NAME, value, stream=STREAM, shard_id=shard)

    return Workload(SLOW_ROUND_CALLS, run)


def build_put(_address: Address) -> Workload:
    """`put(name, value, stream=…, shard_id=…)`, DETAILED."""
    return _build(MetricsLevel.DETAILED, [SHARD] * SLOW_ROUND_CALLS)


def build_put_series(_address: Address) -> Workload:
    """`put(name, value, stream=…, shard_id=…)`, DETAILED, 1,000 shards in turn."""
    return _build(MetricsLevel.DETAILED, cycle(build_shards(), SLOW_ROUND_CALLS))


def build_put_none(_address: Address) -> Workload:
    """`put(name, value, stream=…, shard_id=…)` at level NONE."""
    return _build(MetricsLevel.NONE, [SHARD] * SLOW_ROUND_CALLS)


def build_put_memory(_address: Address) -> Workload:
    """`put(name, value, stream=…, shard_id=…)`, DETAILED, with aiokpl's own sink in memory."""
    return _build(MetricsLevel.DETAILED, [SHARD] * SLOW_ROUND_CALLS, InMemorySink())


def build_put_metricsd(address: Address) -> Workload:
    """`put(name, value, stream=…, shard_id=…)`, DETAILED, with `MetricsdSink`."""
    client = MetricsClient(address.socket_path)
    workload = _build(MetricsLevel.DETAILED, [SHARD] * SLOW_ROUND_CALLS, MetricsdSink(client=client))

    def flush() -> None:
        require_equal("flushes of our client", 1, client.flush(30.0))

    def verify(events: int) -> None:
        require_equal("events sent by our client", events, client.statistics().events_sent)

    return Workload(workload.calls, workload.run, flush, verify, client.close)


CASES: dict[str, Build] = {
    "aiokpl.put": build_put,
    "aiokpl.put_series": build_put_series,
    "aiokpl.put_none": build_put_none,
    "aiokpl.put_memory": build_put_memory,
    "aiokpl.put_metricsd": build_put_metricsd,
}

__all__ = ["CASES"]
