"""The thread behind a client: drains the buffers ten times a second and on each second's boundary, and sends.

It starts with the first series, not at import. Whoever holds the lock may drain and send: the thread, `flush`, the
exit of the interpreter. While the socket is full the thread waits for the socket, while the daemon is away it looks for
it five times a second, and meanwhile goes on collecting, up to a bound in bytes; past it, events are dropped and counted.
"""

import atexit
import os
import threading
import time
import weakref
from collections import deque

from aiokpl_metrics_client.buffers import Buffer, BufferTable, count_events, take
from aiokpl_metrics_client.encoder import EncodedFrame, Encoder
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State
from aiokpl_metrics_client.transport import Outcome, Transport

# How often the buffers are drained while events come.
DRAIN_INTERVAL_S = 0.1

# Frames that may wait for the daemon. At a thousand busy counters that is some two minutes.
MAX_PENDING_BYTES = 8 * 1024 * 1024

# With more than this waiting, the buffers are drained once a second only: longer columns, fewer bytes an event. Unless
# they hold this many events by themselves.
_SLOW_DRAIN_BYTES = 512 * 1024
_MAX_BUFFERED_EVENTS = 200_000

# Buffers drained in one go, before other threads get the interpreter: 10,000 series in one pass hold up the slowest
# `put` for 116 ms, chunks of 100 for 5 ms (measured).
_CHUNK_BUFFERS = 100

# How long a sent-all, collect-nothing client sleeps: to the next second's boundary.
_IDLE_DRAINS = 10
_RETRY_S = 0.2
_RETIRE_INTERVAL_S = 10.0
_LOG_INTERVAL_S = 60.0

# At the interpreter's exit: how long to wait for a daemon that is there but busy, and for one that is not there.
_EXIT_TIMEOUT_S = 5.0
_EXIT_AWAY_TIMEOUT_S = 0.5

_senders: "weakref.WeakSet[Sender]" = weakref.WeakSet()
_hooks_installed = False


