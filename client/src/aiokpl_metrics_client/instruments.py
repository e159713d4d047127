"""Bound instruments: a series looked up once, so that an event costs a list append."""

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeGuard, TypeVar, cast

from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_protocol import SUMMED_GAUGE, MetricKind, Series

Append: TypeAlias = Callable[[float], object]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_I = TypeVar("_I", bound="Instrument")

# Nanoseconds in one unit of a timer.
_UNIT_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}

# The `with` blocks that run, the innermost first, as (timer, start, the others): one chain a thread and task,
# so that one timer may be used in many at once.
_Starts: TypeAlias = "tuple[Timer, int, Any]"
_starts: "ContextVar[_Starts | None]" = ContextVar("aiokpl_metrics_client_starts", default=None)


class Owner(Protocol):
    """What instruments ask of their client."""

    def rebind(self, instrument: _I, dimensions: Mapping[str, object]) -> _I:
        """Bind an instrument to the series that it has with other dimensions, and return it."""
        ...


class Instrument:
    """One series of one client.

    Attributes:
        record: takes the value of one event. Never raises, never blocks; an invalid value is counted and
            dropped.
        series: its name, kind, unit and dimensions, the client's own among them.
    """

    __slots__ = ("__weakref__", "_owner", "record", "series")

    record: Append
    series: Series

    def __init__(self, append: Append, owner: Owner) -> None:
        """Bind `append`. `owner` is the client, kept alive for as long as one of its instruments is."""
        self.record = append
        self._owner = owner

    def with_dimensions(  # noqa: PYI019 - typing has no Self before 3.11
        self: _I,
        /,
        *,
        stream: str | None = None,
        shard_id: str | None = None,
        error_code: str | None = None,
        **dimensions: object,
    ) -> _I:
        """Return an instrument of the same class, name, kind and unit whose series has these dimensions too.

        Args:
            stream: the dimension `stream`. None is not to give it, "" leaves it out; any other text takes the
                place of what this instrument has.
            shard_id: the dimension `shard`; may be given as `shard=` as well.
            error_code: the dimension `error_code`.
            **dimensions: any others. Values that are no strings are written as `str` writes them.

        Raises:
            ValueError: a dimension breaks a limit of the protocol, or there are too many.
        """
        given = merge_dimensions(stream, shard_id, error_code, dimensions)
        return self._owner.rebind(copy.copy(self), given)


class Counter(Instrument):
    """Something that adds up: requests, bytes, errors. `record(n)` adds `n`."""

    __slots__ = ()


class Gauge(Instrument):
    """Something that has a level: a queue's length. `record(v)` says that it is `v`; the last one holds.

    Of several processes the last one's, or the sum of all that live: `MetricsClient.gauge(merge="sum")`.
    """

    __slots__ = ()


class Histogram(Instrument):
    """Something that has a distribution: a duration, a size. `record(v)` adds the value `v` to it."""

    __slots__ = ()


class Timer(Histogram):
    """Measures how long something takes, whether it succeeds or raises.

    As a context manager, sync or async, or as a decorator of a function or coroutine function. One timer may
    be used in many threads and tasks at once, and within itself.
    """

    __slots__ = ("_unit_ns",)

    def __init__(self, append: Append, owner: Owner, unit: str) -> None:
        """Bind `append`, and measure in `unit`: "ns", "us", "ms" or "s"."""
        super().__init__(append, owner)
        self._unit_ns = _UNIT_NS[unit]

    def __enter__(self) -> "Timer":  # noqa: PYI034 - typing has no Self before 3.11
        """Start the clock."""
        _starts.set((self, Clock.perf_counter_ns(), _starts.get()))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Record the time since entering."""
        end = Clock.perf_counter_ns()
        starts = _starts.get()
        # Blocks of other timers, in generators, may have begun since and still run.
        others: list[_Starts] = []
        while starts is not None and starts[0] is not self:
            others.append(starts)
            starts = starts[2]
        if starts is None:
            # The block began in another context, as a fixture's does: its start is not to be found here.
            return
        rest: _Starts | None = starts[2]
        for other in reversed(others):
            rest = (other[0], other[1], rest)
        _starts.set(rest)
        self.record((end - starts[1]) / self._unit_ns)

    async def __aenter__(self) -> "Timer":  # noqa: PYI034 - typing has no Self before 3.11
        """Start the clock."""
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Record the time since entering."""
        self.__exit__(exc_type, exc, tb)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return `function` with each call measured; of a coroutine function, until its coroutine ends.

        Raises:
            TypeError: it is no function, or a generator function, whose call only makes the generator.
        """
        _check_measurable(function)
        if _is_coroutine_function(function):

            @functools.wraps(function)
            async def measured_coroutine(*args: _P.args, **kwargs: _P.kwargs) -> Any:  # noqa: ANN401 - what `function` returns
                start = Clock.perf_counter_ns()
                try:
                    return await function(*args, **kwargs)
                finally:
                    self.record((Clock.perf_counter_ns() - start) / self._unit_ns)

            return cast("Callable[_P, _R]", measured_coroutine)

        @functools.wraps(function)
        def measured(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            start = Clock.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.record((Clock.perf_counter_ns() - start) / self._unit_ns)

        return measured


def _is_coroutine_function(function: object) -> TypeGuard[Callable[..., Coroutine[Any, Any, Any]]]:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    # An object with an asynchronous `__call__` is as good as one.
    return not inspect.isclass(function) and inspect.iscoroutinefunction(type(function).__call__)


def _check_measurable(function: object) -> None:
    kind = type(function).__name__
    if isinstance(function, (classmethod, staticmethod, property)):
        message = f"a timer decorates functions: put it below @{kind}, not above it"
        raise TypeError(message)
    if not callable(function):
        message = f"a timer decorates functions, not {function!r:.100}"
        raise TypeError(message)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        message = (
            "a timer cannot decorate a generator function, whose call only makes the generator: "
            "write `with timer:` in it"
        )
        raise TypeError(message)


def check_timer_unit(unit: str) -> None:
    """Raise `ValueError` unless a timer can measure in `unit`."""
    if unit not in _UNIT_NS:
        message = f"a timer's unit is one of {', '.join(_UNIT_NS)}, not {unit!r}"
        raise ValueError(message)


def find_gauge_kind(merge: str) -> str:
    """Return the word for a gauge's kind on the wire.

    Raises:
        ValueError: `merge` is neither "last" nor "sum".
    """
    kinds = {"last": MetricKind.GAUGE.value, "sum": SUMMED_GAUGE}
    if merge not in kinds:
        message = f"a gauge's merge is one of {', '.join(kinds)}, not {merge!r}"
        raise ValueError(message)
    return kinds[merge]


def merge_dimensions(
    stream: str | None,
    shard_id: str | None,
    error_code: str | None,
    dimensions: Mapping[str, object],
) -> dict[str, object]:
    """Return the named dimensions and the others as one mapping; `shard=` is `shard_id=`."""
    merged: dict[str, object] = {"stream": stream, "shard": shard_id, "error_code": error_code}
    merged.update({key: value for key, value in dimensions.items() if value is not None})
    return merged


__all__ = [
    "Append",
    "Counter",
    "Gauge",
    "Histogram",
    "Instrument",
    "Owner",
    "Timer",
    "check_timer_unit",
    "find_gauge_kind",
    "merge_dimensions",
]
