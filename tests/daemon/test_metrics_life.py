"""Entering and leaving a manager: the upload loop, the final flush, and whose exception comes out."""

import asyncio
import logging
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel
import pytest

from aiokpl_metricsd import metrics
from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.metrics import MetricsLevel, MetricsManager
from aiokpl_metricsd.sinks import InMemorySink
from tests.daemon.metrics_fakes import EPOCH_S, Clock, GatedSink, Interval, ScriptedSink, build_manager


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class StopError(BaseException):
    """As KeyboardInterrupt, but no test runner takes it for its own."""


# ---- the upload loop


@pytest.mark.anyio
async def test_it_enters_uploads_on_the_interval_flushes_and_leaves() -> None:
    interval, sink = Interval(), ScriptedSink()
    manager = MetricsManager(
        level=MetricsLevel.DETAILED, sink=sink, upload_interval_ms=250.0, sleep_fn=interval.sleep
    )
    async with manager as entered:
        assert entered is manager
        manager.put("a")
        await interval.let_pass()
        await interval.let_pass()
        manager.put("b")
        await interval.let_pass()
        manager.put("c")
    assert sink.calls == ["enter", "export", "export", "export", "exit"]
    assert [snapshot.name for snapshot in sink.all_snapshots] == ["a", "b", "c"]
    assert set(interval.slept_s) == {0.25}


@pytest.mark.anyio
async def test_the_first_window_begins_at_entering_or_with_what_was_put_before() -> None:
    clock, sink = Clock(1000.0), ScriptedSink()
    manager = build_manager(sink, clock)
    clock.now = 1010.0
    async with manager:
        clock.now = 1020.0
        manager.put("a")
    clock.now = 1030.0
    manager.put("b")
    clock.now = 1040.0
    async with manager:
        clock.now = 1050.0
    assert [(s.name, s.window_start, s.window_end) for s in sink.all_snapshots] == [
        ("a", EPOCH_S + 1010.0, EPOCH_S + 1020.0),
        ("b", EPOCH_S + 1020.0, EPOCH_S + 1050.0),
    ]


@pytest.mark.anyio
async def test_the_loop_survives_exports_that_raise() -> None:
    interval = Interval()
    sink = ScriptedSink(OSError(), RetryableExportError(), ExceptionGroup("several", [OSError()]))
    async with build_manager(sink, interval=interval) as manager:
        manager.put("a")
        for _ in range(4):
            await interval.let_pass()
        assert len(sink.exports) == 1
    assert manager.ledger.exports_failed == 3


@pytest.mark.anyio
async def test_the_loop_survives_a_sleep_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    interval, errors = Interval(), [OSError("broken")]

    async def sleep(seconds: float) -> None:
        if errors:
            raise errors.pop()
        await interval.sleep(seconds)

    sink = InMemorySink()
    manager = MetricsManager(level=MetricsLevel.DETAILED, sink=sink, sleep_fn=sleep, upload_interval_ms=0.0)
    async with manager:
        await interval.begin()
        manager.put("a")
        await interval.let_pass()
        assert len(sink.exports) == 1
    assert len(caplog.records) == 1
    assert "sleep_fn" in caplog.messages[0]


@pytest.mark.anyio
async def test_the_loop_survives_a_clock_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(Clock):
        is_broken = False

        def __call__(self) -> float:
            if self.is_broken:
                raise OSError("broken")
            return super().__call__()

    clock, interval, sink = Moody(), Interval(), InMemorySink()
    async with build_manager(sink, clock, interval=interval) as manager:
        manager.put("a")
        clock.is_broken = True
        await interval.let_pass()
        clock.is_broken = False
        assert sink.exports == ()
        await interval.let_pass()
        assert len(sink.exports) == 1
    assert caplog.messages == ["a flush failed"]


@pytest.mark.anyio
async def test_a_sleep_that_does_not_wait_starves_nobody() -> None:
    async def sleep(seconds: float) -> None:
        """Return at once."""

    async with MetricsManager(level=MetricsLevel.DETAILED, sleep_fn=sleep) as manager:
        manager.put("a")
        await anyio.lowlevel.checkpoint()
    assert manager.ledger.snapshots_delivered == 1


@pytest.mark.anyio
async def test_it_can_be_entered_again_but_not_twice() -> None:
    sink = ScriptedSink()
    manager = build_manager(sink)
    async with manager:
        with pytest.raises(RuntimeError, match="entered already"):
            await manager.__aenter__()
    async with manager:
        manager.put("a")
    assert sink.calls == ["enter", "exit", "enter", "export", "exit"]


