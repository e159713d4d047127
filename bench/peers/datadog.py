"""DogStatsd over a drained Unix socket: as it comes, buffered, and aggregated in the client.

Tags are built before the loop, which flatters it where they change from call to call.
"""

from collections.abc import Callable

from datadog.dogstatsd.base import DogStatsd

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

_NAME = "app.requests"
_TAGS = [f"stream:{STREAM}", f"shard:{SHARD}"]


def _wrap(client: DogStatsd, run: Callable[[], None]) -> Workload:
    def flush() -> None:
        client.flush_aggregated_metrics()
        client.flush_buffered_metrics()

    return Workload(SLOW_ROUND_CALLS, run, flush, close=client.stop)


def _increment(client: DogStatsd) -> Workload:
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = client
        for _ in numbers:
            measured.increment(_NAME, tags=_TAGS)

    return _wrap(client, run)


def build_increment_default(address: Address) -> Workload:
    """`increment(name, tags=…)`, neither buffered nor aggregated, as it comes."""
    return _increment(DogStatsd(socket_path=address.socket_path))


def build_increment_buffered(address: Address) -> Workload:
    """`increment(name, tags=…)`, buffered."""
    return _increment(DogStatsd(socket_path=address.socket_path, disable_buffering=False))


def build_increment_aggregated(address: Address) -> Workload:
    """`increment(name, tags=…)`, aggregated: one value every 0.3 s is sent."""
    client = DogStatsd(socket_path=address.socket_path, disable_buffering=False, disable_aggregation=False)
    return _increment(client)


def build_increment_series(address: Address) -> Workload:
    """`increment(name, value, tags=…)`, aggregated, 1,000 shards in turn."""
    client = DogStatsd(socket_path=address.socket_path, disable_buffering=False, disable_aggregation=False)
    tags = [[f"stream:{STREAM}", f"shard:{shard}"] for shard in cycle(build_shards(), SLOW_ROUND_CALLS)]
    pairs = list(zip(tags, build_values(SLOW_ROUND_CALLS), strict=True))

    def run() -> None:
        measured = client
        for tag, value in pairs:
            measured.increment(_NAME, value, tag)

    return _wrap(client, run)


def _histogram(client: DogStatsd) -> Workload:
    values = build_values(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = client
        for value in values:
            measured.histogram(_NAME, value, tags=_TAGS)

    return _wrap(client, run)


def build_histogram_buffered(address: Address) -> Workload:
    """`histogram(name, value, tags=…)`, buffered."""
    return _histogram(DogStatsd(socket_path=address.socket_path, disable_buffering=False))


def build_histogram_aggregated(address: Address) -> Workload:
    """`histogram(name, value, tags=…)`, aggregated with a sample of 100 values."""
    client = DogStatsd(
        socket_path=address.socket_path,
        disable_buffering=False,
        disable_aggregation=False,
        max_metric_samples_per_context=100,
    )
    return _histogram(client)


def build_timed(address: Address) -> Workload:
    """`with timed(name, tags=…): pass`, buffered."""
    client = DogStatsd(socket_path=address.socket_path, disable_buffering=False)
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = client
        for _ in numbers:
            with measured.timed(_NAME, tags=_TAGS):
                pass

    return _wrap(client, run)


CASES: dict[str, Build] = {
    "datadog.increment_default": build_increment_default,
    "datadog.increment_buffered": build_increment_buffered,
    "datadog.increment_aggregated": build_increment_aggregated,
    "datadog.increment_series": build_increment_series,
    "datadog.histogram_buffered": build_histogram_buffered,
    "datadog.histogram_aggregated": build_histogram_aggregated,
    "datadog.timed": build_timed,
}

__all__ = ["CASES"]
