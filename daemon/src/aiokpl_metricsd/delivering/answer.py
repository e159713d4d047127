"""A sink's answer to one batch -> what was taken, what goes again, what nobody knows. Pure."""

from collections.abc import Sequence
from itertools import chain

from msgspec import Struct

from aiokpl_metricsd.errors import ExportError, PartialExportError, RetryableExportError
from aiokpl_metricsd.snapshot import MetricSnapshot

Batch = Sequence[MetricSnapshot]


class Effect(Struct, frozen=True):
    """What follows from an answer.

    Attributes:
        delivered_count: snapshots that the backend took.
        quarantined: snapshots that are refused for good.
        pause: whether to wait before the next batch.
    """

    delivered_count: int = 0
    quarantined: Batch = ()
    pause: bool = False


class Outcome(Struct):
    """What became of a part since it was last asked for.

    Attributes:
        part: its index.
        delivered: snapshots that the backend took.
        quarantined: snapshots that are refused for good.
        uncertain: snapshots that were tried once, and may not be tried again.
        unreadable: snapshots that the outbox could not give back.
        remaining: what still waits; empty where the part is done.
    """

    part: int
    delivered: int = 0
    quarantined: int = 0
    uncertain: int = 0
    unreadable: int = 0
    remaining: Batch = ()


def match_partial(batch: Batch, error: PartialExportError) -> tuple[Batch, Batch]:
    """Return which snapshots of the batch are remaining, and which are rejected.

    Only what is in the batch counts, and only once; what is in both lists is rejected. A sink may answer with
    copies: they are recognised by name and dimensions, which differ within a window.
    """
    known = {id(snapshot) for snapshot in batch}
    if all(id(snapshot) in known for snapshot in chain(error.rejected, error.remaining)):
        rejected_ids = {id(snapshot) for snapshot in error.rejected}
        remaining_ids = {id(snapshot) for snapshot in error.remaining} - rejected_ids
        return (
            [snapshot for snapshot in batch if id(snapshot) in remaining_ids],
            [snapshot for snapshot in batch if id(snapshot) in rejected_ids],
        )
    rejected = {(snapshot.name, snapshot.dimensions) for snapshot in error.rejected}
    remaining = {(snapshot.name, snapshot.dimensions) for snapshot in error.remaining} - rejected
    return (
        [snapshot for snapshot in batch if (snapshot.name, snapshot.dimensions) in remaining],
        [snapshot for snapshot in batch if (snapshot.name, snapshot.dimensions) in rejected],
    )


def find_uncertain(batch: Batch, error: BaseException) -> Batch:
    """Return which snapshots the backend may have taken although it did not say so."""
    if isinstance(error, PartialExportError):
        return error.uncertain
    if isinstance(error, RetryableExportError):
        return batch if error.is_ambiguous else ()
    return () if isinstance(error, ExportError) else batch


def read_retry_after_s(error: BaseException | None) -> float | None:
    """Return how long the backend asks to wait, None where it does not say."""
    return error.retry_after_s if isinstance(error, (RetryableExportError, PartialExportError)) else None


__all__ = ["Batch", "Effect", "Outcome", "find_uncertain", "match_partial", "read_retry_after_s"]
