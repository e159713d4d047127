"""Snapshots <-> blobs of at most a thousand: MessagePack arrays, what a window's snapshots share once.

A blob is a list of `[[window_start, window_end, window_id], rows]`, one for each run of snapshots of the same
window, with a checksum in front. Its layout is a matter of the database's version: nothing else reads it.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

import msgspec
from msgspec import Struct

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.checksum import DamagedBlobError, add_checksum, strip_checksum

# Rows of a database cost five times as much as blobs (measured, 2025-11). Encoding one takes about a
# millisecond, for which no other thread runs.
BLOB_SNAPSHOTS = 1_000

_get_window = attrgetter("window_start", "window_end", "window_id")
# In the order of `_Row`. The getter makes its tuples in C.
_get_row = attrgetter("name", "count", "sum", "min", "max", "dimensions", "kind", "unit", "last", "histogram")


class _Row(Struct, frozen=True, array_like=True, gc=False):
    name: str
    count: int
    sum: int | float
    min: int | float
    max: int | float
    dimensions: tuple[tuple[str, str], ...]
    kind: MetricKind
    unit: str | None
    last: int | float
    histogram: Buckets | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[tuple[float, float, str], list[_Row]]])


def encode_blobs(batch: Sequence[MetricSnapshot]) -> Iterator[bytes]:
    """Return the blobs of a batch, one at a time."""
    for start in range(0, len(batch), BLOB_SNAPSHOTS):
        yield encode_blob(batch[start : start + BLOB_SNAPSHOTS])


def encode_blob(snapshots: Sequence[MetricSnapshot]) -> bytes:
    """Return one blob."""
    runs = [(window, list(map(_get_row, run))) for window, run in groupby(snapshots, _get_window)]
    return add_checksum(_encoder.encode(runs))


def decode_blob(blob: bytes) -> list[MetricSnapshot]:
    """Return the snapshots of a blob.

    Raises:
        DamagedBlobError: it is not what was encoded.
    """
    try:
        runs = _decoder.decode(strip_checksum(blob))
    except msgspec.DecodeError as error:
        raise DamagedBlobError(str(error)) from error
    return [
        MetricSnapshot(
            row.name,
            row.count,
            row.sum,
            row.min,
            row.max,
            row.dimensions,
            start,
            end,
            row.kind,
            row.unit,
            row.last,
            row.histogram,
            window_id,
        )
        for (start, end, window_id), rows in runs
        for row in rows
    ]


__all__ = ["BLOB_SNAPSHOTS", "decode_blob", "encode_blob", "encode_blobs"]
