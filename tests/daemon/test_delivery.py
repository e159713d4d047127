import asyncio
import logging
from collections.abc import Sequence
from math import ceil, log2
from types import TracebackType
from typing import Self

import pytest

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import (
    Answer,
    FakeClock,
    ScriptedSink,
    build,
    build_snapshot,
    build_window,
    fields_of,
    hang,
    offer,
    running,
    serve,
    settle,
)

LOGGER = "aiokpl_metricsd.delivery"


@pytest.mark.asyncio
async def test_a_window_reaches_every_sink_and_is_shared_by_them() -> None:
    clock, first, second = FakeClock(), ScriptedSink(), ScriptedSink()
    window = build_window(3)
    async with running(clock, serve(first, "first"), serve(second, "second")) as delivery:
        offer(delivery, window)
        await settle()
        assert first.taken == second.taken == [window]
        ledger = delivery.ledgers["first"]
        assert (ledger.closed, ledger.delivered, ledger.exports, ledger.failures) == (3, 3, 1, 0)
        assert ledger.last_success == clock.now
    assert (first.entered, first.left) == (1, 1)


@pytest.mark.asyncio
async def test_an_empty_window_is_no_export() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, ())
        await clock.advance(60.0)
    assert sink.calls == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "failure",
    [
        RetryableExportError(),
        ValueError("odd"),
        asyncio.CancelledError(),
        SystemExit(3),
        hang,
        ExceptionGroup("g", [OSError()]),
    ],
)
async def test_one_dead_sink_never_holds_up_another(failure: Answer) -> None:
    clock, dead, well = FakeClock(), ScriptedSink(then=failure), ScriptedSink()
    async with running(clock, serve(dead, "dead"), serve(well, "well")) as delivery:
        for number in range(10):
            offer(delivery, build_window(5, start=60.0 * number))
            await settle()
            assert len(well.taken) == number + 1
            await clock.advance(60.0)
        assert len(dead.calls) > 5
        assert delivery.ledgers["dead"].waiting == 50
        assert delivery.ledgers["dead"].failures > 5
        dead.then = None
    assert delivery.ledgers["dead"].delivered + delivery.ledgers["dead"].dropped == 50
    assert delivery.ledgers["well"].delivered == 50


@pytest.mark.asyncio
async def test_a_failed_export_is_tried_again_until_it_succeeds_with_growing_pauses() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError()] * 8)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(3))
        await clock.advance(300.0)
        assert sink.taken == [build_window(3)]
        assert len(sink.calls) == 9
        pauses = [pause for pause in clock.slept if pause not in {30.0, 5.0}]
        assert all(pause <= min(60.0, 2.0**number) for number, pause in enumerate(pauses[:8]))
        assert max(pauses) > 4.0


@pytest.mark.asyncio
async def test_the_first_success_ends_the_backoff() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError()] * 8)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(3))
        await clock.advance(300.0)
        sink.script.append(RetryableExportError())
        offer(delivery, build_window(3, start=300.0))
        await clock.advance(2.0)
        assert len(sink.taken) == 2


@pytest.mark.asyncio
async def test_one_window_that_never_succeeds_does_not_hold_up_the_others_of_an_unordered_sink() -> None:
    async def refuse_the_first(batch: Sequence[MetricSnapshot]) -> None:
        if batch[0].window_start == 0.0:
            raise RetryableExportError

    clock, sink = FakeClock(), ScriptedSink([RetryableExportError()] * 12, then=refuse_the_first)
    async with running(clock, serve(sink)) as delivery:
        for number in range(5):
            offer(delivery, build_window(1, start=60.0 * number))
        await clock.advance(900.0)
        assert sorted(batch[0].window_start for batch in sink.taken) == [60.0, 120.0, 180.0, 240.0]


@pytest.mark.asyncio
async def test_what_the_backend_asks_to_wait_is_waited() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError(retry_after_s=90.0)])
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(3))
        await clock.advance(89.9)
        assert len(sink.calls) == 1
        await clock.advance(1.2)
        assert len(sink.taken) == 1


