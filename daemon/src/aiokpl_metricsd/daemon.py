"""The composition root: the only module that knows the steps, and the life of the process around them.

    receiver -> decoder -> journal -> aggregator -> window clock -> checkpoint -> delivery -> sinks

It starts with the sockets, since producers wait for them; then it counts what the last daemon had written
down, if there is a state directory; sinks come up afterwards, each in its own worker. It ends in the same
order: no more datagrams, what is queued is read, the open windows close, the sinks get until the deadline.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiokpl_metrics_protocol import (
    CATALOG,
    ColumnsFrame,
    Description,
    FoldedFrame,
    MetricKind,
    ProtocolError,
    RowsFrame,
)
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Window
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.checkpoint import Checkpointer
from aiokpl_metricsd.clock import Clock, SystemClock, WindowClock
from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.lanes import Lanes
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.listener import Listener
from aiokpl_metricsd.log import Throttle
from aiokpl_metricsd.notify import notify_ready, notify_reloading, notify_stopping
from aiokpl_metricsd.receiver import Receiver
from aiokpl_metricsd.receiving.admission import build_admission
from aiokpl_metricsd.receiving.guarded_door import build_door
from aiokpl_metricsd.receiving.lane import Lane
from aiokpl_metricsd.roster import Roster
from aiokpl_metricsd.running.handover import SLICE_SERIES, Handover
from aiokpl_metricsd.running.resumption import Resumption
from aiokpl_metricsd.serving.admin import Admin
from aiokpl_metricsd.serving.door import Doors
from aiokpl_metricsd.serving.observer import Observer, Parts
from aiokpl_metricsd.serving.own_metrics import Differences

if TYPE_CHECKING:
    # Only for its type: without a state directory no database is loaded.
    from aiokpl_metricsd.state import State

_log = logging.getLogger("aiokpl_metricsd")

# Of the names that overflow or contradict, how many a log line carries.
_NAMED = 10

# At the end, how long a transaction may take, beside the time that the sinks are given. On a disk that hangs
# it takes for ever, and what it would have stored is in the journal.
_STORE_S = 5.0

# Told a second time to stop, the process ends at once and says by its status that it did not end in order.
_EXIT_ABRUPT = 1


class Daemon:
    """One running daemon.

    Args:
        configuration: what the operator decided.
        listener: the bound socket; the daemon gives it back.
        clock: where time comes from.
        daemon_id: of 63 bits; goes into the windows' ids.
        doors: the bound sockets of HTTP; the daemon gives them back.
        state: what the last daemon left and this one leaves; the daemon gives it back. None keeps all in
            memory.

    Raises:
        ConfigurationError: a sink cannot be built, or two want the same page.
    """

    def __init__(
        self,
        configuration: Configuration,
        listener: Listener,
        *,
        clock: Clock | None = None,
        daemon_id: int | None = None,
        doors: Doors | None = None,
        state: "State | None" = None,
    ) -> None:
        """Build the steps and put them together; what was open when the last daemon ended is open again."""
        self._configuration = configuration
        self._state = state
        # A transaction did not end in time, while the daemon was to.
        self._is_stuck = False
        self._listener = listener
        self._clock = SystemClock() if clock is None else clock
        self._stopping = asyncio.Event()
        self._reloading: set[asyncio.Task[object]] = set()
        self.ledger = Ledger()
        self._registry = Registry(
            self.ledger,
            max_series=configuration.limits.max_series,
            level=configuration.level,
            dimensions=configuration.dimensions,
            descriptions=_build_descriptions(configuration),
        )
        self._resumption = Resumption(state, configuration.interval_s, self._clock.time())
        self._windows = self._resumption.windows
        identity = _draw_id() if daemon_id is None else daemon_id
        if state is not None:
            identity = state.outbox.state_id
        self.aggregator = Aggregator(
            self._registry,
            self._windows,
            self.ledger,
            live_series=configuration.limits.live_series,
            daemon_id=identity,
        )
        self._decoder = Decoder(self.ledger)
        self._receiver = Receiver(self._clock, self._end_turn)
        ingest = configuration.ingest
        self._admission = build_admission(ingest.allow_uids, ingest.allow_gids, self._clock.monotonic)
        self._receiver.watch(build_door(listener.socket, self._receive, self._decoder, self._admission))
        self.lanes = None if listener.lane is None else self._open_lanes(listener.lane, identity)
        self._window_clock = WindowClock(
            self._clock,
            self.aggregator,
            self._windows,
            self.ledger,
            grace_s=configuration.grace_s,
        )
        self._throttle = Throttle(clock=self._clock.monotonic)
        self._roster = Roster(configuration, self._registry, self.aggregator, self._clock.monotonic)
        self._tap = self._roster.tap
        settings = tuple(self._roster.settings.values())
        self.delivery = Delivery(settings, outbox=None if state is None else state.outbox)
        parts = Parts(
            ledger=self.ledger,
            decoder=self._decoder,
            aggregator=self.aggregator,
            registry=self._registry,
            windows=self._windows,
            delivery=self.delivery,
            lanes=self.lanes,
            journal=None if state is None else state.journal,
            outbox=None if state is None else state.outbox,
            socket=listener.path,
        )
        self._observer = Observer(parts, self._clock.time(), self._clock.monotonic)
        self._observer.scraped = self._roster.scraped
        self._admin = Admin(
            Doors([]) if doors is None else doors,
            self._observer,
            self.aggregator,
            lambda: not self._stopping.is_set(),
            self._clock.time,
        )
        enabled = configuration.self_metrics.enabled
        differences = Differences(self._observer.collect, configuration.dimensions) if enabled else None
        self._checkpointer = None if state is None else self._go_on(state, differences)
        self._handover = Handover(self.aggregator, self.delivery, self._checkpointer, differences)

    def _go_on(self, state: "State", differences: Differences | None) -> Checkpointer:
        """Count on from where the last daemon ended."""
        self._resumption.restore(self.aggregator, self._decoder, self.ledger)
        if differences is not None:
            # What is replayed next was told by nobody.
            differences.skip_kept()
        self._resumption.replay(self.aggregator, self._decoder, self._count)
        return Checkpointer(
            self.aggregator,
            self._windows,
            self._decoder,
            self.ledger,
            state.journal,
            journal_max_bytes=self._configuration.journal_max_bytes,
            clock=self._clock.monotonic,
        )

    def _open_lanes(self, listener: socket.socket, daemon_id: int) -> Lanes:
        """Have the receiver accept lanes."""
        return Lanes(
            listener,
            self._receiver,
            self._decoder,
            self.ledger,
            self._clock,
            self._receive_on_lane,
            interval_s=float(self._configuration.interval_s),
            daemon_id=daemon_id,
            admission=self._admission,
        )

    def reload(self, load: Callable[[], Configuration]) -> None:
        """Have the sinks exchanged for those of a new configuration, as far as it can be used.

        Args:
            load: reads it; called in a thread.
        """
        if not self._stopping.is_set():
            notify_reloading()
            task = asyncio.create_task(self._roster.reload(load, self.delivery), name="reload")
            self._reloading.add(task)
            task.add_done_callback(self._note_reloaded)

    def _note_reloaded(self, task: "asyncio.Task[object]") -> None:
        """Say when a reload ended by an error, which none should."""
        self._reloading.discard(task)
        if not (self._reloading or self._stopping.is_set()):
            notify_ready()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.critical("a reload ended half-way; restart the daemon", exc_info=error)

    def stop(self) -> None:
        """Ask `run` to end. A second call ends the process at once."""
        if self._stopping.is_set():
            rest = "lost" if self._state is None else "left in the state directory"
            _log.warning("told twice to stop; ending at once, what is not delivered is %s", rest)
            os._exit(_EXIT_ABRUPT)
        self._stopping.set()
        notify_stopping()

    async def run(self) -> None:
        """Serve until `stop`, then hand over what there is. Whatever fails, nothing is left behind."""
        try:
            await self.delivery.start()
            if self._resumption.is_set_back:
                now = self._clock.time()
                windows = self.aggregator.close_all(now)
                self.aggregator.begin_anew(now)
                await self._hand_over(windows, None)
            elif self._resumption.is_new or (self._checkpointer is not None and self._checkpointer.is_due):
                # The next daemon must know where the first window began; and where each is killed soon after
                # its start, none must have more to replay than the one before.
                await self._hand_over([], None)
            await self._observer.resuming.begin(self._observer.scraped)
            self._receiver.attach(asyncio.get_running_loop())
            _log.info("listening", extra={"fields": {"socket": self._listener.path}})
            self._admin.attach()
            notify_ready()
            await self._serve()
        finally:
            await self._finish()

    async def _serve(self) -> None:
        """Close windows until `stop`, or until that fails."""
        checkpointer = self._checkpointer
        closing = asyncio.ensure_future(
            self._window_clock.run(
                self._receiver.read_pass_sliced,
                self._hand_over,
                lambda: checkpointer is not None and checkpointer.is_due,
            )
        )
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((closing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            stopping.cancel()
            await self._wait_stored(closing)
        if closing.done() and not closing.cancelled():
            closing.result()

    async def _wait_stored(self, storing: "asyncio.Future[None]") -> None:
        """Wait until what is on its way to the state directory is there; not for ever."""
        await asyncio.wait((storing,), timeout=None if self._state is None else _STORE_S)
        if not storing.done():
            self._is_stuck = True
            _log.critical("the state directory does not answer; the next daemon counts on from its journal")

    async def _finish(self) -> None:
        """Read what is queued, close the windows, deliver within the deadline, and say what was lost."""
        async with AsyncExitStack() as ending:
            # From the last step to the first: one that fails does not keep the others from being taken.
            ending.callback(self._report_end)
            ending.callback(self._report_unread)
            ending.callback(self._listener.close)
            ending.push_async_callback(self._admin.close)
            if self._state is not None:
                ending.push_async_callback(self._state.close)
            ending.push_async_callback(self.delivery.close, self._configuration.shutdown_timeout_s)
            for task in self._reloading:
                task.cancel()
            self._receiver.detach()
            # An inherited socket takes more, so it cannot be read to its end.
            self._receiver.read_pass()
            self._listener.refuse_more()
            if self.lanes is not None:
                self.lanes.refuse_more()
            self._receiver.drain()
            if self._is_stuck:
                return
            now = self._clock.time()
            state = self._state
            keeps = state is not None
            if state is not None:
                self.delivery.begin_end(lambda: state.brings_again)
            windows = self.aggregator.close_due(now, 0.0) + self.aggregator.close_for_good(now, keeps=keeps)
            storing = asyncio.ensure_future(self._hand_over(windows, int(now)))
            await self._wait_stored(storing)
            if storing.done():
                storing.result()

    def _report_end(self) -> None:
        """Say every count that is not zero."""
        counts: dict[str, object] = {name: value for name, value in self.ledger.as_dict().items() if value}
        sinks = {name: ledger.as_dict() for name, ledger in self.delivery.ledgers.items()}
        for outlet in self._tap.outlets:
            sinks[outlet.name] |= {"recorded": outlet.recorded, "withheld": outlet.withheld}
        _log.info("stopped", extra={"fields": {**counts, "sinks": sinks}})

    def _report_unread(self) -> None:
        """Say how much of the metrics page was never scraped: no ledger can tell."""
        unread = self._observer.scrapes.read()
        selections = [self._roster.settings[name].selection for name in self._observer.scraped]
        # Windows of the daemon's own length are on the page while they are open; others have to close.
        is_late = any(selection.interval_s is not None for selection in selections)
        if not selections or not (unread.events or (is_late and unread.snapshots)):
            return
        rest = "lost" if self._state is None else "on the page of the next daemon with this state directory"
        age_s = None if unread.age_s is None else round(unread.age_s, 1)
        fields = {
            "sinks": list(self._observer.scraped),
            "last_scrape_age_s": age_s,
            "events": unread.events,
            "snapshots": unread.snapshots,
        }
        _log.warning("what came after the last scrape is %s", rest, extra={"fields": fields})

    def _receive(self, datagram: memoryview) -> None:
        """Take one datagram of the front door."""
        frame = self._decoder.decode(datagram)
        if frame is not None:
            self._ingest(frame, datagram, self._clock.time(), None)

    def _receive_on_lane(self, frame: ColumnsFrame | FoldedFrame, datagram: memoryview, lane: Lane) -> None:
        """Take one frame of a lane."""
        self._ingest(frame, datagram, self._clock.time(), lane)

    def _ingest(
        self,
        frame: ColumnsFrame | FoldedFrame | RowsFrame,
        datagram: memoryview,
        now: float,
        lane: Lane | None,
    ) -> None:
        """Take one frame that is new: every one comes by here, once, from wherever it came."""
        if not self._count(frame, now):
            return
        if self._state is not None:
            # Only what decodes, and before anything is acknowledged, at the end of the turn.
            self._state.journal.append(datagram, now, lane is not None)
        if not self._tap.outlets:
            return
        if isinstance(frame, ColumnsFrame):
            self._tap.record_columns(frame.columns)
        elif isinstance(frame, RowsFrame):
            self._tap.record_rows(frame.events, now)

    def _count(self, frame: ColumnsFrame | FoldedFrame | RowsFrame, now: float) -> bool:
        """Count a frame that came at epoch second `now`. Return whether its rows decoded."""
        if isinstance(frame, ColumnsFrame):
            events = self.aggregator.add_columns(frame.columns, now, frame.producer_id)
            self._decoder.note_events(frame, events)
        elif isinstance(frame, RowsFrame):
            try:
                self.aggregator.add_rows(frame.events, now)
            except ProtocolError as error:
                self._decoder.reject_decoded(error.reason)
                return False
        else:
            events = self.aggregator.add_sets(frame.sets, now, frame.producer_id)
            self._decoder.note_events(frame, events)
        return True

    def _end_turn(self) -> None:
        """Write down what a turn has read, then acknowledge it."""
        journaled = self._state is not None and self._state.journal.write()
        if self.lanes is not None:
            self.lanes.acknowledge(journaled=journaled)

    async def _hand_over(self, windows: list[Window], over: int | None) -> None:
        """Give closed windows to the sinks, as `Handover` does, then forget what nobody sends any more."""
        await self._handover.hand_over(windows, over)
        if not windows:
            return
        self._report_series()
        for _ in self.aggregator.forget_idle(self._clock.time(), 4 * SLICE_SERIES):
            await asyncio.sleep(0)
        for _ in self._decoder.forget_idle(self._clock.time(), 4 * SLICE_SERIES):
            await asyncio.sleep(0)

    def _report_series(self) -> None:
        """Name the metrics whose series overflow or contradict each other, at most once a minute."""
        offenders, conflicts = self._registry.offenders, self._registry.conflicts
        if offenders and self._throttle.admit("overflow"):
            top = sorted(offenders, key=lambda name: offenders[name], reverse=True)[:_NAMED]
            fields = {"names": top, "max_series": self._configuration.limits.max_series}
            _log.warning(
                "more series than max_series: new ones share an overflow series", extra={"fields": fields}
            )
        if conflicts and self._throttle.admit("conflict"):
            top = sorted(conflicts, key=lambda name: conflicts[name], reverse=True)[:_NAMED]
            message = "producers declare different kinds or units; declare them in [metrics.NAME]"
            _log.warning(message, extra={"fields": {"names": top}})


def _draw_id() -> int:
    """Return 63 random bits, never 0, by which a lane is refused."""
    return int.from_bytes(os.urandom(8), "big") >> 1 or 1


def _build_descriptions(configuration: Configuration) -> dict[str, Description]:
    descriptions: dict[str, Description] = {}
    for name, options in configuration.metrics.items():
        known = CATALOG.get(name, Description(MetricKind.COUNTER, None))
        descriptions[name] = Description(options.kind or known.kind, options.unit or known.unit)
    return descriptions


__all__ = ["Daemon"]
