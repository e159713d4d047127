import asyncio
from types import TracebackType
from typing import Self

import pytest

from aiokpl_metricsd.delivering.intake import MAX_CLOSINGS
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivery import LEAVE_RESERVE_S, NAME_AFTER_S
from aiokpl_metricsd.errors import RetryableExportError
from tests.daemon.fakes import (
    Answer,
    FakeClock,
    ScriptedSink,
    build,
    build_window,
    fields_of,
    hang,
    offer,
    running,
    serve,
    settle,
)


@pytest.mark.asyncio
async def test_an_incomplete_longer_window_is_delivered_at_the_close() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink, selection=Selection(interval_s=600))) as delivery:
        offer(delivery, build_window(3))
        await settle()
        assert sink.calls == []
    assert [len(batch) for batch in sink.taken] == [3]


class HangingSink(ScriptedSink):
    """Hangs where it is told to."""

    def __init__(self, *places: str, then: Answer = None) -> None:
        super().__init__(then=then)
        self.places = places

    async def __aenter__(self) -> Self:
        if "enter" in self.places:
            await asyncio.Event().wait()
        return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await super().__aexit__(exc_type, exc, tb)
        if "exit" in self.places:
            await asyncio.Event().wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("places", [("enter",), ("export",), ("exit",), ("export", "exit")])
async def test_the_close_ends_by_its_deadline_whatever_hangs(
    places: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, well = FakeClock(), ScriptedSink()
    sink = HangingSink(*places, then=hang if "export" in places else None)
    delivery = build(clock, serve(sink, "hanging"), serve(well, "well"))
    await delivery.start()
    for number in range(3):
        offer(delivery, build_window(4, start=60.0 * number))
    await settle()
    assert await clock.run(delivery.close(5.0)) <= 5.0
    lost = places != ("exit",)
    ledger = delivery.ledgers["hanging"]
    assert (ledger.balance(), ledger.waiting) == (0, 0)
    assert (ledger.delivered, ledger.dropped_by_reason) == ((0, {"shutdown": 12}) if lost else (12, {}))
    assert delivery.ledgers["well"].delivered == 12
    assert (well.left, sink.left) == (1, 0 if "enter" in places else 1)
    said = [fields for fields in fields_of(caplog, "not delivered, dropped") if fields["sink"] == "hanging"]
    assert said == (
        [{"sink": "hanging", "snapshots": 12, "windows": 3, "reason": "shutdown"}] if lost else []
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(("timeout_s", "named"), [(5.0, [{"hanging": 12}]), (1.0, [])])
async def test_the_close_names_what_it_waits_for_before_a_sigkill_may_come(
    timeout_s: float, named: list[dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    delivery = build(clock, serve(ScriptedSink(then=hang), "hanging"), serve(ScriptedSink(), "well"))
    await delivery.start()
    for number in range(3):
        offer(delivery, build_window(4, start=60.0 * number))
    await settle()
    closing = asyncio.ensure_future(delivery.close(timeout_s))
    await clock.advance(NAME_AFTER_S)
    # Where the last words come as soon, there is no need.
    assert closing.done() == (not named)
    assert [fields["snapshots"] for fields in fields_of(caplog, "the end waits for sinks")] == named
    await clock.run(closing)


@pytest.mark.asyncio
async def test_the_close_tries_a_sink_in_backoff_once_more_at_once() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError(retry_after_s=1_000.0)])
    async with running(clock, serve(sink)) as delivery:
        for number in range(3):
            offer(delivery, build_window(2, start=60.0 * number))
        await settle()
        assert await clock.run(delivery.close(5.0)) == 0.0
    assert delivery.ledgers["sink"].delivered == 6


@pytest.mark.asyncio
async def test_the_close_ends_early_when_the_next_attempt_would_come_too_late() -> None:
    clock, sink = FakeClock(), ScriptedSink(then=RetryableExportError(retry_after_s=60.0))
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
        await settle()
        assert await clock.run(delivery.close(5.0)) == 0.0
    assert (len(sink.calls), delivery.ledgers["sink"].dropped, sink.left) == (2, 2, 1)


@pytest.mark.asyncio
async def test_a_delivery_that_was_never_started_drops_what_it_was_offered() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink)):
        delivery = build(clock, serve(sink))
        offer(delivery, build_window(2))
        await delivery.close(5.0)
        assert (delivery.ledgers["sink"].dropped, delivery.ledgers["sink"].balance()) == (2, 0)


