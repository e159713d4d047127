"""A producer that makes 10 puts every 10 ms, and times each, and an empty function beside it.

Run as `python -m tests.crash.stalled_producer SOCKET TIMINGS SECONDS`. It writes the times, in nanoseconds,
to TIMINGS.puts and TIMINGS.controls, and prints a `Report`.
"""

import os
import sys
import time
from array import array
from pathlib import Path

import msgspec
from msgspec import Struct

from aiokpl_metrics_client import MetricsClient

_PUTS = 10
_PAUSE_S = 0.01
_SERIES = 5

# Its first events make series and a thread, and connect.
_WARM_UP_ROUNDS = 50

_FLUSH_S = 60.0


class Report(Struct, frozen=True):
    """A producer's last words.

    Attributes:
        puts: events recorded.
        growth_bytes: how much more memory it had at most than after its first events.
        statistics: the client's.
    """

    puts: int
    growth_bytes: int
    statistics: dict[str, object]


def main(socket_path: str, timings: str, seconds: float) -> None:
    """Record, paced, hand it over, and say how long it took."""
    rounds = int(seconds / _PAUSE_S)
    # Made at once, so that they are not what grows.
    puts, controls = array("q", bytes(8 * rounds * _PUTS)), array("q", bytes(8 * rounds * _PUTS))
    client = MetricsClient(socket_path)
    put, now = client.put, time.perf_counter_ns
    shards = [f"shardId-{number:012d}" for number in range(_SERIES)]
    for _ in range(_WARM_UP_ROUNDS):
        for number in range(_PUTS):
            put("stall.orders", 1.0, stream="orders", shard_id=shards[number % _SERIES])
        time.sleep(_PAUSE_S)
    begin = most = _read_memory()
    due = time.monotonic()
    index = 0
    for number in range(rounds):
        due += _PAUSE_S
        time.sleep(max(0.0, due - time.monotonic()))
        for shard in shards * (_PUTS // _SERIES):
            t0 = now()
            put("stall.orders", 1.0, stream="orders", shard_id=shard)
            t1 = now()
            _do_nothing("stall.orders", 1.0, stream="orders", shard_id=shard)
            t2 = now()
            puts[index], controls[index] = t1 - t0, t2 - t1
            index += 1
        if number % 100 == 0:
            most = max(most, _read_memory())
    most = max(most, _read_memory())
    assert client.flush(_FLUSH_S)
    statistics = msgspec.to_builtins(client.statistics())
    client.close()
    for what, times in (("puts", puts), ("controls", controls)):
        Path(f"{timings}.{what}").write_bytes(times.tobytes())
    report = Report(_PUTS * (_WARM_UP_ROUNDS + rounds), most - begin, statistics)
    sys.stdout.buffer.write(msgspec.json.encode(report))


def _do_nothing(name: str, value: float, *, stream: str, shard_id: str) -> None:
    """Be called."""


def _read_memory() -> int:
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))


__all__ = ["Report", "main"]
