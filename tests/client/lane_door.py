"""A daemon's lanes without the daemon: connections, numbers and acks by the rules of `docs/protocol.md`.

It reads and answers only when the test says so, or from a thread. What it has counted outlives its death, as
a journal does.
"""

import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from aiokpl_metrics_protocol import (
    MAX_DATAGRAM_BYTES,
    AckFrame,
    ColumnsFrame,
    FoldedFrame,
    HelloFrame,
    decode,
    decode_series,
    encode,
)
from tests.client.door import expand

Numbered = ColumnsFrame | FoldedFrame


class Lane:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.hello: HelloFrame | None = None
        self.is_over = False


class LaneDoor:
    """The lane socket of a daemon.

    Args:
        path: of the front door, which need not be there.

    Attributes:
        frames: counted, in order, by whichever daemon.
        repeats: frames that came again.
        hellos: in order.
        answers: whether hellos are answered.
        acknowledges: whether frames are acknowledged.
        has_room: whether lanes are accepted; otherwise refused.
    """

    def __init__(self, path: Path, interval_s: float = 60.0) -> None:
        self.path = path.with_name(path.name + ".lane")
        self.interval_s = interval_s
        self.journaled = True
        self.frames: list[Numbered] = []
        self.datagrams: dict[tuple[int, int], bytes] = {}
        self.repeats: list[Numbered] = []
        self.hellos: list[HelloFrame] = []
        self.missing = 0
        self.answers = self.acknowledges = self.has_room = True
        self._last: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self.lanes: list[Lane] = []
        self._listener: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Listen."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.setblocking(False)

    def die(self) -> None:
        """Close everything at once, as SIGKILL does; the files stay."""
        assert self._listener is not None
        self._listener.close()
        for lane in self.lanes:
            lane.connection.close()
        self._listener, self.lanes = None, []

    def close(self) -> None:
        """End, and unlink the socket."""
        if self._listener is not None:
            self.die()
        self.path.unlink(missing_ok=True)

    def reopen(self) -> None:
        """Die, and be another daemon with the same state."""
        if self._listener is not None:
            self.die()
        self.path.unlink(missing_ok=True)
        self.open()

    def read(self, most: int = 1_000_000) -> int:
        """Serve what is there: accept, answer, count, acknowledge. Return how many messages were read."""
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                break
            connection.setblocking(False)
            if not self.has_room:
                connection.send(encode(AckFrame(0)))
                connection.close()
                continue
            self.lanes.append(Lane(connection))
        count = 0
        for lane in self.lanes:
            count += self._read_lane(lane, most - count)
        self.lanes = [lane for lane in self.lanes if not lane.is_over]
        return count

    def is_knocked_at(self) -> bool:
        """Tell whether a connection waits to be accepted."""
        assert self._listener is not None
        return bool(select.select([self._listener], [], [], 0)[0])

    def acknowledge(self) -> None:
        """Acknowledge on every lane what is counted."""
        for lane in self.lanes:
            if lane.hello is not None:
                self._answer(lane, lane.hello)

    def shut_down(self) -> None:
        """End as on SIGTERM: refuse what comes, read what is there, acknowledge, close."""
        for lane in self.lanes:
            lane.connection.shutdown(socket.SHUT_RD)
        self.read()
        self.close()

    @contextmanager
    def serving(self) -> Generator[None]:
        """Read from a thread meanwhile."""
        done = threading.Event()

        def serve() -> None:
            while not done.wait(0.001):
                self.read()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(30)

    def events(self) -> int:
        """Return how many events were counted."""
        return sum(count_events(frame) for frame in self.frames)

    def totals(self) -> "Counter[str]":
        """Return the sum of the values by name."""
        totals: Counter[str] = Counter()
        for frame in self.frames:
            if isinstance(frame, ColumnsFrame):
                for column in frame.columns:
                    totals[decode_series(column.series).name] += sum(expand(column))  # type: ignore[assignment]
            else:
                for each in frame.sets:
                    totals[decode_series(each.series).name] += each.sum  # type: ignore[assignment]
        return totals

    def check(self) -> None:
        """Assert what holds of each producer's frames, when nothing was lost."""
        for producer_id in {frame.producer_id for frame in self.frames}:
            frames = [frame for frame in self.frames if frame.producer_id == producer_id]
            assert [frame.sequence for frame in frames] == list(range(1, len(frames) + 1))
            sent = 0
            for frame in frames:
                assert frame.totals.sent == sent
                sent += count_events(frame)
        assert self.missing == 0
        assert all(len(datagram) <= MAX_DATAGRAM_BYTES for datagram in self.datagrams.values())

    def _read_lane(self, lane: Lane, most: int) -> int:
        read = 0
        fresh = False
        while read < most and not lane.is_over:
            try:
                message = lane.connection.recv(2 * MAX_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue
            if not message:
                self._end(lane)
                break
            read += 1
            frame = decode(message)
            if isinstance(frame, HelloFrame):
                assert lane.hello is None
                lane.hello = frame
                self.hellos.append(frame)
                if self.answers:
                    self._answer(lane, frame)
                continue
            assert isinstance(frame, (ColumnsFrame, FoldedFrame))
            assert lane.hello is not None, "the hello comes first"
            assert frame.producer_id == lane.hello.producer_id
            self._count(frame, message)
            fresh = True
        if fresh and self.acknowledges and lane.hello is not None and not lane.is_over:
            self._answer(lane, lane.hello)
        return read

    def _count(self, frame: Numbered, message: bytes) -> None:
        key = (frame.producer_id, frame.sequence)
        if frame.sequence <= self._last.get(frame.producer_id, 0):
            self.repeats.append(frame)
            assert self.datagrams[key] == message, "the same number, the same bytes"
            return
        self.missing += frame.totals.sent - self._sent.get(frame.producer_id, 0)
        self._last[frame.producer_id] = frame.sequence
        self._sent[frame.producer_id] = frame.totals.sent + count_events(frame)
        self.datagrams[key] = message
        self.frames.append(frame)

    def _answer(self, lane: Lane, hello: HelloFrame) -> None:
        last = self._last.get(hello.producer_id, hello.sequence - 1)
        ack = AckFrame(last, 0, self.journaled, self.interval_s, os.getpid())
        try:
            lane.connection.send(encode(ack), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return

    def _end(self, lane: Lane) -> None:
        lane.is_over = True
        lane.connection.close()


def count_events(frame: Numbered) -> int:
    """Return how many events a frame carries."""
    if isinstance(frame, ColumnsFrame):
        return sum(len(expand(column)) for column in frame.columns)
    return sum(each.count for each in frame.sets)


__all__ = ["Lane", "LaneDoor", "count_events"]
