"""Windows -> delivery -> a strict CloudWatch: everything arrives once, and only the poison does not."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import fields_of, offer
from tests.support.cloudwatch_stub import (
    EXPIRED,
    FAILED,
    RESET,
    THROTTLED,
    TOO_LARGE,
    Answer,
    CloudWatchStub,
    isolate,
)

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


def build_window(size: int, prefix: str = "m") -> list[MetricSnapshot]:
    end = time.time() // 60 * 60
    return [MetricSnapshot(f"{prefix}{i}", 1, 1.0, 1.0, 1.0, (), end - 60.0, end) for i in range(size)]


async def sleep(delay_s: float) -> None:
    """Let every backoff pass at once, and no limit ever."""
    await asyncio.sleep(0 if delay_s < 5.0 else 3600.0)


async def deliver(stub: CloudWatchStub, *windows: Sequence[MetricSnapshot], **options: Any) -> SinkLedger:  # noqa: ANN401 - a sink's
    sink = CloudWatchSink(**stub.options | options)
    settings = SinkSettings(name="cw", sink=sink, selection=Selection())
    delivery = Delivery([settings], random=Random(1).random, sleep=sleep)
    await delivery.start()
    for window in windows:
        offer(delivery, window)
    await delivery.close(30.0)
    ledger = delivery.ledgers["cw"]
    assert ledger.balance() == 0
    return ledger


def arrived(stub: CloudWatchStub) -> list[str]:
    return sorted(datum["MetricName"] for datum in stub.accepted)


async def test_a_datum_that_only_the_service_refuses_is_quarantined_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    window = build_window(300)
    with caplog.at_level(logging.WARNING):
        async with CloudWatchStub(poison=["m137"]) as stub:
            ledger = await deliver(stub, window, max_datums=50)
    assert (ledger.delivered, ledger.quarantined, ledger.dropped) == (299, 1, 0)
    assert arrived(stub) == sorted(each.name for each in window if each.name != "m137")
    (fields,) = fields_of(caplog, "refused for good, quarantined")
    assert fields["metric"] == "m137"
    # The first refusal, of 50, then halves of 25, 13, 7, 4, 2 and 1, of which both are tried.
    assert len(stub.refused) <= 8


async def test_a_poison_in_a_single_request_is_found_all_the_same() -> None:
    async with CloudWatchStub(poison=["m7", "m8"]) as stub:
        ledger = await deliver(stub, build_window(20))
    assert (ledger.delivered, ledger.quarantined) == (18, 2)
    assert len(arrived(stub)) == len(set(arrived(stub))) == 18


async def test_a_window_that_meets_every_passing_failure_arrives_whole_and_once() -> None:
    script: list[Answer | None] = [
        None,
        THROTTLED,
        None,
        FAILED,
        EXPIRED,
        None,
        RESET,
        TOO_LARGE,
        Answer(503),
        None,
    ]
    window = [*build_window(200), MetricSnapshot("nan", 1, float("nan"), 1.0, 1.0)]
    async with CloudWatchStub(script, poison=["m99"]) as stub:
        ledger = await deliver(stub, window, max_datums=20, concurrency=1)
    assert stub.script == []
    assert (ledger.delivered, ledger.quarantined, ledger.dropped) == (199, 2, 0)
    assert arrived(stub) == sorted(f"m{i}" for i in range(200) if i != 99)


async def test_windows_under_way_together_keep_their_totals() -> None:
    async with CloudWatchStub([THROTTLED, None, FAILED]) as stub:
        ledger = await deliver(stub, build_window(40, "a"), build_window(40, "b"), max_datums=7)
    assert ledger.delivered == 80
    assert arrived(stub) == sorted([f"a{i}" for i in range(40)] + [f"b{i}" for i in range(40)])
