"""Snapshots -> a list, for tests and for programs that look at their own metrics."""

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Self

from msgspec import Meta

from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot


class InMemorySink:
    """Keeps every exported batch, in order.

    Args:
        max_exports: how many batches to keep, the newest ones; without it all.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = True

    def __init__(self, *, max_exports: Annotated[int, Meta(ge=0)] | None = None) -> None:
        """Start with no batch."""
        self._exports: deque[tuple[MetricSnapshot, ...]] = deque(maxlen=max_exports)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Keep the snapshots as one batch."""
        self._exports.append(tuple(snapshots))

    async def __aenter__(self) -> Self:
        """Return the sink itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Keep the batches: they are looked at afterwards."""

    @property
    def exports(self) -> tuple[tuple[MetricSnapshot, ...], ...]:
        """Every kept batch, in the order of the exports."""
        return tuple(self._exports)

    @property
    def all_snapshots(self) -> tuple[MetricSnapshot, ...]:
        """Every snapshot of every kept batch, in order."""
        return tuple(snapshot for batch in self._exports for snapshot in batch)

    def by_name(self, name: str) -> tuple[MetricSnapshot, ...]:
        """Return the snapshots of one metric, in order."""
        return tuple(snapshot for snapshot in self.all_snapshots if snapshot.name == name)


__all__ = ["InMemorySink"]
