"""Puts -> snapshots -> sink, inside the application's own process: the library without the daemon.

The interface is that of aiokpl 0.2.0's `aiokpl.metrics`. It promises that `put` never raises and costs less
than a microsecond, that every event is in exactly one batch, and that every batch reaches the sink or is
counted as lost. It refuses threads: one event loop's thread makes all calls, under asyncio or trio.

Every series is kept twice, because two questions are asked. `snapshot()` asks for the last 60 seconds,
whatever was exported (`Live`); a flush asks for what came since the last flush (`Statistics`), so that
nothing is exported twice. Inside, time is the clock's; the offset to the epoch is taken once, at
construction, so that a step of the wall clock cannot make windows overlap.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from math import inf, isfinite
from types import TracebackType
from typing import Self, TypeAlias

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint
from msgspec import Struct
from msgspec.structs import replace

from aiokpl_metrics_protocol import (
    NAME_ALL_ERRORS,
    NAME_BUFFERED_TIME,
    NAME_ERRORS_BY_CODE,
    NAME_EXPIRED_RECORDS,
    NAME_KINESIS_RECORDS_DATA_PUT,
    NAME_KINESIS_RECORDS_PUT,
    NAME_REQUEST_TIME,
    NAME_RETRIES_PER_RECORD,
    NAME_USER_RECORDS_DATA_PUT,
    NAME_USER_RECORDS_PENDING,
    NAME_USER_RECORDS_PUT,
    NAME_USER_RECORDS_RECEIVED,
    MetricEvent,
    MetricsLevel,
    Reason,
)
from aiokpl_metricsd.library.metric import MAX_VALUES, Metric, MetricKey, OpenSeries, open_series, to_number
from aiokpl_metricsd.library.upload import MetricsLedger, UploadQueue, must_propagate
from aiokpl_metricsd.sinks.contract import EventfulMetricsSink, MetricsSink
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.snapshot import MetricSnapshot

# The last export, and the one under way before it, have this long when the manager is left.
FINAL_FLUSH_S = 5.0

# The same complaint about the application's events is logged this often.
LOG_INTERVAL_S = 60.0

_logger = logging.getLogger("aiokpl_metricsd.metrics")

# Name, stream, shard, error code: hashed in a third of a `MetricKey`'s time.
_Identity: TypeAlias = tuple[str, str | None, str | None, str | None]


class _Upload(Struct):
    """The upload loop of an entered manager, and how it is ended."""

    group: TaskGroup
    scope: anyio.CancelScope
    ended: anyio.Event
    begun: bool = False


class MetricsManager:
    """Keeps metrics and exports them through a sink, on an interval, while it is entered.

    One event loop's thread makes all calls. At `MetricsLevel.NONE` it does nothing: no task, no sink entered.

    Args:
        level: `SUMMARY` drops the dimensions `shard` and `error_code`, `DETAILED` keeps all.
        sink: where the snapshots go; a `NullSink` when None. The manager enters and leaves it.
        upload_interval_ms: milliseconds between two uploads, not negative.
        clock: seconds, from any beginning, never backwards.
        sleep_fn: waits for so many seconds.
        wall_clock: epoch seconds; read once, at construction.

    Raises:
        ValueError: `level` is no `MetricsLevel`, or the interval is negative or no number.
    """

    def __init__(
        self,
        *,
        level: MetricsLevel = MetricsLevel.NONE,
        sink: MetricsSink | None = None,
        upload_interval_ms: float = 60_000.0,
        clock: Callable[[], float] = time.monotonic,
        sleep_fn: Callable[[float], Awaitable[None]] = anyio.sleep,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Start with no metric. Nothing runs and no sink is entered yet."""
        if not upload_interval_ms >= 0:
            raise ValueError(f"upload_interval_ms must not be negative: {upload_interval_ms!r}")
        # aiokpl's own MetricsLevel is another enum: its NONE must not pass for a level that records.
        self._level = MetricsLevel(level)
        self._is_off = self._level is MetricsLevel.NONE
        self._is_summary = self._level is MetricsLevel.SUMMARY
        self._sink: MetricsSink = NullSink() if sink is None else sink
        # Asked once: the question costs more than the whole rest of `put`.
        self._eventful = self._sink if isinstance(self._sink, EventfulMetricsSink) else None
        self._interval_s = upload_interval_ms / 1000.0
        self._clock = clock
        self._sleep_fn = sleep_fn
        self._offset_s = wall_clock() - clock()
        self._window_start = clock()
        self._series: dict[_Identity, OpenSeries] = {}
        self._ledger = MetricsLedger()
        self._queue = UploadQueue(self._sink, self._ledger)
        self._lock = anyio.Lock()
        self._upload: _Upload | None = None
        self._logged: dict[str, float] = {}

    @property
    def level(self) -> MetricsLevel:
        """How much detail is recorded."""
        return self._level

    @property
    def sink(self) -> MetricsSink:
        """Where the snapshots go."""
        return self._sink

    @property
    def ledger(self) -> MetricsLedger:
        """What was refused, delivered and lost so far: a copy."""
        return replace(
            self._ledger,
            events_refused=dict(self._ledger.events_refused),
            batches_waiting=self._queue.batches_waiting,
            snapshots_waiting=self._queue.snapshots_waiting,
        )

    def put(
        self,
        name: str,
        value: float = 1.0,
        *,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
    ) -> None:
        """Record one event. Never raises: what breaks a limit is refused, counted and logged now and then.

        Args:
            name: 1 to 255 characters.
            value: a finite number.
            stream: 1 to 1,024 characters, or None; so are the others.
            shard_id: the dimension `shard`.
            error_code: the dimension `error_code`.
        """
        if self._is_off:
            return
        if self._is_summary:
            shard_id = error_code = None
        if value.__class__ is not float or not isfinite(value):
            number = to_number(value)
            if number is None:
                self._refuse(name, Reason.VALUE_NOT_FINITE)
                return
            value = number
        try:
            series = self._series[name, stream, shard_id, error_code]
        except (KeyError, TypeError):
            opened = self._open(name, stream, shard_id, error_code)
            if opened is None:
                return
            series = opened
        now = self._clock()
        second = int(now)
        values = series.values
        if second != series.second or len(values) >= MAX_VALUES:
            series.fold(second)
        values.append(value)
        if self._eventful is not None:
            self._record(self._eventful, series, value, now)

    def snapshot(self) -> dict[MetricKey, tuple[int, float, float, float]]:
        """Return `(count, sum, min, max)` of the last 60 seconds by metric, whatever was exported."""
        second = int(self._clock())
        read = ((series.key, series.read_live(second)) for series in self._series.values())
        return {key: statistics for key, statistics in read if statistics is not None}

    def snapshots(self) -> tuple[MetricSnapshot, ...]:
        """Return the same as `snapshot`, with the epoch seconds of each metric's first and last event.

        They carry no buckets: those are of a window, and exported.
        """
        second = int(self._clock())
        read = (series.read_snapshot(second, self._offset_s) for series in self._series.values())
        return tuple(snapshot for snapshot in read if snapshot is not None)

    async def flush(self) -> None:
        """Offer to the sink what is waiting, oldest first, and what came since the last flush, if anything.

        Returns when the sink took all of it or failed. What the sink raises is logged and counted, not
        raised.
        """
        if self._is_off:
            return
        # The interval's flush and the application's take turns, or they would offer the same batch.
        async with self._lock:
            self._close_window()
            await self._queue.offer()

    async def __aenter__(self) -> Self:
        """Enter the sink and start the upload loop.

        Raises:
            RuntimeError: the manager is entered already.
        """
        if self._is_off:
            return self
        if self._upload is not None:
            raise RuntimeError("the manager is entered already")
        await self._sink.__aenter__()
        group = anyio.create_task_group()
        await group.__aenter__()
        # Shielded: where the surroundings are cancelled, an export under way may still end well within the
        # time of the final flush; interrupted, it would have to be repeated.
        self._upload = _Upload(group, anyio.CancelScope(shield=True), anyio.Event())
        if not any(series.has_pending() for series in self._series.values()):
            self._window_start = self._clock()
        group.start_soon(self._run_upload, self._upload)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Flush, for at most 5 s even when cancelled; stop the loop; leave the sink.

        What the sink raises when it is left is raised, unless the body raised: then it is logged.
        """
        upload, self._upload = self._upload, None
        if upload is None:
            return
        try:
            await self._finish(upload)
        finally:
            try:
                # The body's exception is kept from the group, which would wrap it.
                await upload.group.__aexit__(None, None, None)
            finally:
                await self._leave_sink(exc_type, exc, tb)

    async def _finish(self, upload: _Upload) -> None:
        """Make the final flush and end the loop."""
        try:
            with anyio.move_on_after(FINAL_FLUSH_S, shield=True) as limit:
                await self.flush()
            if limit.cancelled_caught:
                _logger.error("the final flush did not end within %g s", FINAL_FLUSH_S)
        finally:
            upload.scope.cancel()
            # Here and not in the group, whose waiting a cancellation from outside would interrupt.
            with anyio.CancelScope(shield=True):
                if upload.begun:
                    await upload.ended.wait()
                await cancel_shielded_checkpoint()
            self._close_window()
            if self._queue.snapshots_waiting:
                _logger.error("left with %d snapshots undelivered", self._queue.snapshots_waiting)

    async def _leave_sink(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            await self._sink.__aexit__(exc_type, exc, tb)
        except Exception:
            # The body's exception says more. A cancellation is no answer to a sink's failure, so that passes.
            if not isinstance(exc, Exception):
                raise
            _logger.exception("the sink failed when it was left")

    async def _run_upload(self, upload: _Upload) -> None:
        upload.begun = True
        try:
            with upload.scope:
                while True:
                    await self._sleep()
                    await self._flush_safely()
        finally:
            upload.ended.set()

    async def _sleep(self) -> None:
        try:
            await self._sleep_fn(self._interval_s)
        except BaseException as error:
            if must_propagate(error):
                raise
            _logger.exception("sleep_fn failed; waiting with anyio's")
            await anyio.sleep(self._interval_s)

    async def _flush_safely(self) -> None:
        try:
            await self.flush()
        except Exception:
            # Not the sink, for which `UploadQueue` answers: the clock, or a fault of ours. The loop goes on.
            _logger.exception("a flush failed")

    def _close_window(self) -> None:
        """Put what came since the last flush behind the waiting batches, and forget idle series."""
        now = self._clock()
        start, end = self._window_start + self._offset_s, now + self._offset_s
        second = int(now)
        batch: list[MetricSnapshot] = []
        idle: list[_Identity] = []
        for identity, series in self._series.items():
            if series.has_pending():
                batch.append(series.take(start, end))
            elif series.is_idle(second):
                idle.append(identity)
        for identity in idle:
            del self._series[identity]
        self._window_start = now
        if batch:
            self._queue.append(tuple(batch))

    def _open(
        self, name: str, stream: str | None, shard_id: str | None, error_code: str | None
    ) -> OpenSeries | None:
        """Return a new series, or None, counted, where it breaks a limit."""
        series = open_series(name, stream, shard_id, error_code)
        if isinstance(series, Reason):
            self._refuse(name, series)
            return None
        key = series.key
        self._series[key.name, key.stream, key.shard_id, key.error_code] = series
        return series

    def _record(self, sink: EventfulMetricsSink, series: OpenSeries, value: float, now: float) -> None:
        try:
            sink.record(MetricEvent(series.key.name, value, now + self._offset_s, series.dimensions))
        except Exception as error:  # noqa: BLE001 - whatever the sink does, `put` does not raise
            self._ledger.records_failed += 1
            count = self._ledger.records_failed
            self._log_seldom("record", "the sink's record failed (%d so far): %r", count, error)

    def _refuse(self, name: object, reason: Reason) -> None:
        refused = self._ledger.events_refused
        count = refused[reason.value] = refused.get(reason.value, 0) + 1
        text = "%d events were refused so far as %s, at last one of %.300r"
        self._log_seldom(reason.value, text, count, reason, name)

    def _log_seldom(self, subject: str, text: str, *arguments: object) -> None:
        now = self._clock()
        if now - self._logged.get(subject, -inf) >= LOG_INTERVAL_S:
            self._logged[subject] = now
            _logger.warning(text, *arguments)


__all__ = [
    "FINAL_FLUSH_S",
    "LOG_INTERVAL_S",
    "NAME_ALL_ERRORS",
    "NAME_BUFFERED_TIME",
    "NAME_ERRORS_BY_CODE",
    "NAME_EXPIRED_RECORDS",
    "NAME_KINESIS_RECORDS_DATA_PUT",
    "NAME_KINESIS_RECORDS_PUT",
    "NAME_REQUEST_TIME",
    "NAME_RETRIES_PER_RECORD",
    "NAME_USER_RECORDS_DATA_PUT",
    "NAME_USER_RECORDS_PENDING",
    "NAME_USER_RECORDS_PUT",
    "NAME_USER_RECORDS_RECEIVED",
    "Metric",
    "MetricKey",
    "MetricsLedger",
    "MetricsLevel",
    "MetricsManager",
]
