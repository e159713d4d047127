"""Buffers -> frames that wait -> socket: one producer's way out. No thread, no lock: `Sender` lends it both.

Frames leave in the order of their numbers. One that a lane has taken is kept until it is acknowledged, and
never changes; on a new lane it is sent again. While the daemon is away or slow, a mebibyte of frames waits as
it is; what comes then is folded, up to a bound in bytes, and past it dropped and counted.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from aiokpl_metrics_client.buffers import Buffer, BufferTable, count_events, take
from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.encoder import (
    FRONT_DOOR_FRAME_BYTES,
    LANE_FRAME_BYTES,
    EncodedFrame,
    Encoder,
)
from aiokpl_metrics_client.folding import Fold
from aiokpl_metrics_client.progress import Mark, Progress
from aiokpl_metrics_client.statistics import DropReason, State
from aiokpl_metrics_client.transport import Outcome, Transport, Way
from aiokpl_metrics_protocol import AckFrame, HelloFrame

# Frames and folded events that may wait for the daemon, together; folded events of many series may take more,
# by so much a series: a histogram of 40 buckets has 3.6 KB, and each series is to have one at least.
MAX_PENDING_BYTES = 8 * 1024 * 1024
FOLD_BYTES_PER_SERIES = 4 * 1024

# With frames of so many bytes waiting, what comes is folded. At a thousand busy counters that is 15 seconds.
FOLD_BYTES = 1024 * 1024

# Folded events become frames once no more than this part of it waits, 128 KiB: the socket does not run dry.
_UNFOLD_PART = 8

# Frames that a lane has taken and the daemon has not acknowledged.
MAX_UNACKNOWLEDGED_BYTES = 256 * 1024

# How long they are kept where the daemon there is offers no lane.
NO_LANE_S = 60.0

# A daemon acknowledges within the tick of its loop in which it reads, also while its sinks are slow.
SILENCE_S = 5.0
_SILENCE = f"the daemon has taken a lane, and has acknowledged nothing on it for {SILENCE_S:g} s"

# With more than this waiting, the buffers are drained once a second only: longer columns, fewer bytes an
# event. Unless they hold this many events by themselves.
_SLOW_DRAIN_BYTES = 512 * 1024
_MAX_BUFFERED_EVENTS = 200_000

# Buffers drained in one go, before other threads get the interpreter: 10,000 series in one pass hold up the
# slowest `put` for 116 ms, chunks of 100 for 5 ms (measured).
_CHUNK_BUFFERS = 100


# More events of one series are looked at in parts, each of which is encoded or folded: a tight loop records
# half a million in a tenth of a second.
_MAX_PART_EVENTS = 65_536


class _Outgoing(NamedTuple):
    """A frame with its number."""

    sequence: int
    data: bytes
    events: int


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
        wall: Callable[[], float] = Clock.wall,
        monotonic: Callable[[], float] = Clock.monotonic,
    ) -> None:
        """Start empty."""
        self.transport = transport
        self.drops = DropCounter()
        self.progress = Progress()
        self.state = State.IDLE
        self.idle_drains = 0
        # Since when a daemon that was there is away, on the clock that never steps.
        self.lost_at: float | None = None
        self._pid = os.getpid()
        self._table = table
        self._producer_id = producer_id
        self._encoder = Encoder(producer_id, self.drops)
        self._pending: deque[_Outgoing] = deque()
        self._fold = Fold()
        self._unfolds = 0
        self._unfolded_up_to = 0
        # In ascending order; the last `_resend` of them are still to be sent on the present lane.
        self._unacknowledged: deque[_Outgoing] = deque()
        self._resend = 0
        self._lanes_seen = 0
        self._no_lane_since: float | None = None
        # Since when something waits on a lane without an ack.
        self._silent_since: float | None = None
        self._interval_s = 0.0
        self._wall = wall
        self._monotonic = monotonic
        self._drained_at = monotonic()
        self._drained_in = int(wall())
        transport.introduction = self._introduce

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits, for the socket or for an acknowledgement."""
        return bool(self._pending or self._unacknowledged or self.progress.events_in_fold)

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
        is_front_door = self.transport.way is Way.FRONT_DOOR
        self._encoder.frame_bytes = FRONT_DOOR_FRAME_BYTES if is_front_door else LANE_FRAME_BYTES
        drained = 0
        for start in range(0, len(buffers), _CHUNK_BUFFERS):
            if start:
                time.sleep(0)
                if os.getpid() != self._pid:
                    # A signal handler has forked in the midst of it: in the child, nothing here is ours.
                    return
            drained += self._drain_chunk(buffers[start : start + _CHUNK_BUFFERS], second, monotonic)
        if crossed:
            self._tell_shares(second)
        for frame in self._encoder.finish():
            self._enqueue(frame)
        if (crossed or all_of_it) and not self._pending:
            for frame in self._encoder.report():
                self._enqueue(frame)
        self.idle_drains = 0 if drained else self.idle_drains + 1

    def send(self) -> bool:
        """Send what waits, until the socket takes no more. Return whether nothing waits any longer."""
        self._receive()
        self._note_silence()
        transport = self.transport
        while os.getpid() == self._pid:
            frame = self._choose()
            if frame is None:
                if self.state is State.HELD_BACK and not self._pending:
                    self.state = State.CONNECTED
                return not self.is_waiting
            transport.lane_only = bool(self._unacknowledged)
            outcome = transport.send(frame.data)
            if outcome is Outcome.FULL:
                self.state = State.HELD_BACK
                return False
            if outcome is Outcome.AWAY:
                return self._note_away()
            if outcome is Outcome.SENT:
                self.state = State.CONNECTED
                self.lost_at = None
            if self._resend:
                self._resend -= 1
                continue
            self._pending.popleft()
            if outcome is Outcome.SENT:
                self._count_sent(frame)
            else:
                self._count_too_large(frame)
        # A child of the process: it is the parent that sends.
        return False

    def mark(self) -> Mark:
        """Return a mark of what was drained until now, for `is_settled`."""
        return Mark(self.progress.frames_made, self._unfolds if self._fold.events else None)

    def is_settled(self, mark: Mark) -> bool:
        """Tell whether everything before the mark is acknowledged, in the front door, or gone."""
        last = mark.sequence
        if mark.unfolds is not None:
            if self._unfolds == mark.unfolds:
                return False
            last = self._unfolded_up_to
        return not any(queue and queue[0].sequence <= last for queue in (self._unacknowledged, self._pending))

    def discard(self, reason: DropReason) -> None:
        """Drop what was never sent."""
        frames, self._pending = self._pending, deque()
        events = sum(frame.events for frame in frames) + self._fold.events
        self._fold = Fold()
        self._unfolds += 1
        if events:
            self.drops.add(reason, events)
        self.progress = self.progress.after_discarding(events)

    def recount(self) -> None:
        """Count anew what waits: a Ctrl-C came between a step and its count."""
        pending, kept = tuple(self._pending), tuple(self._unacknowledged)
        self.progress = self.progress._replace(
            events_pending=sum([frame.events for frame in pending]),
            bytes_pending=sum([len(frame.data) for frame in pending]),
            events_in_fold=self._fold.events,
            bytes_in_fold=self._fold.size_bytes,
            events_unacknowledged=sum([frame.events for frame in kept]),
            bytes_unacknowledged=sum([len(frame.data) for frame in kept]),
        )

    def dropped(self) -> dict[str, int]:
        """Return the events dropped so far, by reason."""
        dropped = self.drops.counts()
        # These are not among what a frame reports. The daemon sees a frame missing that was too large, and
        # its events; one that was given up it may have counted.
        if self.progress.events_too_large:
            dropped[DropReason.FRAME_TOO_LARGE.value] = self.progress.events_too_large
        if self.progress.events_given_up:
            dropped[DropReason.UNACKNOWLEDGED.value] = self.progress.events_given_up
        return dropped

    # ---- from the buffers

    def _drain_chunk(self, buffers: list[Buffer], second: int, monotonic: float) -> int:
        drained = overflowed = 0
        for buffer in buffers:
            if not buffer.values:
                continue
            values = take(buffer)
            count = len(values)
            buffer.last_used = monotonic
            if buffer.is_summed:
                values = self._note_share(buffer, second, values)
            drained += count
            if buffer.overflow:
                overflowed += count
            if count <= _MAX_PART_EVENTS:
                if values:
                    self._keep(buffer.series, second, values)
                continue
            for start in range(0, len(values), _MAX_PART_EVENTS):
                self._keep(buffer.series, second, values[start : start + _MAX_PART_EVENTS])
        if overflowed:
            progress = self.progress
            self.progress = progress._replace(events_overflowed=progress.events_overflowed + overflowed)
        return drained

    def _note_share(self, buffer: Buffer, second: int, values: list[float]) -> list[float]:
        """Remember the last of these values that is a number, and return those that are."""
        numbers = self._encoder.clean(values, buffer.series)
        if numbers:
            buffer.share, buffer.told_in = numbers[-1], second
        return numbers

    def _tell_shares(self, second: int) -> None:
        """Say again, once a second, what summed gauges are: so the daemon knows that this process lives."""
        for number, buffer in enumerate(self._table.summed(), start=1):
            share = buffer.share
            if share is not None and buffer.told_in != second:
                buffer.told_in = second
                self._keep(buffer.series, second, [share])
            if number % _CHUNK_BUFFERS == 0:
                time.sleep(0)

    def _keep(self, series: bytes, second: int, values: list[float]) -> None:
        """Encode events, or fold them, or drop them, by the room there is."""
        pending = self.progress.bytes_pending
        if pending < FOLD_BYTES and pending < MAX_PENDING_BYTES and not self._fold.events:
            for frame in self._encoder.add(series, second, values):
                self._enqueue(frame)
            return
        fold = self._fold
        folded = 0
        if pending < MAX_PENDING_BYTES:
            values = self._encoder.clean(values, series)
            if not values:
                return
            if not fold.events:
                fold.begin(self._interval_s)
            room = MAX_PENDING_BYTES - pending + FOLD_BYTES_PER_SERIES * len(self._table)
            folded = len(values) if fold.add(series, second, values, room) else 0
        without_room = len(values) - folded
        if without_room:
            self.drops.add(DropReason.BUFFER_FULL, without_room)
        progress = self.progress
        self.progress = progress._replace(
            events_in_fold=fold.events,
            bytes_in_fold=fold.size_bytes,
            events_folded=progress.events_folded + folded,
            events_without_room=progress.events_without_room + without_room,
        )

    def _unfold(self) -> None:
        """Make frames of what is folded."""
        for frame in self._encoder.encode_sets(self._fold.take()):
            self._enqueue(frame, folded=True)
            # As between the chunks of a drain.
            time.sleep(0)
        self._unfolds += 1
        self._unfolded_up_to = self.progress.frames_made
        self.progress = self.progress._replace(events_in_fold=0, bytes_in_fold=0)

    def _enqueue(self, frame: EncodedFrame, *, folded: bool = False) -> None:
        self._pending.append(_Outgoing(self.progress.frames_made + 1, frame.data, frame.events))
        self.progress = self.progress.after_making(frame.events, len(frame.data), folded=folded)

    # ---- to the daemon

    def _introduce(self) -> HelloFrame:
        from aiokpl_metrics_client import __version__

        software = f"aiokpl-metrics-client/{__version__}"
        for queue in (self._unacknowledged, self._pending):
            if queue:
                return HelloFrame(self._producer_id, queue[0].sequence, software)
        return HelloFrame(self._producer_id, self.progress.frames_made + 1, software)

    def _choose(self) -> _Outgoing | None:
        """Return the frame to be sent next, or None when none may be sent now."""
        if self._resend:
            return self._unacknowledged[-self._resend]
        if self._fold.events and self.progress.bytes_pending <= FOLD_BYTES // _UNFOLD_PART:
            self._unfold()
        if not self._pending:
            return None
        frame = self._pending[0]
        if self._is_too_much(frame):
            self._receive()
            if self._resend:
                # The lane is over, and they are to be sent on the next one.
                return self._unacknowledged[-self._resend]
            if self._is_too_much(frame):
                self.state = State.HELD_BACK
                return None
        return frame

    def _is_too_much(self, frame: _Outgoing) -> bool:
        unacknowledged = self.progress.bytes_unacknowledged
        return bool(unacknowledged) and unacknowledged + len(frame.data) > MAX_UNACKNOWLEDGED_BYTES

    def _receive(self) -> None:
        transport = self.transport
        had_lane = transport.way is Way.LANE
        acks = transport.receive()
        if acks:
            self._silent_since = None
        while acks:
            # Taken away last: to take one in twice changes nothing, and a Ctrl-C may come in between.
            self._acknowledge(acks[0])
            del acks[0]
        waiting = len(self._unacknowledged)
        if transport.lanes_answered != self._lanes_seen:
            self._no_lane_since = None
            self._resend = waiting
            self.state = State.CONNECTED
            # At last, for the same reason.
            self._lanes_seen = transport.lanes_answered
        elif transport.way is not Way.LANE:
            self._resend = waiting
            if had_lane:
                self.state = State.AWAY
        else:
            self._resend = min(self._resend, waiting)

    def _note_silence(self) -> None:
        """Say so where a daemon holds the lane and acknowledges nothing: it hangs, or it is none."""
        transport = self.transport
        if transport.way is not Way.LANE or not self.is_waiting:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._monotonic()
        silent = self._silent_since is not None and self._monotonic() - self._silent_since >= SILENCE_S
        if silent is not (transport.problem == _SILENCE):
            transport.problem = _SILENCE if silent else ""

    def _acknowledge(self, ack: AckFrame) -> None:
        self._interval_s = ack.interval_s
        frames = self._unacknowledged
        events = size = 0
        while frames and frames[0].sequence <= ack.sequence:
            frame = frames.popleft()
            events += frame.events
            size += len(frame.data)
        self.progress = self.progress.after_ack(events, size, is_journaled=ack.journaled)
        if ack.refused:
            self.transport.problem = f"the daemon has refused {ack.refused} frames on this lane"

    def _note_away(self) -> bool:
        transport = self.transport
        if not transport.supported:
            self.discard(DropReason.UNSUPPORTED)
            self.state = State.UNSUPPORTED
            return True
        self.state = State.AWAY
        if self.lost_at is None and transport.connected_path is not None:
            self.lost_at = self._monotonic()
        if not transport.offers_no_lane:
            self._no_lane_since = None
        elif self._no_lane_since is None:
            self._no_lane_since = self._monotonic()
        elif self._monotonic() - self._no_lane_since >= NO_LANE_S:
            self._give_up()
        return False

    def _give_up(self) -> None:
        """Drop what a lane had taken and nobody will acknowledge."""
        events = sum(frame.events for frame in self._unacknowledged)
        self._unacknowledged.clear()
        self._resend = 0
        self._no_lane_since = None
        self.progress = self.progress.after_giving_up(events)

    def _count_sent(self, frame: _Outgoing) -> None:
        is_kept = self.transport.way is Way.LANE
        if is_kept:
            self._unacknowledged.append(frame)
        else:
            # The front door tells nothing of the daemon, which may be another one by now.
            self._interval_s = 0.0
        self.progress = self.progress.after_sending(frame.events, len(frame.data), is_kept=is_kept)

    def _count_too_large(self, frame: _Outgoing) -> None:
        # The transport asks for a send buffer that holds two frames, so this system allows none that large.
        self.transport.problem = "the system's send buffer is too small for a frame; raise net.core.wmem_max"
        self.progress = self.progress.after_refusal(frame.events, len(frame.data))


__all__ = [
    "FOLD_BYTES",
    "FOLD_BYTES_PER_SERIES",
    "MAX_PENDING_BYTES",
    "MAX_UNACKNOWLEDGED_BYTES",
    "NO_LANE_S",
    "SILENCE_S",
    "Outbound",
]
