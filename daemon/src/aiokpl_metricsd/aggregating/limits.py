"""What a folded statistic set must satisfy to be counted; a set that does not costs only itself."""

from math import isfinite

from aiokpl_metrics_protocol import MAX_BUCKETS, MAX_COLUMN_COUNT, Buckets, Folded, Reason

# OpenTelemetry's data model has scales from -10 to 20 (metrics data model, read 2026-11).
_LOWEST_SCALE = -10
_HIGHEST_SCALE = 20

# Doubles lie between 2**-1074 and 2**1024: at scale 0 they fall into the buckets -1075 to 1023, or one
# further where a producer's logarithm was rounded.
_FIRST_BUCKET = -1_075
_LAST_BUCKET = 1_024


def check_folded(folded: Folded) -> Reason | None:
    """Return why a statistic set is refused, or None when it is not."""
    if not 1 <= folded.count <= MAX_COLUMN_COUNT:
        return Reason.COUNT_OUT_OF_RANGE
    if not (isfinite(folded.sum) and isfinite(folded.min) and isfinite(folded.max)):
        return Reason.VALUE_NOT_FINITE
    if not folded.min <= folded.last <= folded.max:
        return Reason.STATISTICS_INCONSISTENT
    if folded.buckets is not None and not _are_consistent(folded.buckets, folded.count):
        return Reason.STATISTICS_INCONSISTENT
    return None


def _are_consistent(buckets: Buckets, count: int) -> bool:
    if not _LOWEST_SCALE <= buckets.scale <= _HIGHEST_SCALE:
        return False
    first, last = _shift(_FIRST_BUCKET, buckets.scale), _shift(_LAST_BUCKET, buckets.scale)
    for offset, counts in (
        (buckets.positive_offset, buckets.positive_counts),
        (buckets.negative_offset, buckets.negative_counts),
    ):
        if len(counts) > MAX_BUCKETS:
            return False
        if counts and not first <= offset <= offset + len(counts) - 1 <= last:
            return False
    return buckets.zero_count + sum(buckets.positive_counts) + sum(buckets.negative_counts) == count


def _shift(bucket: int, scale: int) -> int:
    """Return the first bucket at `scale` of those that make up `bucket` of scale 0, or the one it is in."""
    return bucket << scale if scale >= 0 else bucket >> -scale


__all__ = ["check_folded"]
