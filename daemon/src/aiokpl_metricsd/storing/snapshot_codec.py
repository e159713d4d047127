"""Snapshots <-> blobs of at most a thousand: MessagePack arrays, what a window's snapshots share once.

A blob is a list of `[[window_start, window_end, window_id], columns]`, one for each run of snapshots of the
same window, compressed, with a checksum in front. Columns, since the snapshots are then made again without a
loop in Python. The layout is a matter of the database's version: nothing else reads it.
"""

import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby, repeat
from operator import attrgetter

import msgspec
from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.checksum import DamagedBlobError, add_checksum, strip_checksum

# Rows of a database cost five times as much as blobs (measured, 2025-11). Encoding one takes about a
# millisecond, for which no other thread runs.
BLOB_SNAPSHOTS = 1_000

# Of 11 MB for 100,000 snapshots this leaves 1 MB where the values are regular, for 50 ms that SQLite saves
# again, and 4.4 MB where they are random, for 170 ms. Other threads run meanwhile.
_COMPRESSION = 1

_get_window = attrgetter("window_start", "window_end", "window_id")
# In the order of `_Columns`. The getter makes its tuples in C.
_get_row = attrgetter("name", "count", "sum", "min", "max", "dimensions", "kind", "unit", "last", "histogram")
_is_summed = attrgetter("is_summed")


class _Columns(Struct, frozen=True, array_like=True, gc=False):
    names: list[str]
    counts: list[int]
    sums: list[int | float]
    mins: list[int | float]
    maxs: list[int | float]
    dimensions: list[tuple[tuple[str, str], ...]]
    kinds: list[MetricKind]
    units: list[str | None]
    lasts: list[int | float]
    histograms: list[Buckets | None]
    # None where none is, which an earlier version wrote nothing for.
    are_summed: list[bool] | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[tuple[float, float, str], _Columns]])


def encode_blobs(batch: Sequence[MetricSnapshot]) -> Iterator[bytes]:
    """Return the blobs of a batch, one at a time."""
    for start in range(0, len(batch), BLOB_SNAPSHOTS):
        yield encode_blob(batch[start : start + BLOB_SNAPSHOTS])


def encode_blob(snapshots: Sequence[MetricSnapshot]) -> bytes:
    """Return one blob."""
    runs = [(window, _encode_run(tuple(run))) for window, run in groupby(snapshots, _get_window)]
    return add_checksum(zlib.compress(_encoder.encode(runs), _COMPRESSION))


def decode_blob(blob: bytes) -> list[MetricSnapshot]:
    """Return the snapshots of a blob.

    Raises:
        DamagedBlobError: it is not what was encoded.
    """
    try:
        runs = _decoder.decode(zlib.decompress(strip_checksum(blob)))
    except (msgspec.DecodeError, zlib.error) as error:
        raise DamagedBlobError(str(error)) from error
    snapshots: list[MetricSnapshot] = []
    for (start, end, window_id), columns in runs:
        snapshots += map(
            MetricSnapshot,
            columns.names,
            columns.counts,
            columns.sums,
            columns.mins,
            columns.maxs,
            columns.dimensions,
            repeat(start),
            repeat(end),
            columns.kinds,
            columns.units,
            columns.lasts,
            columns.histograms,
            repeat(window_id),
            repeat(False) if columns.are_summed is None else columns.are_summed,  # noqa: FBT003 - a column
        )
    return snapshots


def _encode_run(run: tuple[MetricSnapshot, ...]) -> tuple[tuple[object, ...], ...]:
    columns = tuple(zip(*map(_get_row, run), strict=True))
    are_summed = tuple(map(_is_summed, run))
    return (*columns, are_summed) if any(are_summed) else columns


__all__ = ["BLOB_SNAPSHOTS", "decode_blob", "encode_blob", "encode_blobs"]
