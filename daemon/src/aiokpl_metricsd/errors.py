"""The daemon's errors: whose fault, may it be retried, who sees it, what is counted.

    MetricsdError
    ├── ConfigurationError       the operator's; never retried; one line on standard error, exit status 2
    ├── SocketInUseError         the operator's; never retried; one line on standard error, exit status 1
    ├── StateInUseError          the same, of the state directory
    ├── StoreError               the disk's; nothing was changed, the next call may succeed; counted, shown
    │   └── LostPartError            stored snapshots are damaged or gone; another try would find the same
    └── ExportError              what a sink's `export` raises; seen by `delivery` alone, logged there
        ├── RetryableExportError     the backend's, for now; tried again after a while
        ├── PermanentExportError     the data's; never sent again whole: bisected until the poison datum is
        │                            alone, which is quarantined and counted
        └── PartialExportError       some were taken: `remaining` is tried again, `rejected` is quarantined

Anything else that a sink raises counts as retryable. What a producer sends wrong is a
`aiokpl_metrics_protocol.ProtocolError`, counted by the decoder and never raised further.
"""

from collections.abc import Sequence

from aiokpl_metricsd.snapshot import MetricSnapshot


class MetricsdError(Exception):
    """The root of what this package raises on purpose."""


class ConfigurationError(MetricsdError):
    """The configuration cannot be used. The message is one line that says where and what is expected."""


class SocketInUseError(MetricsdError):
    """Another daemon owns the socket's path."""


class StateInUseError(MetricsdError):
    """Another daemon owns the state directory."""


class StoreError(MetricsdError):
    """The outbox could not do what it was asked for; nothing was changed. The message says why."""


class LostPartError(StoreError):
    """Stored snapshots are damaged, or not there any more: settled, discarded, evicted."""


class ExportError(MetricsdError):
    """An export did not succeed. Raise one of the children."""


class RetryableExportError(ExportError):
    """Nothing is known to have been taken; the same snapshots may be sent again.

    Attributes:
        retry_after_s: seconds the backend asked to wait, or None.
        is_ambiguous: the backend may have taken them all the same, as where a connection was lost.
    """

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, is_ambiguous: bool = False
    ) -> None:
        """Keep what the backend said."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_ambiguous = is_ambiguous


class PermanentExportError(ExportError):
    """The backend refused the snapshots as they are; the same ones will be refused again."""


class PartialExportError(ExportError):
    """The backend took some snapshots.

    Attributes:
        remaining: not taken, to be sent again.
        rejected: refused for good.
        uncertain: those of `remaining` that the backend may have taken all the same.
        retry_after_s: seconds the backend asked to wait before `remaining`, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        remaining: Sequence[MetricSnapshot] = (),
        rejected: Sequence[MetricSnapshot] = (),
        uncertain: Sequence[MetricSnapshot] = (),
        retry_after_s: float | None = None,
    ) -> None:
        """Keep what is left to do."""
        super().__init__(message)
        self.remaining = tuple(remaining)
        self.rejected = tuple(rejected)
        self.uncertain = tuple(uncertain)
        self.retry_after_s = retry_after_s


__all__ = [
    "ConfigurationError",
    "ExportError",
    "LostPartError",
    "MetricsdError",
    "PartialExportError",
    "PermanentExportError",
    "RetryableExportError",
    "SocketInUseError",
    "StateInUseError",
    "StoreError",
]
