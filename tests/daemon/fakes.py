"""Fakes for the delivery's tests: a clock that moves when told, a sink that answers by script, snapshots."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from types import TracebackType
from typing import Any, Self

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.snapshot import MetricSnapshot

# What a sink is to do with one export: raise this, call this, or, for None, take it.
Answer = BaseException | Callable[[Sequence[MetricSnapshot]], Awaitable[None]] | None


class FakeClock:
    """A clock for `clock`, `wall_clock` and `sleep`. Time passes in `advance` alone."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + delay_s, len(self.slept), waiter))
        await waiter

    async def advance(self, duration_s: float) -> None:
        """Let so many seconds pass, every sleeper waking at its own time."""
        end = self.now + duration_s
        await settle()
        while due := [each for each in self._sleepers if each[0] <= end and not each[2].done()]:
            first = min(due, key=lambda each: each[:2])
            self._sleepers.remove(first)
            self.now = max(self.now, first[0])
            first[2].set_result(None)
            await settle()
        self.now = end

    async def run(self, work: Awaitable[Any], limit_s: float = 1e6) -> float:
        """Let time pass until the work is done; return how many seconds that took."""
        begin = self.now
        task = asyncio.ensure_future(work)
        await settle()
        while not task.done():
            alive = [each for each in self._sleepers if not each[2].done()]
            assert alive, "nothing will ever happen"
            await self.advance(max(0.0, min(each[0] for each in alive) - self.now))
            assert self.now - begin <= limit_s, "not done within the limit"
        task.result()
        return self.now - begin


async def settle() -> None:
    """Let the loop run until nothing is left to do at this moment."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    # A private name, but the only one that says whether the loop is idle.
    while loop._ready:  # noqa: ASYNC110 - there is no event for idleness
        await asyncio.sleep(0)


class ScriptedSink:
    """Answers each export by script, then by `then`; keeps what it took.

    Args:
        script: an answer for each of the first exports.
        then: the answer to all others.
        poison: refuse every batch with one of these metric names in it; before the script.
        enter: what each of the first `__aenter__` raises; None enters.
    """

    repeat_rule = "adds"

    def __init__(
        self,
        script: Iterable[Answer] = (),
        *,
        then: Answer = None,
        poison: Iterable[str] = (),
        enter: Iterable[BaseException | None] = (),
        ordered: bool = False,
    ) -> None:
        self.ordered = ordered
        self.script = list(script)
        self.then = then
        self.poison = frozenset(poison)
        self.enter = list(enter)
        self.calls: list[tuple[MetricSnapshot, ...]] = []
        self.taken: list[tuple[MetricSnapshot, ...]] = []
        self.refused = 0
        self.entered = 0
        self.left = 0

    @property
    def names(self) -> list[str]:
        """The names of all snapshots taken, in order."""
        return [snapshot.name for batch in self.taken for snapshot in batch]

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        batch = tuple(snapshots)
        self.calls.append(batch)
        if any(snapshot.name in self.poison for snapshot in batch):
            self.refused += 1
            raise PermanentExportError("poison")
        answer = self.script.pop(0) if self.script else self.then
        if isinstance(answer, PartialExportError):
            left = {id(each) for each in (*answer.remaining, *answer.rejected)}
            self.taken.append(tuple(each for each in batch if id(each) not in left))
            raise answer
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            await answer(batch)
        self.taken.append(batch)

    async def __aenter__(self) -> Self:
        error = self.enter.pop(0) if self.enter else None
        if error is not None:
            raise error
        self.entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.left += 1


async def hang(snapshots: Sequence[MetricSnapshot]) -> None:
    """Never answer."""
    await asyncio.Event().wait()


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
