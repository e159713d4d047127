"""Series out of rows -> what a sink says they cost. Pure.

The rows are those that the sink `jsonl` writes (`rows`). Every series of the file counts as if it were in
every window, so an estimate is an upper bound for what is written there. What the backend charges is known to
its sink alone: one that knows has a method `estimate`.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.rendering.rows import BucketsRow
from aiokpl_metricsd.snapshot import MetricSnapshot


@runtime_checkable
class EstimatingSink(Protocol):
    """A sink that knows what its backend charges."""

    def estimate(self, snapshots: Sequence[MetricSnapshot], interval_s: float) -> Sequence[str]:
        """Say in a few lines what one such window after the other costs a month.

        Args:
            snapshots: a window, as the sink would see it, with every series once.
            interval_s: the length of the sink's windows in seconds.
        """
        ...


class _Row(Struct, frozen=True, gc=False):
    """What an estimate needs of a row; a number that was not finite is null."""

    name: str
    count: int
    sum: float | None
    min: float | None
    max: float | None
    kind: MetricKind = MetricKind.COUNTER
    unit: str | None = None
    dimensions: dict[str, str] = {}
    histogram: BucketsRow | None = None


_DECODER = Decoder(_Row)


def decode_series(lines: Iterable[bytes]) -> list[MetricSnapshot]:
    """Return one snapshot, without a time, of each series in the rows: the last one.

    Raises:
        ValueError: a line is no row; the message has its number.
    """
    series: dict[tuple[str, tuple[tuple[str, str], ...]], MetricSnapshot] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            snapshot = _decode_row(line)
        except DecodeError as error:
            raise ValueError(f"line {number}: {error}") from None
        series[snapshot.name, snapshot.dimensions] = snapshot
    return list(series.values())


def estimate(
    sink: EstimatingSink,
    selection: Selection,
    series: Sequence[MetricSnapshot],
    interval_s: float,
) -> Sequence[str]:
    """Return what the sink says of the series, as many of them as it would see."""
    return sink.estimate(selection.select(series).snapshots, interval_s)


def _decode_row(line: bytes) -> MetricSnapshot:
    row = _DECODER.decode(line)
    buckets = row.histogram
    return MetricSnapshot(
        row.name,
        row.count,
        row.sum or 0.0,
        row.min or 0.0,
        row.max or 0.0,
        tuple(sorted(row.dimensions.items())),
        kind=row.kind,
        unit=row.unit,
        histogram=None
        if buckets is None
        else Buckets(
            buckets.scale,
            buckets.zero_count,
            buckets.positive_offset,
            buckets.positive_counts,
            buckets.negative_offset,
            buckets.negative_counts,
        ),
    )


__all__ = ["EstimatingSink", "decode_series", "estimate"]
