"""Work -> one thread, in the order of the calls -> asyncio futures.

The thread is a daemon thread, so a disk that hangs does not keep the process from ending. An executor of the
standard library would: the interpreter waits for its threads.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")


class StoreThread:
    """Does one thing at a time; starts with the first one."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._has_ended = False

    def submit(self, work: Callable[[], _T]) -> "asyncio.Future[_T]":
        """Let the work be done after all that was submitted before. Called on the event loop.

        To cancel the future does not cancel the work: whoever waits for it may go away.

        Raises:
            RuntimeError: `end` was called.
        """
        if self._has_ended:
            raise RuntimeError("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        # Whoever does not look at the outcome is told by the log, once, and not at each call.
        future.add_done_callback(_retrieve)

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                report(future.set_exception, error)
            else:
                report(future.set_result, result)

        def report(settle: Callable[[Any], None], outcome: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, settle, outcome)

        self._jobs.put(run)
        if self._thread is None:
            self._thread = Thread(target=self._run, name="aiokpl-metricsd store", daemon=True)
            self._thread.start()
        return future

    def end(self) -> None:
        """Let the thread end after what was submitted."""
        self._has_ended = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            # What the work held must not live until the next one comes.
            del job


def _settle(future: "asyncio.Future[Any]", settle: Callable[[Any], None], outcome: object) -> None:
    if not future.done():
        settle(outcome)


def _retrieve(future: "asyncio.Future[_T]") -> None:
    if not future.cancelled():
        future.exception()


__all__ = ["StoreThread"]
