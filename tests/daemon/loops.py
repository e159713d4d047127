"""Both event loops that the daemon may run on, for tests to run on each."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest
import uvloop

TIMEOUT_S = 30

NewLoop: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

on_both_loops = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(new_loop: NewLoop, work: Coroutine[Any, Any, None]) -> None:
    """Run on a loop of its own."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(work, TIMEOUT_S))


async def until(is_done: Callable[[], object]) -> None:
    """Let the loop turn until something is true."""
    for _ in range(TIMEOUT_S * 1_000):
        if is_done():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not within the time")


__all__ = ["NewLoop", "on_both_loops", "run", "until"]
