"""All backends at once: what four producers record is in each of them, to the last event.

The sink `windows` writes what the daemon closed, so each backend is held to it window by window, and its
totals to what was sent.
"""

import http.client
from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import attrgetter

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.samples import Sample

from tests.support import stream
from tests.support.backends import ENVIRON, build_options, serve_backends
from tests.support.child import Nursery
from tests.support.daemon import DaemonProcess
from tests.support.kept import check_cloudwatch, check_cumulative, check_datadog, check_delta
from tests.support.polling import TIMEOUT_S, wait_for
from tests.support.quantile import BUCKET_ERROR, add_up, check_quantiles, find_quantile, weigh
from tests.support.rows import Row, Series, check_balance, check_windows
from tests.support.stream import HISTOGRAMS, METRICS

PRODUCERS_TIMEOUT_S = 60.0

BOUNDS = (1.0, 10.0, 50.0, 100.0, 500.0, 1_000.0)

LOCAL = """
[http]
listen = "127.0.0.1:0"
[sinks.terminal]
type = "console"
format = "json"
[sinks.page]
type = "prometheus"
buckets = [1.0, 10.0, 50.0, 100.0, 500.0, 1000.0]
"""

EXTRA = {
    "cloudwatch": "percentiles = true\n",
    "grpc": "",
    "http": 'temporality = "cumulative"\n',
    "datadog": "exact_statistics = true\n",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_backend_has_what_four_producers_sent(nursery: Nursery) -> None:
    with serve_backends() as backends:
        tables = [
            f"[sinks.{name}]\n{build_options(name, url)}{EXTRA[name]}"
            for name, url in backends.urls().items()
        ]
        config = LOCAL + "\n".join(tables)
        # With room for a slow machine: nothing may be late.
        daemon = DaemonProcess(nursery, config, grace_s=2, environ=ENVIRON).wait_until_accepting()
        produce(nursery, daemon)
        wait_for(lambda: daemon.count_events() == stream.EVENTS, "the windows of all events")
        samples = scrape_all(daemon)
        assert daemon.stop() == 0, daemon.stderr
        check_ledger(daemon)
        rows = daemon.rows()
        check_local(daemon, rows)
        check_page(samples, min(row.window_start for row in rows))
        check_cloudwatch(backends.cloudwatch, rows)
        check_delta(backends.grpc, rows)
        check_cumulative(backends.http, rows)
        check_datadog(backends.datadog, rows)


def produce(nursery: Nursery, daemon: DaemonProcess) -> None:
    """Run the producers to their end."""
    producers = [
        nursery.start_python("-m", "tests.support.stream", str(daemon.socket_path), str(number))
        for number in range(stream.PRODUCERS)
    ]
    for producer in producers:
        assert producer.wait(PRODUCERS_TIMEOUT_S) == 0, producer.stderr
        statistics = msgspec.json.decode(producer.stdout)
        assert statistics["events_sent"] == stream.EVENTS // stream.PRODUCERS
        assert statistics["dropped"] == {}


def check_ledger(daemon: DaemonProcess) -> None:
    """Assert that nothing was lost on the way, and that no sink has anything to complain of."""
    ledger = daemon.ledger
    check_balance(ledger)
    assert ledger.events_closed == ledger.events_decoded == stream.EVENTS
    assert (ledger.events_missing, ledger.events_late, ledger.series_conflicts) == (0, 0, 0)
    assert len(ledger.sinks) == 7
    for name, sink in ledger.sinks.items():
        assert sink["delivered"] == sink["closed"], name
        assert sink["failures"] == 0, name
    assert not [line for line in daemon.log if line["level"] in {"warning", "error"}]


# ---- files and terminal


def check_local(daemon: DaemonProcess, rows: list[Row]) -> None:
    """Assert that the file has everything, and that the terminal has the same."""
    check_windows(rows)
    assert len({row.window_id for row in rows}) >= 3
    assert daemon.totals() == {metric.series: metric.total() for metric in METRICS}
    for row in rows:
        metric = stream.BY_SERIES[row.series]
        assert (row.kind, row.unit) == (metric.kind, metric.unit)
        if row.histogram is not None:
            weights = weigh(row.histogram)
            for share, shown in ((0.5, row.p50), (0.9, row.p90), (0.99, row.p99)):
                assert shown == pytest.approx(find_quantile(weights, share), rel=2 * BUCKET_ERROR)
    for metric in HISTOGRAMS:
        own = [row.histogram for row in rows if row.series == metric.series]
        check_quantiles(metric, add_up(weigh(histogram) for histogram in own if histogram is not None))
    assert find_last(rows) == {
        metric.series: metric.list_values()[-1] for metric in METRICS if metric.kind == stream.GAUGE
    }
    printed = [msgspec.json.decode(line, type=Row) for line in daemon.stdout.splitlines()]
    by_identity = attrgetter("identity")
    assert sorted(printed, key=by_identity) == sorted(rows, key=by_identity)


def find_last(rows: Iterable[Row]) -> dict[Series, float]:
    """Return the value of each gauge in its newest window."""
    ordered = sorted(rows, key=lambda row: row.window_start)
    return {row.series: row.last for row in ordered if row.kind == stream.GAUGE}


# ---- Prometheus


def scrape_all(daemon: DaemonProcess) -> dict[str, list[Sample]]:
    """Return the samples of the page by name, over TCP, once all windows are on it."""
    (line,) = daemon.find_log("HTTP waits")
    connection = http.client.HTTPConnection(line["listen"], timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
        answer = connection.getresponse()
        assert answer.status == 200
        page = answer.read().decode()
    finally:
        connection.close()
    samples: defaultdict[str, list[Sample]] = defaultdict(list)
    for family in parse_openmetrics(page):  # type: ignore[no-untyped-call]
        if family.name == "shop_sent_bytes":
            assert (family.type, family.unit) == ("counter", "bytes")
        for sample in family.samples:
            samples[sample.name].append(sample)
    return samples


def check_page(samples: Mapping[str, list[Sample]], begun: float) -> None:
    """Assert that the page has the totals, the last values, the created times, and the buckets."""

    def read(name: str) -> dict[tuple[tuple[str, str], ...], float]:
        return {tuple(sorted(each.labels.items())): each.value for each in samples[name]}

    for metric in METRICS:
        name, labels = metric.name.replace(".", "_"), metric.series[1]
        total = metric.total()
        if metric.kind == stream.GAUGE:
            assert read(name)[labels] == metric.list_values()[-1]
            continue
        assert begun <= read(f"{name}_created")[labels] <= begun + PRODUCERS_TIMEOUT_S
        if metric.kind == stream.COUNTER:
            assert read(f"{name}_total")[labels] == total.sum
            continue
        assert (read(f"{name}_count")[labels], read(f"{name}_sum")[labels]) == (total.count, total.sum)
        values = metric.list_values()
        for bound in BOUNDS:
            (found,) = (
                each.value
                for each in samples[f"{name}_bucket"]
                if each.labels == {**metric.dimensions, "le": str(bound)}
            )
            # What is above a bound counts below it only from the same bucket, 9.1 % wide.
            at_most = sum(value <= bound * (1 + 2 * BUCKET_ERROR) for value in values)
            assert sum(value <= bound for value in values) <= found <= at_most
