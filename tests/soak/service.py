"""What gunicorn serves in the soak: a request is counted, and each `put` timed, beside nothing at all.

Preloaded: the client is made in the master, and every worker that is forked from it is another producer.
"""

import time
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from aiokpl_metrics_client import MetricsClient

# How many puts a request makes: series that recur, as those of an application do.
PUTS = 20

metrics = MetricsClient()
_requests = metrics.counter("requests")
_puts = metrics.histogram("put", unit="ns")
_nothings = metrics.histogram("nothing", unit="ns")


def application(
    environ: MutableMapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answer one request."""
    clock = time.perf_counter_ns
    for number in range(PUTS):
        before = clock()
        metrics.put("events", number, stream="orders", zone=str(number))
        between = clock()
        after = clock()
        _puts.record(between - before)
        # What a machine that has others to serve adds to both.
        _nothings.record(after - between)
    _requests.record(1)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


__all__ = ["PUTS", "application", "metrics"]
