"""A load -> datagrams, encoded before the clock starts, and the totals that the daemon must arrive at.

Columns are what our client sends at a million events a second with a drain every 100 ms: `per_column` events
of each series in each drain, in frames of about 60,000 bytes, on a lane of 30,000. Rows are what other
producers send.

Run as `python -m bench.load SOCKET EXPECTED LOAD` (LOAD in JSON) it encodes, writes the expected totals to
the file EXPECTED and says so. At a line on standard input it sends the first drain, at another one the rest,
and says each time when all of it was read.
"""

import fcntl
import math
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aiokpl_metrics_protocol import (
    Column,
    ColumnsFrame,
    EventsFrame,
    MetricEvent,
    Series,
    Totals,
    encode,
    encode_series,
)
from bench.process import print_json

# The client's own sizes (aiokpl_metrics_client.encoder): bytes of a frame on the front door and on a lane,
# values of a column.
_FRAME_BYTES = 60_000
LANE_FRAME_BYTES = 30_000
_COLUMN_VALUES = 4_096
_COLUMN_BYTES = 40
_VALUE_BYTES = 9

_DRAINS_PER_SECOND = 10
_ROWS_PER_DATAGRAM = 30

_ROWS_PER_SECOND = 1_000_000

# Values are multiples of this, so that their sums are exact in whatever order they are added up.
_GRAIN = 1024
_POOL_VALUES = 65_536
_SEED = 20_261_120
PRODUCER_ID = _SEED

# Bytes that were sent and not yet read; for a Unix socket those that its peer still has queued (tty_ioctl(4),
# unix_outq_len in the kernel, read 2026-11).
_SIOCOUTQ = 0x5411


class Load(msgspec.Struct, frozen=True):
    """What is sent.

    Attributes:
        series: distinct series.
        drains: how often every series gets a column, or rows; the first time makes the series known.
        per_column: events of a series in one drain.
        kind: what the series are declared as.
        ones: every value is 1; otherwise they differ.
        rows: rows in place of columns.
        first_second: the second of the first event; 0 for the one after the start.
        span_s: the seconds over which its events spread; 0 for as many as the drains take.
        frame_bytes: how large a frame of columns may be.
    """

    series: int
    drains: int
    per_column: int = 1
    kind: str = "counter"
    ones: bool = False
    rows: bool = False
    first_second: int = 0
    span_s: int = 0
    frame_bytes: int = _FRAME_BYTES

    @property
    def drain_events(self) -> int:
        """Events of one drain."""
        return self.series * self.per_column


