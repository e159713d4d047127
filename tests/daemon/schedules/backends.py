"""Backends that outlive daemons, and the sinks that a daemon has for them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.schedules.machine import Time

# How long a slow backend takes.
_SLOW_S = 2.0

# Windows with a series of this name are refused by a backend that is in that mood.
POISON = "b"


class Mood(StrEnum):
    """How a backend answers."""

    WELL = "well"
    SLOW = "slow"
    BUSY = "busy"
    REFUSES = "refuses"
    REFUSES_SOME = "refuses some"
    TAKES_HALF = "takes half"
    BREAKS = "breaks after it took"
    HANGS = "hangs"
    HANGS_AFTER = "hangs after it took"


class Item(NamedTuple):
    """A series in a window, as a backend that replaces knows it."""

    window_id: str
    name: str
    dimensions: tuple[tuple[str, str], ...]


class Content(NamedTuple):
    """What is said of it."""

    events: int
    total: float
    low: float
    high: float
    start: float
    end: float


class Traits(NamedTuple):
    """What tells one backend, and the sink's table for it, from another."""

    rule: RepeatRule = RepeatRule.ADDS
    ordered: bool = False
    max_batch: int | None = None
    remembers: bool = False
    interval_s: int = 4
    drop_dimensions: tuple[str, ...] = ()
    at_most_once: bool = False
    max_age_s: float | None = None


class Backend:
    """Takes what it is sent.

    Attributes:
        mood: how it answers.
        takes: how often each series of each window was taken.
        contents: what was said of it, last.
        changed: of which different things were said.
        ends: of the windows, in the order in which they were taken.
        may_repeat: may have been taken without the daemon's knowing.
        recent: taken since the daemon last was at rest.
        lines: what a backend has that is written to as a file is.
    """

    def __init__(self, name: str, traits: Traits) -> None:
        self.name = name
        self.traits = traits
        self.mood = Mood.WELL
        self.takes: Counter[Item] = Counter()
        self.contents: dict[Item, Content] = {}
        self.changed: set[Item] = set()
        self.ends: list[float] = []
        self.may_repeat: set[Item] = set()
        self.recent: set[Item] = set()
        self.lines: list[Item] = []

    def take(self, snapshots: Sequence[MetricSnapshot], *, is_certain: bool = True) -> None:
        """Take snapshots; where it is not certain, the daemon will not know."""
        for each in snapshots:
            item = Item(each.window_id, each.name, each.dimensions)
            content = Content(each.count, each.sum, each.min, each.max, each.window_start, each.window_end)
            if self.contents.setdefault(item, content) != content:
                self.changed.add(item)
            self.takes[item] += 1
            self.lines.append(item)
            self.recent.add(item)
            if not is_certain:
                self.may_repeat.add(item)
        self.ends.append(snapshots[0].window_end)


class Process:
    """A daemon's process, as its sinks know it: what a dead one sends goes nowhere."""

    def __init__(self) -> None:
        self.is_dead = False


class Sink:
    """One daemon's way to a backend."""

    def __init__(self, backend: Backend, process: Process, time: Time) -> None:
        self.backend = backend
        self.repeat_rule = backend.traits.rule
        self.ordered = backend.traits.ordered
        self.max_batch = backend.traits.max_batch
        self._process = process
        self._time = time

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        assert len({(each.name, each.dimensions) for each in snapshots}) == len(snapshots) > 0
        assert len({(each.window_id, each.window_start, each.window_end) for each in snapshots}) == 1
        await asyncio.sleep(0)
        mood = self.backend.mood
        if mood is Mood.SLOW:
            await self._time.sleep(_SLOW_S)
        if self._process.is_dead or mood is Mood.BUSY:
            raise RetryableExportError("busy")
        if mood is Mood.REFUSES or (
            mood is Mood.REFUSES_SOME and any(each.name == POISON for each in snapshots)
        ):
            raise PermanentExportError("no")
        if mood is Mood.HANGS:
            await asyncio.Event().wait()
        if mood in {Mood.BREAKS, Mood.HANGS_AFTER}:
            if not self.backend.traits.remembers:
                self.backend.take(snapshots, is_certain=False)
            if mood is Mood.BREAKS:
                raise OSError("the connection broke")
            await asyncio.Event().wait()
        if mood is Mood.TAKES_HALF and len(snapshots) > 1:
            middle = len(snapshots) // 2
            self.backend.take(snapshots[:middle])
            raise PartialExportError(remaining=snapshots[middle:])
        self.backend.take(snapshots)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass


class RememberingSink(Sink):
    """Cuts the backend back, at its start, to what the daemon knows that it has."""

    def dump_state(self) -> bytes:
        return str(len(self.backend.lines)).encode()

    def load_state(self, state: bytes) -> None:
        if not self._process.is_dead:
            del self.backend.lines[int(state) :]


def build_sink(backend: Backend, process: Process, time: Time) -> Any:  # noqa: ANN401 - a sink of either kind
    """Return a sink for a backend."""
    return (RememberingSink if backend.traits.remembers else Sink)(backend, process, time)


__all__ = ["POISON", "Backend", "Content", "Item", "Mood", "Process", "Traits", "build_sink"]
