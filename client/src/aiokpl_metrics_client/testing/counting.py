"""Datagrams -> count, sum, min, max and last by series, made here: for where the daemon is not installed."""

from typing import Protocol

from msgspec import Struct

from aiokpl_metrics_client.testing.recording import decode_columns
from aiokpl_metrics_protocol import CATALOG, SUMMED_GAUGE, MetricKind, Series, decode_series

Key = tuple[str, tuple[tuple[str, str], ...]]


class RecordedSeries(Struct, frozen=True):
    """What was recorded of one series.

    Attributes:
        name: the metric's name.
        dimensions: `(key, value)` pairs, sorted.
        kind: as it was declared, or the KPL's; a counter where nobody declared one.
        unit: of the values, or None.
        count: events, at least 1.
        sum: of their values.
        min: the least value.
        max: the greatest value.
        last: the value that was recorded last; of a gauge with `merge="sum"`, the sum of each client's.
    """

    name: str
    dimensions: tuple[tuple[str, str], ...]
    kind: MetricKind
    unit: str | None
    count: int
    sum: float
    min: float
    max: float
    last: float


class Counting(Protocol):
    """Counts datagrams."""

    @property
    def origin(self) -> str:
        """What counts, in words."""
        ...

    def add(self, datagram: bytes) -> None:
        """Count the events of a datagram."""
        ...

    def read(self) -> list[RecordedSeries]:
        """Return what was counted, in any order."""
        ...

    def reset(self) -> None:
        """Begin anew."""
        ...


class OwnCounting:
    """Counts as the daemon does, and knows the kinds and units of the KPL's names as it does."""

    origin = "the test kit itself"

    def __init__(self) -> None:
        """Start with nothing."""
        self._series: dict[Key, RecordedSeries] = {}
        self._last_seconds: dict[Key, int] = {}
        # Of summed gauges, the last value of each client.
        self._shares: dict[Key, dict[int, float]] = {}

    def add(self, datagram: bytes) -> None:
        """Count the events of a datagram."""
        frame = decode_columns(datagram)
        for column in frame.columns:
            values = column.values if isinstance(column.values, list) else [column.values]
            count = len(values) if isinstance(column.values, list) else column.count
            total = sum(values) if isinstance(column.values, list) else column.values * count
            series = decode_series(column.series)
            key = (series.name, series.dimensions)
            known = self._series.get(key) or _build(series, float(values[0]))
            is_newer = column.second >= self._last_seconds.get(key, column.second)
            if is_newer:
                self._last_seconds[key] = column.second
            last = float(values[-1]) if is_newer else known.last
            if key in self._shares or (known.count == 0 and _is_summed(series, known)):
                shares = self._shares.setdefault(key, {})
                shares[frame.producer_id] = float(values[-1])
                last = sum(sorted(shares.values()))
            self._series[key] = RecordedSeries(
                known.name,
                known.dimensions,
                known.kind,
                series.unit if known.unit is None else known.unit,
                known.count + count,
                known.sum + total,
                min(known.min, float(min(values))),
                max(known.max, float(max(values))),
                last,
            )

    def read(self) -> list[RecordedSeries]:
        """Return what was counted."""
        return list(self._series.values())

    def reset(self) -> None:
        """Begin anew."""
        self._series.clear()
        self._last_seconds.clear()
        self._shares.clear()


def _is_summed(series: Series, known: RecordedSeries) -> bool:
    # Who says that it is a gauge does not say how gauges are merged.
    return series.kind == SUMMED_GAUGE and known.kind is MetricKind.GAUGE


def _build(series: Series, first: float) -> RecordedSeries:
    """Return a series without an event."""
    known = CATALOG.get(series.name)
    declared = MetricKind.GAUGE if series.kind == SUMMED_GAUGE else series.kind
    kind = MetricKind(declared or MetricKind.COUNTER) if known is None else known.kind
    unit = series.unit if known is None or known.unit is None else known.unit
    return RecordedSeries(series.name, series.dimensions, kind, unit, 0, 0.0, first, first, first)


__all__ = ["Counting", "Key", "OwnCounting", "RecordedSeries"]
