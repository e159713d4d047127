"""What is around a daemon in a test: time that stands still, and a disk that fails, stalls and loses.

All of it is in one thread and in an order of its own, so that a schedule always does the same.
"""

import asyncio
import errno
import os
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from aiokpl_metricsd.storing.store import Store

_T = TypeVar("_T")

# Rounds of the event loop after which something runs in circles.
_MANY_ROUNDS = 50_000


class DiedError(Exception):
    """The daemon's process is gone: the schedule has it die here."""


class Time:
    """A clock that stands still, and an event loop that is run round by round.

    Args:
        epoch_s: what the wall shows at first.

    Attributes:
        skew_s: the wall's seconds less the monotonic ones.
        fuse_rounds: rounds of the event loop after which the process dies; None where it lives.
    """

    def __init__(self, epoch_s: float) -> None:
        self.now = 1_000.0
        self.skew_s = epoch_s - self.now
        self.fuse_rounds: int | None = None
        self._is_over = False
        self._count = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.skew_s

    async def sleep(self, seconds: float) -> None:
        if self._is_over:
            await asyncio.sleep(0)
            return
        self._count += 1
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, self._count, waiter))
        await waiter

    async def settle(self) -> None:
        """Let the event loop run until nothing is left to do now.

        Raises:
            DiedError: the fuse has burnt down.
        """
        # A private name, but the only one that says whether the loop is idle.
        ready: object = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        for rounds in range(_MANY_ROUNDS):
            if self.fuse_rounds is not None:
                if self.fuse_rounds <= 0:
                    raise DiedError
                self.fuse_rounds -= 1
            await asyncio.sleep(0)
            if rounds and not ready:
                return
        raise AssertionError("the daemon runs in circles")

    async def advance(self, duration_s: float) -> None:
        """Let time pass, every sleeper waking at its own."""
        end = self.now + duration_s
        await self.settle()
        while (first := self._find_first()) is not None and first[0] <= end:
            self._wake(first)
            await self.settle()
        self.now = end

    async def run(self, task: "asyncio.Task[None]", limit_s: float) -> None:
        """Let time pass until a task is done."""
        end = self.now + limit_s
        await self.settle()
        while not task.done():
            first = self._find_first()
            assert first is not None, "nothing will ever happen"
            assert first[0] <= end, "it does not end in time"
            self._wake(first)
            await self.settle()
        await task

    def end(self) -> None:
        """Keep nobody waiting any more, so that what is left after a failed test can end."""
        self._is_over = True
        while (first := self._find_first()) is not None:
            self._wake(first)

    def _find_first(self) -> tuple[float, int, "asyncio.Future[None]"] | None:
        self._sleepers = [each for each in self._sleepers if not each[2].done()]
        return min(self._sleepers, key=lambda each: each[:2], default=None)

    def _wake(self, sleeper: tuple[float, int, "asyncio.Future[None]"]) -> None:
        self._sleepers.remove(sleeper)
        self.now = max(self.now, sleeper[0])
        sleeper[2].set_result(None)


class Disk:
    """Faults of the journal's files and of the outbox's database.

    Attributes:
        is_stalled: nothing that the store is asked for is done.
        fails_journal: what is written to the journal is cut off, as by a full disk.
        fails_outbox: every transaction is rolled back at its end.
        outbox_failures: of transactions, so far.
    """

    def __init__(self) -> None:
        self.is_stalled = False
        self.fails_journal = False
        self.fails_outbox = False
        self.outbox_failures = 0

    def wrap(self, store: Store) -> None:
        """Let a store's transactions fail when the disk does."""
        database = store._database
        attempt = database._try

        def try_it(work: Callable[[], _T]) -> _T:
            if not self.fails_outbox:
                return attempt(work)

            def work_in_vain() -> _T:
                work()
                self.outbox_failures += 1
                raise sqlite3.OperationalError("disk I/O error")

            return attempt(work_in_vain)

        database._try = try_it  # type: ignore[method-assign]

    # What `storing.segment` asks of `os`.

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if not self.fails_journal:
            return os.write(descriptor, data)
        if len(data) > 1:
            return os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever `os` has
        return getattr(os, name)


class StoreInTurn:
    """In place of `StoreThread`: does one job a round of the event loop, where the disk does not stall."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._jobs: deque[Callable[[], None]] = deque()

    def submit(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

        def do() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self._jobs.append(do)
        self.go_on()
        return future

    def go_on(self) -> None:
        asyncio.get_running_loop().call_soon(self._do_next)

    def end(self) -> None:
        """Nothing more is asked for."""

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def _do_next(self) -> None:
        if self._jobs and not self._disk.is_stalled:
            self._jobs.popleft()()


async def run_inline(work: Callable[..., _T], *args: Any) -> _T:  # noqa: ANN401 - as `asyncio.to_thread`
    """Do in this thread, a round later, what would be done in another one."""
    await asyncio.sleep(0)
    return work(*args)


__all__ = ["DiedError", "Disk", "StoreInTurn", "Time", "run_inline"]
