"""A stated fleet -> the tables of `docs/fleet.md`: what each sidecar sends, and what that costs a month.

The windows are those of a stated KPL workload; the sinks' own encoders make the requests, whose number and
bytes are then counted, so nothing here is estimated but the prices. With `--check` nothing is written: a page
that would change is named, and the status is 1.

Bytes depend on the libraries that compress, in their last digits: they are shown to two.
"""

import asyncio
import gzip
import random
import re
import sys
import zlib
from collections.abc import Callable, Sequence
from math import floor, log10
from pathlib import Path
from typing import Final, NamedTuple

from aiokpl_metrics_protocol import Histogram, MetricKind, MetricsLevel
from aiokpl_metrics_protocol import catalog as names
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.sinks.cloudwatch.client import MIN_COMPRESSED_BYTES, encode_json
from aiokpl_metricsd.sinks.cloudwatch.cost import PRICES_READ, price_metrics, price_requests
from aiokpl_metricsd.sinks.cloudwatch.datum import DatumOptions
from aiokpl_metricsd.sinks.cloudwatch.request import Cutter
from aiokpl_metricsd.sinks.datadog.builder import Builder, Plan
from aiokpl_metricsd.sinks.datadog.memory import Memory
from aiokpl_metricsd.sinks.datadog.request import cut_requests
from aiokpl_metricsd.sinks.otlp.data import MAX_REQUEST_BYTES, MAX_REQUEST_POINTS, Encoder
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.snapshot import MetricSnapshot

__all__ = ["BACKENDS", "Sent", "build_window", "fill_page", "main", "price_datadog", "render_tables"]

ROOT = Path(__file__).parent.parent
PAGE = Path("docs/fleet.md")

# The workload, as the page states it; the end of the window is a time like any other.
NOW: Final = 1_796_040_000.0
INTERVAL_S: Final = 60
SCRAPE_S: Final = 30
SHARDS: Final = 10
EVENTS: Final = 600
FLEETS: Final = (100, 1_000, 10_000)
MONTH_S: Final = 730 * 3_600

_COUNTERS: Final = (
    names.NAME_USER_RECORDS_RECEIVED,
    names.NAME_USER_RECORDS_PUT,
    names.NAME_USER_RECORDS_DATA_PUT,
    names.NAME_KINESIS_RECORDS_PUT,
    names.NAME_KINESIS_RECORDS_DATA_PUT,
    names.NAME_ALL_ERRORS,
)
_HISTOGRAMS: Final = (names.NAME_RETRIES_PER_RECORD, names.NAME_BUFFERED_TIME, names.NAME_REQUEST_TIME)
_UNITS: Final = {
    names.NAME_USER_RECORDS_DATA_PUT: "bytes",
    names.NAME_KINESIS_RECORDS_DATA_PUT: "bytes",
    names.NAME_BUFFERED_TIME: "ms",
    names.NAME_REQUEST_TIME: "ms",
}

_POD: Final = "orders-6c9f7d5b8-x2x7q"

# As the HTTP routes compress.
_GZIP_LEVEL: Final = 1

# How Datadog counts (docs.datadoghq.com, account_management/billing/custom_metrics, read 2026-11): a custom
# metric is a name with one combination of tags, the host's included. That a distribution counts as five, and
# the price, are NOT VERIFIED: neither was in the copies read then; they are what is commonly quoted.
_DISTRIBUTION_METRICS: Final = 5
_DATADOG_USD: Final = 5.0 / 100


class Sent(NamedTuple):
    """What one sidecar sends of one window, or shows at one scrape.

    Attributes:
        series: of the window, as the sink sees it.
        requests: how many.
        size_bytes: of their bodies, as they travel.
        metrics: what the backend counts of one sidecar.
    """

    series: int
    requests: int
    size_bytes: int
    metrics: int


class Backend(NamedTuple):
    """A way out of the fleet.

    Attributes:
        name: in the tables.
        measure: returns what one sidecar sends of a window.
        selection: what the sink sees with roll-ups.
        shares: with roll-ups, all sidecars' series are the same ones at the backend.
        period_s: seconds between two requests.
        price: US dollars a month, of metrics and requests; None where nobody charges by them.
    """

    name: str
    measure: Callable[[Sequence[MetricSnapshot]], Sent]
    selection: Selection
    shares: bool
    period_s: int
    price: Callable[[int, int], float] | None


# ---- the workload


