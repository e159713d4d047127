"""What a sink is: the two interfaces, and what a repeat does to its backend."""

from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from aiokpl_metrics_protocol import MetricEvent
from aiokpl_metricsd.snapshot import MetricSnapshot


class RepeatRule(StrEnum):
    """What happens in a backend that is sent the same snapshots twice.

    A sink declares it as the class attribute `repeat_rule`; one that does not is taken to add.
    """

    REPLACES = "replaces"
    ADDS = "adds"
    CUMULATIVE = "cumulative"


@runtime_checkable
class MetricsSink(Protocol):
    """Takes the snapshots of closed windows to a backend.

    A sink may also have the class attributes `repeat_rule` (a `RepeatRule`), `ordered` (True asks for windows
    oldest first) and `max_age_s` (seconds after its end for which the backend takes a window).
    """

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Make one attempt to deliver; the snapshots are of one window.

        Raises:
            RetryableExportError: try the same again later.
            PermanentExportError: the same will be refused again.
            PartialExportError: some were taken; says which to try again and which never.
        """
        ...

    async def __aenter__(self) -> Self:
        """Open what `export` needs."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close what `__aenter__` opened."""
        ...


@runtime_checkable
class EventfulMetricsSink(Protocol):
    """A sink that wants each event as well."""

    def record(self, event: MetricEvent) -> None:
        """Take one event, at once: this runs where events arrive."""
        ...


__all__ = ["EventfulMetricsSink", "MetricsSink", "RepeatRule"]
