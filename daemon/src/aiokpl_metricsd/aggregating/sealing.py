"""Open windows -> blobs for a checkpoint, and back.

To seal is to set each open window's dictionary aside whole and to begin another: nothing is copied, and the
event loop is held for as long as that takes for at most 64 windows. What is set aside is not changed until it
is unsealed, so that another thread may encode it. Whatever was counted since is later, so that unsealing adds
it up in any order and at any time: a series that is not in the live part moves there as it is.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec import MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from aiokpl_metrics_protocol import SUMMED_GAUGE, Series
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.aggregating.registry import Entry, Registry
from aiokpl_metricsd.aggregating.statistics import Share, Statistics
from aiokpl_metricsd.aggregating.windows import Window

# Stands first in each blob.
_VERSION = 1


class SealedWindow(Struct, frozen=True):
    """What an open window held at the moment it was sealed.

    Attributes:
        number: of the window.
        start: epoch second, included.
        end: epoch second, excluded.
        events: in it.
        statistics: by series; valid until the window is unsealed, and not to be changed.
    """

    number: int
    start: int
    end: int
    events: int
    statistics: dict[Entry, Statistics]


class SealedSeries(Struct, frozen=True, gc=False):
    """One series of a sealed window.

    Attributes:
        series: name, kind, unit and dimensions.
        overflow: it holds the events of other series of its name.
        statistics: what the window holds of it.
    """

    series: Series
    overflow: bool
    statistics: Statistics


class _StoredStatistics(Struct, array_like=True, gc=False):
    """The fields of `Statistics`. A true that was sent as a value is one here, and becomes 1.0."""

    count: int
    sum: float | bool
    min: float | bool
    max: float | bool
    last: float | bool
    last_second: int
    histogram: Histogram | None
    shares: dict[int, Share] | None = None


class _Stored(Struct, array_like=True, gc=False):
    """A series as it is encoded."""

    name: str
    kind: str
    unit: str | None
    dimensions: tuple[tuple[str, str], ...]
    overflow: bool
    statistics: _StoredStatistics
    is_summed: bool = False


_encoder = Encoder()
_decoder = Decoder(tuple[int, list[_Stored]])


def encode_sealed(window: SealedWindow, slice_series: int) -> Iterator[bytes]:
    """Return a sealed window's series, `slice_series` at most in a blob. Any thread may ask, repeatedly."""
    remaining = iter(window.statistics.items())
    while part := [
        (
            entry.name,
            entry.kind,
            entry.unit,
            entry.dimensions,
            entry.overflow,
            statistics,
            entry.is_summed,
        )
        for entry, statistics in islice(remaining, slice_series)
    ]:
        yield _encoder.encode((_VERSION, part))


def decode_sealed(blob: bytes) -> list[SealedSeries]:
    """Return the series of a blob.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    try:
        version, part = _decoder.decode(blob)
    except MsgspecError as error:
        raise ValueError(f"what an open window held does not decode: {error}") from None
    if version != _VERSION:
        raise ValueError(f"what an open window held is of version {version}, not {_VERSION}")
    return [
        SealedSeries(
            Series(each.name, SUMMED_GAUGE if each.is_summed else each.kind, each.unit, each.dimensions),
            each.overflow,
            _build_statistics(each.statistics),
        )
        for each in part
    ]


def fill_window(window: Window, series: Iterable[SealedSeries], registry: Registry) -> None:
    """Put series into a window that was restored, as what they are under this daemon's configuration."""
    for each in series:
        entry = registry.restore(each.series, overflow=each.overflow)
        statistics = each.statistics
        statistics.convert(entry.kind, is_summed=entry.is_summed)
        known = window.statistics.setdefault(entry, statistics)
        if known is not statistics:
            # Two series that are one now.
            known.add_earlier(statistics)
        entry.statistics, entry.window_key = known, window.key


def unseal(window: Window, slice_series: int) -> Iterator[int]:
    """Put back into a window what was set aside, `slice_series` series at a time.

    Yields:
        How many shares of summed gauges there were twice, and are once now.
    """
    sealed = window.sealed
    if sealed is None:
        return
    while sealed:
        live, key, sealed_key = window.statistics, window.key, window.sealed_key
        twice = 0
        for _ in range(min(slice_series, len(sealed))):
            entry, earlier = sealed.popitem()
            later = live.get(entry)
            if later is not None:
                twice += later.count_shares() + earlier.count_shares()
                later.add_earlier(earlier)
                twice -= later.count_shares()
                continue
            live[entry] = earlier
            if entry.window_key == sealed_key:
                entry.window_key = key
        yield twice
    window.sealed = None
    window.sealed_key = window.key


def _build_statistics(stored: _StoredStatistics) -> Statistics:
    return Statistics(
        stored.count,
        stored.sum + 0.0,
        stored.min + 0.0,
        stored.max + 0.0,
        stored.last + 0.0,
        stored.last_second,
        stored.histogram,
        stored.shares,
    )


__all__ = ["SealedSeries", "SealedWindow", "decode_sealed", "encode_sealed", "fill_window", "unseal"]
