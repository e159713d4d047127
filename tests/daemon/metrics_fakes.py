"""Fakes for the tests of the in-process library: a clock, an interval, and sinks that misbehave."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.lowlevel

from aiokpl_metrics_protocol import MetricEvent
from aiokpl_metricsd.metrics import MetricsLevel, MetricsManager
from aiokpl_metricsd.sinks import InMemorySink, MetricSnapshot, MetricsSink

EPOCH_S = 1_700_000_000.0

# What an export does: raise this, or what this makes of the batch; None takes the batch.
Step: TypeAlias = BaseException | Callable[[tuple[MetricSnapshot, ...]], BaseException] | None


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Interval:
    """A `sleep_fn` that ends when a test lets the interval pass."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self._began = anyio.Event()
        self._passed = anyio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self._passed = anyio.Event()
        self._began.set()
        await self._passed.wait()

    async def begin(self) -> None:
        """Wait until the loop sleeps."""
        await self._began.wait()

    async def let_pass(self) -> None:
        """End the sleep, and wait until the loop has done its work and sleeps again."""
        await self._began.wait()
        self._began = anyio.Event()
        self._passed.set()
        await self._began.wait()

    async def end_sleep(self) -> None:
        """End the sleep, and do not wait for the loop's work."""
        await self._began.wait()
        self._began = anyio.Event()
        self._passed.set()


class ScriptedSink(InMemorySink):
    """Raises the errors of its script, one an export; then takes everything, and remembers the offers."""

    def __init__(self, *script: Step) -> None:
        super().__init__()
        self.script = list(script)
        self.offered: list[Sequence[MetricSnapshot]] = []
        self.calls: list[str] = []
        self.left_with: (
            tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None
        ) = None

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        self.calls.append("export")
        self.offered.append(snapshots)
        await anyio.lowlevel.checkpoint()
        step = self.script.pop(0) if self.script else None
        if step is not None:
            raise step if isinstance(step, BaseException) else step(tuple(snapshots))
        await super().export(snapshots)

    async def __aenter__(self) -> Self:
        self.calls.append("enter")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.calls.append("exit")
        self.left_with = (exc_type, exc, tb)


class GatedSink(ScriptedSink):
    """Holds every export until its gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.began = anyio.Event()
        self.gate = anyio.Event()

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        self.began.set()
        self.calls.append("hold")
        await self.gate.wait()
        await super().export(snapshots)


class EventfulSink(ScriptedSink):
    """Takes each event as well."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[MetricEvent] = []

    def record(self, event: MetricEvent) -> None:
        self.events.append(event)


def build_manager(
    sink: MetricsSink | None = None,
    clock: Clock | None = None,
    *,
    level: MetricsLevel = MetricsLevel.DETAILED,
    interval: Interval | None = None,
) -> MetricsManager:
    """Build a manager whose clock's zero is `EPOCH_S` and whose interval never passes by itself."""
    clock = clock or Clock()
    return MetricsManager(
        level=level,
        sink=sink,
        clock=clock,
        sleep_fn=(interval or Interval()).sleep,
        wall_clock=lambda: EPOCH_S + clock.now,
    )


__all__ = [
    "EPOCH_S",
    "Clock",
    "EventfulSink",
    "GatedSink",
    "Interval",
    "ScriptedSink",
    "Step",
    "build_manager",
]
