"""A manager under cancellation: of a scope around it, of one inside, and of asyncio's own kind."""

import asyncio
from typing import Self

import anyio
import anyio.lowlevel
import pytest

from tests.daemon.metrics_fakes import GatedSink, Interval, ScriptedSink, build_manager


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
async def test_a_cancelled_body_still_gets_its_final_flush() -> None:
    sink = ScriptedSink()
    reached_end = False
    with anyio.CancelScope() as scope:
        async with build_manager(sink) as manager:
            manager.put("a")
            scope.cancel()
            await anyio.sleep_forever()
        reached_end = True
    assert not reached_end
    assert scope.cancelled_caught
    assert len(sink.exports) == 1
    assert sink.calls[-1] == "exit"


@pytest.mark.anyio
async def test_a_cancelled_body_does_not_interrupt_the_export_under_way() -> None:
    interval, sink = Interval(), GatedSink()
    async with anyio.create_task_group() as group:

        async def application() -> None:
            async with build_manager(sink, interval=interval) as manager:
                manager.put("a")
                await interval.end_sleep()
                await anyio.sleep_forever()

        async def open_gate() -> None:
            with anyio.CancelScope(shield=True):
                await sink.began.wait()
                group.cancel_scope.cancel()
                await anyio.wait_all_tasks_blocked()
                sink.gate.set()

        group.start_soon(application)
        group.start_soon(open_gate)
    assert len(sink.offered) == len(sink.exports) == 1


@pytest.mark.anyio
async def test_leaving_under_cancellation_does_not_hide_the_bodys_exception() -> None:
    sink = ScriptedSink()
    with anyio.CancelScope() as scope, pytest.raises(ValueError, match="mine"):  # noqa: PT012 - the body of a manager is meant
        async with build_manager(sink) as manager:
            manager.put("a")
            scope.cancel()
            raise ValueError("mine")
    assert scope.cancel_called
    assert not scope.cancelled_caught, "the cancellation came out instead"
    assert sink.left_with is not None
    assert sink.left_with[0] is ValueError
    assert len(sink.exports) == 1


@pytest.mark.anyio
async def test_a_scope_inside_the_body_ends_only_itself() -> None:
    sink = ScriptedSink()
    async with build_manager(sink) as manager:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        manager.put("a")
        await anyio.lowlevel.checkpoint()
    assert len(sink.exports) == 1


@pytest.mark.anyio
async def test_cancelled_while_the_sink_is_entered_nothing_runs_on() -> None:
    class Slow(ScriptedSink):
        async def __aenter__(self) -> Self:
            await anyio.sleep_forever()
            return self

    manager = build_manager(Slow())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await manager.__aenter__()
    assert scope.cancelled_caught
    assert manager._upload is None


def test_a_task_cancelled_by_asyncio_itself_still_gets_its_final_flush() -> None:
    sink, interval = ScriptedSink(), Interval()

    async def application() -> None:
        async with build_manager(sink, interval=interval) as manager:
            manager.put("a")
            await anyio.sleep_forever()

    async def main() -> None:
        task = asyncio.create_task(application())
        await interval.begin()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert sink.calls == ["enter", "export", "exit"]
    assert sink.left_with is not None
    assert sink.left_with[0] is asyncio.CancelledError


def test_a_timeout_of_asyncio_around_a_manager_stays_a_timeout() -> None:
    sink = ScriptedSink()

    async def main() -> None:
        async with asyncio.timeout(0), build_manager(sink) as manager:
            manager.put("a")
            await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert len(sink.exports) == 1
