"""Datagrams -> count, sum, min, max and last by series, made by the daemon's own decoder and aggregator.

Imported where aiokpl-metricsd is installed, in this client's version, and nowhere else.
"""

import time
from math import inf

from aiokpl_metrics_client.testing.counting import RecordedSeries
from aiokpl_metrics_protocol import ColumnsFrame
from aiokpl_metricsd import __version__ as daemon_version
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.ledger import Ledger

# One window holds whatever a test records, and never closes: it ends in the year 2106.
_INTERVAL_S = 2**32

# The client's own bound comes first.
_MAX_SERIES = 1_000_000


class AggregatorCounting:
    """Counts as the daemon does, since it is the daemon's aggregator that counts."""

    origin = f"the aggregator of aiokpl-metricsd {daemon_version}"

    def __init__(self) -> None:
        """Start with nothing."""
        self.reset()

    def add(self, datagram: bytes) -> None:
        """Count the events of a datagram."""
        frame = self._decoder.decode(datagram)
        if isinstance(frame, ColumnsFrame):
            events = self._aggregator.add_columns(frame.columns, time.time(), frame.producer_id)
            self._decoder.note_events(frame, events)

    def read(self) -> list[RecordedSeries]:
        """Return what was counted."""
        return [
            RecordedSeries(
                entry.name,
                entry.dimensions,
                entry.kind,
                entry.unit,
                statistics.count,
                statistics.sum,
                float(statistics.min),
                float(statistics.max),
                # No client tells a summed gauge again in a test, and yet each lives.
                float(statistics.last) if statistics.shares is None else statistics.sum_shares(inf),
            )
            for window in self._windows.opened
            for entry, statistics in window.statistics.items()
        ]

    def reset(self) -> None:
        """Begin anew."""
        ledger = Ledger()
        registry = Registry(ledger, max_series=_MAX_SERIES)
        self._decoder = Decoder(ledger)
        self._windows = Windows(_INTERVAL_S, 0)
        self._aggregator = Aggregator(registry, self._windows, ledger, live_series=0)


__all__ = ["AggregatorCounting"]
