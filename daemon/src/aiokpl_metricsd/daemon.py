"""The composition root: the only module that knows the steps, and the life of the process around them.

    receiver -> decoder -> aggregator -> window clock -> delivery -> sinks

It starts with the socket, since producers wait for it: sinks come up afterwards, each in its own worker.
It ends in the same order: no more datagrams, what is queued is read, the open windows close, the sinks
get until the deadline.
"""

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack

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
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.clock import Clock, SystemClock, WindowClock
from aiokpl_metricsd.config import Configuration, find_sinks_place
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.lanes import Lanes
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.listener import Listener
from aiokpl_metricsd.log import Throttle
from aiokpl_metricsd.receiver import Receiver
from aiokpl_metricsd.receiving.front_door import FrontDoor
from aiokpl_metricsd.receiving.lane import Lane
from aiokpl_metricsd.serving.admin import Admin
from aiokpl_metricsd.serving.door import Doors
from aiokpl_metricsd.serving.observer import Observer, Parts, name_own_metrics
from aiokpl_metricsd.serving.own_metrics import Differences
from aiokpl_metricsd.serving.view import SelectedWindows
from aiokpl_metricsd.sinks.contract import EventfulMetricsSink
from aiokpl_metricsd.sinks.loading import build_sink
from aiokpl_metricsd.sinks.scraped import ScrapedSink, find_scraped
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.state import StateFolder
from aiokpl_metricsd.tap import Outlet, Tap

_log = logging.getLogger("aiokpl_metricsd")

# Series handled between two looks at the socket: 1,000 snapshots take about 2 ms to build.
_SLICE_SERIES = 1_000

