"""Two snapshots -> one that says what both said. Totals are kept; distributions merge exactly.

Merging is associative: whatever the order in which parts are put together, count, sum, min, max, buckets and
scale are the same, as far as sums of floats are. `last` is not a total: the later window's holds, of one
window the last seen. Of summed gauges in one window it is one, and so is all else that they say.
"""

from operator import add
from sys import float_info

from msgspec.structs import replace

from aiokpl_metrics_protocol import MAX_BUCKETS, Buckets, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.snapshot import MetricSnapshot

# Index of the first bucket, and the counts from there on.
_Side = tuple[int, tuple[int, ...]]


def merge_buckets(first: Buckets, second: Buckets) -> Buckets:
    """Return the distribution of the values of both.

    The scale is the lower of the two, or as much lower as it takes for each side to have at most
    `MAX_BUCKETS`.
    """
    scale = min(first.scale, second.scale)
    first_shift, second_shift = first.scale - scale, second.scale - scale
    positives = (
        _lower((first.positive_offset, first.positive_counts), first_shift),
        _lower((second.positive_offset, second.positive_counts), second_shift),
    )
    negatives = (
        _lower((first.negative_offset, first.negative_counts), first_shift),
        _lower((second.negative_offset, second.negative_counts), second_shift),
    )
    # Lowered before they are added: far apart, they would span millions of buckets.
    shift = max(_excess(*positives), _excess(*negatives))
    positive = _add(_lower(positives[0], shift), _lower(positives[1], shift))
    negative = _add(_lower(negatives[0], shift), _lower(negatives[1], shift))
    return Buckets(
        scale=scale - shift,
        zero_count=first.zero_count + second.zero_count,
        positive_offset=positive[0],
        positive_counts=positive[1],
        negative_offset=negative[0],
        negative_counts=negative[1],
    )


def merge_snapshots(first: MetricSnapshot, second: MetricSnapshot) -> MetricSnapshot:
    """Return one snapshot with the totals of both, named and dimensioned as the first.

    Its window spans both. `last` is that of the snapshot whose window ends later, of one window the second's.
    Kind and unit are the first's, as wherever declarations differ; a histogram then takes the values of a
    snapshot without buckets at their mean, so that buckets and count agree. Of summed gauges in one window
    the values add up, and the count is that of one of them.
    """
    if first.is_summed and second.is_summed and first.window_end == second.window_end:
        return _add_summed(first, second)
    later = second if second.window_end >= first.window_end else first
    return MetricSnapshot(
        first.name,
        first.count + second.count,
        first.sum + second.sum,
        min(first.min, second.min),
        max(first.max, second.max),
        first.dimensions,
        min(first.window_start, second.window_start),
        later.window_end,
        first.kind,
        first.unit,
        later.last,
        None if first.kind is not MetricKind.HISTOGRAM else merge_buckets(_buckets(first), _buckets(second)),
        first.window_id,
        first.is_summed,
    )


def _add_summed(first: MetricSnapshot, second: MetricSnapshot) -> MetricSnapshot:
    most = float_info.max
    sums = (
        first.sum + second.sum,
        first.min + second.min,
        first.max + second.max,
        first.last + second.last,
    )
    total, low, high, last = [min(max(-most, each), most) for each in sums]
    return replace(first, count=max(first.count, second.count), sum=total, min=low, max=high, last=last)


def _buckets(snapshot: MetricSnapshot) -> Buckets:
    if snapshot.histogram is not None:
        return snapshot.histogram
    histogram = Histogram()
    mean = snapshot.sum / snapshot.count
    histogram.add_same(min(max(mean, snapshot.min), snapshot.max), snapshot.count)
    return histogram.freeze()


def _lower(side: _Side, shift: int) -> _Side:
    """Return the side at a scale lower by `shift`: two neighbours become one, each time."""
    offset, counts = side
    if not counts:
        return 0, ()
    for _ in range(shift):
        if offset & 1:
            counts = (0, *counts)
        if len(counts) & 1:
            counts = (*counts, 0)
        counts = tuple(map(add, counts[::2], counts[1::2]))
        offset >>= 1
    return offset, counts


def _excess(first: _Side, second: _Side) -> int:
    """Return by how much the scale must fall for both sides together to span at most `MAX_BUCKETS`."""
    if not first[1] or not second[1]:
        low, counts = first if first[1] else second
        high = low + len(counts) - 1
    else:
        low = min(first[0], second[0])
        high = max(first[0] + len(first[1]), second[0] + len(second[1])) - 1
    shift = 0
    while (high >> shift) - (low >> shift) >= MAX_BUCKETS:
        shift += 1
    return shift


def _add(first: _Side, second: _Side) -> _Side:
    if not first[1]:
        return second
    if not second[1]:
        return first
    low = min(first[0], second[0])
    high = max(first[0] + len(first[1]), second[0] + len(second[1]))
    return low, tuple(map(add, _pad(first, low, high), _pad(second, low, high)))


def _pad(side: _Side, low: int, high: int) -> tuple[int, ...]:
    offset, counts = side
    before, after = offset - low, high - offset - len(counts)
    return counts if before == after == 0 else (0,) * before + counts + (0,) * after


__all__ = ["merge_buckets", "merge_snapshots"]
