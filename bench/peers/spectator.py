"""netflix-spectator-py over a drained Unix socket: as it comes, and bound with a line buffer."""

from spectator.config import Config
from spectator.registry import Registry

from bench.receiver import Address
from bench.workload import (
    SHARD,
    SLOW_ROUND_CALLS,
    STREAM,
    Build,
    Workload,
    build_shards,
    build_values,
    pair_series,
)

_NAME = "app.requests"
_TAGS = {"stream": STREAM, "shard": SHARD}

# Its documentation names 2 KB as a good size; it was faster with 8 KB (measured with 1.2.1, 2026-11).
_BUFFER_BYTES = 8_192


def _connect(address: Address, buffer_bytes: int = _BUFFER_BYTES) -> Registry:
    return Registry(Config(f"unix://{address.socket_path}", buffer_size=buffer_bytes))


def build_increment_default(address: Address) -> Workload:
    """`registry.counter(name, tags).increment()`, unbuffered, as it comes."""
    registry = _connect(address, 0)
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = registry
        for _ in numbers:
            measured.counter(_NAME, _TAGS).increment()

    return Workload(SLOW_ROUND_CALLS, run, close=registry.close)


def build_increment_bound(address: Address) -> Workload:
    """`registry.counter(name, tags)` once, then `increment()`, buffered."""
    registry = _connect(address)
    bound, numbers = registry.counter(_NAME, _TAGS), range(SLOW_ROUND_CALLS)

    def run() -> None:
        instrument = bound
        for _ in numbers:
            instrument.increment()

    return Workload(SLOW_ROUND_CALLS, run, close=registry.close)


def build_increment_series(address: Address) -> Workload:
    """`increment(value)` of 1,000 bound counters in turn, buffered."""
    registry = _connect(address)
    bound = [registry.counter(_NAME, {"stream": STREAM, "shard": shard}) for shard in build_shards()]
    pairs = pair_series(bound, build_values(SLOW_ROUND_CALLS))

    def run() -> None:
        for instrument, value in pairs:
            instrument.increment(value)

    return Workload(SLOW_ROUND_CALLS, run, close=registry.close)


def build_record_bound(address: Address) -> Workload:
    """`registry.timer(name, tags)` once, then `record(value)`, buffered."""
    registry = _connect(address)
    bound, values = registry.timer(_NAME, _TAGS), build_values(SLOW_ROUND_CALLS)

    def run() -> None:
        instrument = bound
        for value in values:
            instrument.record(value)

    return Workload(SLOW_ROUND_CALLS, run, close=registry.close)


CASES: dict[str, Build] = {
    "spectator.increment_default": build_increment_default,
    "spectator.increment_bound": build_increment_bound,
    "spectator.increment_series": build_increment_series,
    "spectator.record_bound": build_record_bound,
}

__all__ = ["CASES"]