@pytest.mark.asyncio
async def test_an_export_without_an_answer_ends_at_its_limit_and_is_ambiguous_where_repeats_add() -> None:
    clock, sink = FakeClock(), ScriptedSink([hang])
    async with running(clock, serve(sink, timeout_s=7.0)) as delivery:
        offer(delivery, build_window(3))
        await clock.advance(6.9)
        assert len(sink.calls) == 1
        await clock.advance(1.2)
        assert sink.taken == [build_window(3)]
        assert delivery.ledgers["sink"].ambiguous == 3
        assert "TimeoutError" in delivery.ledgers["sink"].last_error


@pytest.mark.asyncio
async def test_of_a_partial_answer_the_remaining_goes_at_once_and_the_rejected_is_quarantined() -> None:
    clock = FakeClock()
    window = build_window(10)
    sink = ScriptedSink([PartialExportError(remaining=window[6:], rejected=window[:1])])
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, window)
        await settle()
        assert sorted(sink.names) == sorted(snapshot.name for snapshot in window[1:])
        assert (delivery.ledgers["sink"].delivered, delivery.ledgers["sink"].quarantined) == (9, 1)


@pytest.mark.asyncio
async def test_one_poison_among_a_thousand_is_isolated_named_and_the_rest_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, sink = FakeClock(), ScriptedSink(poison=["Bad"])
    window = (
        *build_window(700),
        build_snapshot("Bad", dimensions=(("host", "h1"),)),
        *build_window(299, prefix="n"),
    )
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, window)
        await settle()
        assert sorted(sink.names) == sorted(snapshot.name for snapshot in window if snapshot.name != "Bad")
        assert sink.refused <= 2 * ceil(log2(1_000))
        assert (delivery.ledgers["sink"].delivered, delivery.ledgers["sink"].quarantined) == (999, 1)
    assert fields_of(caplog, "refused for good, quarantined") == [
        {"sink": "sink", "metric": "Bad", "dimensions": {"host": "h1"}, "snapshots": 1},
    ]


@pytest.mark.asyncio
async def test_bad_credentials_cost_a_few_requests_an_attempt_and_no_data() -> None:
    clock, sink = FakeClock(), ScriptedSink(then=PermanentExportError("403"))
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(1_000))
        await settle()
        assert len(sink.calls) <= 4 * 11
        assert delivery.ledgers["sink"].quarantined == 0
        sink.then = None
        await clock.advance(1.0)
        assert delivery.ledgers["sink"].delivered == 1_000


@pytest.mark.asyncio
async def test_a_window_that_is_all_poison_is_quarantined_when_others_are_accepted() -> None:
    clock, sink = FakeClock(), ScriptedSink(poison=["Bad"])
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, [build_snapshot("Bad")])
        await clock.advance(60.0)
        assert delivery.ledgers["sink"].quarantined == 0
        offer(delivery, build_window(5, start=60.0))
        await clock.advance(180.0)
        assert (delivery.ledgers["sink"].quarantined, delivery.ledgers["sink"].delivered) == (1, 5)


@pytest.mark.asyncio
async def test_past_the_bound_the_oldest_window_is_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, sink = FakeClock(), ScriptedSink(then=RetryableExportError(), ordered=True)
    async with running(clock, serve(sink, max_windows=3)) as delivery:
        for number in range(8):
            offer(delivery, build_window(2, start=60.0 * number))
            await clock.advance(60.0)
        assert delivery.ledgers["sink"].dropped_by_reason == {"queue_full": 10}
        sink.then = None
        await clock.advance(60.0)
        assert [batch[0].window_start for batch in sink.taken] == [300.0, 360.0, 420.0]
    dropped = fields_of(caplog, "not delivered, dropped")
    assert all(fields["reason"] == "queue_full" for fields in dropped)
    assert sum(fields.get("times", 1) for fields in dropped) == 5


