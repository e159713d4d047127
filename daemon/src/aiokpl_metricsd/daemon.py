"""The composition root: the only module that knows the steps, and the life of the process around them.

    receiver -> decoder -> aggregator -> window clock -> delivery -> sinks

It starts with the socket, since producers wait for it: sinks come up afterwards, each in its own worker. It ends in the
same order: no more datagrams, what is queued is read, the open windows close, the sinks get until the deadline.
"""

import asyncio
import logging
import os

from aiokpl_metrics_protocol import CATALOG, ColumnsFrame, Description, MetricKind, ProtocolError, RowsFrame
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.clock import Clock, SystemClock, WindowClock
from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.listener import Listener
from aiokpl_metricsd.receiver import Receiver
from aiokpl_metricsd.sinks.loading import build_sink
from aiokpl_metricsd.snapshot import MetricSnapshot

_log = logging.getLogger("aiokpl_metricsd")

# Series handled between two looks at the socket: 1,000 snapshots take about 2 ms to build.
_SLICE_SERIES = 1_000

# Told a second time to stop, the process ends at once and says by its status that it did not end in order.
_EXIT_ABRUPT = 1


class Daemon:
    """One running daemon.

    Args:
        configuration: what the operator decided.
        listener: the bound socket; the daemon gives it back.
        clock: where time comes from.
        daemon_id: of 63 bits; goes into the windows' ids.
    """

    def __init__(
        self,
        configuration: Configuration,
        listener: Listener,
        *,
        clock: Clock | None = None,
        daemon_id: int | None = None,
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
        self.aggregator = Aggregator(
            self._registry,
            self._windows,
            self.ledger,
            live_series=configuration.limits.live_series,
            daemon_id=int.from_bytes(os.urandom(8), "big") >> 1 if daemon_id is None else daemon_id,
        )
        self._decoder = Decoder(self.ledger)
        self._receiver = Receiver(listener.socket, self._ingest, self._decoder.reject_oversized, self._clock)
        self._window_clock = WindowClock(
            self._clock,
            self.aggregator,
            self._windows,
            self.ledger,
            grace_s=configuration.grace_s,
        )
        self.delivery = Delivery([_build_settings(configuration, name) for name in configuration.sinks])

    def stop(self) -> None:
        """Ask `run` to end. A second call ends the process at once."""
        if self._stopping.is_set():
            _log.warning("told twice to stop; ending at once, what is not delivered is lost")
            os._exit(_EXIT_ABRUPT)
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then hand over what there is."""
        loop = asyncio.get_running_loop()
        self._receiver.attach(loop)
        _log.info("listening", extra={"fields": {"socket": self._listener.path}})
        await self.delivery.start()
        closing = asyncio.ensure_future(self._window_clock.run(self._receiver.read_pass, self._hand_over))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((closing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            stopping.cancel()
            results = await asyncio.gather(closing, stopping, return_exceptions=True)
            await self._finish()
        failure = results[0]
        if isinstance(failure, Exception):
            raise failure

    async def _finish(self) -> None:
        """Read what is queued, close the windows, deliver within the deadline, and say what was lost."""
        self._receiver.detach()
        self._listener.refuse_more()
        self._receiver.drain()
        now = self._clock.time()
        await self._hand_over(self.aggregator.close_due(now, 0.0) + self.aggregator.close_all(now))
        await self.delivery.close(self._configuration.shutdown_timeout_s)
        self._listener.close()
        counts: dict[str, object] = {name: value for name, value in self.ledger.as_dict().items() if value}
        sinks = {name: ledger.as_dict() for name, ledger in self.delivery.ledgers.items()}
        _log.info("stopped", extra={"fields": {**counts, "sinks": sinks}})

    def _ingest(self, datagram: memoryview) -> None:
        """Take one datagram through decoder and aggregator."""
        frame = self._decoder.decode(datagram)
        if frame is None:
            return
        now = self._clock.time()
        if isinstance(frame, ColumnsFrame):
            self._decoder.note_events(frame, self.aggregator.add_columns(frame.columns, now))
        elif isinstance(frame, RowsFrame):
            try:
                self.aggregator.add_rows(frame.events, now)
            except ProtocolError as error:
                self._decoder.reject_decoded(error.reason)
        else:
            self._decoder.note_events(frame, self.aggregator.add_sets(frame.sets, now))

    async def _hand_over(self, windows: list[Window]) -> None:
        """Freeze closed windows, in slices, and give them to the sinks."""
        for window in windows:
            snapshots: list[MetricSnapshot] = []
            for part in self.aggregator.freeze(window, _SLICE_SERIES):
                snapshots += part
                await asyncio.sleep(0)
            self.delivery.offer_nowait(snapshots, window_end=float(window.end))
        for _ in self.aggregator.forget_idle(self._clock.time(), 4 * _SLICE_SERIES):
            await asyncio.sleep(0)


def _build_settings(configuration: Configuration, name: str) -> SinkSettings:
    options = configuration.sinks[name]
    selection = Selection(
        level=options.level,
        include=options.include,
        exclude=options.exclude,
        drop_dimensions=options.drop_dimensions,
        interval_s=options.interval_s if options.interval_s > configuration.interval_s else None,
    )
    return SinkSettings(name=name, sink=build_sink(options), selection=selection, timeout_s=options.timeout_s)


def _build_descriptions(configuration: Configuration) -> dict[str, Description]:
    descriptions: dict[str, Description] = {}
    for name, options in configuration.metrics.items():
        known = CATALOG.get(name, Description(MetricKind.COUNTER, None))
        descriptions[name] = Description(options.kind or known.kind, options.unit or known.unit)
    return descriptions


__all__ = ["Daemon"]
