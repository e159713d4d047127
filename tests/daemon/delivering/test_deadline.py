import asyncio

import pytest

from aiokpl_metricsd.delivering.deadline import CANCEL_GRACE_S, run_limited, try_once, wait_done, wait_event
from tests.daemon.fakes import FakeClock, hang, hang_uncancellably, settle


@pytest.mark.asyncio
async def test_work_that_ends_in_time_says_how() -> None:
    clock = FakeClock()

    async def fail() -> None:
        raise ValueError

    assert await try_once(lambda: asyncio.sleep(0), 1.0, clock.sleep) is None
    assert isinstance(await try_once(fail, 1.0, clock.sleep), ValueError)


@pytest.mark.asyncio
async def test_work_without_an_answer_is_cancelled_at_its_limit() -> None:
    clock = FakeClock()
    task = asyncio.create_task(try_once(lambda: hang(()), 30.0, clock.sleep))
    assert await clock.run(task) == 30.0
    assert isinstance(task.result(), TimeoutError)


@pytest.mark.asyncio
async def test_work_that_swallows_its_cancellation_is_left_behind() -> None:
    clock = FakeClock()
    task = asyncio.create_task(try_once(lambda: hang_uncancellably(()), 30.0, clock.sleep))
    assert await clock.run(task) == 30.0 + CANCEL_GRACE_S
    assert isinstance(task.result(), TimeoutError)
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        for _ in range(4):
            other.cancel()
            await settle()


@pytest.mark.asyncio
async def test_a_cancellation_that_the_work_made_itself_is_its_error() -> None:
    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    error = await try_once(cancel_itself, 1.0, FakeClock().sleep)
    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.asyncio
async def test_an_exit_of_the_work_is_its_error_too() -> None:
    async def leave() -> None:
        raise SystemExit(1)

    assert isinstance(await try_once(leave, 1.0, FakeClock().sleep), SystemExit)


@pytest.mark.asyncio
async def test_a_cancelled_caller_cancels_the_work_and_is_cancelled() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    task = asyncio.create_task(try_once(work, 30.0, FakeClock().sleep))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


@pytest.mark.asyncio
async def test_work_in_this_task_is_limited_and_leaves_no_cancellation_behind() -> None:
    clock = FakeClock()
    seen: list[int] = []

    async def caller() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            await run_limited(hang(()), 5.0, clock.sleep)
        seen.append(task.cancelling())
        await run_limited(asyncio.sleep(0), 5.0, clock.sleep)
        with pytest.raises(KeyError):
            await run_limited(raise_key_error(), 5.0, clock.sleep)

    async def raise_key_error() -> None:
        raise KeyError

    assert await clock.run(asyncio.create_task(caller())) == 5.0
    assert seen == [0]


@pytest.mark.asyncio
async def test_a_cancellation_from_outside_is_no_timeout() -> None:
    task = asyncio.create_task(run_limited(hang(()), 5.0, FakeClock().sleep))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_waiting_ends_with_the_last_task_or_the_limit() -> None:
    clock = FakeClock()
    await wait_done([], 5.0, clock.sleep)
    short = asyncio.create_task(clock.sleep(2.0))
    long = asyncio.create_task(clock.sleep(9.0))
    assert await clock.run(wait_done([short, long], 5.0, clock.sleep)) == 5.0
    assert (short.done(), long.done()) == (True, False)
    assert await clock.run(wait_done([short, long], 50.0, clock.sleep)) == 4.0


@pytest.mark.asyncio
async def test_waiting_for_an_event_ends_with_it_or_the_limit() -> None:
    clock = FakeClock()
    event = asyncio.Event()
    assert await clock.run(wait_event(event, 5.0, clock.sleep)) == 5.0
    event.set()
    await wait_event(event, 5.0, clock.sleep)
    await wait_event(event, None, clock.sleep)
