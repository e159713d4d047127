"""Await with a limit. The sleep is an argument, so that a test can let hours pass.

`try_once` gives the work a task of its own: work that swallows its cancellation is left behind, and a
CancelledError of its own making is told from ours. `run_limited` stays in the caller's task, for what is
entered and left: task groups and cancel scopes must be left by the task that entered them.

Neither can help against work that blocks the thread: nothing else runs then, no limit either.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Sleep = Callable[[float], Awaitable[Any]]

# How long cancelled work may take to end. Ours: long enough to close a connection, short beside any shutdown.
CANCEL_GRACE_S = 0.5

# Cancelled, but not ended: kept so that the garbage collector does not take them while they run.
_left_behind: set[asyncio.Task[BaseException | None]] = set()


async def wait_done(tasks: Sequence[asyncio.Task[Any]], limit_s: float, sleep: Sleep) -> None:
    """Wait until all tasks are done or the limit has passed; their results stay in them."""
    pending: set[asyncio.Task[Any]] = {task for task in tasks if not task.done()}
    if not pending:
        return
    timer = asyncio.ensure_future(_wait(max(0.0, limit_s), sleep))
    try:
        while pending and not timer.done():
            await asyncio.wait({*pending, timer}, return_when=asyncio.FIRST_COMPLETED)
            pending = {task for task in pending if not task.done()}
    finally:
        timer.cancel()


async def wait_event(event: asyncio.Event, limit_s: float | None, sleep: Sleep) -> None:
    """Wait until the event is set or the limit, where there is one, has passed."""
    if limit_s is None:
        await event.wait()
        return
    waiter = asyncio.ensure_future(event.wait())
    try:
        await wait_done([waiter], limit_s, sleep)
    finally:
        waiter.cancel()


async def try_once(work: Callable[[], Awaitable[Any]], limit_s: float, sleep: Sleep) -> BaseException | None:
    """Run the work in a task of its own and return what it raised, a TimeoutError past the limit, or None.

    When the caller is cancelled, so is the work, which then has `CANCEL_GRACE_S` to end.
    """
    task = asyncio.ensure_future(_catch(work))
    try:
        await wait_done([task], limit_s, sleep)
    finally:
        if not task.done():
            task.cancel()
            _left_behind.add(task)
            task.add_done_callback(_left_behind.discard)
            await wait_done([task], CANCEL_GRACE_S, sleep)
    if not task.done():
        return TimeoutError(f"no answer within {limit_s:g} s, and none to being cancelled")
    if task.cancelled():
        return TimeoutError(f"no answer within {limit_s:g} s")
    return task.result()


async def run_limited(work: Awaitable[Any], limit_s: float, sleep: Sleep) -> None:
    """Run the work in this task.

    Raises:
        TimeoutError: the limit has passed, and the work was cancelled.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("no task to cancel")
    cancelled_before = task.cancelling()
    is_running = True
    is_expired = False

    async def expire() -> None:
        nonlocal is_expired
        await sleep(limit_s)
        if is_running:
            is_expired = True
            task.cancel()

    timer = asyncio.ensure_future(expire())
    try:
        await work
    except asyncio.CancelledError:
        if is_expired and task.cancelling() == cancelled_before + 1:
            raise TimeoutError(f"not done within {limit_s:g} s") from None
        raise
    finally:
        is_running = False
        timer.cancel()
        if is_expired:
            task.uncancel()


def must_escape(error: BaseException) -> bool:
    """Return whether an error is not the work's own: the interpreter or this task is to end."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


async def _catch(work: Callable[[], Awaitable[Any]]) -> BaseException | None:
    try:
        await work()
    except BaseException as error:
        if must_escape(error):
            raise
        return error
    return None


async def _wait(limit_s: float, sleep: Sleep) -> None:
    await sleep(limit_s)


__all__ = ["CANCEL_GRACE_S", "Sleep", "must_escape", "run_limited", "try_once", "wait_done", "wait_event"]
