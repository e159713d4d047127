"""Connections -> frames, acknowledged once they are counted and written down.

A lane begins with a hello, which is answered with how far its producer has come, and goes on with frames.
What a turn has read is acknowledged at its end, with one message a lane, since acknowledgements are
cumulative; one that does not go through waits, and grows. So `acknowledge` comes after the frames are where
it says they are.
"""

import errno
import socket
from collections.abc import Callable
from functools import partial

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, AckFrame, ColumnsFrame, FoldedFrame, encode
from aiokpl_metricsd.clock import Clock
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.ledger import LaneEnd, LaneRefusal, Ledger
from aiokpl_metricsd.receiver import Receiver
from aiokpl_metricsd.receiving.acceptor import Acceptor, LaneLimits, build_limits
from aiokpl_metricsd.receiving.admission import Admission, read_peer
from aiokpl_metricsd.receiving.lane import Lane

# After which the kernel, short of memory or descriptors, is asked again.
_PAUSE_S = 0.1


class Lanes:
    """All lanes of one daemon.

    Args:
        listener: the socket to which they connect; closed by `refuse_more`.
        receiver: reads them.
        decoder: knows the producers' numbers.
        ledger: where lanes are counted.
        clock: says when a lane ended.
        handle: takes a frame that is new, with its bytes, which are reused, and its lane. Must not raise.
        interval_s: the length of the windows, for the producers.
        daemon_id: not 0.
        limits: how many there may be; None asks the system.
        admission: says who may have one; None lets everybody.
    """

    def __init__(  # noqa: PLR0913 - wired in one place
        self,
        listener: socket.socket,
        receiver: Receiver,
        decoder: Decoder,
        ledger: Ledger,
        clock: Clock,
        handle: Callable[[ColumnsFrame | FoldedFrame, memoryview, Lane], None],
        *,
        interval_s: float,
        daemon_id: int,
        limits: LaneLimits | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Have the receiver accept lanes."""
        self._receiver = receiver
        self._decoder = decoder
        self._ledger = ledger
        self._clock = clock
        self._handle = handle
        self._interval_s = interval_s
        self._daemon_id = daemon_id
        self._limits = build_limits() if limits is None else limits
        self._admission = admission
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._lanes: set[Lane] = set()
        self._by_user: dict[int, int] = {}
        # Those that are to be acknowledged at the end of the turn, and those that wait for room to be.
        self._due: dict[Lane, None] = {}
        self._held_back: dict[Lane, Callable[[], object]] = {}
        self._ended: dict[Lane, None] = {}
        self._is_stopping = False
        self._acceptor = Acceptor(listener, self._admit, ledger.refuse_lane, self._pause)
        receiver.watch(self._acceptor)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._lanes)

    def read_software(self) -> dict[int, str]:
        """Return what the producers that have a lane say they are, by their ids."""
        passages = [lane.passage for lane in self._lanes if lane.passage is not None]
        return {passage.producer_id: passage.software for passage in passages if passage.software}

    def acknowledge(self, *, journaled: bool) -> None:
        """Answer the lanes that were read since the last call; after what was read is where it is said to be.

        Args:
            journaled: all of it is on disk.
        """
        due, self._due = self._due, {}
        for lane in due:
            if lane.frames and not journaled:
                self._ledger.frames_unjournaled += lane.frames
                lane.is_unjournaled = True
            lane.frames = 0
            passage = lane.passage
            if passage is None or lane.is_deaf:
                continue
            # Made now: when it is sent, more may have been read.
            lane.answer = encode(
                AckFrame(
                    passage.sequence,
                    passage.refused,
                    journaled and not lane.is_unjournaled,
                    self._interval_s,
                    self._daemon_id,
                )
            )
            if lane not in self._held_back:
                self._answer(lane)
        ended, self._ended = self._ended, {}
        for lane in ended:
            self._forget(lane)

    def refuse_more(self) -> None:
        """Accept what waits, then take no further connection and no further message; what is queued is read.

        The path must be gone. The receiver still has to drain the lanes.
        """
        self._is_stopping = True
        self._receiver.unwatch(self._acceptor)
        self._acceptor.close()
        for lane in self._lanes:
            lane.take_no_more()

    def close(self) -> None:
        """Close what is open."""
        self._is_stopping = True
        self._receiver.unwatch(self._acceptor)
        self._acceptor.close()
        for lane in list(self._lanes):
            self._forget(lane)

    def take(self, lane: Lane, message: memoryview) -> None:
        """Take a message: the hello, or a frame."""
        passage = lane.passage
        if passage is None:
            lane.passage = self._decoder.open_lane(message)
            if lane.passage is None:
                lane.end = LaneEnd.NO_HELLO
                return
        else:
            frame = self._decoder.decode_lane(message, passage)
            if frame is not None:
                lane.frames += 1
                self._handle(frame, message, lane)
        self._due[lane] = None

    def take_oversized(self, lane: Lane, size_bytes: int) -> None:
        """Refuse a message that was larger than any frame."""
        self._decoder.reject_oversized(size_bytes, lane.passage)
        if lane.passage is None:
            lane.end = LaneEnd.NO_HELLO
        else:
            self._due[lane] = None

    def note_end(self, lane: Lane) -> None:
        """Close a lane at the end of the turn, when what it sent is acknowledged."""
        self._ended[lane] = None

    def _admit(self, connection: socket.socket) -> LaneRefusal | None:
        """Make a connection a lane, or answer why it is none."""
        if self._admission is not None and not self._admission.admits(read_peer(connection)):
            return LaneRefusal.NOT_ALLOWED
        if len(self._lanes) >= self._limits.lanes:
            return LaneRefusal.LANES
        lane = Lane(connection, self._buffer, self)
        of_user = self._by_user.get(lane.uid, 0)
        if of_user >= self._limits.user_lanes:
            return LaneRefusal.USER
        self._by_user[lane.uid] = of_user + 1
        self._lanes.add(lane)
        self._ledger.lanes_accepted += 1
        self._receiver.watch(lane)
        return None

    def _answer(self, lane: Lane) -> None:
        """Send the last acknowledgement, or have it wait for room."""
        trouble = lane.send(lane.answer)
        if trouble == 0:
            lane.is_unjournaled = False
            if lane.is_deaf:
                # What the producer left behind is read to its end, of which the loop may tell nothing.
                self._receiver.leave_loop(lane)
            return
        loop = self._receiver.loop
        if loop is None:
            return
        if trouble == errno.EAGAIN:
            fileno = lane.fileno()
            loop.add_writer(fileno, self._resume, lane)
            self._held_back[lane] = partial(loop.remove_writer, fileno)
        else:
            # Short of memory: it may say that there is room, and have none.
            self._held_back[lane] = loop.call_later(_PAUSE_S, self._resume, lane).cancel

    def _resume(self, lane: Lane) -> None:
        """Send what was held back."""
        self._held_back.pop(lane)()
        self._answer(lane)

    def _forget(self, lane: Lane) -> None:
        """Close a lane."""
        self._receiver.unwatch(lane)
        stop_waiting = self._held_back.pop(lane, None)
        if stop_waiting is not None:
            stop_waiting()
            lane.send(lane.answer)
        self._due.pop(lane, None)
        self._lanes.discard(lane)
        left = self._by_user[lane.uid] - 1
        if left:
            self._by_user[lane.uid] = left
        else:
            del self._by_user[lane.uid]
        if lane.passage is not None:
            self._decoder.close_lane(lane.passage, self._clock.time())
        was_stopped = self._is_stopping and lane.end in (None, LaneEnd.CLOSED)
        self._ledger.end_lane(LaneEnd.STOPPED if was_stopped else lane.end or LaneEnd.CLOSED)
        lane.close()

    def _pause(self) -> None:
        """Accept nothing for a while."""
        self._receiver.unwatch(self._acceptor)
        loop = self._receiver.loop
        if loop is not None:
            loop.call_later(_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if not self._is_stopping:
            self._receiver.watch(self._acceptor)


__all__ = ["Lanes"]
