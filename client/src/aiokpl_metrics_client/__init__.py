"""A thin client of aiokpl-metricsd: events cost nanoseconds, never block, never raise.

Reading order: `client` (what an application calls), `instruments`, `buffers` (events by series), `drops`
(what is discarded), `encoder` (buffers -> frames), `folding` (what is kept of events while the daemon is away
or slow), `transport` (frame -> socket), `outbound` (all of these in a row), `sender` (the thread that does it
in the background), `process` (fork and exit), `sink` (the client in the shape of aiokpl's sinks),
`statistics`, and `testing` (what an application's tests use; it is not imported here).
"""

from aiokpl_metrics_client.client import MetricsClient
from aiokpl_metrics_client.instruments import Counter, Gauge, Histogram, Timer
from aiokpl_metrics_client.sink import MetricsdSink
from aiokpl_metrics_client.statistics import ClientStatistics, DropReason, State
from aiokpl_metrics_protocol import MetricsLevel

__version__ = "0.1.0"

__all__ = [
    "ClientStatistics",
    "Counter",
    "DropReason",
    "Gauge",
    "Histogram",
    "MetricsClient",
    "MetricsLevel",
    "MetricsdSink",
    "State",
    "Timer",
    "__version__",
]
