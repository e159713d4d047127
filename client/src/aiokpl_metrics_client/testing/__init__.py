"""What code that records metrics is tested with, without socket, process or sleeping.

Reading order: `metricsd` (what a test asks), `recording` (a transport that keeps the frames), `counting` (the
counts of the frames, made here), `aggregating` (the same made by the daemon's own aggregator, where it is
installed), `explaining` (both in words). Needs no pytest; the fixture is in `aiokpl_metrics_pytest`.
"""

from aiokpl_metrics_client.testing.counting import RecordedSeries
from aiokpl_metrics_client.testing.metricsd import AmbiguousSeriesError, Metricsd, NotRecordedError
from aiokpl_metrics_client.testing.recording import RecordingTransport

__all__ = ["AmbiguousSeriesError", "Metricsd", "NotRecordedError", "RecordedSeries", "RecordingTransport"]