@pytest.mark.asyncio
async def test_a_window_after_the_close_is_dropped_and_counted() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink)) as delivery:
        await clock.run(delivery.close(5.0))
        await delivery.close(5.0)
        offer(delivery, build_window(2))
    assert delivery.ledgers["sink"].dropped_by_reason == {"shutdown": 2}


@pytest.mark.asyncio
async def test_a_cancelled_close_still_counts_what_it_leaves() -> None:
    clock, sink = FakeClock(), ScriptedSink(then=hang)
    delivery = build(clock, serve(sink))
    await delivery.start()
    offer(delivery, build_window(2))
    closing = asyncio.create_task(delivery.close(5.0))
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await clock.advance(10.0)
    assert (delivery.ledgers["sink"].dropped, delivery.ledgers["sink"].balance()) == (2, 0)


@pytest.mark.asyncio
async def test_the_close_begins_the_backoff_anew() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError()] * 12)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
        while len(sink.script) > 2:
            await clock.advance(1.0)
        assert await clock.run(delivery.close(10.0)) < 9.0
    assert delivery.ledgers["sink"].delivered == 2


@pytest.mark.asyncio
async def test_the_close_begins_the_backoff_anew_for_an_attempt_under_way_too() -> None:
    clock, sink = FakeClock(), ScriptedSink([*[RetryableExportError()] * 12, hang])
    async with running(clock, serve(sink, timeout_s=3.0)) as delivery:
        offer(delivery, build_window(2))
        while sink.script:
            await clock.advance(1.0)
        assert await clock.run(delivery.close(10.0)) < 5.0
    assert delivery.ledgers["sink"].delivered == 2


class ClosedSink(ScriptedSink):
    """Cannot be entered."""

    async def __aenter__(self) -> Self:
        raise OSError("nobody there")


@pytest.mark.asyncio
async def test_a_sink_that_cannot_be_entered_delays_no_close_when_nothing_waits_for_it() -> None:
    clock = FakeClock()
    async with running(clock, serve(ClosedSink())) as delivery:
        assert await clock.run(delivery.close(10.0)) == 0.0


class SlowlyLeftSink(ScriptedSink):
    """Takes its time to close."""

    def __init__(self, clock: FakeClock, duration_s: float, then: Answer = None) -> None:
        super().__init__(then=then)
        self.clock = clock
        self.duration_s = duration_s

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.clock.sleep(self.duration_s)
        await super().__aexit__(exc_type, exc, tb)


@pytest.mark.asyncio
@pytest.mark.parametrize(("duration_s", "then"), [(4.5, None), (0.9, hang)])
async def test_a_sink_has_what_time_there_is_to_close(duration_s: float, then: Answer) -> None:
    clock = FakeClock()
    sink = SlowlyLeftSink(clock, duration_s, then)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
        await settle()
    assert sink.left == 1


@pytest.mark.asyncio
async def test_a_fault_of_ours_ends_the_wait_for_what_was_handed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("ours")

    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink)) as delivery:
        with monkeypatch.context() as patch:
            patch.setattr("aiokpl_metricsd.delivering.intake.Shelf", fail)
            handed = offer(delivery, build_window(2))
            await settle()
            with pytest.raises(ArithmeticError, match="ours"):
                await asyncio.wait_for(handed, 10.0)
        await clock.run(delivery.close(5.0))
        ledger = delivery.ledgers["sink"]
        assert (ledger.closed, ledger.dropped_by_reason) == (2, {"shutdown": 2})
    assert "a task of the delivery ended" in caplog.messages


@pytest.mark.asyncio
async def test_what_is_cut_off_on_its_way_through_the_intake_is_dropped_and_counted() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink)) as delivery:
        # A closing that the end finds half-way: something else holds the intake's turn.
        await delivery._intake.turn.acquire()
        handed = offer(delivery, build_window(2))
        await settle()
        assert await clock.run(delivery.close(5.0)) == 5.0 - LEAVE_RESERVE_S
        assert not await handed
        assert delivery.ledgers["sink"].dropped_by_reason == {"shutdown": 2}


@pytest.mark.asyncio
async def test_what_is_handed_over_and_not_waited_for_is_bounded() -> None:
    delivery = build(FakeClock(), serve(ScriptedSink()))
    for number in range(MAX_CLOSINGS):
        offer(delivery, build_window(1, start=60.0 * number))
    with pytest.raises(RuntimeError, match="wait for"):
        offer(delivery, build_window(1))
    await delivery.close(1.0)
    assert delivery.ledgers["sink"].dropped == MAX_CLOSINGS
