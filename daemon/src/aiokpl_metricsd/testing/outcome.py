"""One export -> what became of each snapshot, as delivery will believe it."""

from collections.abc import Sequence
from typing import NamedTuple

from aiokpl_metricsd.delivering.answer import match_partial
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.snapshot import MetricSnapshot


class Outcome(NamedTuple):
    """What became of an export.

    Attributes:
        taken: delivered, as the sink says.
        remaining: to be sent again.
        rejected: refused for good.
        error: what the sink raised, or None.
    """

    taken: Sequence[MetricSnapshot]
    remaining: Sequence[MetricSnapshot] = ()
    rejected: Sequence[MetricSnapshot] = ()
    error: Exception | None = None

    @property
    def said(self) -> str:
        """The error, for a message."""
        return "no error" if self.error is None else f"{type(self.error).__name__}: {self.error}"


async def attempt(sink: MetricsSink, snapshots: Sequence[MetricSnapshot]) -> Outcome:
    """Export once, and read the answer as delivery reads it.

    Raises:
        AssertionError: the answer names snapshots that were not exported, or one of them twice.
    """
    try:
        await sink.export(snapshots)
    except PartialExportError as error:
        _check_partial(snapshots, error)
        remaining, rejected = match_partial(snapshots, error)
        left = {id(snapshot) for snapshot in (*remaining, *rejected)}
        taken = [snapshot for snapshot in snapshots if id(snapshot) not in left]
        return Outcome(taken, remaining, rejected, error)
    except PermanentExportError as error:
        return Outcome((), (), snapshots, error)
    except RetryableExportError as error:
        return Outcome((), snapshots, (), error)
    except Exception as error:  # noqa: BLE001 - a sink may raise anything; that counts as retryable
        return Outcome((), snapshots, (), error)
    return Outcome(snapshots)


def _check_partial(snapshots: Sequence[MetricSnapshot], error: PartialExportError) -> None:
    known = {(snapshot.name, snapshot.dimensions) for snapshot in snapshots}
    named = [(snapshot.name, snapshot.dimensions) for snapshot in (*error.remaining, *error.rejected)]
    if not known.issuperset(named):
        raise AssertionError(f"a PartialExportError names what was not exported: {set(named) - known}")
    if len(set(named)) != len(named):
        raise AssertionError("a PartialExportError names a snapshot twice, or as remaining and rejected")


__all__ = ["Outcome", "attempt"]
