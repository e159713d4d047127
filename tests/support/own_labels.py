"""The daemon's own code -> the labels of each of its own metrics: all that an observer shows, once.

What is observed has one of everything: a loss of each reason, a failed sink, a page, storage, a request.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.serving.observer import Observer, Parts
from tests.daemon.aggregation import BEGIN, Bench

__all__ = ["collect_own_labels"]


def collect_own_labels() -> dict[str, frozenset[str]]:
    """Return the names of labels, by the name of the metric."""
    bench = Bench()
    bench.ledger.events_dropped_by_clients["buffer_full"] = 1
    failed = SinkLedger(last_error="TimeoutError: x", dropped_by_reason={"queue_full": 1})
    delivery = SimpleNamespace(
        ledgers={"s": failed}, queue_windows={"s": 1}, removed_sinks=(), unstored_windows=0
    )
    journal = SimpleNamespace(
        is_writable=True, last_error="", size_bytes=0, segments_damaged=0, records_set_aside=0
    )
    outbox = SimpleNamespace(size_bytes=0, is_failing=False, last_error="", failures=0, set_aside=Path("x"))
    parts = Parts(
        ledger=bench.ledger,
        decoder=Decoder(bench.ledger),
        aggregator=bench.aggregator,
        registry=bench.registry,
        windows=bench.windows,
        delivery=cast("Any", delivery),
        journal=cast("Any", journal),
        outbox=cast("Any", outbox),
    )
    observer = Observer(parts, float(BEGIN))
    observer.scraped = {"p": cast("Any", SimpleNamespace(series_count=1, refused={"kind_differs": 1}))}
    observer.requests.note("/metrics", 200)
    labels: dict[str, frozenset[str]] = {}
    for sample in observer.collect():
        known = labels.setdefault(sample.metric.name, frozenset())
        labels[sample.metric.name] = known | {name for name, _ in sample.labels}
    return labels