@pytest.mark.asyncio
async def test_an_ordered_sink_gets_every_window_in_order_after_an_outage() -> None:
    clock, sink = FakeClock(), ScriptedSink(then=RetryableExportError(), ordered=True)
    async with running(clock, serve(sink)) as delivery:
        for number in range(20):
            offer(delivery, build_window(2, start=60.0 * number))
            await clock.advance(60.0)
        sink.then = None
        await clock.advance(60.0)
    assert [batch[0].window_start for batch in sink.taken] == [60.0 * number for number in range(20)]


@pytest.mark.asyncio
async def test_any_other_sink_gets_the_newest_first_after_an_outage_and_the_backlog_slowly() -> None:
    clock, sink = FakeClock(), ScriptedSink(then=RetryableExportError())
    async with running(clock, serve(sink, catch_up_s=10.0)) as delivery:
        for number in range(10):
            offer(delivery, build_window(2, start=60.0 * number))
            await clock.advance(60.0)
        await clock.advance(60.0)
        sink.then = None
        sink.taken.clear()
        offer(delivery, build_window(2, start=600.0))
        await clock.advance(60.0)
        assert len(sink.taken) <= 8
        assert 600.0 in [batch[0].window_start for batch in sink.taken[:2]]
        await clock.advance(120.0)
        assert sorted(batch[0].window_start for batch in sink.taken) == [
            60.0 * number for number in range(11)
        ]


@pytest.mark.asyncio
async def test_a_window_older_than_the_sink_allows_is_expired() -> None:
    clock, sink = (
        FakeClock(now=0.0),
        ScriptedSink([RetryableExportError()] * 3 + [RetryableExportError(retry_after_s=900.0)]),
    )
    async with running(clock, serve(sink, max_age_s=600.0)) as delivery:
        offer(delivery, build_window(2))
        await clock.advance(1_000.0)
        assert sink.taken == []
        assert delivery.ledgers["sink"].expired == 2


@pytest.mark.asyncio
async def test_each_sink_sees_its_own_selection() -> None:
    clock, plain, summary = FakeClock(), ScriptedSink(), ScriptedSink()
    selection = Selection(level=MetricsLevel.SUMMARY, exclude=["Errors"], interval_s=120)
    async with running(
        clock, serve(plain, "plain"), serve(summary, "summary", selection=selection)
    ) as delivery:
        for start in (0.0, 60.0):
            offer(
                delivery,
                [
                    build_snapshot("Put", dimensions=(("shard", "1"),), start=start),
                    build_snapshot("Put", dimensions=(("shard", "2"),), start=start),
                    build_snapshot("Errors", start=start),
                ],
            )
            await settle()
            ledger = delivery.ledgers["summary"]
            assert ledger.balance() == 0
            assert (ledger.merging, ledger.delivered) == ((1, 0) if start == 0.0 else (0, 1))
        assert (ledger.closed, ledger.filtered, ledger.merged) == (6, 2, 3)
        assert [(each.count, each.window_start, each.window_end) for each in summary.taken[0]] == [
            (4, 0.0, 120.0)
        ]
        assert delivery.ledgers["plain"].delivered == 6


@pytest.mark.asyncio
async def test_a_longer_window_is_completed_by_an_empty_one() -> None:
    clock, sink = FakeClock(), ScriptedSink()
    async with running(clock, serve(sink, selection=Selection(interval_s=120))) as delivery:
        offer(delivery, build_window(3))
        offer(delivery, (), window_end=120.0)
        await settle()
        assert [len(batch) for batch in sink.taken] == [3]


@pytest.mark.asyncio
async def test_a_sink_that_cannot_be_entered_is_tried_again_and_nothing_is_lost() -> None:
    clock, well = FakeClock(), ScriptedSink()
    odd = ScriptedSink(enter=[OSError("no route"), asyncio.CancelledError(), SystemExit(1)])
    async with running(clock, serve(odd, "odd"), serve(well, "well")) as delivery:
        offer(delivery, build_window(3))
        await settle()
        assert (len(well.taken), odd.entered) == (1, 0)
        assert delivery.ledgers["odd"].waiting == 3
        await clock.advance(10.0)
        assert (len(odd.taken), odd.entered) == (1, 1)
    assert odd.left == 1


