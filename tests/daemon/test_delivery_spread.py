"""A window that has just closed waits for its daemon's place in the interval, and nothing else does."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.errors import RetryableExportError
from tests.daemon.delivering.stored import living, until
from tests.daemon.fakes import FakeClock, ScriptedSink, build_window, offer, running, serve, settle

HOLD_S = 4.0


@pytest.mark.asyncio
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_window_is_sent_once_its_time_has_come(ordered: bool) -> None:
    clock, sink = FakeClock(), ScriptedSink(ordered=ordered)
    async with running(clock, replace(serve(sink), hold_s=HOLD_S)) as delivery:
        for number in range(3):
            offer(delivery, build_window(2, start=60.0 * number))
            await clock.advance(3.9)
            assert len(sink.calls) == number
            await clock.advance(0.1)
            assert len(sink.calls) == number + 1
            await clock.advance(56.0)


@pytest.mark.asyncio
async def test_an_ordered_sink_still_gets_the_oldest_first_also_where_that_one_is_tried_again() -> None:
    clock = FakeClock()
    sink = ScriptedSink([RetryableExportError("503", retry_after_s=70.0)], ordered=True)
    async with running(clock, replace(serve(sink), hold_s=HOLD_S)) as delivery:
        offer(delivery, build_window(1, start=0.0))
        await clock.advance(60.0)
        offer(delivery, build_window(1, start=60.0))
        await clock.advance(60.0)
    assert [window[0].window_start for window in sink.taken] == [0.0, 60.0]


@pytest.mark.asyncio
async def test_a_retry_is_not_held_back_again() -> None:
    clock = FakeClock()
    sink = ScriptedSink([RetryableExportError("503", retry_after_s=1.0)])
    async with running(clock, replace(serve(sink), hold_s=HOLD_S)) as delivery:
        offer(delivery, build_window(1))
        await clock.advance(HOLD_S + 2.0)
        assert len(sink.taken) == 1


@pytest.mark.asyncio
async def test_a_window_that_waits_for_its_time_holds_up_no_backlog_of_an_unordered_sink() -> None:
    clock = FakeClock()
    sink = ScriptedSink([RetryableExportError("503", retry_after_s=60.0)])
    async with running(clock, replace(serve(sink), hold_s=HOLD_S)) as delivery:
        offer(delivery, build_window(1, start=0.0))
        await clock.advance(HOLD_S + 59.0)
        offer(delivery, build_window(1, start=60.0))
        await clock.advance(HOLD_S - 1.0)
        assert [window[0].window_start for window in sink.taken] == [0.0]
        await clock.advance(1.0)
        assert [window[0].window_start for window in sink.taken] == [0.0, 60.0]


@pytest.mark.asyncio
async def test_the_last_windows_never_wait() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    delivery = Delivery(
        [replace(serve(sink), hold_s=HOLD_S)], clock=clock, wall_clock=clock, sleep=clock.sleep
    )
    await delivery.start()
    offer(delivery, build_window(2))
    await settle()
    assert sink.calls == []
    assert await clock.run(delivery.close(10.0)) == 0.0
    assert len(sink.taken) == 1


@pytest.mark.asyncio
async def test_what_an_earlier_daemon_left_does_not_wait(tmp_path: Path) -> None:
    # Longer than any test: what is held back is not sent here.
    sink = ScriptedSink()
    async with living(tmp_path / "a", replace(serve(sink), hold_s=10_000.0)) as life:
        await life.hand_over(build_window(3))
        await life.rest()
        assert sink.calls == []
        left = await life.die()
    async with living(left, replace(serve(sink), hold_s=10_000.0)):
        await until(lambda: sink.taken == [build_window(3)])
