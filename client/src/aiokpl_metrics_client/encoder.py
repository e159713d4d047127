"""Buffers -> frames. A column a series and second, or a folded set.

Numbers and totals tell the daemon what it missed.

Never raises, whatever the application recorded: what is no finite number is counted and dropped here.
"""

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import NamedTuple

from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.statistics import DropReason
from aiokpl_metrics_protocol import (
    Buckets,
    Column,
    ColumnsFrame,
    Folded,
    FoldedFrame,
    Totals,
    decode_series,
    encode,
)

# Large frames make the syscall cheap per event, and the front door's queue holds eleven datagrams whatever
# their size. A lane's holds bytes, and each full lane waits until a frame of every other one was counted: for
# half the time with half the size, which costs an event 1 ns in the daemon (`docs/adr/0012`). The estimates
# below never fall short, so that a frame stays under the protocol's 65,536 bytes.
FRONT_DOOR_FRAME_BYTES = 60_000
LANE_FRAME_BYTES = 30_000

# A column of more values is split: 4,096 floats of nine bytes are 37 KB. On a lane its frame holds less.
MAX_COLUMN_VALUES = 4_096

# msgpack's headers of a column and of its parts, at their largest.
_COLUMN_BYTES = 40
_VALUE_BYTES = 9

# The same of a folded set and its parts: the values of its fields, and the headers of its buckets.
_SET_BYTES = 80
_BUCKETS_BYTES = 40

# Values of these types only are numbers that Python's own arithmetic may be trusted with.
_FLOAT: set[type] = {float}
_PLAIN: set[type] = {float, int, bool}

# What a mistake may be quoted from: no other type is sure to be written at once and without an exception.
_NAMED = (float, str, bytes, bool, type(None))
_QUOTED = 60

# msgpack's integers end here.
_LEAST_INTEGER = -(2**63)
_GREATEST_INTEGER = 2**64 - 1


class EncodedFrame(NamedTuple):
    """A datagram, and how many events it carries."""

    data: bytes
    events: int


