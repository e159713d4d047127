"""Nothing is sent a second time where the first may have been taken; what that costs is counted."""

from pathlib import Path
from typing import Any

import pytest

from aiokpl_metricsd.delivering.settings import build_settings
from aiokpl_metricsd.errors import ConfigurationError, PartialExportError, RetryableExportError, StoreError
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.sinks.loading import SinkOptions
from tests.daemon.delivering.stored import living, until
from tests.daemon.fakes import (
    Answer,
    FakeClock,
    ScriptedSink,
    build_window,
    hang,
    offer,
    running,
    serve,
    settle,
)


class CuttingSink(ScriptedSink):
    """Takes two snapshots at once."""

    max_batch = 2


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [hang, OSError("reset"), RetryableExportError(is_ambiguous=True)])
async def test_what_may_have_been_taken_is_uncertain_and_not_sent_again(failure: Answer) -> None:
    clock, sink = FakeClock(), CuttingSink([failure])
    async with running(clock, serve(sink, at_most_once=True, timeout_s=5.0)) as delivery:
        offer(delivery, build_window(5))
        await clock.advance(60.0)
        ledger = delivery.ledgers["sink"]
        assert (ledger.uncertain, ledger.delivered, ledger.ambiguous) == (2, 3, 0)
    assert sink.names == ["m2", "m3", "m4"]


@pytest.mark.asyncio
async def test_what_was_surely_not_taken_is_sent_again() -> None:
    clock, sink = FakeClock(), CuttingSink([RetryableExportError("busy"), RetryableExportError("busy")])
    async with running(clock, serve(sink, at_most_once=True)) as delivery:
        offer(delivery, build_window(4))
        await clock.advance(60.0)
        assert (delivery.ledgers["sink"].delivered, delivery.ledgers["sink"].uncertain) == (4, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [2, 4])
async def test_of_a_partial_answer_only_what_is_uncertain_is_given_up(size: int) -> None:
    clock, window = FakeClock(), build_window(4)
    answer = PartialExportError(remaining=window[4 - size :], uncertain=window[2:])
    sink = ScriptedSink([answer])
    async with running(clock, serve(sink, at_most_once=True)) as delivery:
        offer(delivery, window)
        await clock.advance(60.0)
        ledger = delivery.ledgers["sink"]
        assert (ledger.delivered, ledger.uncertain) == (2, 2)
    assert len(sink.calls) == (1 if size == 2 else 2)


@pytest.mark.asyncio
async def test_an_answer_of_which_everything_is_uncertain_ends_the_batch() -> None:
    clock, window = FakeClock(), build_window(2)
    sink = ScriptedSink([PartialExportError(remaining=window, uncertain=window)])
    async with running(clock, serve(sink, at_most_once=True)) as delivery:
        offer(delivery, window)
        await clock.advance(60.0)
        assert delivery.ledgers["sink"].uncertain == 2
    assert len(sink.calls) == 1


@pytest.mark.asyncio
async def test_otherwise_it_is_sent_again_and_counted_as_ambiguous() -> None:
    clock, window = FakeClock(), build_window(4)
    answers = [
        RetryableExportError(is_ambiguous=True),
        PartialExportError(remaining=window, uncertain=window[:1]),
    ]
    sink = ScriptedSink(answers)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, window)
        await clock.advance(60.0)
        ledger = delivery.ledgers["sink"]
        assert (ledger.delivered, ledger.ambiguous, ledger.uncertain) == (4, 5, 0)


@pytest.mark.asyncio
async def test_what_was_on_its_way_at_the_end_is_uncertain() -> None:
    clock, sink = FakeClock(), CuttingSink([None], then=hang)
    async with running(clock, serve(sink, at_most_once=True)) as delivery:
        offer(delivery, build_window(6))
        await settle()
        await clock.run(delivery.close(5.0))
        ledger = delivery.ledgers["sink"]
        assert (ledger.delivered, ledger.uncertain, ledger.dropped) == (2, 2, 2)


@pytest.mark.asyncio
async def test_what_was_on_its_way_at_a_death_is_uncertain_and_the_rest_delivered(tmp_path: Path) -> None:
    sink = CuttingSink([None, hang])
    async with living(tmp_path / "a", serve(sink, at_most_once=True)) as life:
        await life.hand_over(build_window(6))
        await until(lambda: len(sink.calls) == 2)
        left = await life.die()
    again = CuttingSink()
    async with living(left, serve(again, at_most_once=True)) as life:
        await until(lambda: again.taken)
        await life.rest()
        ledger = life.delivery.ledgers["sink"]
        assert (ledger.closed, ledger.delivered, ledger.uncertain, ledger.waiting) == (6, 4, 2, 0)
        assert life.outbox.size_bytes == 0
    assert again.names == ["m4", "m5"]
    async with living(left, serve(again, at_most_once=True)) as life:
        assert life.delivery.ledgers["sink"].uncertain == 2


