"""Totals of the page <-> bytes, so that a restart is no reset.

What is dumped are the totals of closed windows alone. What was seen of open ones is not: the daemon opens
these windows again, with every event that was in them, so the page shows at least what it showed before.
"""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.open_windows import SeriesKey
from aiokpl_metricsd.sinks.prometheus.family import Series

_VERSION = 1

# Encoded in one go, with the interpreter held: half a millisecond.
_SLICE_SERIES = 500


class StoredSeries(Struct, array_like=True, frozen=True, gc=False):
    """One series and its totals; the fields of `Series`, and the unit of its family."""

    key: SeriesKey
    kind: MetricKind
    unit: str | None
    created: float
    active: float
    count: int
    sum: float
    last: float
    is_signed: bool
    counts: tuple[int, ...] | None
    taken: str
    taken_end: float


class _Dump(Struct, array_like=True, frozen=True):
    version: int
    bounds: tuple[str, ...]
    parts: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode_dump = msgspec.msgpack.Decoder(_Dump).decode
_decode_part = msgspec.msgpack.Decoder(list[StoredSeries]).decode


def encode_totals(series: Sequence[tuple[Series, str | None]], bounds: Sequence[str]) -> bytes:
    """Return the totals of series, each with its family's unit. Any thread may ask.

    Args:
        series: with the units.
        bounds: of their counts, as they are written.
    """
    parts = [
        _encode([_store(each, unit) for each, unit in series[start : start + _SLICE_SERIES]])
        for start in range(0, len(series), _SLICE_SERIES)
    ]
    return _encode(_Dump(_VERSION, tuple(bounds), parts))


def decode_totals(data: bytes, bounds: Sequence[str]) -> Iterator[StoredSeries]:
    """Return what was encoded. Histograms of other bounds are left out: their counts fit no more.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        dump = _decode_dump(data)
        parts = [_decode_part(part) for part in dump.parts]
    except msgspec.MsgspecError as error:
        raise ValueError(f"the totals do not decode: {error}") from None
    if dump.version != _VERSION:
        raise ValueError(f"the totals are of version {dump.version}, not {_VERSION}")
    is_same = dump.bounds == tuple(bounds)
    return (each for part in parts for each in part if is_same or each.kind is not MetricKind.HISTOGRAM)


def _store(series: Series, unit: str | None) -> StoredSeries:
    return StoredSeries(
        series.key,
        series.kind,
        unit,
        float(series.created),
        series.active,
        series.count,
        series.sum,
        series.last,
        series.is_signed,
        series.counts,
        series.taken,
        series.taken_end,
    )


__all__ = ["StoredSeries", "decode_totals", "encode_totals"]
