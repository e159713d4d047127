"""A daemon's front door without the daemon: a plain datagram socket, and what came through it."""

import itertools
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from aiokpl_metrics_client import MetricsClient, State
from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, Column, ColumnsFrame, Series, decode, decode_series
from tests.support.polling import wait_for

Dimensions = tuple[tuple[str, str], ...]


class Door:
    """A bound socket that is read only when the test says so.

    Args:
        path: where to bind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: list[ColumnsFrame] = []
        self.datagrams: list[bytes] = []
        self._socket: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Bind."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def close(self) -> None:
        """Close and unlink, as a daemon that ends."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self.path.unlink()

    def read(self, most: int = 1_000_000) -> int:
        """Take what is there, `most` datagrams at most, and return how many."""
        assert self._socket is not None
        for count in range(most):
            try:
                datagram = self._socket.recv(2 * MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return count
            frame = decode(datagram)
            assert isinstance(frame, ColumnsFrame)
            self.datagrams.append(datagram)
            self.frames.append(frame)
        return most

    def events(self) -> int:
        """Return how many events came."""
        return sum(count_events(frame) for frame in self.frames)

    def wait_for_events(self, count: int, timeout_s: float = 30.0) -> None:
        """Read until `count` events are there."""

        def read() -> bool:
            self.read()
            return self.events() >= count

        try:
            wait_for(read, f"{count} events at the door", timeout_s)
        finally:
            assert self.events() == count, self.counts()

    def columns(self) -> Iterator[tuple[Series, Column]]:
        """Yield each column with its series."""
        for frame in self.frames:
            for column in frame.columns:
                yield decode_series(column.series), column

    def values(self, name: str | None = None) -> list[float]:
        """Return the values that came, in order, of one name or of all."""
        return [
            value
            for series, column in self.columns()
            if name is None or series.name == name
            for value in expand(column)
        ]

    def counts(self) -> Counter[tuple[str, Dimensions]]:
        """Return how many events of each series came."""
        counts: Counter[tuple[str, Dimensions]] = Counter()
        for series, column in self.columns():
            counts[series.name, series.dimensions] += len(expand(column))
        return counts

    def series(self) -> set[Series]:
        """Return the series that came."""
        return {series for series, _ in self.columns()}

    def producers(self) -> set[int]:
        """Return who sent."""
        return {frame.producer_id for frame in self.frames}

    def check(self) -> None:
        """Assert what holds of all frames that ever come, when none was lost."""
        assert all(len(datagram) <= MAX_DATAGRAM_BYTES for datagram in self.datagrams)
        for producer_id in self.producers():
            frames = [frame for frame in self.frames if frame.producer_id == producer_id]
            assert [frame.sequence for frame in frames] == list(range(1, len(frames) + 1))
            sent = 0
            for frame in frames:
                assert frame.totals.sent == sent
                sent += count_events(frame)


def count_events(frame: ColumnsFrame) -> int:
    """Return how many events a frame carries."""
    return sum(len(expand(column)) for column in frame.columns)


def expand(column: Column) -> list[float]:
    """Return the values of a column, one an event."""
    return column.values if isinstance(column.values, list) else [column.values] * column.count


def dropped(frames: Iterable[ColumnsFrame]) -> dict[str, int]:
    """Return what the last of the frames reports as dropped."""
    return list(frames)[-1].totals.dropped


def hold_back(client: MetricsClient, door: Door) -> int:
    """Fill the door's queue and return how many events that took."""
    for count in itertools.count(1):
        client.put("filler")
        if not client.flush(0.0):
            assert client.statistics().state is State.HELD_BACK
            return count
    raise AssertionError


__all__ = ["Dimensions", "Door", "count_events", "dropped", "expand", "hold_back"]
