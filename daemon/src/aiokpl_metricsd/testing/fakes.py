"""A sink that answers by script, for tests of whatever hands windows to a sink."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from aiokpl_metricsd.errors import PartialExportError, PermanentExportError
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot

# What a sink is to do with one export: raise this, call this, or, for None, take it.
Reaction = BaseException | Callable[[Sequence[MetricSnapshot]], Awaitable[None]] | None


class ScriptedSink:
    """Answers each export by script, then by `then`; keeps what it took.

    A `PartialExportError` takes what it does not name. What a callable lets pass is taken.

        sink = ScriptedSink([RetryableExportError("503"), None, hang])

    Args:
        script: a reaction to each of the first exports.
        then: the reaction to all others.
        poison: refuse every batch with one of these metric names in it, for good; the script is not asked.
        enter: what each of the first `__aenter__` raises; None enters.
        ordered: ask for the oldest window first.

    Attributes:
        script: the reactions to come; may be added to.
        then: may be replaced.
        calls: what each export was given, in order.
        taken: what was taken of each export that took anything, in order.
        refused: exports that were refused for their poison.
        entered: how often the sink was entered.
        left: how often it was left.
    """

    repeat_rule = RepeatRule.ADDS

    def __init__(
        self,
        script: Iterable[Reaction] = (),
        *,
        then: Reaction = None,
        poison: Iterable[str] = (),
        enter: Iterable[BaseException | None] = (),
        ordered: bool = False,
    ) -> None:
        """Start with nothing taken."""
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
        """Do what the script says.

        Raises:
            PermanentExportError: there is poison among the snapshots.
            BaseException: the script says so.
        """
        batch = tuple(snapshots)
        self.calls.append(batch)
        if any(snapshot.name in self.poison for snapshot in batch):
            self.refused += 1
            raise PermanentExportError("poison")
        reaction = self.script.pop(0) if self.script else self.then
        if isinstance(reaction, PartialExportError):
            left = {id(each) for each in (*reaction.remaining, *reaction.rejected)}
            self.taken.append(tuple(each for each in batch if id(each) not in left))
            raise reaction
        if isinstance(reaction, BaseException):
            raise reaction
        if reaction is not None:
            await reaction(batch)
        self.taken.append(batch)

    async def __aenter__(self) -> Self:
        """Enter, or raise what `enter` says."""
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
        """Count."""
        self.left += 1


async def hang(snapshots: Sequence[MetricSnapshot]) -> None:
    """Never answer: a reaction for the script."""
    del snapshots
    await asyncio.Event().wait()


__all__ = ["Reaction", "ScriptedSink", "hang"]
