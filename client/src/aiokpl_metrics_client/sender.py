"""The thread behind a client: drains the buffers ten times a second and on each second's boundary, and sends.

It starts with the first series, not at import. Whoever holds the lock may drain and send: the thread,
`flush`, the exit of the interpreter; nobody holds it while waiting. While frames wait the thread waits for
the socket, to be writable or to bring acknowledgements; while the daemon is away it looks for it five times a
second; and meanwhile it goes on collecting. Where no thread can start, whoever records does its work.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import ClassVar, TypeAlias

from aiokpl_metrics_client import process
from aiokpl_metrics_client.buffers import BufferTable, count_events, take
from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.complaint import Complaint
from aiokpl_metrics_client.exclusive import Exclusive
from aiokpl_metrics_client.instruments import Append
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.progress import Mark
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State
from aiokpl_metrics_client.transport import LANE_VARIABLE, Transport

# How often the buffers are drained while events come.
DRAIN_INTERVAL_S = 0.1

# After so many drains without an event the thread sleeps to the next second's boundary.
_IDLE_DRAINS = 10
_RETRY_S = 0.2
_RETIRE_INTERVAL_S = 10.0

# How long `flush` waits before it looks again: for a socket that is full, for a daemon that is not there.
_FULL_POLL_S = 0.05
_AWAY_POLL_S = 0.02

# A client that was let go without `close` sends for this long what it still has.
_LINGER_S = 5.0
_JOIN_TIMEOUT_S = 1.0

# After the end, how often is looked for events of who kept a copy of `record`, while none come.
_SWEEP_INTERVAL_S = 1.0

# Where none can start, how often that is tried again.
_START_INTERVAL_S = 1.0

# A daemon that was there this long ago is being restarted: the end of the process waits for it, too.
RESTART_S = 3.0

# Makes the way out of a table's events, given a producer's id.
BuildOutbound: TypeAlias = Callable[[BufferTable, int], Outbound]


class Sender:
    """Takes the events of a `BufferTable` to the daemon.

    Args:
        path: the socket's path, or None for the usual places.
        max_series: bound of the table.

    Attributes:
        observer: told of each sender that will send something; how the test kit finds them.
    """

    observer: ClassVar["Callable[[Sender], None] | None"] = None

    # Bound here: at the very end of an interpreter, modules are empty.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, path: str | None, max_series: int) -> None:
        """Start nothing yet."""
        self.table = BufferTable(max_series)
        self._redirected_to: BuildOutbound | None = None
        self._path = path
        self._closing = False
        # All that may be sent is: what still comes, from a copy of `record`, is counted and thrown away.
        self._is_over = False
        self._sweep_pause_s = DRAIN_INTERVAL_S
        self._served_by: Callable[[Append], Append] | None = None
        self._end_by = 0.0
        self._next_retire = 0.0
        self._complaint = Complaint()
        self._hindrance = ""
        self._begin()

    def _begin(self) -> None:
        """Make what belongs to one process: its locks, its producer's number, its counts."""
        self._exclusive = Exclusive()
        self._start_lock = threading.RLock()
        self._is_starting = False
        # Held until somebody wakes the thread. No `Event`: its `set` waits for a lock, for ever if a
        # finalizer calls it while the thread is on its way into `wait`.
        self._sleep_lock = threading.Lock()
        self._sleep_lock.acquire()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._is_last = False
        self._reported_losses = (0, 0)
        self._drain_at = 0.0
        self._serve_at = self._next_start = 0.0
        transport = Transport(self._path, lanes=os.environ.get(LANE_VARIABLE) != "0")
        # `_outbound` is where events go; another than our own only while they are redirected.
        self._own_outbound = self._outbound = Outbound(self.table, transport, _draw_producer_id())
        if self._redirected_to is not None:
            self._outbound = self._redirected_to(self.table, _draw_producer_id())

    def register(self) -> None:
        """Have the events sent at the interpreter's exit, and the sender begin anew in a forked child."""
        process.enrol(self)
        observer = Sender.observer
        if observer is not None:
            observer(self)

    @staticmethod
    def read_registered() -> "list[Sender]":
        """Return the senders that are not closed."""
        members = process.read_members()
        return [each for each in members if isinstance(each, Sender) and not each._is_over]  # noqa: SLF001 - one of us

    def redirect(self, build: BuildOutbound | None) -> None:
        """Have events go where `build` leads from now on, without a thread; None is back to the socket.

        What was recorded before goes the way it would have gone. In a forked child `build` is called anew.
        For tests: what is redirected is sent by `flush` alone, or by a thread that runs already.
        """
        if self._closing or build == self._redirected_to:
            return
        self.check_process()

        def exchange() -> bool:
            self._outbound.drain(all_of_it=True)
            self._send(self._outbound)
            self._redirected_to = build
            self._outbound = self._own_outbound if build is None else build(self.table, _draw_producer_id())
            # Of nothing, so that what comes now is dated from now on.
            self._outbound.drain(all_of_it=True)
            return True

        if not self._work(exchange, None):
            raise RuntimeError("events cannot be redirected in the midst of a drain")
        if build is None and len(self.table) > 0:
            self.start()

    def start(self) -> None:
        """Start the thread, if it does not run and is needed."""
        if self._redirected_to is not None and not self._is_over:
            return
        is_last = self._is_last or self._is_finalizing()
        if self._closing and (is_last or self._is_running() or not self.table.is_held_elsewhere()):
            return
        if is_last:
            # No thread would start, or run any more; before Python 3.12, to start one is to wait for ever.
            self.send_at_once()
            self._send_last()
            return
        if self._is_running() and self._pid == os.getpid():
            return
        self.check_process()
        # Whoever else starts it is enough; to wait would be to wait for ourselves, in a signal handler or in
        # a finalizer that the new thread runs first of all.
        if self._is_starting:
            return
        with self._start_lock:
            if self._is_running():
                return
            try:
                self._is_starting = True
                self._start_thread()
            finally:
                self._is_starting = False
        self._log()

    def _is_running(self) -> bool:
        thread = self._thread
        return thread is not None and thread.is_alive()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="aiokpl-metrics-client", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._thread = None
            # At its end the interpreter starts none either, and flushes: nothing to speak of.
            if threading.main_thread().is_alive():
                self._hindrance = self._complaint.problem = (
                    f"no thread can start ({error!r}); whoever records sends"
                )
            self._next_start = Clock.monotonic() + _START_INTERVAL_S
            self._serve_by(self._build_serving)
        except BaseException:
            # A Ctrl-C. The thread may be on its way, and ends when it finds that it is not ours.
            self._thread = None
            raise
        else:
            self._hindrance = ""
            self._serve_by(None)

    def drop(self, reason: DropReason, count: int, mistake: str = "") -> None:
        """Count events that are discarded; a mistake of the application's is told once."""
        drops = self._outbound.drops
        if mistake:
            drops.explain(reason, mistake)
        drops.add(reason, count)

    def discard(self, reason: DropReason) -> None:
        """Keep nothing that comes from now on, and count it."""

        def count(_value: float) -> None:
            self._outbound.drops.add(reason, 1)

        self.table.discard_from_now_on(count)

    def flush(self, timeout_s: float, away_timeout_s: float | None = None) -> bool:
        """Hand over what was recorded before the call. Return whether all of it got there in time.

        On a lane that is when the daemon has acknowledged it, on the front door when the kernel took it.
        """
        self.check_process()
        if self._is_over and not self._is_finalizing():
            self._work(self._sweep, timeout_s)
        if self._has_ended():
            # Nothing is kept any more, and nobody would close another socket.
            return True
        if not (self._is_running() or self._is_last) and len(self.table) > 0:
            # It was hindered: by a Ctrl-C, or for want of threads.
            self.start()
        if self._is_finalizing():
            # Whoever is at work stands still for ever, and no other thread runs.
            timeout_s = 0.0
        deadline = Clock.monotonic() + timeout_s
        away_deadline = deadline if away_timeout_s is None else Clock.monotonic() + away_timeout_s
        try:
            return self._hand_over(deadline, away_deadline)
        except Exception as error:  # noqa: BLE001 - an application that ends is not to fail for its metrics
            self._complaint.problem = f"a flush failed: {error!r}"
            return False

    def finish(self, linger_s: float = _LINGER_S) -> None:
        """Let the thread send what is there, for some seconds at most, and end. Callable from a finalizer."""
        self._end_by = Clock.monotonic() + linger_s
        self._closing = True
        if not self._is_running():
            # None was needed, or none could start: then nobody else sends what there is.
            self.flush(0.0)
            if self.table.is_discarding or not self.table.is_held_elsewhere():
                self._try_end(0.0)
        self._wake()

    def close(self, timeout_s: float) -> bool:
        """Flush, end the thread and close the socket."""
        flushed = self.flush(timeout_s)
        self.finish(linger_s=0.0)
        thread = self._thread
        deadline = Clock.monotonic() + max(0.0, min(timeout_s, _JOIN_TIMEOUT_S))
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            left = deadline - Clock.monotonic()
            # It goes on where somebody has a copy of `record`.
            if left <= 0 or (self._is_over and self.table.is_held_elsewhere()):
                break
            thread.join(min(left, _AWAY_POLL_S))
        self._try_end(_JOIN_TIMEOUT_S)
        # None may have run, and somebody may have a copy all the same.
        self.start()
        return flushed

    def statistics(self) -> ClientStatistics:
        """Return the counts as they are now."""
        outbound = self._outbound
        progress = outbound.progress
        return ClientStatistics(
            state=outbound.state,
            socket_path=outbound.transport.connected_path,
            problem=outbound.transport.problem or self._hindrance,
            series=len(self.table),
            events_sent=progress.events_sent,
            frames_sent=progress.frames_sent,
            bytes_sent=progress.bytes_sent,
            events_pending=progress.events_pending + progress.events_in_fold,
            bytes_pending=progress.bytes_pending + progress.bytes_in_fold,
            events_overflowed=progress.events_overflowed,
            dropped=outbound.dropped(),
            transport=outbound.transport.way.value,
            journaled=progress.is_journaled,
            events_unacknowledged=progress.events_unacknowledged,
            bytes_unacknowledged=progress.bytes_unacknowledged,
            events_folded=progress.events_folded,
        )

    def send_at_once(self) -> None:
        """Have whoever records send from now on: the process ends."""
        self._is_last = True
        self._serve_by(self._build_last)

    def after_fork_in_child(self) -> None:
        """Begin anew as another producer: what was recorded before the fork is the parent's to send."""
        had_series = len(self.table) > 0
        # Whoever was interrupted while it waited for a thread that is not here waits no longer.
        self._exclusive.is_abandoned = True
        self._own_outbound.transport.close()
        self.table.forget_events()
        self._begin()
        if self._is_over:
            self._own_outbound.state = self._outbound.state = State.CLOSED
        # Cached appends do not ask for a thread, so it must be there before them.
        if had_series:
            self.start()

    def check_process(self) -> None:
        """Begin anew if this is a child of a fork below Python, as uWSGI's, that has run no hook."""
        if self._pid != os.getpid():
            buffered = count_events(self.table.buffers())
            self.after_fork_in_child()
            if buffered:
                self.drop(DropReason.FORKED, buffered)

    def _hand_over(self, deadline: float, away_deadline: float) -> bool:
        pid = self._pid
        mark: Mark | None = None
        without_room = 0

        def hand_over() -> bool:
            nonlocal mark, without_room
            outbound, ended = self._outbound, self._has_ended()
            if mark is None:
                outbound.drain(all_of_it=True)
                mark = outbound.mark()
                without_room = outbound.progress.events_without_room
            self._send(outbound)
            # Where it was closed while this waited for its turn, nobody else closes the socket again.
            if ended:
                self._end()
            return ended or outbound.is_settled(mark)

        while True:
            is_settled = self._work(hand_over, deadline - Clock.monotonic())
            if is_settled is None or self._pid != pid:
                # In the latter case a signal handler has forked, and this is the child.
                return False
            outbound = self._outbound
            if is_settled:
                return self._has_lost_nothing(without_room, outbound.progress.events_unsendable)
            left = deadline - Clock.monotonic()
            if outbound.state is State.AWAY:
                left = min(left, self._time_away(outbound, away_deadline))
            if left <= 0:
                return False
            if not outbound.transport.wait(min(left, _FULL_POLL_S)):
                time.sleep(min(left, _AWAY_POLL_S))

    @staticmethod
    def _time_away(outbound: Outbound, away_deadline: float) -> float:
        """Return for how long it is worth while to wait for a daemon that is away."""
        if outbound.lost_at is not None:
            away_deadline = max(away_deadline, outbound.lost_at + RESTART_S)
        return away_deadline - Clock.monotonic()

    def _serve_by(self, build: "Callable[[Append], Append] | None") -> None:
        """Have those who record do the thread's work, or no longer."""
        if self._served_by != build:
            self._served_by = build
            self.table.wrap(build)

    def _build_serving(self, append: Append) -> Append:
        # Bound here: at the very end of an interpreter, modules are empty.
        monotonic = Clock.monotonic

        def record(value: float) -> None:
            append(value)
            try:
                if monotonic() >= self._serve_at:
                    self._serve()
            except RecursionError:
                # The event is there; one that comes less deep in a recursion serves.
                return

        return record

    def _build_last(self, append: Append) -> Append:
        def record(value: float) -> None:
            append(value)
            # It starts no thread, unless this is a child by now.
            self.start()

        return record

    def _send_last(self) -> None:
        """Send what was recorded at the end of the process. Only its main thread waits, as its exit does."""
        self._drain_at = 0.0
        if self._is_finalizing():
            # Without a line in the log, which may be gone.
            self._exclusive.run(self._try_turn, 0.0, self._outbound.recount)
        elif threading.current_thread() is threading.main_thread():
            process.flush_at_exit(self)
        else:
            self._work(self._try_turn, 0.0)

    def _serve(self) -> None:
        """Do a turn of the thread's work without waiting for anything, and try to start it now and then."""
        now = Clock.monotonic()
        self._serve_at = now + DRAIN_INTERVAL_S
        self.check_process()
        if now >= self._next_start:
            self.start()
        self._work(self._try_turn, 0.0)

    def _work(self, do: Callable[[], bool], timeout_s: float | None) -> bool | None:
        """Do something alone. None where that is not done: time is up, or this very thread is at work."""
        done = self._exclusive.run(do, timeout_s, self._outbound.recount)
        # Not alone: a log handler may do anything, even record metrics.
        self._log()
        return done

    def _run(self) -> None:
        while self._thread is threading.current_thread():
            try:
                self._wait()
                if self._work(self._try_turn, None):
                    return
            except BaseException as error:  # noqa: BLE001, PERF203 - nobody else would send what comes next
                self._complaint.problem = f"the client's thread failed: {error!r}"
                time.sleep(DRAIN_INTERVAL_S)

    def _try_turn(self) -> bool:
        try:
            return self._turn()
        except Exception as error:  # noqa: BLE001 - whatever happens, the next events want a sender
            self._complaint.problem = f"a drain failed: {error!r}"
            return False

    def _turn(self) -> bool:
        """Drain, if it is time to, and send. Return whether that was the last time."""
        outbound = self._outbound
        if self._is_over:
            return self._sweep()
        closing = self._closing
        if closing and not self.table.is_discarding and self.table.is_held_elsewhere():
            # The client was let go, and not what somebody has copied of it.
            closing = False
            self._end_by = Clock.monotonic() + _LINGER_S
        if closing or Clock.monotonic() >= self._drain_at:
            outbound.drain(all_of_it=closing)
            self._drain_at = Clock.monotonic() + min(DRAIN_INTERVAL_S, _until_next_second())
        sent_all = self._send(outbound)
        now = Clock.monotonic()
        if now >= self._next_retire:
            self._next_retire = now + _RETIRE_INTERVAL_S
            self.table.retire_idle(now)
        if closing and (sent_all or now >= self._end_by):
            return self._end()
        return False

    def _send(self, outbound: Outbound) -> bool:
        sent_all = outbound.send()
        if outbound is not self._outbound:
            # A signal handler has forked in the midst of it, and this is the child.
            return False
        if outbound.state is State.AWAY:
            self._complaint.problem = (
                f"{outbound.transport.problem}; events are kept and sent once it is there"
            )
        elif outbound.state is not State.HELD_BACK or outbound.transport.problem:
            self._complaint.problem = outbound.transport.problem
        return sent_all

    def _has_ended(self) -> bool:
        return self._own_outbound.state is State.CLOSED and self._redirected_to is None

    def _try_end(self, timeout_s: float) -> None:
        # If another thread is at work, it ends by itself.
        self._work(self._end, timeout_s)

    def _end(self) -> bool:
        for outbound in (self._own_outbound, self._outbound):
            outbound.discard(DropReason.CLOSED)
            outbound.transport.close()
            outbound.state = State.CLOSED
        self._is_over = True
        return self._sweep()

    def _sweep(self) -> bool:
        """Count what came after the end. Return whether nobody can record any more."""
        is_held = self.table.is_held_elsewhere()
        count = sum([len(take(buffer)) for buffer in self.table.buffers()])
        if count:
            self._outbound.drops.add(DropReason.CLOSED, count)
        self._sweep_pause_s = DRAIN_INTERVAL_S if count else _SWEEP_INTERVAL_S
        if not is_held:
            process.leave(self)
        return not is_held

    def _wait(self) -> None:
        """Sleep until the next drain, or until the socket takes another frame or brings acknowledgements."""
        if self._is_over:
            self._sleep_lock.acquire(timeout=self._sweep_pause_s)
            return
        pause = _until_next_second()
        outbound = self._outbound
        state = outbound.state
        if outbound.is_waiting and state is State.HELD_BACK:
            # What comes from the socket is served at once; the buffers are drained no more often for it.
            if outbound.transport.wait(max(0.0, min(self._drain_at - Clock.monotonic(), pause))):
                return
            pause = min(_RETRY_S, pause)
        elif outbound.is_waiting and state is State.AWAY:
            pause = min(_RETRY_S, pause)
        elif outbound.is_waiting or outbound.idle_drains < _IDLE_DRAINS:
            pause = min(DRAIN_INTERVAL_S, pause)
        self._sleep_lock.acquire(timeout=pause)
        self._drain_at = 0.0

    def _wake(self) -> None:
        try:
            self._sleep_lock.release()
        except RuntimeError:
            # It is on its way already.
            return

    def _has_lost_nothing(self, without_room: int, unsendable: int) -> bool:
        """Tell whether nothing was dropped, for want of room or of a way, since the last flush told."""
        losses = (without_room, unsendable)
        lost_nothing = losses == self._reported_losses
        self._reported_losses = losses
        return lost_nothing

    def _log(self) -> None:
        """Log each mistake once, and the problem there is at most once a minute."""
        complaint, take_mistakes = self._complaint, self._outbound.drops.take_untold
        if self._thread is threading.current_thread():
            complaint.tell_aside(take_mistakes)
        else:
            complaint.tell(take_mistakes)


def _until_next_second() -> float:
    return 1.0 - Clock.wall() % 1.0 + 0.001


def _draw_producer_id() -> int:
    # Not the random module: a seeded application would draw the same number in every process, and it is slow
    # to import.
    return int.from_bytes(os.urandom(8), "big") >> 1


__all__ = ["DRAIN_INTERVAL_S", "RESTART_S", "BuildOutbound", "Sender"]