@pytest.mark.asyncio
async def test_a_failure_takes_the_attempt_back(tmp_path: Path) -> None:
    sink = CuttingSink(then=RetryableExportError(retry_after_s=60.0))
    async with living(tmp_path / "a", serve(sink, at_most_once=True)) as life:
        await life.hand_over(build_window(2))
        await until(lambda: sink.calls)
        await life.rest()
        left = await life.die()
    again = CuttingSink()
    async with living(left, serve(again, at_most_once=True)) as life:
        await until(lambda: again.taken)
        assert life.delivery.ledgers["sink"].uncertain == 0


@pytest.mark.asyncio
async def test_what_cannot_be_noted_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any) -> None:  # noqa: ANN401
        asked.append(arguments)
        raise StoreError("disk full")

    sink = CuttingSink()
    async with living(tmp_path / "a", serve(sink, at_most_once=True, catch_up_s=0.0)) as life:
        with monkeypatch.context() as patch:
            patch.setattr(life.outbox._store, "attempt", refuse)
            await life.hand_over(build_window(4))
            await until(lambda: len(asked) > 2)
            assert sink.calls == []
        await until(lambda: len(sink.taken) == 2)


@pytest.mark.asyncio
async def test_what_could_not_be_stored_is_not_sent_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("disk full")

    sink, other = CuttingSink(), ScriptedSink()
    async with living(
        tmp_path / "a", serve(sink, at_most_once=True, catch_up_s=0.0), serve(other, "b")
    ) as life:
        with monkeypatch.context() as patch:
            patch.setattr(life.outbox._store, "commit", refuse)
            assert not await life.hand_over(build_window(2))
            await until(lambda: other.taken)
        # A daemon that is killed now leaves its journal, of which the next one makes this window again.
        assert sink.calls == []
        assert await life.hand_over(build_window(2, start=60.0))
        await until(lambda: len(sink.taken) == 2)


@pytest.mark.asyncio
async def test_what_was_evicted_on_its_way_needs_no_note(tmp_path: Path) -> None:
    async def evict(_: object) -> None:
        assert life.delivery._routes["sink"].worker.evict(1)
        raise RetryableExportError("busy")

    sink = ScriptedSink([evict])
    async with living(tmp_path / "a", serve(sink, at_most_once=True, catch_up_s=0.0)) as life:
        await life.hand_over(build_window(2))
        await until(lambda: sink.taken)
        assert len(sink.calls) == 2


class ReplacingSink(ScriptedSink):
    repeat_rule = RepeatRule.REPLACES


def build_options(**options: Any) -> SinkOptions:  # noqa: ANN401
    return SinkOptions(name="a", type="x:Y", factory=ScriptedSink, interval_s=60, **options)


def test_at_most_once_is_refused_where_a_repeat_does_not_add() -> None:
    assert build_settings(build_options(at_most_once=True), ScriptedSink(), 60).at_most_once
    with pytest.raises(ConfigurationError, match="at_most_once: a repeat does not add here"):
        build_settings(build_options(at_most_once=True), ReplacingSink(), 60)


@pytest.mark.parametrize(
    ("own", "given", "expected"), [(None, None, None), (5.0, None, 5.0), (None, 7.0, 7.0), (5.0, 7.0, 5.0)]
)
def test_the_shorter_age_holds(own: float | None, given: float | None, expected: float | None) -> None:
    sink = ScriptedSink()
    if own is not None:
        sink.max_age_s = own  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    settings = build_settings(build_options(max_age_s=given, include=("a*",)), sink, 30)
    assert settings.max_age_s == expected
    assert (settings.selection.interval_s, settings.selection.admits("b")) == (60, False)


@pytest.mark.asyncio
async def test_what_was_on_its_way_at_a_death_is_sent_again_and_counted_as_ambiguous(tmp_path: Path) -> None:
    sink = CuttingSink(then=hang)
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: sink.calls)
        await life.rest()
        left = await life.die()
    again = CuttingSink()
    async with living(left, serve(again)) as life:
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: ledger.delivered == 5)
        assert (ledger.ambiguous, ledger.uncertain, ledger.balance()) == (2, 0, 0)


@pytest.mark.asyncio
async def test_what_was_refused_for_now_before_a_death_is_not_ambiguous(tmp_path: Path) -> None:
    sink = CuttingSink(then=RetryableExportError("busy", retry_after_s=3_600.0))
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: life.delivery.ledgers["sink"].failures)
        await life.rest()
        left = await life.die()
    again = CuttingSink()
    async with living(left, serve(again)) as life:
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: ledger.delivered == 5)
        assert (ledger.ambiguous, ledger.balance()) == (0, 0)


@pytest.mark.asyncio
async def test_where_a_repeat_replaces_nothing_is_ambiguous(tmp_path: Path) -> None:
    sink = CuttingSink(then=hang)
    sink.repeat_rule = RepeatRule.REPLACES
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: sink.calls)
        await life.rest()
        left = await life.die()
    again = CuttingSink()
    again.repeat_rule = RepeatRule.REPLACES
    async with living(left, serve(again)) as life:
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: ledger.delivered == 5)
        assert ledger.ambiguous == 0
