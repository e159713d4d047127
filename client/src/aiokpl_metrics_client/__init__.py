"""A thin client of aiokpl-metricsd: events cost nanoseconds, never block, never raise.

Reading order: `client` (what an application calls), `instruments`, `buffers` (events by series), `drops`
(what is discarded), `encoder` (buffers -> frames), `folding` (what is kept of events while the daemon is away
or slow), `descriptor` (a socket that stays ours), `transport` (frame -> socket), `progress` (the counts of
frames), `outbound` (all of these in a row), `pace` (when), `background` (the thread that does it), `stand_in`
(who does it where no thread can start), `handover` (how long a flush waits), `sender` (these together),
`exclusive` (one thread at a time), `process` (fork and exit), `complaint` (what is logged), `clock`, `sink`
(the client in the shape of aiokpl's sinks), `statistics`, and `testing` (what an application's tests use; it
is not imported here).
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