# Of the names that overflow or contradict, how many a log line carries.
_NAMED = 10

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

    Raises:
        ConfigurationError: a sink cannot be built, two want the same page, or the directory for what they
            remember cannot be made.
    """

    def __init__(
        self,
        configuration: Configuration,
        listener: Listener,
        *,
        clock: Clock | None = None,
        daemon_id: int | None = None,
        doors: Doors | None = None,
    ) -> None:
        """Build the steps and put them together."""
        self._configuration = configuration
        self._listener = listener
        self._clock = SystemClock() if clock is None else clock
        self._stopping = asyncio.Event()
        self.ledger = Ledger()
        self._registry = Registry(
            self.ledger,
            max_series=configuration.limits.max_series,
            level=configuration.level,
            dimensions=configuration.dimensions,
            descriptions=_build_descriptions(configuration),
        )
        self._windows = Windows(configuration.interval_s, int(self._clock.time()))
        # Never 0, by which a lane is refused.
        identity = int.from_bytes(os.urandom(8), "big") >> 1 or 1 if daemon_id is None else daemon_id
        self.aggregator = Aggregator(
            self._registry,
            self._windows,
            self.ledger,
            live_series=configuration.limits.live_series,
            daemon_id=identity,
        )
        self._decoder = Decoder(self.ledger)
        self._receiver = Receiver(self._clock, self._end_turn)
        self._receiver.watch(FrontDoor(listener.socket, self._receive, self._decoder.reject_oversized))
        self.lanes = None if listener.lane is None else self._open_lanes(listener.lane, identity)
        self._window_clock = WindowClock(
            self._clock,
            self.aggregator,
            self._windows,
            self.ledger,
            grace_s=configuration.grace_s,
        )
        self._throttle = Throttle(clock=self._clock.monotonic)
        settings = [_build_settings(configuration, name) for name in configuration.sinks]
        self.delivery = Delivery(settings)
        self._sinks = [(each.name, each.sink) for each in settings]
        # Before the sinks recall anything: what is recalled is gone from the folder.
        scraped = find_scraped(self._sinks, find_sinks_place(configuration))
        self._state = StateFolder(configuration.state_dir)
        for sink_name, sink in self._sinks:
            self._state.recall(sink_name, sink)
        outlets = [
            Outlet(each.name, each.selection, each.sink.record)
            for each in settings
            if isinstance(each.sink, EventfulMetricsSink)
        ]
        self.tap = Tap(self._registry, outlets, self._clock.monotonic) if outlets else None
        parts = Parts(
            ledger=self.ledger,
            decoder=self._decoder,
            aggregator=self.aggregator,
            registry=self._registry,
            windows=self._windows,
            delivery=self.delivery,
            lanes=self.lanes,
            socket=listener.path,
        )
        self._observer = Observer(parts, self._clock.time())
        self._join_page(settings, scraped)
        self._admin = Admin(
            Doors([]) if doors is None else doors,
            self._observer,
            self.aggregator,
            lambda: not self._stopping.is_set(),
            self._clock.time,
        )
        enabled = configuration.self_metrics.enabled
        self._differences = Differences(self._observer.collect, configuration.dimensions) if enabled else None

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
        )

    def _join_page(self, settings: list[SinkSettings], scraped: dict[str, ScrapedSink]) -> None:
        """Let the page show the sink that is scraped, and that sink see the open windows."""
        self._observer.scraped = scraped
        for each in settings:
            if each.name in scraped:
                # Its own longer windows are not the daemon's, so it shows the closed ones alone.
                is_base = each.selection.interval_s is None
                view = SelectedWindows(self.aggregator, each.selection) if is_base else None
                scraped[each.name].join_page(view, name_own_metrics())

    def stop(self) -> None:
        """Ask `run` to end. A second call ends the process at once."""
        if self._stopping.is_set():
            _log.warning("told twice to stop; ending at once, what is not delivered is lost")
            os._exit(_EXIT_ABRUPT)
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then hand over what there is. Whatever fails, nothing is left behind."""
        try:
            self._receiver.attach(asyncio.get_running_loop())
            _log.info("listening", extra={"fields": {"socket": self._listener.path}})
            self._admin.attach()
            await self.delivery.start()
            await self._serve()
        finally:
            await self._finish()

    async def _serve(self) -> None:
        """Close windows until `stop`, or until that fails."""
        closing = asyncio.ensure_future(self._window_clock.run(self._receiver.read_pass, self._hand_over))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((closing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            stopping.cancel()
            failure, _ = await asyncio.gather(closing, stopping, return_exceptions=True)
        if isinstance(failure, Exception):
            raise failure

    async def _finish(self) -> None:
        """Read what is queued, close the windows, deliver within the deadline, and say what was lost."""
        async with AsyncExitStack() as ending:
            # From the last step to the first: one that fails does not keep the others from being taken.
            ending.callback(self._report_end)
            ending.callback(self._listener.close)
            ending.push_async_callback(self._admin.close)
            ending.callback(self._state.keep, self._sinks)
            ending.push_async_callback(self.delivery.close, self._configuration.shutdown_timeout_s)
            self._receiver.detach()
            self._listener.refuse_more()
            self._receiver.drain()
            now = self._clock.time()
            windows = self.aggregator.close_due(now, 0.0) + self.aggregator.close_for_good(now)
            await self._hand_over(windows, int(now))

    def _report_end(self) -> None:
        """Say every count that is not zero."""
        counts: dict[str, object] = {name: value for name, value in self.ledger.as_dict().items() if value}
        sinks = {name: ledger.as_dict() for name, ledger in self.delivery.ledgers.items()}
        for outlet in () if self.tap is None else self.tap.outlets:
            sinks[outlet.name] |= {"recorded": outlet.recorded, "withheld": outlet.withheld}
        _log.info("stopped", extra={"fields": {**counts, "sinks": sinks}})

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
        datagram: memoryview,  # noqa: ARG002 - for who writes it down
        now: float,
        lane: Lane | None,  # noqa: ARG002 - the same
    ) -> None:
        """Count one frame that is new: every one comes by here, once, from wherever it came."""
        if isinstance(frame, ColumnsFrame):
            self._decoder.note_events(frame, self.aggregator.add_columns(frame.columns, now))
            if self.tap is not None:
                self.tap.record_columns(frame.columns)
        elif isinstance(frame, RowsFrame):
            try:
                self.aggregator.add_rows(frame.events, now)
            except ProtocolError as error:
                self._decoder.reject_decoded(error.reason)
                return
            if self.tap is not None:
                self.tap.record_rows(frame.events, now)
        else:
            self._decoder.note_events(frame, self.aggregator.add_sets(frame.sets, now))

    def _end_turn(self) -> None:
        """Acknowledge what a turn has read."""
        if self.lanes is not None:
            self.lanes.acknowledge(journaled=False)

    async def _hand_over(self, windows: list[Window], over: int) -> None:
        """Freeze closed windows, in slices, and give them to the sinks; `over` ends the newest interval."""
        for window in windows:
            snapshots: list[MetricSnapshot] = []
            for part in self.aggregator.freeze(window, _SLICE_SERIES):
                snapshots += part
                await asyncio.sleep(0)
            if self._differences is not None:
                window_id = self.aggregator.name_window(window)
                snapshots += self._differences.build_snapshots(
                    window_id, float(window.start), float(window.end)
                )
            self.delivery.offer_nowait(snapshots, window_end=float(window.end))
        if not windows:
            self.delivery.offer_nowait((), window_end=float(over))
            return
        self._report_series()
        for _ in self.aggregator.forget_idle(self._clock.time(), 4 * _SLICE_SERIES):
            await asyncio.sleep(0)
        for _ in self._decoder.forget_idle(self._clock.time(), 4 * _SLICE_SERIES):
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


def _build_settings(configuration: Configuration, name: str) -> SinkSettings:
    options = configuration.sinks[name]
    selection = Selection(
        level=options.level,
        include=options.include,
        exclude=options.exclude,
        drop_dimensions=options.drop_dimensions,
        interval_s=options.interval_s if options.interval_s > configuration.interval_s else None,
    )
    sink = build_sink(options)
    return SinkSettings(
        name=name,
        sink=sink,
        selection=selection,
        timeout_s=options.timeout_s,
        max_age_s=getattr(sink, "max_age_s", None),
    )


def _build_descriptions(configuration: Configuration) -> dict[str, Description]:
    descriptions: dict[str, Description] = {}
    for name, options in configuration.metrics.items():
        known = CATALOG.get(name, Description(MetricKind.COUNTER, None))
        descriptions[name] = Description(options.kind or known.kind, options.unit or known.unit)
    return descriptions


__all__ = ["Daemon"]