class Sender:
    """Takes the events of a `BufferTable` to the daemon.

    Args:
        path: the socket's path, or None for the usual places.
        max_series: bound of the table.
    """

    def __init__(self, path: str | None, max_series: int) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._closing = False
        self._transport = Transport(path)
        self._encoder = Encoder(_draw_producer_id())
        self._pending: deque[EncodedFrame] = deque()
        self._pending_bytes = 0
        self._drained_until = time.time()
        self._idle_drains = 0
        self._next_retire = 0.0
        self._next_log = 0.0
        self._state = State.IDLE
        self._events_sent = 0
        self._frames_sent = 0
        self._bytes_sent = 0
        self.table = BufferTable(max_series, self.drop)

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if self._thread is not None or self._closing:
            return
        with self._start_lock:
            if self._thread is not None:
                return
            _install_hooks()
            _senders.add(self)
            thread = threading.Thread(target=self._run, name="aiokpl-metrics-client", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # No thread can start: the process is at its limit or ends. `flush` still sends.
                self._report(f"no thread can start ({error}); events are sent by flush() only")
                return
            self._thread = thread

    def drop(self, reason: DropReason, count: int) -> None:
        """Count events that are discarded."""
        self._encoder.drop(reason, count)

    def flush(self, timeout_s: float, away_timeout_s: float | None = None) -> bool:
        """Hand over what was recorded before the call. Return whether the kernel took it all in time."""
        deadline = time.monotonic() + timeout_s
        away_deadline = deadline if away_timeout_s is None else time.monotonic() + away_timeout_s
        if not self._lock.acquire(timeout=max(0.0, timeout_s)):
            return False
        try:
            dropped = self._dropped_for_room
            self._drain(all_of_it=True)
            while not self._send_pending():
                away = self._state is not State.HELD_BACK
                left = (away_deadline if away else deadline) - time.monotonic()
                if left <= 0:
                    return False
                if not self._transport.wait(min(left, 0.05)):
                    time.sleep(min(left, 0.02))
            return dropped == self._dropped_for_room and self._transport.supported
        finally:
            self._lock.release()

    def finish(self) -> None:
        """Let the thread send what is there, and end."""
        self._closing = True
        self._wake.set()

    def close(self, timeout_s: float) -> bool:
        """Flush, end the thread and close the socket."""
        flushed = self.flush(timeout_s)
        self.finish()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=max(0.0, min(timeout_s, 1.0)))
        with self._lock:
            self._transport.close()
            self._state = State.CLOSED
        return flushed

    def statistics(self) -> ClientStatistics:
        """Return the counts as they are now."""
        return ClientStatistics(
            state=self._state,
            socket_path=self._transport.connected_path,
            problem=self._transport.problem,
            series=len(self.table),
            events_sent=self._events_sent,
            frames_sent=self._frames_sent,
            bytes_sent=self._bytes_sent,
            events_pending=sum(frame.events for frame in tuple(self._pending)),
            bytes_pending=self._pending_bytes,
            events_overflowed=self.table.events_overflowed,
            dropped=dict(self._encoder.dropped),
        )

    def after_fork_in_child(self) -> None:
        """Begin anew as another producer: what was recorded before the fork is the parent's to send."""
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._wake = threading.Event()
        self._pid = os.getpid()
        had_thread, self._thread = self._thread is not None, None
        self._transport.close()
        self._encoder = Encoder(_draw_producer_id())
        self._pending = deque()
        self._pending_bytes = 0
        self._events_sent = self._frames_sent = self._bytes_sent = 0
        self._drained_until = time.time()
        self.table.forget_events()
        if had_thread:
            self.start()

    @property
    def _dropped_for_room(self) -> int:
        return self._encoder.dropped.get(DropReason.BUFFER_FULL.value, 0)

    def _run(self) -> None:
        while True:
            self._wait()
            if self._pid != os.getpid():
                return
            with self._lock:
                self._drain(all_of_it=self._closing)
                sent_all = self._send_pending()
                if time.monotonic() >= self._next_retire:
                    self._next_retire = time.monotonic() + _RETIRE_INTERVAL_S
                    self.table.retire_idle(time.monotonic())
                if self._closing and (sent_all or self._state is not State.HELD_BACK):
                    return

    def _wait(self) -> None:
        """Sleep until the next drain, or until the socket takes another frame."""
        now = time.time()
        to_boundary = 1.0 - now % 1.0 + 0.001
        if self._pending and self._state is State.HELD_BACK:
            self._transport.wait(min(DRAIN_INTERVAL_S, to_boundary))
            return
        pause = to_boundary if self._idle_drains >= _IDLE_DRAINS else min(DRAIN_INTERVAL_S, to_boundary)
        if self._pending:
            pause = min(_RETRY_S, to_boundary)
        self._wake.wait(pause)

    def _drain(self, *, all_of_it: bool) -> None:
        """Take the events out of the buffers, and encode them as of the second in which they were recorded."""
        now = time.time()
        crossed = int(now) != int(self._drained_until)
        buffers = self.table.buffers()
        if (
            self._pending_bytes > _SLOW_DRAIN_BYTES
            and not (crossed or all_of_it)
            and count_events(buffers) < _MAX_BUFFERED_EVENTS
        ):
            return
        # The events came between the last drain and now. Just past a boundary, that is the second before it.
        second = int(self._drained_until) if crossed and now % 1.0 < DRAIN_INTERVAL_S else int(now)
        self._drained_until = now
        monotonic = time.monotonic()
        drained = 0
        for start in range(0, len(buffers), _CHUNK_BUFFERS):
            if start:
                time.sleep(0)
            drained += self._drain_chunk(buffers[start : start + _CHUNK_BUFFERS], second, monotonic)
        for frame in self._encoder.finish():
            self._enqueue(frame)
        self._idle_drains = 0 if drained else self._idle_drains + 1

    def _drain_chunk(self, buffers: list[Buffer], second: int, monotonic: float) -> int:
        drained = 0
        add = self._encoder.add
        for buffer in buffers:
            if not buffer.values:
                continue
            values = take(buffer)
            buffer.last_used = monotonic
            drained += len(values)
            if self._pending_bytes >= MAX_PENDING_BYTES:
                self.drop(DropReason.BUFFER_FULL, len(values))
                continue
            for frame in add(buffer.series, second, values):
                self._enqueue(frame)
        return drained

    def _enqueue(self, frame: EncodedFrame) -> None:
        self._pending.append(frame)
        self._pending_bytes += len(frame.data)

    def _send_pending(self) -> bool:
        """Send what waits, until the socket takes no more. Return whether nothing waits any longer."""
        pending = self._pending
        while pending:
            frame = pending[0]
            outcome = self._transport.send(frame.data)
            if outcome is Outcome.FULL:
                self._state = State.HELD_BACK
                return False
            if outcome is Outcome.AWAY:
                if not self._transport.supported:
                    self._discard_pending(DropReason.UNSUPPORTED)
                    return True
                self._state = State.AWAY
                self._report(f"{self._transport.problem}; events are kept and sent once it is there")
                return False
            pending.popleft()
            self._pending_bytes -= len(frame.data)
            if outcome is Outcome.TOO_LARGE:
                # Our frames fit the default send buffer three times over, so this system's was made smaller. The
                # daemon counts the frame as missing, by its number and its events.
                self._report("the system's socket send buffer is too small for a frame; raise net.core.wmem_default")
                continue
            self._state = State.CONNECTED
            self._events_sent += frame.events
            self._frames_sent += 1
            self._bytes_sent += len(frame.data)
        return True

    def _discard_pending(self, reason: DropReason) -> None:
        self._state = State.UNSUPPORTED
        self._report(f"{self._transport.problem}; events are discarded")
        self.drop(reason, sum(frame.events for frame in self._pending))
        self._pending.clear()
        self._pending_bytes = 0

    def _report(self, problem: str) -> None:
        """Log, at most once a minute."""
        now = time.monotonic()
        if now < self._next_log:
            return
        self._next_log = now + _LOG_INTERVAL_S
        import logging

        logging.getLogger("aiokpl_metrics_client").warning("metrics: %s", problem)


def _draw_producer_id() -> int:
    # Not the random module: a seeded application would draw the same number in every process, and it is slow to
    # import.
    return int.from_bytes(os.urandom(8), "big") >> 1


def _install_hooks() -> None:
    global _hooks_installed  # noqa: PLW0603 - the interpreter takes hooks once a process
    if _hooks_installed:
        return
    _hooks_installed = True
    atexit.register(_flush_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)


def _flush_at_exit() -> None:
    for sender in list(_senders):
        sender.flush(_EXIT_TIMEOUT_S, _EXIT_AWAY_TIMEOUT_S)


def _after_fork_in_child() -> None:
    for sender in list(_senders):
        sender.after_fork_in_child()


__all__ = ["DRAIN_INTERVAL_S", "MAX_PENDING_BYTES", "Sender"]
