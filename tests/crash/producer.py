"""A producer that sends without pause until it is told to stop, and says how far it came.

Run as `python -m tests.crash.producer SOCKET NUMBER NOTES [own]`. On SIGTERM it hands over what it has and
prints a `Report`. Whatever becomes of it, NOTES says how many events the kernel has taken from it.
"""

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from aiokpl_metrics_client import MetricsClient
from aiokpl_metrics_client.transport import Outcome, Transport
from aiokpl_metrics_protocol import ColumnsFrame, FoldedFrame, decode
from tests.crash.tally import Metric, list_metrics

# Of one series: events of a round, rounds between two bursts, and events of a burst. 2,500 events a second,
# and bursts that fill more than one frame.
_EVENTS = 5
_PAUSE_S = 0.002
_ROUNDS_PER_BURST = 1_500
_BURST_EVENTS = 2_000

# A producer with an odd number hands over so often by itself: frames of another size, at other moments.
_ROUNDS_PER_FLUSH = 7

_FLUSH_S = 90.0

_NOTES = struct.Struct("qq")


class Report(Struct, frozen=True):
    """A producer's last words.

    Attributes:
        events: recorded of each of its series.
        flushed: whether all was handed over, and on a lane acknowledged.
        statistics: the client's.
    """

    events: int
    flushed: bool
    statistics: dict[str, object]


class Notes(Struct, frozen=True):
    """How many events the kernel has taken, as far as one can tell who was killed at any moment.

    Attributes:
        before: with the frame that was to be sent last; no more can have been taken.
        after: with the last frame of which it is known that it was taken.
    """

    before: int
    after: int


def read_notes(path: Path) -> Notes:
    """Return what a producer noted; nothing where it did not get that far."""
    data = path.read_bytes() if path.exists() else b""
    return Notes(*_NOTES.unpack(data)) if len(data) == _NOTES.size else Notes(0, 0)


class _NotingTransport:
    """Notes before and after each `send` of a transport how far the frames have come."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(descriptor, _NOTES.size)
        # Shared, so that the kernel has each number as soon as it is stored; and stored in one piece.
        self._numbers = memoryview(mmap.mmap(descriptor, _NOTES.size)).cast("q")
        os.close(descriptor)
        self._send = Transport.send
        noting = self

        def send(transport: Transport, data: bytes) -> Outcome:
            return noting.send(transport, data)

        Transport.send = send  # type: ignore[method-assign, assignment]

    def send(self, transport: Transport, data: bytes) -> Outcome:
        """Send a frame; one that is sent again changes nothing."""
        events = _count_events(data)
        self._numbers[0] = max(self._numbers[0], events)
        outcome = self._send(transport, data)
        if outcome is Outcome.SENT:
            self._numbers[1] = max(self._numbers[1], events)
        return outcome


def _count_events(data: bytes) -> int:
    """Return the events of all frames up to this one."""
    frame = decode(data)
    if isinstance(frame, FoldedFrame):
        return frame.totals.sent + sum(each.count for each in frame.sets)
    assert isinstance(frame, ColumnsFrame)
    return frame.totals.sent + sum(
        len(column.values) if isinstance(column.values, list) else column.count for column in frame.columns
    )


def main(socket_path: str, number: int, notes_path: str, *, shares: bool) -> None:
    """Record until SIGTERM, hand it over, and say how much it was."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda received, _frame: stopped.append(received))
    _NotingTransport(notes_path)
    client = MetricsClient(socket_path)
    calls: list[tuple[Metric, Callable[[float], None]]] = []
    for metric in list_metrics(number, shares=shares):
        named = metric.dimensions
        if metric.is_put:

            def record_by_put(value: float, name: str = metric.name, named: dict[str, str] = named) -> None:
                client.put(name, value, **named)

            calls.append((metric, record_by_put))
        else:
            calls.append((metric, getattr(client, metric.kind)(metric.name, **named).record))
    done = rounds = 0
    while not stopped:
        rounds += 1
        is_burst = rounds % _ROUNDS_PER_BURST == 0
        until = done + (_BURST_EVENTS if is_burst else _EVENTS)
        for metric, record in calls:
            for event in range(done, until):
                record(metric.value_of(event))
        done = until
        if number % 2 and rounds % _ROUNDS_PER_FLUSH == 0:
            client.flush(0.0)
        time.sleep(_PAUSE_S)
    flushed = client.flush(_FLUSH_S)
    report = Report(done, flushed, msgspec.to_builtins(client.statistics()))
    client.close()
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], shares=sys.argv[4:] != ["own"])


__all__ = ["Notes", "Report", "main", "read_notes"]
