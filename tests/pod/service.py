"""The application of a pod: it records events without pause until it is told to end, or a number of them.

Run as `python -m tests.pod.service NOTES [--events N] [--fresh N]`. The n-th event has the value n, so that
count and sum tell a loss from a double. Whatever becomes of the process, NOTES says how many it has recorded,
how many of them the kernel has taken, and how many the daemon has acknowledged.
"""

import argparse
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from aiokpl_metrics_client import MetricsClient

# 2,000 events a second.
_EVENTS = 10
_PAUSE_S = 0.005

# A pod's service has 20 s to end.
_FLUSH_S = 15.0

_NOTES = struct.Struct("qqq")

NAME = "pod.events"


class Notes(Struct, frozen=True):
    """What a service has done so far.

    Attributes:
        recorded: events, at most one more than it really has.
        sent: events that the kernel has taken.
        acknowledged: of these, the ones that the daemon has acknowledged; through the front door, all.
    """

    recorded: int = 0
    sent: int = 0
    acknowledged: int = 0


class Report(Struct, frozen=True):
    """A service's last words.

    Attributes:
        flushed: whether the daemon has everything.
        dropped: events that the client discarded, by reason.
    """

    flushed: bool
    dropped: dict[str, int]


def read_notes(path: Path) -> Notes:
    """Return what a service has noted; nothing where it did not get that far."""
    data = path.read_bytes() if path.exists() else b""
    return Notes(*_NOTES.unpack(data)) if len(data) == _NOTES.size else Notes()


def main(path: str, events: int, fresh: int) -> None:
    """Record until SIGTERM, or this many; hand it over, and say whether all went well.

    Args:
        path: of the notes.
        events: how many to record; 0 for no end.
        fresh: how many of a round's events belong to a series that nobody has seen before.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    # Told so, it goes on without new series.
    settled: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: settled.append(number))
    notes = _open_notes(path)
    with MetricsClient(max_series=1_000_000) as client:
        record = client.counter(NAME).record
        recorded = 0
        while not told and not (events and recorded >= events):
            for number in range(_EVENTS + (0 if settled else fresh)):
                recorded += 1
                notes[0] = recorded
                if number < _EVENTS:
                    record(recorded)
                else:
                    client.put(NAME, recorded, request=recorded)
            _note_sent(notes, client)
            time.sleep(_PAUSE_S)
        flushed = client.flush(_FLUSH_S)
        _note_sent(notes, client)
        report = Report(flushed, client.statistics().dropped)
    sys.stdout.write(msgspec.json.encode(report).decode())


def _note_sent(notes: memoryview, client: MetricsClient) -> None:
    statistics = client.statistics()
    notes[1] = statistics.events_sent
    notes[2] = statistics.events_sent - statistics.events_unacknowledged


def _open_notes(path: str) -> memoryview:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    os.ftruncate(descriptor, _NOTES.size)
    # Shared, so that the kernel has each number as soon as it is stored.
    notes = memoryview(mmap.mmap(descriptor, _NOTES.size)).cast("q")
    os.close(descriptor)
    return notes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("notes")
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--fresh", type=int, default=0)
    options = parser.parse_args()
    main(options.notes, options.events, options.fresh)


__all__ = ["NAME", "Notes", "Report", "main", "read_notes"]
