"""Bound instruments: a series looked up once, so that an event costs a list append."""

import functools
import inspect
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from aiokpl_metrics_client.buffers import Append

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Nanoseconds in one unit of a timer.
_UNIT_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}

# The starts of the `with` blocks that run, innermost first: one chain a thread and task, so that one timer may be
# used in many at once.
_Starts = tuple[int, Any]
_starts: ContextVar[_Starts | None] = ContextVar("aiokpl_metrics_client_starts", default=None)


class Instrument:
    """One series of one client.

    Attributes:
        record: takes the value of one event. Never raises and never blocks; an invalid value is counted and dropped.
    """

    __slots__ = ("__weakref__", "_owner", "record")

    record: Append

    def __init__(self, append: Append, owner: object) -> None:
        """Bind `append`. `owner` is the client, kept alive for as long as one of its instruments is."""
        self.record = append
        self._owner = owner


class Counter(Instrument):
    """Something that adds up: requests, bytes, errors. `record(n)` adds `n`."""

    __slots__ = ()


class Gauge(Instrument):
    """Something that has a level: a queue's length. `record(v)` says that it is `v` now; the last one holds."""

    __slots__ = ()


class Histogram(Instrument):
    """Something that has a distribution: a duration, a size. `record(v)` adds the value `v` to it."""

    __slots__ = ()


class Timer(Histogram):
    """Measures how long something takes, whether it succeeds or raises.

    As a context manager, sync or async, or as a decorator of a function or coroutine function. One timer may be used
    in many threads and tasks at once, and within itself.
    """

    __slots__ = ("_unit_ns",)

    def __init__(self, append: Append, owner: object, unit: str) -> None:
        """Bind `append`, and measure in `unit`: "ns", "us", "ms" or "s"."""
        super().__init__(append, owner)
        self._unit_ns = _UNIT_NS[unit]

    def __enter__(self) -> "Timer":
        """Start the clock."""
        _starts.set((time.perf_counter_ns(), _starts.get()))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Record the time since entering."""
        end = time.perf_counter_ns()
        starts = _starts.get()
        if starts is not None:
            _starts.set(starts[1])
            self.record((end - starts[0]) / self._unit_ns)

    async def __aenter__(self) -> "Timer":
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
        """Return `function` with each of its calls measured; of a coroutine function, until its coroutine ends."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def measured_coroutine(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                start = time.perf_counter_ns()
                try:
                    return await function(*args, **kwargs)
                finally:
                    self.record((time.perf_counter_ns() - start) / self._unit_ns)

            return cast("Callable[_P, _R]", measured_coroutine)

        @functools.wraps(function)
        def measured(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            start = time.perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.record((time.perf_counter_ns() - start) / self._unit_ns)

        return measured


def check_timer_unit(unit: str) -> None:
    """Raise `ValueError` unless a timer can measure in `unit`."""
    if unit not in _UNIT_NS:
        message = f"a timer's unit is one of {', '.join(_UNIT_NS)}, not {unit!r}"
        raise ValueError(message)


__all__ = ["Counter", "Gauge", "Histogram", "Instrument", "Timer", "check_timer_unit"]