def build_window() -> list[MetricSnapshot]:
    """Return a window of one sidecar: one stream of ten shards at the level `detailed`."""
    end = NOW
    chance = random.Random(2_026)  # noqa: S311 - data of a workload
    window: list[MetricSnapshot] = []
    stream = ("stream", "orders")
    for shard in range(SHARDS):
        place = (("pod", _POD), ("shard", f"shardId-{shard:012d}"), stream)
        window += [_count(name, place, chance, end) for name in _COUNTERS]
        error = tuple(sorted((*place, ("error_code", "ProvisionedThroughputExceededException"))))
        window.append(_count(names.NAME_ERRORS_BY_CODE, error, chance, end))
        window += [_observe(name, place, chance, end) for name in _HISTOGRAMS]
    pending = chance.uniform(0, 500)
    gauge = (names.NAME_USER_RECORDS_PENDING, EVENTS, pending * EVENTS, 0.0, 500.0, (("pod", _POD), stream))
    window.append(MetricSnapshot(*gauge, end - INTERVAL_S, end, MetricKind.GAUGE, "count", pending))
    return window


def _count(
    name: str, dimensions: tuple[tuple[str, str], ...], chance: random.Random, end: float
) -> MetricSnapshot:
    total = float(chance.randrange(10_000, 100_000))
    unit = _UNITS.get(name, "count")
    return MetricSnapshot(
        name,
        EVENTS,
        total,
        1.0,
        total / 100,
        dimensions,
        end - INTERVAL_S,
        end,
        MetricKind.COUNTER,
        unit,
        1.0,
    )


def _observe(
    name: str, dimensions: tuple[tuple[str, str], ...], chance: random.Random, end: float
) -> MetricSnapshot:
    values = [chance.lognormvariate(3.0, 0.8) for _ in range(EVENTS)]
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return MetricSnapshot(
        name,
        EVENTS,
        sum(values),
        min(values),
        max(values),
        dimensions,
        end - INTERVAL_S,
        end,
        MetricKind.HISTOGRAM,
        _UNITS.get(name, "count"),
        values[-1],
        histogram.freeze(),
    )


# ---- what each sink makes of it


def measure_cloudwatch(window: Sequence[MetricSnapshot]) -> Sent:
    """Encode as the sink `cloudwatch` does."""
    cutter = Cutter(window, DatumOptions(), encode_json, now=NOW)
    requests = [request for request in cutter.cut() if request is not None]
    bodies = [b",".join(request.parts) for request in requests]
    sizes = (
        len(zlib.compress(each, 1)) if len(each) >= MIN_COMPRESSED_BYTES else len(each) for each in bodies
    )
    return Sent(len(window), len(bodies), sum(sizes), len(window))


def measure_datadog(window: Sequence[MetricSnapshot]) -> Sent:
    """Encode as the sink `datadog` does."""
    plan = Plan("aiokpl.", (f"pod_name:{_POD}",), "node-7", exact_statistics=False, max_points=1_000)
    builder = Builder(window, plan, Memory(), set(), NOW)
    bodies: list[bytes] = []
    for points in (builder.walk_series(), builder.walk_distributions()):
        requests = cut_requests(points, plan.host, plan.max_request_bytes)
        bodies += [zlib.compress(request.encode_body()) for request in requests]
    distributions = sum(snapshot.histogram is not None for snapshot in window)
    metrics = len(window) + (_DISTRIBUTION_METRICS - 1) * distributions
    return Sent(len(window), len(bodies), sum(map(len, bodies)), metrics)


def measure_otlp(window: Sequence[MetricSnapshot]) -> Sent:
    """Encode as the sink `opentelemetry` does."""
    encoder = Encoder("aiokpl.", {"service.name": "orders", "service.instance.id": _POD})
    requests, size_bytes, begin = 0, 0, 0
    while begin < len(window):
        request = encoder.encode(window, begin, MAX_REQUEST_BYTES, MAX_REQUEST_POINTS)
        requests, size_bytes, begin = requests + 1, size_bytes + request.size_bytes, request.end
    return Sent(len(window), requests, size_bytes, len(window))


def measure_prometheus(window: Sequence[MetricSnapshot]) -> Sent:
    """Make the page that the sink `prometheus` shows; a line is what Prometheus counts as a series."""
    page = asyncio.run(_render_page(window))
    lines = sum(not line.startswith("#") for line in page.splitlines())
    return Sent(len(window), 1, len(gzip.compress(page.encode(), _GZIP_LEVEL)), lines)


async def _render_page(window: Sequence[MetricSnapshot]) -> str:
    async with PrometheusSink() as sink:
        await sink.export(window)
        return sink.encode_page()


