"""The Datadog sink where it is used: behind `Delivery`, in the in-process manager, in a process that ends."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.metrics import MetricsManager
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.sinks.datadog_snapshots import (
    build_histogram,
    build_sink,
    build_snapshot,
    clear_environment,
)
from tests.support.datadog_intake import DatadogIntake


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def intake() -> Iterator[DatadogIntake]:
    with DatadogIntake() as intake:
        yield intake


def deliver(intake: DatadogIntake, window: list[MetricSnapshot]) -> SinkLedger:
    """Deliver one window, and end."""

    async def run() -> SinkLedger:
        sink = build_sink(intake, exact_statistics=True)
        delivery = Delivery([SinkSettings(name="datadog", sink=sink, selection=Selection())])
        await delivery.start()
        delivery.hand_over([(window, window[0].window_end)])
        await delivery.close(30.0)
        return delivery.ledgers["datadog"]

    return asyncio.run(run())


@pytest.mark.parametrize("poison", ["counter-7", "histogram-7"])
def test_a_poison_datum_is_isolated_and_quarantined_and_nothing_else_is_lost_or_doubled(
    intake: DatadogIntake, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    window = [build_snapshot(f"counter-{n}", 1.0) for n in range(20)]
    window += [build_histogram(f"histogram-{n}", [1.0, 2.0]) for n in range(20)]
    intake.poison.add(f"aiokpl.{poison.replace('-', '_')}")
    ledger = deliver(intake, window)
    assert ledger.balance() == 0
    assert (ledger.delivered, ledger.quarantined) == (39, 1)
    others = [snapshot for snapshot in window if snapshot.name != poison]
    for snapshot in others:
        metric = f"aiokpl.{snapshot.name.replace('-', '_')}"
        if snapshot.histogram is None:
            assert intake.total(metric) == 1.0
        else:
            assert intake.distribution(metric) == [1.0, 2.0]
            assert intake.total(f"{metric}.count") == 2.0
    assert any(record.__dict__.get("fields", {}).get("metric") == poison for record in caplog.records)


def test_what_the_sink_sets_aside_is_quarantined_and_named(
    intake: DatadogIntake, caplog: pytest.LogCaptureFixture
) -> None:
    window = [build_snapshot("good", 1.0), build_snapshot("bad", float("nan"))]
    ledger = deliver(intake, window)
    assert (ledger.delivered, ledger.quarantined, ledger.balance()) == (1, 1, 0)
    assert any(record.__dict__.get("fields", {}).get("metric") == "bad" for record in caplog.records)
    assert not intake.refusals


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_in_process_manager_may_flush_as_often_as_it_likes(intake: DatadogIntake) -> None:
    async with MetricsManager(level=MetricsLevel.DETAILED, sink=build_sink(intake)) as manager:
        for _ in range(5):
            manager.put("Requests", 1.0, stream="orders")
            await manager.flush()
    assert intake.total("aiokpl.Requests") == 5.0
    assert not intake.refusals


def test_a_request_that_hangs_keeps_no_process_alive() -> None:
    code = """
import asyncio, sys
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from aiokpl_metricsd.snapshot import MetricSnapshot
async def main():
    async with DatadogSink(api_key="KEY", endpoint_url=sys.argv[1], request_timeout_s=600.0) as sink:
        try:
            await asyncio.wait_for(sink.export([MetricSnapshot("a", 1, 1.0, 1.0, 1.0)]), 0.2)
        except TimeoutError:
            print("gave up")
asyncio.run(main())
"""
    # Accepts in the kernel, and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, url], capture_output=True, check=True, text=True, timeout=60
        )
    assert done.stdout.strip() == "gave up"
