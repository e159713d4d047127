"""Events by series: one list a series, appended to by the application, emptied by the sender.

A drain is `n = len(b); v = b[:n]; del b[:n]`, nothing else: copying and clearing loses events that other
threads append in between (12 % under four threads, measured). The list itself never changes, so that its
bound `append` is all that an event needs. How many refer to the list tells whether anybody still has that.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import TypeVar

from aiokpl_metrics_client.exclusive import Guard
from aiokpl_metrics_client.instruments import Append, Instrument
from aiokpl_metrics_protocol import (
    MAX_DIMENSION_KEY_CHARS,
    MAX_DIMENSION_VALUE_CHARS,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    MAX_UNIT_CHARS,
    SUMMED_GAUGE,
    Reason,
    Series,
    check_series,
    encode_series,
)

_I = TypeVar("_I", bound=Instrument)

# A series whose bytes leave no room for values in a frame is refused. What the protocol's limits allow in
# ASCII has 39 KB.
MAX_SERIES_BYTES = 48_000

# Names that may have an overflow series of their own: past it, the name is the attack, and all share one.
_MAX_OVERFLOW_NAMES = 1_000
_OVERFLOW_DIMENSIONS = (("overflow", "true"),)
_OVERFLOW_NAME = "overflow"

# What is allowed, for whoever reads that something is not.
_ALLOWED = {
    Reason.NAME_EMPTY: f"a name has 1 to {MAX_NAME_CHARS} characters",
    Reason.NAME_TOO_LONG: f"a name has 1 to {MAX_NAME_CHARS} characters",
    Reason.UNIT_TOO_LONG: f"a unit has at most {MAX_UNIT_CHARS} characters",
    Reason.TOO_MANY_DIMENSIONS: f"a series has at most {MAX_DIMENSIONS} dimensions",
    Reason.DIMENSION_EMPTY: "a dimension's key has at least one character",
    Reason.DIMENSION_TOO_LONG: (
        f"a dimension's key has at most {MAX_DIMENSION_KEY_CHARS} characters, "
        f"its value {MAX_DIMENSION_VALUE_CHARS}"
    ),
}

# A buffer without an event for this long may go when room is needed. Between its last use by `put` and its
# end lies as much again, so that a thread that was held up between looking the buffer up and appending has
# appended by then.
IDLE_S = 60.0


class Buffer:
    """The events of one series that are not yet in a frame."""

    __slots__ = (
        "is_summed",
        "keys",
        "last_used",
        "overflow",
        "series",
        "share",
        "told_in",
        "values",
    )

    def __init__(self, series: bytes, *, overflow: bool = False) -> None:
        """Start empty. `series` is the wire's encoding."""
        self.series = series
        self.values: list[float] = []
        self.overflow = overflow
        self.keys: list[object] = []
        self.last_used = 0.0
        # Of a summed gauge: the last value of this process, and the second in which the daemon was told.
        self.is_summed = False
        self.share: float | None = None
        self.told_in = 0


