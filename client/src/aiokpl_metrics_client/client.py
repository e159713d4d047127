"""What an application calls: `put` for one event, bound instruments for many, `flush` and `close` at the end."""

import os
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TypeVar

from aiokpl_metrics_protocol import MetricKind, MetricsLevel, Series, check_series

from aiokpl_metrics_client.buffers import Append
from aiokpl_metrics_client.instruments import Counter, Gauge, Histogram, Instrument, Timer, check_timer_unit
from aiokpl_metrics_client.sender import Sender
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State

_I = TypeVar("_I", bound=Instrument)

DISABLED_VARIABLE = "AIOKPL_METRICSD_DISABLED"

_NO_STATISTICS = ClientStatistics(State.DISABLED, None, "", 0, 0, 0, 0, 0, 0, 0, {})

# What `SUMMARY` leaves out.
_DETAILS = frozenset({"shard", "error_code"})


class MetricsClient:
    """Sends events to the daemon from a thread of its own. One a process is enough; threads may share it.

    Args:
        socket_path: the daemon's socket. None means `AIOKPL_METRICSD_SOCKET` where set, else the first that exists of
            `/run/aiokpl-metricsd/metrics.sock`, `$XDG_RUNTIME_DIR/aiokpl-metricsd/metrics.sock` and
            `aiokpl-metricsd-UID/metrics.sock` in the temporary directory.
        level: `NONE` does nothing at all, `SUMMARY` drops the dimensions `shard` and `error_code`, `DETAILED` keeps all.
            `AIOKPL_METRICSD_DISABLED=1` in the environment makes every client behave as at `NONE`.
        dimensions: added to every event; one given with an event wins.
        max_series: distinct series that get a buffer of their own. Idle ones make room; past that, new series share
            the overflow series of their name, so that sums stay right.

    Raises:
        ValueError: a dimension breaks a limit of the protocol, or `max_series` is less than 1.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        level: MetricsLevel = MetricsLevel.DETAILED,
        dimensions: Mapping[str, object] | None = None,
        max_series: int = 10_000,
    ) -> None:
        """Open nothing yet: the socket and the thread come with the first series."""
        if max_series < 1:
            message = f"max_series is at least 1, not {max_series}"
            raise ValueError(message)
        if os.environ.get(DISABLED_VARIABLE, "") not in ("", "0"):
            level = MetricsLevel.NONE
        self._summary = level is MetricsLevel.SUMMARY
        self._constant: dict[str, object] = dict(dimensions or {})
        _raise_for(self._build_series("constant", None, None, {}))
        self._level = level
        self._instruments: weakref.WeakSet[Instrument] = weakref.WeakSet()
        self._closed = False
        path = None if socket_path is None else os.fspath(socket_path)
        sender = Sender(path, max_series)
        self._sender = sender
        self._appends = sender.table.appends
        if level is MetricsLevel.NONE:
            sender.table.discard_from_now_on(_discard)
        else:
            weakref.finalize(self, sender.finish).atexit = False

    @property
    def level(self) -> MetricsLevel:
        """How much detail this client records."""
        return self._level

    def put(
        self,
        name: str,
        value: float = 1.0,
        *,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> None:
        """Record one event. Never raises and never blocks: what is invalid is counted and dropped.

        Args:
            name: of the metric; the KPL's names have their kinds and units, any other is a counter.
            value: a finite number.
            stream: the dimension `stream`; None or "" leaves a dimension out.
            shard_id: the dimension `shard`; may be given as `shard=` as well.
            error_code: the dimension `error_code`.
            **dimensions: any others. Values that are no strings are written as `str` writes them.
        """
        try:
            if dimensions:
                self._appends[name, stream, shard_id, error_code, tuple(dimensions.items())](value)
            else:
                self._appends[name, stream, shard_id, error_code](value)
        except Exception:  # noqa: BLE001 - the first event of a series, or something that cannot be a key
            self._put_slowly(name, value, stream, shard_id, error_code, dimensions)

    def counter(
        self,
        name: str,
        *,
        unit: str | None = None,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> Counter:
        """Return a counter bound to its series.

        Raises:
            ValueError: the name, the unit or a dimension breaks a limit of the protocol.
        """
        named = {"stream": stream, "shard": shard_id, "error_code": error_code}
        series = self._build_series(name, MetricKind.COUNTER, unit, _merge(named, dimensions))
        return self._bind(series, Counter(_discard, self))

    def gauge(
        self,
        name: str,
        *,
        unit: str | None = None,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> Gauge:
        """Return a gauge bound to its series.

        Raises:
            ValueError: the name, the unit or a dimension breaks a limit of the protocol.
        """
        named = {"stream": stream, "shard": shard_id, "error_code": error_code}
        series = self._build_series(name, MetricKind.GAUGE, unit, _merge(named, dimensions))
        return self._bind(series, Gauge(_discard, self))

    def histogram(
        self,
        name: str,
        *,
        unit: str | None = None,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> Histogram:
        """Return a histogram bound to its series.

        Raises:
            ValueError: the name, the unit or a dimension breaks a limit of the protocol.
        """
        named = {"stream": stream, "shard": shard_id, "error_code": error_code}
        series = self._build_series(name, MetricKind.HISTOGRAM, unit, _merge(named, dimensions))
        return self._bind(series, Histogram(_discard, self))

    def timer(
        self,
        name: str,
        *,
        unit: str = "ms",
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> Timer:
        """Return a histogram that measures durations, as a context manager or a decorator, sync or async.

        Args:
            name: of the metric.
            unit: of its values: "ns", "us", "ms" or "s".
            stream: as for `put`.
            shard_id: as for `put`.
            error_code: as for `put`.
            **dimensions: as for `put`.

        Raises:
            ValueError: the unit is none of those, or the name or a dimension breaks a limit of the protocol.
        """
        check_timer_unit(unit)
        named = {"stream": stream, "shard": shard_id, "error_code": error_code}
        series = self._build_series(name, MetricKind.HISTOGRAM, unit, _merge(named, dimensions))
        return self._bind(series, Timer(_discard, self, unit))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Hand over everything recorded before the call. Return whether the kernel took it all within `timeout_s`."""
        if self._level is MetricsLevel.NONE:
            return True
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Flush and end; what is recorded afterwards is counted and dropped. Return what `flush` returned."""
        if self._level is MetricsLevel.NONE or self._closed:
            return True
        self._closed = True
        self._sender.table.discard_from_now_on(self._count_closed)
        for instrument in list(self._instruments):
            instrument.record = self._count_closed
        return self._sender.close(timeout_s)

    def statistics(self) -> ClientStatistics:
        """Return what this client has sent, holds back and has dropped."""
        return _NO_STATISTICS if self._level is MetricsLevel.NONE else self._sender.statistics()

    def __enter__(self) -> "MetricsClient":
        """Return the client itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def append_for(self, name: str, dimensions: tuple[tuple[str, str], ...], value: float) -> None:
        """Record one event of a series that is given as aiokpl gives it. For `MetricsdSink`."""
        try:
            self._appends[name, dimensions](value)
        except Exception:  # noqa: BLE001 - as in `put`
            self._put_slowly(name, value, None, None, None, dict(dimensions), key=(name, dimensions))

    def _put_slowly(
        self,
        name: str,
        value: float,
        stream: str | None,
        shard_id: str | None,
        error_code: str | None,
        dimensions: dict[str, object],
        key: object = None,
    ) -> None:
        try:
            named: dict[str, object] = {"stream": stream, "shard": shard_id, "error_code": error_code}
            series = self._build_series(name, None, None, _merge(named, dimensions))
            if key is None:
                items = (tuple(dimensions.items()),) if dimensions else ()
                key = (name, stream, shard_id, error_code, *items)
            self._sender.table.put(key if _is_hashable(key) else None, series, value, time.monotonic())
            self._sender.start()
        except Exception:  # noqa: BLE001 - an event must never end what it measures
            self._sender.drop(DropReason.SERIES_INVALID, 1)

    def _build_series(
        self,
        name: str,
        kind: MetricKind | None,
        unit: str | None,
        dimensions: Mapping[str, object],
    ) -> Series:
        """Return the series, with the constant dimensions, sorted; what is None or empty is left out."""
        merged = {**self._constant, **dimensions} if self._constant else dimensions
        pairs = [
            (key, value if value.__class__ is str else str(value))
            for key, value in merged.items()
            if value is not None and value != "" and not (self._summary and key in _DETAILS)
        ]
        pairs.sort()
        return Series(name, None if kind is None else kind.value, unit, tuple(pairs))

    def _bind(self, series: Series, instrument: _I) -> _I:
        _raise_for(series)
        if self._level is MetricsLevel.NONE:
            return instrument
        if self._closed:
            instrument.record = self._count_closed
            return instrument
        instrument.record = self._sender.table.bind(series).values.append
        self._instruments.add(instrument)
        self._sender.start()
        return instrument

    def _count_closed(self, _value: float) -> None:
        self._sender.drop(DropReason.CLOSED, 1)


def _merge(named: Mapping[str, object], dimensions: dict[str, object]) -> Mapping[str, object]:
    """Return the named dimensions and the others as one mapping; `shard=` is `shard_id=`."""
    if not dimensions:
        return named
    return {**named, **dimensions}


def _raise_for(series: Series) -> None:
    reason = None if isinstance(series.name, str) else "the name is no string"
    reason = reason or check_series(series.name, series.kind, series.unit, series.dimensions)
    if reason is not None:
        message = f"{series.name!r} with dimensions {dict(series.dimensions)!r} cannot be a series: {reason}"
        raise ValueError(message)


def _is_hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _discard(_value: float) -> None:
    """Do nothing: what a disabled client records."""


_: Append = _discard

__all__ = ["DISABLED_VARIABLE", "MetricsClient"]
