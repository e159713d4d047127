"""The producer's side of a measurement: a loop of calls, its flush, and the clocks around both."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from bench.receiver import Address
from bench.samples import MeasurementError

# Calls before each flush. It is what a producer of a million events a second collects in the 100 ms between
# two drains of our sender, so buffers and columns have the length they have at that rate.
ROUND_CALLS = 100_000
# The same for calls that cost microseconds.
SLOW_ROUND_CALLS = 20_000

SERIES = 1_000
STREAM = "orders"
SHARD = "shardId-000000000007"

_SEED = 20_261_120

_T = TypeVar("_T")


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One way to record events.

    Attributes:
        calls: events that one `run` records.
        run: the caller's part.
        flush: returns when everything recorded before has left the process, or is where its reader finds it.
        verify: raises when not every event was recorded; called once, with their number.
        close: ends threads and sockets.
    """

    calls: int
    run: Callable[[], None]
    flush: Callable[[], object] = _nothing
    verify: Callable[[int], None] | None = None
    close: Callable[[], object] = _nothing


Build = Callable[[Address], Workload]


def measure(workload: Workload, seconds: float) -> dict[str, float | str]:
    """Return CPU nanoseconds a call: of the whole process with the flush, and of the caller's thread alone.

    The first round warms up (series, threads, the interpreter's specialised code) and is not counted. The
    loop around the calls is: `floor.loop` says what it costs.
    """
    workload.run()
    workload.flush()
    rounds = 1
    totals: list[float] = []
    callers: list[float] = []
    end_s = time.monotonic() + seconds
    while len(totals) < 3 or time.monotonic() < end_s:
        process_ns, thread_ns = time.process_time_ns(), time.thread_time_ns()
        workload.run()
        callers.append((time.thread_time_ns() - thread_ns) / workload.calls)
        workload.flush()
        totals.append((time.process_time_ns() - process_ns) / workload.calls)
        rounds += 1
    if workload.verify is not None:
        workload.verify(rounds * workload.calls)
    workload.close()
    return {"ns": median(totals), "caller_ns": median(callers), "rounds": float(len(totals))}


def build_values(count: int) -> list[float]:
    """Return `count` differing floats, the same ones every time."""
    generator = random.Random(_SEED)
    return [generator.lognormvariate(3.0, 1.0) for _ in range(count)]


def build_shards() -> list[str]:
    """Return the shard ids that tell `SERIES` series apart."""
    return [f"shardId-{number:012d}" for number in range(SERIES)]


def pair_series(instruments: Sequence[_T], values: Sequence[float]) -> list[tuple[_T, float]]:
    """Return each value with the instrument whose turn it is."""
    return [(instruments[number % len(instruments)], value) for number, value in enumerate(values)]


def require_equal(what: str, expected: float, found: float) -> None:
    """Refuse a measurement whose events did not all arrive.

    Raises:
        MeasurementError: the numbers differ.
    """
    if expected != found:
        raise MeasurementError(f"{what}: expected {expected}, found {found}")


def cycle(items: Sequence[str], count: int) -> list[str]:
    """Return `count` items, going round."""
    return [items[number % len(items)] for number in range(count)]


__all__ = [
    "ROUND_CALLS",
    "SERIES",
    "SHARD",
    "SLOW_ROUND_CALLS",
    "STREAM",
    "Build",
    "Workload",
    "build_shards",
    "build_values",
    "cycle",
    "measure",
    "pair_series",
    "require_equal",
]
