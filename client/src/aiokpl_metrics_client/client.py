"""What an application calls: `put` for one event, instruments for many, `flush` and `close` at the end."""

import os
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar

from aiokpl_metrics_client.buffers import encode_checked
from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.instruments import (
    Append,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    Timer,
    check_timer_unit,
    find_gauge_kind,
    merge_dimensions,
)
from aiokpl_metrics_client.sender import BuildOutbound, Sender
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State
from aiokpl_metrics_protocol import MetricKind, MetricsLevel, Series

_I = TypeVar("_I", bound=Instrument)

DISABLED_VARIABLE = "AIOKPL_METRICSD_DISABLED"

_NO_STATISTICS = ClientStatistics(State.DISABLED, None, "", 0, 0, 0, 0, 0, 0, 0, {})

# An event in the depth of a recursion, where not even what would count it can be called.
_UNPLACED = ((DropReason.SERIES_INVALID, 1),)

# What `SUMMARY` leaves out.
_DETAILS = frozenset({"shard", "error_code"})


class MetricsClient:
    """Sends events to the daemon from a thread of its own. One a process is enough; threads may share it.

    Args:
        socket_path: the daemon's socket. None means `AIOKPL_METRICSD_SOCKET` where set, else the first that
            exists of `/run/aiokpl-metricsd/metrics.sock`, `$XDG_RUNTIME_DIR/aiokpl-metricsd/metrics.sock` and
            `aiokpl-metricsd-UID/metrics.sock` in the temporary directory.
        level: `NONE` does nothing at all, `SUMMARY` drops the dimensions `shard` and `error_code`, `DETAILED`
            keeps all. `AIOKPL_METRICSD_DISABLED=1` in the environment makes every client behave as at `NONE`.
        dimensions: added to every event; one given with an event wins, and "" given with an event leaves it
            out.
        max_series: distinct series that get a buffer of their own. Idle ones make room; past that, new series
            share the overflow series of their name, so that sums stay right.

    Raises:
        ValueError: a dimension breaks a limit of the protocol, `max_series` is less than 1, or there is no
            such level.
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
        # aiokpl has an enumeration of its own, with the same values.
        level = MetricsLevel(getattr(level, "value", level))
        self._level = level
        self._summary = level is MetricsLevel.SUMMARY
        self._constant: dict[str, str] = {}
        self._constant = _to_texts(dimensions or {})
        encode_checked(self._build_series("constant", None, None, {}))
        self._closed = False
        self._flushed_at_close = True
        sender = Sender(None if socket_path is None else os.fsdecode(socket_path), max_series)
        self._sender = sender
        self._appends = sender.table.appends
        if level is MetricsLevel.NONE:
            sender.table.discard_from_now_on(_discard)
            # Nothing to look up and nothing to find out: less than a look-up that fails.
            self.__dict__["put"] = _put_nothing
        else:
            sender.register()
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
            stream: the dimension `stream`. None is not to give it, "" leaves it out.
            shard_id: the dimension `shard`; may be given as `shard=` as well.
            error_code: the dimension `error_code`.
            **dimensions: any others. Values that are no strings are written as `str` writes them, which makes
                the call slower.
        """
        try:
            if dimensions:
                self._appends[name, stream, shard_id, error_code, tuple(dimensions.items())](value)
            else:
                self._appends[name, stream, shard_id, error_code](value)
        except Exception:  # noqa: BLE001 - the first event of a series, or something that cannot be a key
            try:
                self._put_slowly(name, value, (stream, shard_id, error_code), dimensions)
            except RecursionError:
                # Not even a function may be called any more, and this is no call.
                self._sender._outbound.drops.news += _UNPLACED  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

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
        named = merge_dimensions(stream, shard_id, error_code, dimensions)
        return self._bind(name, MetricKind.COUNTER.value, unit, named, Counter(_discard, self))

    def gauge(
        self,
        name: str,
        *,
        unit: str | None = None,
        merge: Literal["last", "sum"] = "last",
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> Gauge:
        """Return a gauge bound to its series.

        Args:
            name: of the metric.
            unit: of its values.
            merge: what holds where several processes have this gauge. "last" is the value that came last,
                whoever sent it; "sum" the sum of every live process's last value, as of connections that each
                worker has open. For "sum" the last value is sent again each second while the process lives.
            stream: as for `put`.
            shard_id: as for `put`.
            error_code: as for `put`.
            **dimensions: as for `put`.

        Raises:
            ValueError: the name, the unit or a dimension breaks a limit of the protocol, or there is no such
                `merge`.
        """
        named = merge_dimensions(stream, shard_id, error_code, dimensions)
        return self._bind(name, find_gauge_kind(merge), unit, named, Gauge(_discard, self))

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
        named = merge_dimensions(stream, shard_id, error_code, dimensions)
        return self._bind(name, MetricKind.HISTOGRAM.value, unit, named, Histogram(_discard, self))

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
        named = merge_dimensions(stream, shard_id, error_code, dimensions)
        return self._bind(name, MetricKind.HISTOGRAM.value, unit, named, Timer(_discard, self, unit))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Hand over everything recorded before the call. Return whether all of it got there in time.

        On a lane that is when the daemon has acknowledged it, on the front door when the kernel took it.
        False as well, once, when events were dropped since the last call because the daemon was away too
        long.
        """
        if self._level is MetricsLevel.NONE:
            return True
        return self._sender.flush(timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Flush and end; what is recorded afterwards is counted and dropped. Return what `flush` returned."""
        if self._level is not MetricsLevel.NONE and not self._closed:
            self._closed = True
            self._sender.discard(DropReason.CLOSED)
            self._flushed_at_close = self._sender.close(timeout_s)
        return self._flushed_at_close

    def statistics(self) -> ClientStatistics:
        """Return what this client has sent, holds back and has dropped."""
        return _NO_STATISTICS if self._level is MetricsLevel.NONE else self._sender.statistics()

    def __enter__(self) -> "MetricsClient":  # noqa: PYI034 - typing has no Self before 3.11
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
            try:
                self._append_slowly(name, dimensions, value)
            except RecursionError:
                self._sender._outbound.drops.news += _UNPLACED  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def redirect(self, build: BuildOutbound | None) -> None:
        """Have events go where `build` leads, in place of the socket; None is back to it. For `testing`.

        A client that is disabled or closed stays so.
        """
        if self._level is not MetricsLevel.NONE:
            self._sender.redirect(build)

    def rebind(self, instrument: _I, dimensions: Mapping[str, object]) -> _I:
        """Bind `instrument` to its series with `dimensions` over what it has. For `with_dimensions`.

        Raises:
            ValueError: a dimension breaks a limit of the protocol.
        """
        series = instrument.series
        # What the client adds and the instrument has left out stays out.
        merged: dict[str, object] = {**dict.fromkeys(self._constant, ""), **dict(series.dimensions)}
        merged.update({key: value for key, value in dimensions.items() if value is not None})
        return self._bind(series.name, series.kind, series.unit, merged, instrument)

    def _put_slowly(
        self,
        name: str,
        value: float,
        named: tuple[object, object, object],
        dimensions: Mapping[str, object],
    ) -> None:
        """Record the first event of a series, or one whose dimensions are no strings."""
        if self._level is MetricsLevel.NONE:
            return
        try:
            # Only strings are cached: 1, 1.0 and True are one key, but three dimensions.
            stream, shard_id, error_code = [None if value is None else _to_text(value) for value in named]
            name = _to_name(name)
            if dimensions:
                texts = {key: None if value is None else _to_text(value) for key, value in dimensions.items()}
                key: tuple[Any, ...] = (name, stream, shard_id, error_code, tuple(texts.items()))
            else:
                texts = {}
                key = (name, stream, shard_id, error_code)
            append = self._appends.get(key)
            if append is None:
                self._put_first(key, merge_dimensions(stream, shard_id, error_code, texts), value)
            else:
                append(value)
        except Exception as error:  # noqa: BLE001 - an event must never end what it measures
            self._refuse(error)

    def _append_slowly(self, name: str, dimensions: tuple[tuple[str, str], ...], value: float) -> None:
        if self._level is MetricsLevel.NONE:
            return
        try:
            pairs = tuple([(_to_name(key), _to_text(text)) for key, text in dimensions])
            self._put_first((_to_name(name), pairs), dict(pairs), value)
        except Exception as error:  # noqa: BLE001 - as in `_put_slowly`
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """Count an event that cannot have a series, and have the first one told, from the client's thread."""
        text = error.args[0] if error.args else ""
        if isinstance(error, RecursionError):
            text = "an event came so deep in a recursion that its series could not be looked up"
        elif type(error) is not ValueError or type(text) is not str:
            # It is not ours: an object's own code raised it.
            text = "an event has a name or a dimension that cannot be written as text"
        self._sender.start()
        # At last, since what comes out of here is a recursion too deep, and is counted by who called.
        self._sender.drop(DropReason.SERIES_INVALID, 1, text)

    def _put_first(self, key: tuple[Any, ...], dimensions: Mapping[str, object], value: float) -> None:
        series = self._build_series(key[0], None, None, dimensions)
        # Before the event is there: what a child has of its parent's is dropped.
        self._sender.check_process()
        self._sender.table.put(key, series, value, Clock.monotonic())
        try:
            self._sender.start()
        except RecursionError:
            # The event is there. The next one that finds no thread starts it.
            return

    def _build_series(
        self,
        name: str,
        kind: str | None,
        unit: str | None,
        dimensions: Mapping[str, object],
    ) -> Series:
        """Return the series, with the constant dimensions, sorted. None is not given, "" is left out."""
        merged = {**self._constant, **_to_texts(dimensions)}
        details = _DETAILS if self._summary else ()
        pairs = sorted([(key, value) for key, value in merged.items() if value and key not in details])
        return Series(name, kind, unit, tuple(pairs))

    def _bind(
        self,
        name: str,
        kind: str | None,
        unit: str | None,
        dimensions: Mapping[str, object],
        instrument: _I,
    ) -> _I:
        unit = None if unit is None else _to_name(unit, "a unit")
        bound = self._sender.table.bind(
            self._build_series(_to_name(name), kind, unit, dimensions), instrument
        )
        if self._level is not MetricsLevel.NONE:
            self._sender.start()
        return bound


def _to_texts(dimensions: Mapping[str, object]) -> dict[str, str]:
    return {_to_name(key): _to_text(value) for key, value in dimensions.items() if value is not None}


def _to_name(value: object, what: str = "a name") -> str:
    if type(value) is str:
        return value
    if not isinstance(value, str):
        message = f"{what} is a string, not {value!r:.100}"
        raise ValueError(message)  # noqa: TRY004 - one error for whatever cannot be sent
    # The wire knows no subclass; of an enumeration's member, the string that it is.
    return str.__str__(value)


def _to_text(value: object) -> str:
    return value if type(value) is str else _to_name(value if isinstance(value, str) else str(value))


def _put_nothing(_name: str, _value: float = 1.0, **_dimensions: object) -> None:
    """Do nothing: `put` of a disabled client."""


def _discard(_value: float) -> None:
    """Do nothing: what a disabled client records."""


_: Append = _discard

__all__ = ["DISABLED_VARIABLE", "MetricsClient"]
