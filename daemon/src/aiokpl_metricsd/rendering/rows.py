"""Snapshots -> JSON, one object a row: what the console and files show.

The objects carry everything that a snapshot does, buckets included, so that files of several daemons can be
merged later. Keys always come in the same order. A number that is not finite, which only the sum of huge
values can be, is null. Never raises: a snapshot that has no JSON form (text that is not Unicode) is handed
back.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.json import Encoder

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.rendering.quantile import quantiles
from aiokpl_metricsd.snapshot import MetricSnapshot

PERCENTILES = (0.5, 0.9, 0.99)

_ENCODER = Encoder()


class BucketsRow(Struct, frozen=True, gc=False):
    """`Buckets` as an object; on the wire they are an array."""

    scale: int
    zero_count: int
    positive_offset: int
    positive_counts: tuple[int, ...]
    negative_offset: int
    negative_counts: tuple[int, ...]


class Row(Struct, frozen=True):
    """One snapshot. Times are epoch seconds."""

    window_id: str
    name: str
    kind: MetricKind
    unit: str | None
    dimensions: dict[str, str]
    count: int
    sum: float
    min: float
    max: float
    last: float
    window_start: float
    window_end: float


class HistogramRow(Row, frozen=True):
    """One snapshot that has buckets."""

    p50: float
    p90: float
    p99: float
    histogram: BucketsRow


def build_row(snapshot: MetricSnapshot) -> Row:
    """Arrange a snapshot as it is printed."""
    buckets = snapshot.histogram
    head = (
        snapshot.window_id,
        snapshot.name,
        snapshot.kind,
        snapshot.unit,
        dict(snapshot.dimensions),
        snapshot.count,
        snapshot.sum,
        snapshot.min,
        snapshot.max,
        snapshot.last,
        snapshot.window_start,
        snapshot.window_end,
    )
    if buckets is None:
        return Row(*head)
    p50, p90, p99 = quantiles(buckets, PERCENTILES, low=snapshot.min, high=snapshot.max)
    return HistogramRow(*head, p50, p90, p99, _build_buckets(buckets))


def _build_buckets(buckets: Buckets) -> BucketsRow:
    return BucketsRow(
        buckets.scale,
        buckets.zero_count,
        buckets.positive_offset,
        buckets.positive_counts,
        buckets.negative_offset,
        buckets.negative_counts,
    )


def encode_row(snapshot: MetricSnapshot) -> bytes:
    """Encode one snapshot as one JSON object, without a line end.

    Raises:
        UnicodeEncodeError: a text holds lone surrogates.
    """
    return _ENCODER.encode(build_row(snapshot))


def encode_rows(snapshots: Sequence[MetricSnapshot]) -> tuple[bytes, list[MetricSnapshot]]:
    """Encode snapshots as lines.

    Returns:
        The lines, each ended by a line feed, and the snapshots that have no JSON form, which are not among
        them.
    """
    try:
        return _ENCODER.encode_lines([build_row(snapshot) for snapshot in snapshots]), []
    except (TypeError, ValueError):
        return _encode_apart(snapshots)


def _encode_apart(snapshots: Sequence[MetricSnapshot]) -> tuple[bytes, list[MetricSnapshot]]:
    lines: list[bytes] = []
    refused: list[MetricSnapshot] = []
    for snapshot in snapshots:
        try:
            lines.append(encode_row(snapshot) + b"\n")
        except (TypeError, ValueError):
            refused.append(snapshot)
    return b"".join(lines), refused


__all__ = ["PERCENTILES", "BucketsRow", "HistogramRow", "Row", "build_row", "encode_row", "encode_rows"]