class BufferTable:
    """All buffers of one client, at most `max_series` and the overflow series.

    Args:
        max_series: distinct series with a buffer of their own.
    """

    def __init__(self, max_series: int) -> None:
        """Start without a buffer."""
        self._max_series = max_series
        # What comes by `put` of a known series, or by an instrument, does not ask for it. A signal handler or
        # a finalizer may put in the midst of a put.
        self._guard = Guard()
        self._by_series: dict[bytes, Buffer] = {}
        # Of summed gauges, which are told again each second; they are among the others as well.
        self._summed: dict[bytes, Buffer] = {}
        self._overflow: dict[bytes, Buffer] = {}
        self._retired: list[Buffer] = []
        self._instruments: weakref.WeakSet[Instrument] = weakref.WeakSet()
        # What `put` looks its buffer's `append` up in: a plain dictionary, since looking up in a subclass of
        # it takes 20 ns longer.
        self.appends: dict[object, Append] = {}
        self._discard: Append | None = None
        self._wrap: Callable[[Append], Append] | None = None

    def __len__(self) -> int:
        """Return the number of buffers."""
        return len(self._by_series) + len(self._overflow)

    def buffers(self) -> list[Buffer]:
        """Return every buffer that may hold events."""
        return [*self._by_series.values(), *self._overflow.values(), *self._retired]

    def summed(self) -> list[Buffer]:
        """Return the buffers of summed gauges."""
        return list(self._summed.values())

    def bind(self, series: Series, instrument: _I) -> _I:
        """Have an instrument record into its series' buffer, which stays for as long as anybody can do so.

        Raises:
            ValueError: the series breaks a limit of the protocol.
        """
        encoded = encode_checked(series)
        instrument.series = series
        self._guard.run(self._bind, encoded, series, instrument)
        return instrument

    def put(self, key: object, series: Series, value: float, now_s: float) -> None:
        """Append to the buffer of `series`, and remember it under `key` where it has one of its own.

        Raises:
            ValueError: the series breaks a limit of the protocol.
        """
        encoded = encode_checked(series)
        discard = self._guard.run(self._put, key, encoded, series, value, now_s)
        if discard is not None:
            # Not guarded: counting what is discarded may wait for another thread that does so.
            discard(value)

    def retire_idle(self, now_s: float) -> None:
        """Let go of buffers that were idle and that nobody has bound; called by the sender, now and then."""
        self._guard.run(self._retire_idle, now_s)

    def wrap(self, wrap: Callable[[Append], Append] | None) -> None:
        """Have events recorded through what `wrap` makes of a buffer's `append`; None is by that alone.

        Whoever has kept an instrument's `record` for himself goes on with that.
        """
        self._guard.run(self._rebuild, wrap)

    def discard_from_now_on(self, discard: Append) -> None:
        """Keep nothing that comes from now on."""
        self._guard.run(self._discard_all, discard)

    @property
    def is_discarding(self) -> bool:
        """Whether nothing is kept that comes from now on, but by who has a copy of `record`."""
        return self._discard is not None

    def is_held_elsewhere(self) -> bool:
        """Tell whether anybody can record who does not ask the client: by an instrument, or a copy of it.

        What `put` looks its buffers up by is forgotten; a `put` that still comes looks up anew.
        """
        return self._guard.run(self._has_holder)

    def forget_events(self) -> None:
        """Drop what is buffered: in a forked child it is the parent's. So is whoever was at work."""
        self._guard.forget_others()
        for buffer in self.buffers():
            take(buffer)
        for buffer in self.summed():
            # So is its share of a summed gauge.
            buffer.share = None

    # ---- one thread at a time

    def _bind(self, encoded: bytes, series: Series, instrument: Instrument) -> None:
        if self._discard is not None:
            instrument.record = self._discard
            return
        buffer = self._find(encoded, series)
        if series.kind == SUMMED_GAUGE:
            buffer.is_summed = True
            self._summed[buffer.series] = buffer
        self._instruments.add(instrument)
        instrument.record = self._open(buffer)

    def _put(self, key: object, encoded: bytes, series: Series, value: float, now_s: float) -> Append | None:
        """Append; or return how the event is to be discarded."""
        if self._discard is not None:
            return self._discard
        buffer = self._find(encoded, series)
        buffer.last_used = now_s
        # The cache is as bounded as the buffers: a key of an overflow series would be one of endless many.
        if key is not None and not buffer.overflow and len(self.appends) < 4 * self._max_series:
            self.appends[key] = self._open(buffer)
            buffer.keys.append(key)
        buffer.values.append(value)
        return None

    def _retire_idle(self, now_s: float) -> None:
        self._retired = [
            each
            for each in self._retired
            if is_held(each) or each.values or now_s - each.last_used < 2 * IDLE_S
        ]
        if len(self._by_series) < self._max_series // 2:
            return
        for encoded, buffer in list(self._by_series.items()):
            if buffer.values or now_s - buffer.last_used < IDLE_S or buffer.share is not None:
                continue
            # Each key holds an append. One that somebody else holds it with may come anew.
            self._forget_keys(buffer)
            if not is_held(buffer):
                del self._by_series[encoded]
                self._summed.pop(encoded, None)
                buffer.last_used = now_s - IDLE_S
                self._retired.append(buffer)

    def _rebuild(self, wrap: Callable[[Append], Append] | None) -> None:
        self._wrap = wrap
        if self._discard is not None:
            return
        for buffer in list(self._by_series.values()):
            for key in list(buffer.keys):
                self.appends[key] = self._open(buffer)
        for instrument in self._read_instruments():
            buffer = self._find(encode_series(instrument.series), instrument.series)
            instrument.record = self._open(buffer)

    def _discard_all(self, discard: Append) -> None:
        self._discard = discard
        self.appends.clear()
        for instrument in self._read_instruments():
            instrument.record = discard

    def _has_holder(self) -> bool:
        for buffer in self.buffers():
            self._forget_keys(buffer)
            if is_held(buffer):
                return True
        return False

    def _read_instruments(self) -> list[Instrument]:
        while True:
            try:
                return list(self._instruments)
            except RuntimeError:  # noqa: PERF203 - there is no other way, and once is the rule
                # A signal handler or a finalizer has bound another one meanwhile.
                continue

    def _forget_keys(self, buffer: Buffer) -> None:
        keys, buffer.keys = buffer.keys, []
        for key in keys:
            self.appends.pop(key, None)

    def _open(self, buffer: Buffer) -> Append:
        append = buffer.values.append
        return append if self._wrap is None else self._wrap(append)

    def _find(self, encoded: bytes, series: Series) -> Buffer:
        buffer = self._by_series.get(encoded)
        if buffer is not None:
            return buffer
        if len(self._by_series) < self._max_series:
            # One step, since a signal handler may ask for the same series right here, and what it appended to
            # another buffer would be lost.
            return self._by_series.setdefault(encoded, Buffer(encoded))
        return self._find_overflow(series)

    def _find_overflow(self, series: Series) -> Buffer:
        shared = encode_series(Series(series.name, series.kind, series.unit, _OVERFLOW_DIMENSIONS))
        if shared not in self._overflow and len(self._overflow) >= _MAX_OVERFLOW_NAMES:
            # Without its unit, which may be one of endless many as well.
            shared = encode_series(Series(_OVERFLOW_NAME, series.kind, None, _OVERFLOW_DIMENSIONS))
        return self._overflow.setdefault(shared, Buffer(shared, overflow=True))


