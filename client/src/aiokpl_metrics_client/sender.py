"""What is behind a client: drains its buffers ten times a second and on each second's boundary, and sends.

A thread does so from the first series on, not from the import. Others may, too: `flush`, the exit of the
interpreter and, where no thread can start, whoever records; one at a time, and nobody while waiting. While
frames wait the thread waits for the socket, to be writable or to bring acknowledgements; while the daemon is
away it looks for it five times a second; and meanwhile it goes on collecting.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import ClassVar, TypeAlias

from aiokpl_metrics_client import process
from aiokpl_metrics_client.background import Background
from aiokpl_metrics_client.buffers import BufferTable, count_events, take
from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.complaint import Complaint
from aiokpl_metrics_client.exclusive import Exclusive
from aiokpl_metrics_client.handover import Handover
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.pace import DRAIN_INTERVAL_S, Pace
from aiokpl_metrics_client.stand_in import StandIn
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State
from aiokpl_metrics_client.transport import LANE_VARIABLE, Transport

# A client that was let go without `close` sends for this long what it still has.
_LINGER_S = 5.0
_JOIN_TIMEOUT_S = 1.0

# After the end, how often is looked for events of who kept a copy of `record`, while none come.
_SWEEP_INTERVAL_S = 1.0

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
        self._stand_in = StandIn(self.table, self.start, self._serve)
        self._end_by = 0.0
        self._complaint = Complaint()
        self._hindrance = ""
        self._begin()

    def _begin(self) -> None:
        """Make what belongs to one process: its thread, its producer's number, its counts."""
        self._exclusive = Exclusive()
        self._background = Background(self._step, self._note_failure)
        self._pid = os.getpid()
        self._is_last = False
        self._reported_losses = (0, 0)
        self._pace = Pace()
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
        is_running = self._background.is_running
        if self._closing and (is_last or is_running or not self.table.is_held_elsewhere()):
            return
        if is_last:
            # No thread would start, or run any more; before Python 3.12, to start one is to wait for ever.
            self.send_at_once()
            self._send_last()
            return
        if is_running and self._pid == os.getpid():
            return
        self.check_process()
        if self._background.start(self._note_start):
            self._log()

    def _note_start(self, error: Exception | None) -> None:
        if error is None:
            self._hindrance = ""
            self._stand_in.rest()
            return
        # At its end the interpreter starts none either, and flushes: nothing to speak of.
        if threading.main_thread().is_alive():
            self._hindrance = self._complaint.problem = (
                f"no thread can start ({error!r}); whoever records sends"
            )
        self._stand_in.serve()

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
        if not (self._background.is_running or self._is_last) and len(self.table) > 0:
            # It was hindered: by a Ctrl-C, or for want of threads.
            self.start()
        if self._is_finalizing():
            # Whoever is at work stands still for ever, and no other thread runs.
            timeout_s = 0.0
        try:
            return self._hand_over(Handover(timeout_s, away_timeout_s))
        except Exception as error:  # noqa: BLE001 - an application that ends is not to fail for its metrics
            self._complaint.problem = f"a flush failed: {error!r}"
            return False

    def finish(self, linger_s: float = _LINGER_S) -> None:
        """Let the thread send what is there, for some seconds at most, and end. Callable from a finalizer."""
        self._end_by = Clock.monotonic() + linger_s
        self._closing = True
        if not self._background.is_running:
            # None was needed, or none could start: then nobody else sends what there is.
            self.flush(0.0)
            if self.table.is_discarding or not self.table.is_held_elsewhere():
                self._try_end(0.0)
        self._background.wake()

    def close(self, timeout_s: float) -> bool:
        """Flush, end the thread and close the socket."""
        flushed = self.flush(timeout_s)
        self.finish(linger_s=0.0)
        # It goes on where somebody has a copy of `record`.
        self._background.join(
            min(timeout_s, _JOIN_TIMEOUT_S), lambda: self._is_over and self.table.is_held_elsewhere()
        )
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
        self._stand_in.serve_last()

    def after_fork_in_child(self) -> None:
        """Begin anew as another producer: what was recorded before the fork is the parent's to send."""
        had_series = len(self.table) > 0
        # Whoever was interrupted while it waited for a thread that is not here waits no longer.
        self._exclusive.is_abandoned = True
        self._background.abandon()
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

    def _hand_over(self, handover: Handover) -> bool:
        pid = self._pid

        def go_on() -> bool:
            outbound, ended = self._outbound, self._has_ended()
            mark = handover.drain(outbound)
            self._send(outbound)
            # Where it was closed while this waited for its turn, nobody else closes the socket again.
            if ended:
                self._end()
            return ended or outbound.is_settled(mark)

        while True:
            is_settled = self._work(go_on, handover.left_s)
            if is_settled is None or self._pid != pid:
                # In the latter case a signal handler has forked, and this is the child.
                return False
            outbound = self._outbound
            if is_settled:
                return self._has_lost_nothing(handover.read_losses(outbound))
            if not handover.wait(outbound):
                return False

    def _send_last(self) -> None:
        """Send what was recorded at the end of the process. Only its main thread waits, as its exit does."""
        self._pace.hurry()
        if self._is_finalizing():
            # Without a line in the log, which may be gone.
            self._exclusive.run(self._try_turn, 0.0, self._outbound.recount)
        elif threading.current_thread() is threading.main_thread():
            process.flush_at_exit(self)
        else:
            self._work(self._try_turn, 0.0)

    def _serve(self) -> None:
        """Do a turn of the thread's work without waiting for anything."""
        self.check_process()
        self._work(self._try_turn, 0.0)

    def _work(self, do: Callable[[], bool], timeout_s: float | None) -> bool | None:
        """Do something alone. None where that is not done: time is up, or this very thread is at work."""
        done = self._exclusive.run(do, timeout_s, self._outbound.recount)
        # Not alone: a log handler may do anything, even record metrics.
        self._log()
        return done

    def _step(self) -> bool:
        self._wait()
        return bool(self._work(self._try_turn, None))

    def _note_failure(self, error: BaseException) -> None:
        self._complaint.problem = f"the client's thread failed: {error!r}"

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
        pace = self._pace
        if closing or pace.is_drain_due:
            outbound.drain(all_of_it=closing)
            pace.note_drain()
        sent_all = self._send(outbound)
        now = Clock.monotonic()
        if pace.take_retirement():
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
            self._background.sleep(self._sweep_pause_s)
            return
        outbound, pace = self._outbound, self._pace
        if (
            outbound.is_waiting
            and outbound.state is State.HELD_BACK
            and outbound.transport.wait(pace.find_wait())
        ):
            return
        self._background.sleep(pace.find_pause(outbound))
        pace.hurry()

    def _has_lost_nothing(self, losses: tuple[int, int]) -> bool:
        """Tell whether nothing was dropped, for want of room or of a way, since the last flush told."""
        lost_nothing = losses == self._reported_losses
        self._reported_losses = losses
        return lost_nothing

    def _log(self) -> None:
        """Log each mistake once, and the problem there is at most once a minute."""
        complaint, take_mistakes = self._complaint, self._outbound.drops.take_untold
        if self._background.is_current:
            complaint.tell_aside(take_mistakes)
        else:
            complaint.tell(take_mistakes)


def _draw_producer_id() -> int:
    # Not the random module: a seeded application would draw the same number in every process, and it is slow
    # to import.
    return int.from_bytes(os.urandom(8), "big") >> 1


__all__ = ["BuildOutbound", "Sender"]
