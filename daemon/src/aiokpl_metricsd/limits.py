"""What a folded statistic set must satisfy to be counted; a set that does not costs only itself."""

from math import isfinite

from aiokpl_metrics_protocol import MAX_BUCKETS, MAX_COLUMN_COUNT, Buckets, Folded, Reason

# OpenTelemetry's data model has scales from -10 to 20 (metrics data model, read 2026-11).
_LOWEST_SCALE = -10
_HIGHEST_SCALE = 20

# Doubles lie between 2**-1074 and 2**1024: at scale 0 no bucket's index is beyond that.
_MAX_EXPONENT = 1_075


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
    bound = _MAX_EXPONENT * 2 ** max(buckets.scale, 0)
    for offset, counts in (
        (buckets.positive_offset, buckets.positive_counts),
        (buckets.negative_offset, buckets.negative_counts),
    ):
        if len(counts) > MAX_BUCKETS or abs(offset) > bound:
            return False
    return buckets.zero_count + sum(buckets.positive_counts) + sum(buckets.negative_counts) == count


__all__ = ["check_folded"]
