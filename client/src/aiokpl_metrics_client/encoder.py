"""Buffers -> frames. A column a series and second; numbers and totals so that the daemon knows what it missed."""

from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple

from aiokpl_metrics_protocol import Column, ColumnsFrame, ProtocolError, Totals, encode

from aiokpl_metrics_client.statistics import DropReason

# Large frames make the syscall cheap per event; the kernel's queue holds eleven datagrams whatever their size.
# The estimate below never falls short, so that a frame stays under the protocol's 65,536 bytes.
TARGET_FRAME_BYTES = 60_000

# A column of more values is split: 4,096 floats of nine bytes are 37 KB.
MAX_COLUMN_VALUES = 4_096

# msgpack's headers of a column and of its parts, at their largest.
_COLUMN_BYTES = 40
_VALUE_BYTES = 9

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
    """

    def __init__(self, producer_id: int) -> None:
        """Begin at sequence number 1."""
        self._producer_id = producer_id
        self._sequence = 0
        self._columns: list[Column] = []
        self._columns_bytes = 0
        self._columns_events = 0
        self.events_encoded = 0
        self.dropped: dict[str, int] = {}

    def drop(self, reason: DropReason, count: int) -> None:
        """Count events that never come into a frame; the next frame reports them."""
        self.dropped[reason.value] = self.dropped.get(reason.value, 0) + count

    def add(self, series: bytes, second: int, values: list[float]) -> Iterable[EncodedFrame]:
        """Add the events of one series in one second, and return the frames that are full by that."""
        column = self._column(series, second, values)
        if column is None:
            return ()
        kept = column.values
        if not isinstance(kept, list):
            return self._append(column, column.count, len(series) + _COLUMN_BYTES)
        if len(kept) <= MAX_COLUMN_VALUES:
            return self._append(column, len(kept), len(series) + _COLUMN_BYTES + _VALUE_BYTES * len(kept))
        frames: list[EncodedFrame] = []
        for start in range(0, len(kept), MAX_COLUMN_VALUES):
            part = kept[start : start + MAX_COLUMN_VALUES]
            size = len(series) + _COLUMN_BYTES + _VALUE_BYTES * len(part)
            frames.extend(self._append(Column(series, second, part), len(part), size))
        return frames

    def finish(self) -> Iterable[EncodedFrame]:
        """Return the frame of what is collected, if anything is."""
        return (self._encode(),) if self._columns else ()

    def _column(self, series: bytes, second: int, values: list[float]) -> Column | None:
        """Return the column of `values`, without those that are no finite numbers; None when none is left."""
        count = len(values)
        first = values[0]
        try:
            # Most counters count ones: a column of equal values is one value and a count. Three looks tell most
            # others.
            if first == values[-1] and first == values[count >> 1] and values.count(first) == count:
                number = _to_number(first)
                if number is not None:
                    return Column(series, second, number, count)
            else:
                total = sum(values)
                if total.__class__ is int or (total.__class__ is float and isfinite(total)):
                    return Column(series, second, values)
        except Exception:  # noqa: BLE001, S110 - whatever the application recorded, it must not end the sender
            pass
        numbers = [number for value in values if (number := _to_number(value)) is not None]
        if len(numbers) < count:
            self.drop(DropReason.VALUE_INVALID, count - len(numbers))
        return Column(series, second, list(numbers)) if numbers else None

    def _append(self, column: Column, events: int, size: int) -> Iterable[EncodedFrame]:
        full = ()
        if self._columns and self._columns_bytes + size > TARGET_FRAME_BYTES:
            full = (self._encode(),)
        self._columns.append(column)
        self._columns_bytes += size
        self._columns_events += events
        return full

    def _encode(self) -> EncodedFrame:
        columns, events = self._columns, self._columns_events
        self._columns, self._columns_bytes, self._columns_events = [], 0, 0
        self._sequence += 1
        totals = Totals(self.events_encoded, dict(self.dropped))
        try:
            data = encode(ColumnsFrame(self._producer_id, self._sequence, totals, columns))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, ProtocolError):
                raise
            # A value that sums like a number and yet is none that msgpack has: an integer of 70 bits, a fraction.
            columns = [cleaned for column in columns if (cleaned := self._clean(column)) is not None]
            events = sum(len(c.values) if isinstance(c.values, list) else c.count for c in columns)
            totals = Totals(self.events_encoded, dict(self.dropped))
            data = encode(ColumnsFrame(self._producer_id, self._sequence, totals, columns))
        self.events_encoded += events
        return EncodedFrame(data, events)

    def _clean(self, column: Column) -> Column | None:
        values = column.values
        if not isinstance(values, list):
            return column
        numbers = [number for value in values if (number := _to_number(value)) is not None]
        if len(numbers) < len(values):
            self.drop(DropReason.VALUE_INVALID, len(values) - len(numbers))
        return Column(column.series, column.second, list(numbers)) if numbers else None


def _to_number(value: object) -> float | None:
    """Return `value` as a number that msgpack has, or None when it is not finite or no number at all."""
    if value.__class__ is int and _LEAST_INTEGER <= value <= _GREATEST_INTEGER:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if isinstance(value, (str, bytes, bytearray)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - whatever the application recorded, it must not end the sender
        return None
    return number if isfinite(number) else None


__all__ = ["MAX_COLUMN_VALUES", "TARGET_FRAME_BYTES", "EncodedFrame", "Encoder"]
