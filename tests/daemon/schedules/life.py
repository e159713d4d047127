"""One daemon's process, and what is known of the frames that it was sent."""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokpl_metricsd.daemon import Daemon
from aiokpl_metricsd.outbox import Sealed
from tests.daemon.schedules.backends import Process
from tests.daemon.schedules.machine import StoreInTurn
from tests.daemon.schedules.producers import Frame


class Life:
    """One daemon's process.

    Attributes:
        fresh: frames on the front door of which nobody knows yet whether they were read.
        unsafe: frames that are in memory only, as far as is known.
        sealed: those that a checkpoint holds which is on its way.
        is_whole: all that was read since the world last was at rest is in the journal.
        is_unstored: windows are in memory that no checkpoint has.
    """

    def __init__(self, daemon: Daemon, process: Process, jobs: StoreInTurn) -> None:
        self.daemon = daemon
        self.process = process
        self.jobs = jobs
        self.task: asyncio.Task[None] = asyncio.ensure_future(daemon.run())
        self.fresh: list[Frame] = []
        self.unsafe: list[Frame] = []
        self.sealed: list[Frame] = []
        self.is_whole = True
        self.is_unstored = False
        self._watch()

    def _watch(self) -> None:
        """Take note of what the journal and the checkpoints say."""
        daemon = self.daemon
        assert daemon._state is not None
        assert daemon._checkpointer is not None
        journal, checkpointer = daemon._state.journal, daemon._checkpointer
        write, seal, release = journal.write, checkpointer.seal, checkpointer.release
        hand_over = daemon.delivery.hand_over

        def note_write() -> bool:
            is_whole = write()
            self.is_whole = self.is_whole and is_whole
            return is_whole

        def note_seal() -> Sealed:
            self.sealed = [*self.unsafe]
            return seal()

        async def note_release(sealed: Sealed, *, is_stored: bool) -> None:
            if is_stored:
                self.unsafe = [frame for frame in self.unsafe if frame not in self.sealed]
            await release(sealed, is_stored=is_stored)

        async def note_hand_over(windows: Sequence[Any], sealed: Sealed | None) -> bool:
            is_stored = await hand_over(windows, sealed)
            is_sent = any(each for each, _ in windows) and not self._is_left
            self.is_unstored = not is_stored and (self.is_unstored or is_sent)
            return is_stored

        for part, name, method in (
            (journal, "write", note_write),
            (checkpointer, "seal", note_seal),
            (checkpointer, "release", note_release),
            (daemon.delivery, "hand_over", note_hand_over),
        ):
            setattr(part, name, method)

    @property
    def _is_left(self) -> bool:
        """Whether what cannot be stored now is left to the journal."""
        brings_again = self.daemon.delivery._intake.brings_again
        return brings_again is not None and brings_again()

    @property
    def has_failed(self) -> bool:
        """Whether the daemon ended by itself."""
        return self.task.done() and not self.daemon._stopping.is_set()


__all__ = ["Life"]