def encode_checked(series: Series) -> bytes:
    """Return the bytes by which columns name `series`.

    Raises:
        ValueError: it breaks a limit of the protocol.
    """
    reason = check_series(series.name, series.kind, series.unit, series.dimensions)
    if reason is None:
        try:
            encoded = encode_series(series)
        except UnicodeEncodeError:
            said = "a text has half a surrogate pair, which UTF-8 has no bytes for"
        else:
            if len(encoded) <= MAX_SERIES_BYTES:
                return encoded
            said = f"it takes {len(encoded)} bytes, and at most {MAX_SERIES_BYTES} fit into a frame"
    else:
        said = f"{_ALLOWED.get(reason, 'it breaks a limit')} ({reason})"
    shown = f"{series.name!r:.100} with dimensions {dict(series.dimensions)!r:.300}"
    message = f"{shown} cannot be a series: {said}"
    raise ValueError(message)


def take(buffer: Buffer) -> list[float]:
    """Take the events out of a buffer, in order, while other threads go on appending."""
    values = buffer.values
    count = len(values)
    taken = values[:count]
    del values[:count]
    return taken


def is_held(buffer: Buffer) -> bool:
    """Tell whether anybody may append to a buffer: an instrument, a key of `put`, a copy of either's."""
    return _count_references(buffer) > _ALONE


def _count_references(buffer: Buffer) -> int:
    return sys.getrefcount(buffer.values)


# Of a list that only its buffer has.
_ALONE = _count_references(Buffer(b""))


def count_events(buffers: Iterable[Buffer]) -> int:
    """Return how many events wait in the buffers."""
    return sum([len(buffer.values) for buffer in buffers])


__all__ = [
    "IDLE_S",
    "MAX_SERIES_BYTES",
    "Buffer",
    "BufferTable",
    "count_events",
    "encode_checked",
    "is_held",
    "take",
]
