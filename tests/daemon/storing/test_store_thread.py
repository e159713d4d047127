import asyncio
import subprocess
import sys
import threading
from functools import partial
from typing import Never

import pytest

from aiokpl_metricsd.storing.store_thread import StoreThread


@pytest.mark.asyncio
async def test_work_is_done_in_order_in_one_thread_that_is_not_the_loops() -> None:
    thread = StoreThread()
    done: list[int] = []

    def note(number: int) -> threading.Thread:
        done.append(number)
        return threading.current_thread()

    futures = [thread.submit(partial(note, number)) for number in range(50)]
    threads = set(await asyncio.gather(*futures))
    thread.end()
    assert done == list(range(50))
    assert len(threads) == 1
    assert threading.main_thread() not in threads
    for each in threads:
        each.join(10.0)


@pytest.mark.asyncio
async def test_an_error_is_the_callers_and_the_next_work_is_done() -> None:
    thread = StoreThread()

    def fail() -> Never:
        raise ValueError("odd")

    failing, next_one = thread.submit(fail), thread.submit(lambda: 7)
    assert await next_one == 7
    with pytest.raises(ValueError, match="odd"):
        await failing
    # Nobody looks at this one, and nothing is said.
    thread.submit(fail)
    await thread.submit(lambda: None)
    thread.end()
    with pytest.raises(RuntimeError, match="closed"):
        thread.submit(lambda: None)


def test_a_loop_that_is_gone_hears_nothing() -> None:
    thread = StoreThread()
    release, done = threading.Event(), threading.Event()

    async def leave() -> None:
        thread.submit(lambda: release.wait(10.0))

    asyncio.run(leave())
    release.set()

    async def come_back() -> None:
        await thread.submit(done.set)

    asyncio.run(come_back())
    assert done.is_set()
    thread.end()


HANGING = """
import asyncio, threading
from aiokpl_metricsd.storing.store_thread import StoreThread
async def main():
    thread = StoreThread()
    thread.submit(threading.Event().wait)
    await asyncio.sleep(0.05)
asyncio.run(main())
"""


def test_work_that_hangs_does_not_keep_the_process_from_ending() -> None:
    assert subprocess.run([sys.executable, "-c", HANGING], check=False, timeout=30).returncode == 0