class Encoder:
    """Collects columns and makes frames of them.

    Args:
        producer_id: of this process, 63 bits.
        drops: counts what is no number; each frame reports its counts.

    Attributes:
        frame_bytes: how large a frame may be; for the next column or set.
    """

    def __init__(self, producer_id: int, drops: DropCounter) -> None:
        """Begin at sequence number 1."""
        self._producer_id = producer_id
        self._drops = drops
        self.frame_bytes = LANE_FRAME_BYTES
        self._sequence = 0
        self._columns: list[Column] = []
        self._columns_bytes = 0
        self._columns_events = 0
        self._events_encoded = 0
        self._reported: dict[str, int] = {}

    def add(self, series: bytes, second: int, values: list[float]) -> Iterable[EncodedFrame]:
        """Add the events of one series in one second, and return the frames that are full by that."""
        column = self._column(series, second, values)
        if column is None:
            return ()
        kept = column.values
        size = len(series) + _COLUMN_BYTES
        if not isinstance(kept, list):
            return self._append(column, column.count, size)
        # One whose series has a long name is as large as a frame may be anywhere.
        frame_bytes = self.frame_bytes if 2 * size < self.frame_bytes else FRONT_DOOR_FRAME_BYTES
        most = min(MAX_COLUMN_VALUES, (frame_bytes - size) // _VALUE_BYTES)
        if len(kept) <= most:
            return self._append(column, len(kept), size + _VALUE_BYTES * len(kept))
        frames: list[EncodedFrame] = []
        for start in range(0, len(kept), most):
            part = kept[start : start + most]
            part_bytes = size + _VALUE_BYTES * len(part)
            frames.extend(self._append(Column(series, second, part), len(part), part_bytes))
        return frames

    def finish(self) -> Iterable[EncodedFrame]:
        """Return the frame of what is collected, if anything is."""
        return (self._encode(),) if self._columns else ()

    def report(self) -> Iterable[EncodedFrame]:
        """Return a frame without columns if events were dropped since the last frame."""
        return (self._encode(),) if self._drops.counts() != self._reported else ()

    def clean(self, values: list[float], series: bytes) -> list[float]:
        """Return values as floats, without those that are no finite numbers, which are counted."""
        first, count = values[0], len(values)
        try:
            # As in `_column`: most counters count ones.
            if first == values[-1] and first == values[count >> 1] and values.count(first) == count:
                number = _to_number(first)
                if number is not None:
                    return [float(number)] * count
            else:
                types = set(map(type, values))
                numbers = values if types == _FLOAT else list(map(float, values)) if types <= _PLAIN else []
                if numbers and isfinite(sum(numbers)):
                    return numbers
        except Exception:  # noqa: BLE001, S110 - as in `_column`
            pass
        numbers = [float(number) for value in values if (number := _to_number(value)) is not None]
        if len(numbers) < len(values):
            self._drop(series, values, len(values) - len(numbers))
        return numbers

    def encode_sets(self, sets: Iterable[Folded]) -> Iterator[EncodedFrame]:
        """Yield frames of folded sets, each with as many as fit. Not while columns are collected."""
        collected: list[Folded] = []
        size = 0
        for each in sets:
            set_bytes = _SET_BYTES + len(each.series) + _measure(each.buckets)
            if collected and size + set_bytes > self.frame_bytes:
                yield self._encode_sets(collected)
                collected, size = [], 0
            collected.append(each)
            size += set_bytes
        if collected:
            yield self._encode_sets(collected)

    def _encode_sets(self, sets: list[Folded]) -> EncodedFrame:
        events = sum([each.count for each in sets])
        self._sequence += 1
        data = encode(FoldedFrame(self._producer_id, self._sequence, self._build_totals(), sets))
        self._events_encoded += events
        return EncodedFrame(data, events)

    def _column(self, series: bytes, second: int, values: list[float]) -> Column | None:
        """Return the column of `values`, without those that are no finite numbers; None when none is left."""
        count = len(values)
        first = values[0]
        try:
            # Most counters count ones: a column of equal values is one value and a count. Three looks tell
            # most others.
            if first == values[-1] and first == values[count >> 1] and values.count(first) == count:
                number = _to_number(first)
                if number is not None:
                    return Column(series, second, number, count)
            else:
                total: object = sum(values)
                if type(total) is int or (type(total) is float and isfinite(total)):
                    return Column(series, second, values)
        except Exception:  # noqa: BLE001, S110 - whatever the application recorded, it must not end the sender
            pass
        return self._clean(series, second, values)

    def _append(self, column: Column, events: int, size: int) -> Iterable[EncodedFrame]:
        full: Iterable[EncodedFrame] = ()
        if self._columns and self._columns_bytes + size > self.frame_bytes:
            full = (self._encode(),)
        self._columns.append(column)
        self._columns_bytes += size
        self._columns_events += events
        return full

    def _encode(self) -> EncodedFrame:
        columns, events = self._columns, self._columns_events
        self._columns, self._columns_bytes, self._columns_events = [], 0, 0
        self._sequence += 1
        try:
            data = self._build_frame(columns)
        except Exception:  # noqa: BLE001 - one value must not cost the others, nor end the sender
            # A value that sums like a number and yet is none that msgpack has: 70 bits, a fraction, a
            # subclass.
            cleaned: list[Column] = []
            for column in columns:
                if isinstance(column.values, list):
                    clean = self._clean(column.series, column.second, column.values)
                    cleaned.extend(() if clean is None else (clean,))
                else:
                    cleaned.append(column)
            events = sum(len(c.values) if isinstance(c.values, list) else c.count for c in cleaned)
            data = self._build_frame(cleaned)
        self._events_encoded += events
        return EncodedFrame(data, events)

    def _build_frame(self, columns: list[Column]) -> bytes:
        return encode(ColumnsFrame(self._producer_id, self._sequence, self._build_totals(), columns))

    def _build_totals(self) -> Totals:
        self._reported = self._drops.counts()
        return Totals(self._events_encoded, self._reported)

    def _clean(self, series: bytes, second: int, values: list[float]) -> Column | None:
        numbers = [number for value in values if (number := _to_number(value)) is not None]
        if len(numbers) < len(values):
            self._drop(series, values, len(values) - len(numbers))
        return Column(series, second, list(numbers)) if numbers else None

    def _drop(self, series: bytes, values: list[float], count: int) -> None:
        """Count values that are no numbers, and say what the first one is."""
        self._drops.add(DropReason.VALUE_INVALID, count)
        if self._drops.is_told(DropReason.VALUE_INVALID):
            return
        wrong: object = next((value for value in values if _to_number(value) is None), None)
        mistake = f"{decode_series(series).name!r} was given {_describe(wrong)}, which is no finite number"
        self._drops.explain(DropReason.VALUE_INVALID, mistake)


def _measure(buckets: Buckets | None) -> int:
    if buckets is None:
        return 0
    counts = len(buckets.positive_counts) + len(buckets.negative_counts)
    return _BUCKETS_BYTES + _VALUE_BYTES * counts


def _describe(value: object) -> str:
    """Return a value in a few words, whatever it is."""
    if type(value) in _NAMED:
        return repr(value[:_QUOTED] if isinstance(value, (str, bytes)) else value)
    try:
        return f"an object of type {type(value).__name__!s:.60}"
    except Exception:  # noqa: BLE001 - a class may be as odd as its objects
        return "an odd object"


def _to_number(value: object) -> float | None:
    """Return `value` as a number that msgpack has, or None when it is not finite or no number at all."""
    # Not isinstance for the first: an object may claim any class.
    if type(value) is int and _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
        return value
    try:
        if isinstance(value, (str, bytes, bytearray)):
            return None
        number = float(value)  # type: ignore[arg-type]
        return number if isfinite(number) else None
    except Exception:  # noqa: BLE001 - whatever the application recorded, it must not end the sender
        return None


__all__ = ["FRONT_DOOR_FRAME_BYTES", "LANE_FRAME_BYTES", "MAX_COLUMN_VALUES", "EncodedFrame", "Encoder"]
