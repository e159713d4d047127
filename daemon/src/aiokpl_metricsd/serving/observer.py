"""The daemon's parts -> samples of its own metrics, and the page. Reads, and changes nothing."""

from collections.abc import Iterator, Mapping, Sequence

from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.rendering.exposition import EOF_LINE, Form
from aiokpl_metricsd.serving import own_metrics as own
from aiokpl_metricsd.serving.own_metrics import Sample
from aiokpl_metricsd.sinks.scraped import ScrapedSink


class Requests:
    """What HTTP has answered.

    Attributes:
        served: requests, by path and status.
        refused: connections.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.served: dict[tuple[str, int], int] = {}
        self.refused = 0

    def note(self, path: str, status: int) -> None:
        """Count a request. The paths are the server's own, so there are few."""
        self.served[path, status] = self.served.get((path, status), 0) + 1


class Observer:
    """Reads the counters of one daemon.

    Args:
        ledger: of what came in.
        aggregator: of what is open.
        registry: of the series.
        windows: the open ones.
        delivery: of what went out.
        started: epoch seconds from which all of it counts.
    """

    def __init__(
        self,
        ledger: Ledger,
        aggregator: Aggregator,
        registry: Registry,
        windows: Windows,
        delivery: Delivery,
        started: float,
    ) -> None:
        """Read nothing yet."""
        self._ledger = ledger
        self._aggregator = aggregator
        self._registry = registry
        self._windows = windows
        self._delivery = delivery
        self._started = started
        self.scraped: Mapping[str, ScrapedSink] = {}
        self.requests = Requests()

    def collect(self) -> list[Sample]:
        """Return every metric of the daemon as it is now."""
        return list(self._collect())

    def render(self, form: Form) -> Iterator[str]:
        """Return the whole page, in slices."""
        yield own.encode_samples(form, self.collect(), self._started)
        for sink in self.scraped.values():
            yield from sink.render(form)
        if form is Form.OPENMETRICS:
            yield EOF_LINE

    def _collect(self) -> Iterator[Sample]:
        yield from own.collect_columns(own.INGEST, self._ledger.as_dict(), reasons=own.INGEST_REASONS)
        yield Sample(own.EVENTS_OPEN, float(self._aggregator.events_open))
        yield Sample(own.WINDOWS_OPEN, float(len(self._windows.opened)))
        yield Sample(own.SERIES, float(len(self._registry)))
        queues = self._delivery.queue_windows
        for name, ledger in self._delivery.ledgers.items():
            labels = (("sink", name),)
            yield from own.collect_columns(own.SINK, ledger.as_dict(), labels, reasons=own.SINK_REASONS)
            yield Sample(own.SINK_QUEUE, float(queues[name]), labels)
        for name, sink in self.scraped.items():
            labels = (("sink", name),)
            yield Sample(own.SCRAPED_SERIES, float(sink.series_count), labels)
            for reason, count in sink.refused.items():
                yield Sample(own.SCRAPED_REFUSED, float(count), (*labels, ("reason", reason)))
        for (path, status), count in self.requests.served.items():
            yield Sample(own.HTTP_SERVED, float(count), (("path", path), ("status", str(status))))
        yield Sample(own.HTTP_REFUSED, float(self.requests.refused))
        yield from own.collect_process(self._started)


def name_own_metrics() -> Sequence[str]:
    """Return the names that the daemon keeps for itself."""
    return [metric.name for metric in own.ALL]


__all__ = ["Observer", "Requests", "name_own_metrics"]
