"""What the delivery's tests share: snapshots, settings, a delivery in a test's own time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing import ManualClock as FakeClock
from aiokpl_metricsd.testing import ScriptedSink, hang, settle
from aiokpl_metricsd.testing.fakes import Reaction as Answer


async def hang_uncancellably(snapshots: Sequence[MetricSnapshot]) -> None:
    """Never answer, and do not let go at the first cancellations either."""
    for _ in range(3):
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def build_snapshot(
    name: str = "Requests",
    value: float = 1.0,
    *,
    dimensions: tuple[tuple[str, str], ...] = (),
    start: float = 0.0,
    kind: MetricKind = MetricKind.COUNTER,
) -> MetricSnapshot:
    """Return a snapshot of one event in a window of 60 seconds."""
    return MetricSnapshot(
        name,
        1,
        value,
        value,
        value,
        dimensions,
        window_start=start,
        window_end=start + 60.0,
        kind=kind,
        last=value,
        window_id=f"w{start:g}",
    )


def build_window(size: int, start: float = 0.0, prefix: str = "m") -> tuple[MetricSnapshot, ...]:
    """Return a window of so many series, named by the prefix and their number."""
    return tuple(build_snapshot(f"{prefix}{number}", start=start) for number in range(size))


def serve(
    sink: MetricsSink,
    name: str = "sink",
    selection: Selection | None = None,
    **options: Any,  # noqa: ANN401 - the settings' own
) -> SinkSettings:
    """Return settings of a sink that sees everything, unless told otherwise."""
    return SinkSettings(name=name, sink=sink, selection=selection or Selection(), **options)


def build(clock: FakeClock, *sinks: SinkSettings, seed: int = 1) -> Delivery:
    """Return a delivery whose time and chance are the test's."""
    return Delivery(sinks, clock=clock, wall_clock=clock, random=Random(seed).random, sleep=clock.sleep)


@asynccontextmanager
async def running(clock: FakeClock, *sinks: SinkSettings) -> AsyncGenerator[Delivery]:
    """Start a delivery, close it at the end, and check that its ledgers balance."""
    delivery = build(clock, *sinks)
    await delivery.start()
    await settle()
    yield delivery
    await clock.run(delivery.close(5.0))
    for ledger in delivery.ledgers.values():
        assert ledger.balance() == 0
        assert (ledger.waiting, ledger.merging) == (0, 0)


def offer(
    delivery: Delivery, window: Sequence[MetricSnapshot], *, window_end: float = 0.0
) -> asyncio.Future[bool]:
    """Hand one window over, which says its end itself where it has snapshots; it need not be waited for."""
    return delivery.hand_over([(window, window_end)])


def fields_of(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """Return the fields of all lines with this message."""
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]


__all__ = [
    "Answer",
    "FakeClock",
    "ScriptedSink",
    "build",
    "build_snapshot",
    "build_window",
    "fields_of",
    "hang",
    "hang_uncancellably",
    "running",
    "serve",
    "settle",
]