Expected = dict[str, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class _Origin:
    """A series as both forms name it."""

    key: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    encoded: bytes


class LoadBuilder:
    """Encodes one load and adds up what it says."""

    def __init__(self, load: Load) -> None:
        """Name the series and draw the values."""
        self._load = load
        # Not before the daemon's start, or the events would be late.
        self._first_second = load.first_second or int(time.time()) + 1
        rows_s = load.drains * load.drain_events / _ROWS_PER_SECOND
        drains_s = rows_s if load.rows else load.drains / _DRAINS_PER_SECOND
        self._span_s = load.span_s or max(1, math.ceil(drains_s))
        self._origins = [_build_origin(number, load.kind) for number in range(load.series)]
        generator = random.Random(_SEED)
        draw = generator.lognormvariate
        pool = [max(1, round(draw(3.0, 1.0) * _GRAIN)) / _GRAIN for _ in range(_POOL_VALUES)]
        # Twice, so that a slice may begin anywhere.
        self._pool = [1.0] * (2 * _POOL_VALUES) if load.ones else pool * 2
        self._counts = [0] * load.series
        self._sums = [0.0] * load.series
        self.sequence = 0
        self._sent = 0

    def build_drains(self) -> list[list[bytes]]:
        """Return the datagrams of each drain, in order."""
        drains, span_s = self._load.drains, self._span_s
        build = self._build_rows if self._load.rows else self._build_columns
        return [list(build(drain, self._first_second + drain * span_s // drains)) for drain in range(drains)]

    def wait_until_past(self) -> None:
        """Wait until every second of the load has begun: the daemon would treat later ones as early."""
        time.sleep(max(0.0, self._first_second + self._span_s - 1 - time.time()))

    def read_expected(self) -> Expected:
        """Return count and sum of each series."""
        origins = zip(self._origins, self._counts, self._sums, strict=True)
        return {origin.key: (count, total) for origin, count, total in origins}

    def _take_values(self, number: int, drain: int) -> list[float]:
        """Draw the values of one series in one drain, and count them."""
        start = (number * 7_919 + drain * 104_729) % _POOL_VALUES
        size = self._load.per_column
        values: list[float] = []
        while len(values) < size:
            values += self._pool[start : start + min(size - len(values), _POOL_VALUES)]
        self._counts[number] += size
        self._sums[number] += sum(values)
        return values

    def _build_columns(self, drain: int, second: int) -> Iterator[bytes]:
        columns: list[Column] = []
        events = size = 0
        for number, origin in enumerate(self._origins):
            for column in _split(
                origin.encoded, second, self._take_values(number, drain), ones=self._load.ones
            ):
                count = len(column.values) if isinstance(column.values, list) else column.count
                column_size = len(origin.encoded) + _COLUMN_BYTES
                column_size += _VALUE_BYTES * count if isinstance(column.values, list) else 0
                if columns and size + column_size > self._load.frame_bytes:
                    yield self._encode(columns, events)
                    columns, events, size = [], 0, 0
                columns.append(column)
                events += count
                size += column_size
        yield self._encode(columns, events)

    def _encode(self, columns: list[Column], events: int) -> bytes:
        self.sequence += 1
        frame = ColumnsFrame(PRODUCER_ID, self.sequence, Totals(self._sent), columns)
        self._sent += events
        return encode(frame)

    def _build_rows(self, drain: int, second: int) -> Iterator[bytes]:
        kind = None if self._load.kind == "counter" else self._load.kind
        rows: list[MetricEvent] = []
        for number, origin in enumerate(self._origins):
            for value in self._take_values(number, drain):
                timestamp = second + len(rows) / _ROWS_PER_DATAGRAM
                rows.append(MetricEvent(origin.name, value, timestamp, origin.dimensions, kind))
                if len(rows) == _ROWS_PER_DATAGRAM:
                    yield encode(EventsFrame(rows))
                    rows = []
        if rows:
            yield encode(EventsFrame(rows))


def build_key(name: str, dimensions: dict[str, str]) -> str:
    """Return the text by which the two sides of the comparison name a series."""
    return "|".join([name, *(f"{key}={value}" for key, value in sorted(dimensions.items()))])


def _build_origin(number: int, kind: str) -> _Origin:
    name = f"bench.{kind}.{number % 10}"
    dimensions = (("shard", f"shardId-{number:012d}"), ("stream", "orders"))
    encoded = encode_series(Series(name, kind, None, dimensions))
    return _Origin(build_key(name, dict(dimensions)), name, dimensions, encoded)


def _split(series: bytes, second: int, values: list[float], *, ones: bool) -> Iterator[Column]:
    if ones:
        yield Column(series, second, 1.0, len(values))
        return
    for start in range(0, len(values), _COLUMN_VALUES):
        yield Column(series, second, values[start : start + _COLUMN_VALUES])


def count_unread_bytes(sender: socket.socket) -> int:
    """Return how much of what a socket has sent was not read yet."""
    answer: tuple[int] = struct.unpack("i", fcntl.ioctl(sender, _SIOCOUTQ, b"\0\0\0\0"))
    return answer[0]


def wait_until_read(sender: socket.socket) -> None:
    """Return when all that a socket has sent was read."""
    while count_unread_bytes(sender):
        time.sleep(0.001)


def main() -> None:
    """Encode, wait for the word, send with blocking calls, and wait until all of it was read."""
    path, expected_path, text = sys.argv[1:]
    builder = LoadBuilder(msgspec.json.decode(text, type=Load))
    first, *rest = builder.build_drains()
    Path(expected_path).write_bytes(msgspec.msgpack.encode(builder.read_expected()))
    builder.wait_until_past()
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(path)
    for datagrams in (first, [datagram for drain in rest for datagram in drain]):
        print_json({"datagrams": len(datagrams), "bytes": sum(map(len, datagrams))})
        sys.stdin.readline()
        send = sender.send
        for datagram in datagrams:
            send(datagram)
        wait_until_read(sender)
    print_json({"sequence": builder.sequence})


__all__ = [
    "PRODUCER_ID",
    "Expected",
    "Load",
    "LoadBuilder",
    "build_key",
    "count_unread_bytes",
    "wait_until_read",
]

if __name__ == "__main__":
    main()
