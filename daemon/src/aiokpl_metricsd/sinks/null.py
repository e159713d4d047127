"""Snapshots -> nowhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot


class NullSink:
    """Takes everything and keeps nothing. The smallest sink, and the template for a new one."""

    repeat_rule = RepeatRule.REPLACES
    ordered = False

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Drop the snapshots; they count as delivered."""

    async def __aenter__(self) -> Self:
        """Return the sink itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Do nothing."""


__all__ = ["NullSink"]