@pytest.mark.anyio
async def test_leaving_what_was_not_entered_does_nothing() -> None:
    sink = ScriptedSink()
    await build_manager(sink).__aexit__(None, None, None)
    assert sink.calls == []


# ---- the final flush


@pytest.mark.anyio
async def test_a_final_flush_that_fails_still_leaves_the_sink_and_says_what_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ScriptedSink(OSError("down"))
    async with build_manager(sink) as manager:
        manager.put("a")
    assert sink.calls == ["enter", "export", "exit"]
    assert manager.ledger.snapshots_waiting == 1
    assert "1 snapshots undelivered" in caplog.messages[-1]


@pytest.mark.anyio
async def test_a_final_flush_that_hangs_ends_after_its_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert metrics.FINAL_FLUSH_S == 5.0
    monkeypatch.setattr(metrics, "FINAL_FLUSH_S", 0.01)
    sink = GatedSink()
    async with build_manager(sink) as manager:
        manager.put("a")
    assert sink.calls == ["enter", "hold", "exit"]
    assert (manager.ledger.snapshots_waiting, manager.ledger.exports_failed) == (1, 0)
    assert "0.01 s" in caplog.messages[0]


@pytest.mark.anyio
async def test_an_export_under_way_that_hangs_is_not_lost_and_what_came_after_it_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "FINAL_FLUSH_S", 0.01)
    interval, sink = Interval(), GatedSink()
    async with build_manager(sink, interval=interval) as manager:
        manager.put("a")
        await interval.end_sleep()
        await sink.began.wait()
        manager.put("b")
    assert manager.ledger.batches_waiting == 2
    sink.gate.set()
    await manager.flush()
    assert [[s.name for s in batch] for batch in sink.exports] == [["a"], ["b"]]


@pytest.mark.anyio
async def test_the_final_flush_lets_an_export_under_way_end_so_that_nothing_is_sent_twice() -> None:
    interval, sink = Interval(), GatedSink()
    async with anyio.create_task_group() as group, build_manager(sink, interval=interval) as manager:
        manager.put("a")
        await interval.end_sleep()
        await sink.began.wait()
        manager.put("b")

        async def open_gate() -> None:
            await anyio.wait_all_tasks_blocked()
            sink.gate.set()

        group.start_soon(open_gate)
    assert [snapshots[0].name for snapshots in sink.offered] == ["a", "b"]
    assert len(sink.exports) == 2


# ---- whose exception comes out


@pytest.mark.anyio
async def test_the_bodys_exception_comes_out_itself_and_the_sink_is_told() -> None:
    sink = ScriptedSink()
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:  # noqa: PT012 - the body of a manager is meant
        async with build_manager(sink) as manager:
            manager.put("a")
            raise error
    assert caught.value is error
    assert sink.left_with is not None
    assert sink.left_with[:2] == (ValueError, error)
    assert sink.left_with[2] is not None
    assert len(sink.exports) == 1


@pytest.mark.anyio
async def test_without_an_exception_the_sink_is_told_so() -> None:
    sink = ScriptedSink()
    async with build_manager(sink):
        pass
    assert sink.left_with == (None, None, None)


@pytest.mark.anyio
async def test_a_sink_that_cannot_be_entered_leaves_nothing_running() -> None:
    class Closed(ScriptedSink):
        async def __aenter__(self) -> Self:
            raise OSError("no account")

    interval, sink = Interval(), Closed()
    manager = build_manager(sink, interval=interval)
    with pytest.raises(OSError, match="no account"):
        await manager.__aenter__()
    await anyio.wait_all_tasks_blocked()
    assert (interval.slept_s, manager._upload) == ([], None)


class Stuck(InMemorySink):
    """Cannot be left."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        raise OSError("stuck")


@pytest.mark.anyio
async def test_a_sink_that_cannot_be_left_is_heard() -> None:
    with pytest.raises(OSError, match="stuck"):
        async with build_manager(Stuck()):
            pass


@pytest.mark.anyio
async def test_a_sink_that_cannot_be_left_does_not_hide_the_bodys_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with build_manager(Stuck()):
            raise ValueError("mine")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.anyio
async def test_what_ends_the_program_ends_the_loop_and_the_body() -> None:
    interval, sink = Interval(), ScriptedSink(StopError())
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the body of a manager is meant
        async with build_manager(sink, interval=interval) as manager:
            manager.put("a")
            await interval.end_sleep()
            await anyio.sleep_forever()
    assert caught.group_contains(StopError)
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, "a timeout around the manager would take it for its own"
    assert sink.calls == ["enter", "export", "export", "exit"]
    assert len(sink.exports) == 1
