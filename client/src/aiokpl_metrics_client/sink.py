"""The client in the shape of aiokpl's `EventfulMetricsSink` and `MetricsSink`, without importing aiokpl."""

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol

from aiokpl_metrics_client.client import MetricsClient
from aiokpl_metrics_protocol import MetricsLevel


class _Event(Protocol):
    """What is read of aiokpl's event: not its timestamp, which is of the monotonic clock."""

    @property
    def name(self) -> str: ...

    @property
    def value(self) -> float: ...

    @property
    def dimensions(self) -> tuple[tuple[str, str], ...]: ...


class MetricsdSink:
    """Forwards every event of an aiokpl producer: `aiokpl.Config(metrics_sink=MetricsdSink(), …)`.

    The daemon owns the windows, so the producer's own snapshots are not forwarded. The client stays open when
    the producer leaves the sink, since its last events may come after that; it ends with the sink, or with
    the process.

    Args:
        socket_path: as for `MetricsClient`.
        level: as for `MetricsClient`; aiokpl applies its own level first.
        dimensions: as for `MetricsClient`.
        max_series: as for `MetricsClient`.
        client: use this client instead, which stays the caller's to close; the other arguments are then not
            used.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        *,
        level: MetricsLevel = MetricsLevel.DETAILED,
        dimensions: Mapping[str, object] | None = None,
        max_series: int = 10_000,
        client: MetricsClient | None = None,
    ) -> None:
        """Open nothing yet."""
        self._client = client or MetricsClient(
            socket_path,
            level=level,
            dimensions=dimensions,
            max_series=max_series,
        )
        self._append_for = self._client.append_for

    @property
    def client(self) -> MetricsClient:
        """The client that sends the events."""
        return self._client

    def record(self, event: _Event) -> None:
        """Send one event, as of now."""
        self._append_for(event.name, event.dimensions, event.value)

    async def export(self, snapshots: Sequence[object]) -> None:
        """Do nothing: the daemon makes the windows from the events."""

    async def __aenter__(self) -> "MetricsdSink":  # noqa: PYI034 - typing has no Self before 3.11
        """Return the sink itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Hand over what the socket takes at once, without waiting: the loop is the application's."""
        self._client.flush(timeout_s=0.0)


__all__ = ["MetricsdSink"]