@pytest.mark.asyncio
async def test_a_sink_is_entered_and_left_by_one_task_so_that_a_task_group_may_span_both() -> None:
    class GroupSink(ScriptedSink):
        async def __aenter__(self) -> Self:
            self.group = asyncio.TaskGroup()
            await self.group.__aenter__()
            await super().__aenter__()
            return self

        async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
            await self.group.create_task(super().export(snapshots))

        async def __aexit__(
            self,
            exc_type: type[BaseException] | None,
            exc: BaseException | None,
            tb: TracebackType | None,
        ) -> None:
            await super().__aexit__(exc_type, exc, tb)
            await self.group.__aexit__(exc_type, exc, tb)

    clock, sink = FakeClock(), GroupSink()
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
    assert (len(sink.taken), sink.left) == (1, 1)


@pytest.mark.asyncio
async def test_the_same_failure_is_said_once_a_minute_with_its_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    clock, sink = FakeClock(), ScriptedSink(then=RetryableExportError("503\nrequest 17", retry_after_s=9.0))
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
        await clock.advance(50.0)
        said = fields_of(caplog, "export failed")
        assert said == [{"sink": "sink", "error": "RetryableExportError: 503 request 17", "snapshots": 2}]
        await clock.advance(30.0)
        assert fields_of(caplog, "export failed")[1]["times"] > 5
        assert {record.name for record in caplog.records} == {LOGGER}


@pytest.mark.asyncio
async def test_a_fault_in_one_selection_costs_only_that_sink_and_what_it_held(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(name: str) -> bool:
        raise ZeroDivisionError(name)

    clock, sink, well = FakeClock(), ScriptedSink(), ScriptedSink()
    selection = Selection(include=["*"], interval_s=120)
    async with running(clock, serve(sink, selection=selection), serve(well, "well")) as delivery:
        ledger = delivery.ledgers["sink"]
        offer(delivery, build_window(2))
        await settle()
        with monkeypatch.context() as patch:
            patch.setattr(selection, "admits", fail)
            offer(delivery, build_window(2, start=60.0))
            await settle()
        assert (len(well.taken), ledger.dropped_by_reason, ledger.merging) == (2, {"fault": 4}, 0)
        offer(delivery, build_window(2, start=120.0))
        offer(delivery, build_window(2, start=180.0))
        await settle()
        assert (ledger.delivered, ledger.merged, ledger.merging) == (2, 2, 0)
    assert [len(batch) for batch in sink.taken] == [2]
    assert "internal fault at selection" in caplog.messages


def test_two_sinks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        build(FakeClock(), serve(ScriptedSink()), serve(ScriptedSink()))


@pytest.mark.asyncio
async def test_windows_that_close_together_are_handed_over_at_once() -> None:
    clock, sink = FakeClock(), ScriptedSink(ordered=True)
    windows = [(build_window(2), 60.0), ((), 120.0), (build_window(3, start=120.0), 180.0)]
    async with running(clock, serve(sink)) as delivery:
        assert await delivery.hand_over(windows, None)
        await settle()
        assert [len(batch) for batch in sink.taken] == [2, 3]
        assert delivery.ledgers["sink"].closed == 5
        await clock.run(delivery.close(5.0))
        assert not await delivery.hand_over(windows, None)
        assert delivery.ledgers["sink"].dropped_by_reason == {"shutdown": 5}


@pytest.mark.asyncio
async def test_a_sink_is_given_no_more_than_it_takes_at_once() -> None:
    clock, sink = FakeClock(), ScriptedSink([RetryableExportError(), None, RetryableExportError()])
    sink.max_batch = 4  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(10))
        await clock.advance(10.0)
        assert [len(batch) for batch in sink.taken] == [4, 4, 2]
        assert sorted(sink.names) == sorted(snapshot.name for snapshot in build_window(10))
