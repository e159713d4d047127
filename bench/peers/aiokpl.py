"""aiokpl's own MetricsManager, in process, without a sink that sends: our client takes its place."""

from aiokpl.metrics import MetricsLevel, MetricsManager

from bench.receiver import Address
from bench.workload import SHARD, SLOW_ROUND_CALLS, STREAM, Build, Workload, build_shards, build_values, cycle

_NAME = "UserRecordsPut"


def _build(level: MetricsLevel, shards: list[str]) -> Workload:
    manager = MetricsManager(level=level)
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


CASES: dict[str, Build] = {
    "aiokpl.put": build_put,
    "aiokpl.put_series": build_put_series,
    "aiokpl.put_none": build_put_none,
}

__all__ = ["CASES"]