# ---- what it costs


def price_cloudwatch(metrics: int, requests: int) -> float:
    """Return US dollars a month, by the prices that `check` estimates with."""
    return price_metrics(metrics) + price_requests(requests)


def price_datadog(metrics: int, _requests: int) -> float:
    """Return US dollars a month, without what a contract includes. Not verified."""
    return metrics * _DATADOG_USD


# The shards tell nobody anything, nor does the pod, where the backend does not need it.
_ROLLED_UP: Final = Selection(MetricsLevel.SUMMARY, drop_dimensions=("pod",))

BACKENDS: Final = (
    Backend(
        "CloudWatch", measure_cloudwatch, _ROLLED_UP, shares=True, period_s=INTERVAL_S, price=price_cloudwatch
    ),
    # The pod is a tag of the sink's own here, and not to be dropped.
    Backend("Datadog", measure_datadog, _ROLLED_UP, shares=False, period_s=INTERVAL_S, price=price_datadog),
    Backend("OTLP gateway", measure_otlp, _ROLLED_UP, shares=True, period_s=INTERVAL_S, price=None),
    Backend("Prometheus", measure_prometheus, _ROLLED_UP, shares=False, period_s=SCRAPE_S, price=None),
)


# ---- the page


def render_tables() -> dict[str, str]:
    """Return the page's tables, by the names of their markers."""
    window = build_window()
    # The page's own identities are not dimensions: only CloudWatch has no other place for the pod.
    plain = list(Selection(drop_dimensions=("pod",)).select(window).snapshots)
    sent_rows = ["| to | roll-ups | series | requests | bytes | counted there |", "|---|---|---|---|---|---|"]
    cost_rows = [
        "| to | roll-ups | sidecars | requests a second | GB a month | metrics there | USD a month |",
        "|---|---|---|---|---|---|---|",
    ]
    for backend in BACKENDS:
        whole = window if backend.name == "CloudWatch" else plain
        for word, snapshots in (("no", whole), ("yes", backend.selection.select(window).snapshots)):
            sent = backend.measure(snapshots)
            cells = (sent.series, sent.requests, _shorten(sent.size_bytes), sent.metrics)
            sent_rows.append(f"| {backend.name} | {word} | {' | '.join(_show(cell) for cell in cells)} |")
            cost_rows += [_render_cost(backend, word, sent, sidecars) for sidecars in FLEETS]
    return {"sent": "\n".join(sent_rows) + "\n", "cost": "\n".join(cost_rows) + "\n"}


def _render_cost(backend: Backend, word: str, sent: Sent, sidecars: int) -> str:
    times = MONTH_S / backend.period_s * sidecars
    is_shared = word == "yes" and backend.shares
    metrics = sent.metrics if is_shared else sent.metrics * sidecars
    price = "none" if backend.price is None else _show(backend.price(metrics, round(times * sent.requests)))
    rate = _shorten(sent.requests * sidecars / backend.period_s)
    gigabytes = _shorten(sent.size_bytes * times / 1e9)
    cells = (backend.name, word, _show(sidecars), _show(rate), _show(gigabytes), _show(metrics), price)
    return f"| {' | '.join(cells)} |"


def _shorten(number: float) -> float:
    """Round to two digits."""
    return round(number, 1 - floor(log10(abs(number)))) if number else 0.0


def _show(number: float) -> str:
    is_whole = float(number).is_integer() or abs(number) >= 10  # noqa: PLR2004 - below, a digit behind the point matters
    return f"{number:,.0f}" if is_whole else f"{number:,.2g}"


def fill_page(page: str, tables: dict[str, str]) -> str:
    """Return the page with each table between its markers."""
    for name, table in tables.items():
        pattern = re.compile(rf"^<!-- begin {name} -->$.*?^<!-- end {name} -->$", re.DOTALL | re.MULTILINE)
        if len(pattern.findall(page)) != 1:
            raise SystemExit(f"{PAGE}: it needs one pair of markers, <!-- begin {name} -->")
        page = pattern.sub(f"<!-- begin {name} -->\n\n{table}\n<!-- end {name} -->", page)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page's tables, or with `--check` say that they are behind."""
    given = sys.argv[1:] if arguments is None else arguments
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    text = fill_page(page, render_tables())
    if text == page:
        return 0
    if "--check" in given:
        print(f"{PAGE}: not what {Path(__file__).name} computes; run `make docs`")
        return 1
    (ROOT / PAGE).write_text(text, encoding="utf-8")
    print(f"{PAGE}: written; prices read {PRICES_READ}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
