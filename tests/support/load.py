"""A producer of many series whose totals are known: integers, so that every sum is exact.

Run as `python -m tests.support.load SOCKET PRODUCER`; it prints the client's statistics as its last words.
"""

import sys
import time
from collections.abc import Iterator

import msgspec

from aiokpl_metrics_client import MetricsClient
from tests.support.rows import Series, Total

PRODUCERS = 4
SERIES = 1_000
EVENTS_PER_SERIES = 500
EVENTS = PRODUCERS * SERIES * EVENTS_PER_SERIES

KINDS = ("counter", "gauge", "histogram")

# So that the events come in many frames and windows rather than in one.
_EVENTS_PER_ROUND = 10
_PAUSE_S = 0.05

_STREAMS = ("orders", "clicks", "größe")
_FLUSH_S = 60.0


def name_of(series: int) -> str:
    """Return the metric's name of a series."""
    return f"load.{kind_of(series)}.{series // 30}"


def kind_of(series: int) -> str:
    """Return the kind of a series."""
    return KINDS[series % 3]


def dimensions_of(series: int) -> dict[str, str]:
    """Return the dimensions of a series; with its name they are its own."""
    return {"stream": _STREAMS[series % 7 % 3], "shard": f"shardId-{series:012d}"}


def value_of(producer: int, series: int, event: int) -> int:
    """Return the value of an event, counted from 0."""
    if series % 3 == 0:
        return 1 if series % 2 else 1 + (series + event) % 7
    if series % 3 == 1:
        return 1_000 * producer + event - series
    return (event * 37 + series * 11 + producer) % 10_000


def expect_totals() -> dict[Series, Total]:
    """Return what all producers together have recorded."""
    totals: dict[Series, Total] = {}
    for series in range(SERIES):
        values = list(_list_values(series))
        key = (name_of(series), tuple(sorted(dimensions_of(series).items())))
        totals[key] = Total(len(values), sum(values), min(values), max(values))
    return totals


def _list_values(series: int) -> Iterator[int]:
    for producer in range(PRODUCERS):
        for event in range(EVENTS_PER_SERIES):
            yield value_of(producer, series, event)


def main(socket_path: str, producer: int) -> None:
    """Record everything, hand it over, and say what became of it."""
    with MetricsClient(socket_path) as client:
        records = []
        for series in range(SERIES):
            dimensions = dimensions_of(series)
            instrument = getattr(client, kind_of(series))(
                name_of(series), stream=dimensions["stream"], shard_id=dimensions["shard"]
            )
            records.append(instrument.record)
        for start in range(0, EVENTS_PER_SERIES, _EVENTS_PER_ROUND):
            for event in range(start, start + _EVENTS_PER_ROUND):
                for series, record in enumerate(records):
                    value = value_of(producer, series, event)
                    if series % 10 == 0 and series % 3 == 0:
                        client.put(name_of(series), value, **dimensions_of(series))
                    else:
                        record(value)
            time.sleep(_PAUSE_S)
        assert client.flush(_FLUSH_S)
        sys.stdout.write(msgspec.json.encode(client.statistics()).decode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))


__all__ = [
    "EVENTS",
    "EVENTS_PER_SERIES",
    "KINDS",
    "PRODUCERS",
    "SERIES",
    "dimensions_of",
    "expect_totals",
    "kind_of",
    "main",
    "name_of",
    "value_of",
]
