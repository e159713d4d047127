"""Buffers -> frames that wait -> socket: one producer's way out. No thread, no lock: `Sender` lends it both.

While the daemon is away or slow it keeps frames up to a bound in bytes; past it, events are dropped and
counted.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aiokpl_metrics_client.buffers import Buffer, BufferTable, count_events, take
from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.encoder import EncodedFrame, Encoder
from aiokpl_metrics_client.statistics import DropReason, State
from aiokpl_metrics_client.transport import Outcome, Transport

# Frames that may wait for the daemon. At a thousand busy counters that is some two minutes.
MAX_PENDING_BYTES = 8 * 1024 * 1024

# With more than this waiting, the buffers are drained once a second only: longer columns, fewer bytes an
# event. Unless they hold this many events by themselves.
_SLOW_DRAIN_BYTES = 512 * 1024
_MAX_BUFFERED_EVENTS = 200_000

# Buffers drained in one go, before other threads get the interpreter: 10,000 series in one pass hold up the
# slowest `put` for 116 ms, chunks of 100 for 5 ms (measured).
_CHUNK_BUFFERS = 100


class Progress(NamedTuple):
    """How far the frames have come. Replaced whole, so that a reader in any thread sees counts that agree."""

    frames_made: int = 0
    frames_gone: int = 0
    frames_sent: int = 0
    events_sent: int = 0
    bytes_sent: int = 0
    events_pending: int = 0
    bytes_pending: int = 0
    events_overflowed: int = 0
    # Dropped here, for want of room, or because the system cannot send them: what a flush could not hand
    # over.
    events_without_room: int = 0
    events_unsendable: int = 0
    events_too_large: int = 0


class Outbound:
    """The frames of one producer.

    Args:
        table: the buffers.
        transport: the socket.
        producer_id: random, of this process.
        wall: the time of day, in seconds since the epoch; says in which second an event was recorded.
        monotonic: a clock that never steps.
    """

    def __init__(
        self,
        table: BufferTable,
        transport: Transport,
        producer_id: int,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty."""
        self.transport = transport
        self.drops = DropCounter()
        self.progress = Progress()
        self.state = State.IDLE
        self.idle_drains = 0
        self._table = table
        self._encoder = Encoder(producer_id, self.drops)
        self._pending: deque[EncodedFrame] = deque()
        self._wall = wall
        self._monotonic = monotonic
        self._drained_at = monotonic()
        self._drained_in = int(wall())

    def drain(self, *, all_of_it: bool) -> None:
        """Take the events out of the buffers, and encode them as of the second they were recorded in."""
        now, monotonic = self._wall(), self._monotonic()
        crossed = int(now) != self._drained_in
        buffers = self._table.buffers()
        if (
            self.progress.bytes_pending > _SLOW_DRAIN_BYTES
            and not (crossed or all_of_it)
            and count_events(buffers) < _MAX_BUFFERED_EVENTS
        ):
            return
        # The events came since the last drain: on average, in the middle. Drains come every 100 ms and just
        # past each boundary, so that only a thread held up longer is in doubt. The wall clock may have
        # stepped in between, so only its present reading counts.
        second = int(now - (monotonic - self._drained_at) / 2)
        self._drained_at, self._drained_in = monotonic, int(now)
        drained = 0
        for start in range(0, len(buffers), _CHUNK_BUFFERS):
            if start:
                time.sleep(0)
            drained += self._drain_chunk(buffers[start : start + _CHUNK_BUFFERS], second, monotonic)
        for frame in self._encoder.finish():
            self._enqueue(frame)
        if (crossed or all_of_it) and not self._pending:
            for frame in self._encoder.report():
                self._enqueue(frame)
        self.idle_drains = 0 if drained else self.idle_drains + 1

    def send(self) -> bool:
        """Send what waits, until the socket takes no more. Return whether nothing waits any longer."""
        pending = self._pending
        while pending:
            frame = pending[0]
            outcome = self.transport.send(frame.data)
            if outcome is Outcome.FULL:
                self.state = State.HELD_BACK
                return False
            if outcome is Outcome.AWAY:
                if self.transport.supported:
                    self.state = State.AWAY
                    return False
                self.discard(DropReason.UNSUPPORTED)
                self.state = State.UNSUPPORTED
                return True
            pending.popleft()
            if outcome is Outcome.SENT:
                self.state = State.CONNECTED
                self._count_sent(frame)
            else:
                self._count_too_large(frame)
        return True

    def discard(self, reason: DropReason) -> None:
        """Drop the frames that wait."""
        frames, self._pending = self._pending, deque()
        events = sum(frame.events for frame in frames)
        if events:
            self.drops.add(reason, events)
        progress = self.progress
        self.progress = progress._replace(
            frames_gone=progress.frames_gone + len(frames),
            events_pending=0,
            bytes_pending=0,
            events_unsendable=progress.events_unsendable + events,
        )

    def dropped(self) -> dict[str, int]:
        """Return the events dropped so far, by reason."""
        dropped = self.drops.counts()
        if self.progress.events_too_large:
            # Not among what a frame reports: the daemon sees a frame missing, and its events.
            dropped[DropReason.FRAME_TOO_LARGE.value] = self.progress.events_too_large
        return dropped

    def _drain_chunk(self, buffers: list[Buffer], second: int, monotonic: float) -> int:
        drained = overflowed = without_room = 0
        add = self._encoder.add
        for buffer in buffers:
            if not buffer.values:
                continue
            values = take(buffer)
            buffer.last_used = monotonic
            drained += len(values)
            if buffer.overflow:
                overflowed += len(values)
            if self.progress.bytes_pending >= MAX_PENDING_BYTES:
                without_room += len(values)
                continue
            for frame in add(buffer.series, second, values):
                self._enqueue(frame)
        if without_room:
            self.drops.add(DropReason.BUFFER_FULL, without_room)
        if overflowed or without_room:
            progress = self.progress
            self.progress = progress._replace(
                events_overflowed=progress.events_overflowed + overflowed,
                events_without_room=progress.events_without_room + without_room,
            )
        return drained

    def _enqueue(self, frame: EncodedFrame) -> None:
        self._pending.append(frame)
        progress = self.progress
        self.progress = progress._replace(
            frames_made=progress.frames_made + 1,
            events_pending=progress.events_pending + frame.events,
            bytes_pending=progress.bytes_pending + len(frame.data),
        )

    def _count_sent(self, frame: EncodedFrame) -> None:
        progress = self.progress
        self.progress = progress._replace(
            frames_gone=progress.frames_gone + 1,
            frames_sent=progress.frames_sent + 1,
            events_sent=progress.events_sent + frame.events,
            bytes_sent=progress.bytes_sent + len(frame.data),
            events_pending=progress.events_pending - frame.events,
            bytes_pending=progress.bytes_pending - len(frame.data),
        )

    def _count_too_large(self, frame: EncodedFrame) -> None:
        # The transport asks for a send buffer that holds two frames, so this system allows none that large.
        self.transport.problem = "the system's send buffer is too small for a frame; raise net.core.wmem_max"
        progress = self.progress
        self.progress = progress._replace(
            frames_gone=progress.frames_gone + 1,
            events_pending=progress.events_pending - frame.events,
            bytes_pending=progress.bytes_pending - len(frame.data),
            events_unsendable=progress.events_unsendable + frame.events,
            events_too_large=progress.events_too_large + frame.events,
        )


__all__ = ["MAX_PENDING_BYTES", "Outbound", "Progress"]
