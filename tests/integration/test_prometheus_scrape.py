"""A real Prometheus scrapes the real process; what it stored is queried back."""

import json
import shutil
import socket
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_protocol import EventsFrame, MetricEvent, encode
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess, send_datagram
from tests.support.polling import TIMEOUT_S, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs Prometheus: make integration installs it"
    ),
]

CONFIG = """
[http]
listen = "127.0.0.1:0"
[sinks.page]
type = "prometheus"
buckets = [10.0, 100.0, 1000.0]
"""

HOSTILE = 'quote " backslash \\ line\nnul \0 größe'


class Scraper:
    """A Prometheus of its own that scrapes one address every second."""

    def __init__(self, nursery: Nursery, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        config = nursery.directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: metricsd, static_configs: [{{targets: ['{target}']}}]}}]\n",
            encoding="utf-8",
        )
        self.child: Child = nursery.start(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={nursery.directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
            "prometheus",
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the vector that an expression has now; nothing while the server comes up."""
        found: list[dict[str, Any]] = self._ask("query", query=expression).get("result", [])
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Return what is scraped, and what went wrong last."""
        found: list[dict[str, Any]] = self._ask("targets").get("activeTargets", [])
        return found

    def _ask(self, path: str, **arguments: str) -> dict[str, Any]:
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}", timeout=TIMEOUT_S
            ) as answer:
                found: dict[str, Any] = json.load(answer)["data"]
                return found
        except OSError:
            return {}

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, or None while it has none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None


@pytest.fixture
def daemon(nursery: Nursery) -> DaemonProcess:
    return DaemonProcess(nursery, CONFIG, interval_s=2).wait_until_listening()


@pytest.fixture
def scraper(nursery: Nursery, daemon: DaemonProcess) -> Scraper:
    return Scraper(nursery, daemon.find_log("HTTP waits")[0]["listen"])


def send(path: Path, *events: MetricEvent) -> None:
    send_datagram(path, encode(EventsFrame(list(events))))


def test_rate_quantiles_and_labels_come_back_as_they_were_sent(
    daemon: DaemonProcess, scraper: Scraper
) -> None:
    sent = 0
    deadline = time.monotonic() + TIMEOUT_S
    latencies = [float(value) for value in range(1, 101)]
    send(daemon.socket_path, *(MetricEvent("latency.ms", value, 0.0, (), "histogram") for value in latencies))
    send(daemon.socket_path, MetricEvent("depth", -4.5, 0.0, (("pod", HOSTILE),), "gauge"))

    def rate_is_known() -> float | None:
        # Steady traffic, over several windows' ends.
        nonlocal sent
        send(daemon.socket_path, MetricEvent("requests", 2.0, 0.0, (("path", "/a"),)))
        sent += 2
        found = scraper.value("rate(requests_total[10s])")
        return found if found and sent > 2 and scraper.value("count_over_time(requests_total[1m])") else None

    wait_for(rate_is_known, "a rate", deadline - time.monotonic())

    wait_for(lambda: scraper.value("requests_total") == sent, "the total")
    # A counter that went back or counted twice would show as a reset, or as too much.
    assert scraper.value("resets(requests_total[1m])") == 0.0
    assert scraper.value("latency_ms_count") == 100.0
    assert scraper.value("latency_ms_sum") == sum(latencies)
    assert scraper.value('latency_ms_bucket{le="10.0"}') == 10.0
    median = scraper.value("histogram_quantile(0.5, latency_ms_bucket)")
    assert median is not None
    # Interpolated between the bounds 10 and 100.
    assert abs(median - 50.0) < 1.0
    (depth,) = scraper.query("depth")
    assert depth["metric"]["pod"] == HOSTILE.replace("\0", "\ufffd")
    assert float(depth["value"][1]) == -4.5
    assert scraper.value("metricsd_datagrams_rejected_total > 0") is None
    (target,) = scraper.targets()
    assert (target["health"], target["lastError"]) == ("up", "")
    assert daemon.stop() == 0
