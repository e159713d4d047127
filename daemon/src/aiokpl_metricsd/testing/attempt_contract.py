"""What a sink promises of one export, and of being entered and left."""

from collections.abc import Sequence
from time import monotonic

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiokpl_metrics_protocol import MetricEvent
from aiokpl_metricsd.errors import (
    ConfigurationError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.contract import (
    EventfulMetricsSink,
    MetricsSink,
    RememberingSink,
    RepeatRule,
)
from aiokpl_metricsd.sinks.loading import build_options
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing.backend import Answer
from aiokpl_metricsd.testing.outcome import Outcome, attempt
from aiokpl_metricsd.testing.specimen import (
    WINDOW_S,
    build_counter,
    build_window,
    iterate_odd,
    iterate_plain,
)
from aiokpl_metricsd.testing.subject import (
    PROMPT_S,
    BackendT,
    NotOfferedError,
    Subject,
    check,
    copy_totals,
    find_changed,
    name_series,
    need,
    need_totals,
    wait_until,
)

_UNKNOWN_OPTION = "no_such_option"

# Larger than what sinks do in one turn of the event loop, and turns after which it is cancelled.
_LARGE = 600
_TURNS = (1, 3)


class AttemptContract(Subject[BackendT]):
    """The tests of single exports."""

    # ---- what can be said without a backend

    def test_nothing_is_needed_to_construct_it(self) -> None:
        """It is a sink before it is entered, without an event loop and after its backend has gone."""
        kind = type(self._build_apart())
        # `async with` asks the class.
        missing = [name for name in ("export", "__aenter__", "__aexit__") if not hasattr(kind, name)]
        check(not missing, f"{kind.__name__} lacks {', '.join(missing)}")

    def test_it_declares_its_repeat_rule_and_its_order(self) -> None:
        """Delivery reads both before it enters the sink."""
        sink = self._build_apart()
        rules = [rule.value for rule in RepeatRule]
        rule = getattr(sink, "repeat_rule", None)
        check(rule in rules, f"repeat_rule is one of {', '.join(rules)}, not {rule!r}")
        ordered = getattr(sink, "ordered", None)
        check(isinstance(ordered, bool), f"ordered is True or False, not {ordered!r}")

    def test_an_unknown_option_is_refused(self) -> None:
        """A misspelt key of the sink's table is the operator's to mend, and never ignored."""
        sink = self._build_apart()
        with pytest.raises(ConfigurationError, match=_UNKNOWN_OPTION):
            build_options(type(sink), {_UNKNOWN_OPTION: 1})

    # ---- entering, leaving, and nothing

    def test_an_export_before_entering_does_nothing(self, runtime: str) -> None:
        """Neither does one after leaving; and none of them raises."""

        async def work(backend: BackendT) -> None:
            sink = self.build_sink(backend)
            window = build_window("early", 2, end=self.now())
            await sink.export(window)
            if self.waits_for_entering:
                self.compare(backend, (), "before entering")
            async with sink:
                pass
            await sink.export(window)
            if self.waits_for_entering:
                self.compare(backend, (), "after leaving")

        self.run(work, runtime)

    def test_an_empty_window_does_nothing(self, runtime: str) -> None:
        """An export of nothing is none, entered or not."""

        async def work(backend: BackendT) -> None:
            sink = self.build_sink(backend)
            await sink.export(())
            async with sink:
                await sink.export(())
                await sink.export([])
            self.compare(backend, (), "after exports of nothing")

        self.run(work, runtime)

    def test_it_may_be_entered_and_left_twice(self, runtime: str) -> None:
        """One sink after the other, as a restarted program would have it, in one object."""

        async def work(backend: BackendT) -> None:
            sink = self.build_sink(backend)
            windows = self._build_windows("entered", 2)
            for window in windows:
                async with sink as entered:
                    check(entered is sink, "__aenter__ returns the sink itself")
                    await self._expect_taken(sink, window, "when entered")
            self.compare(backend, [*windows[0], *windows[1]], "entered and left twice")

        self.run(work, runtime)

    # ---- every kind of snapshot

    def test_every_plain_snapshot_is_taken(self, runtime: str) -> None:
        """Counters, gauges and histograms, in any letters, with a time or without: none is refused."""

        async def work(backend: BackendT) -> None:
            async with self.build_sink(backend) as sink:
                for words, snapshot in iterate_plain(self.now()):
                    before = copy_totals(backend)
                    await self._expect_taken(sink, [snapshot], words)
                    after = copy_totals(backend)
                    if before is None or after is None:
                        continue
                    # By its amount, not by its key: a backend has its own idea of names and letters.
                    added = sum(after.values()) - sum(before.values())
                    expected = sum(self.total([snapshot]).values())
                    check(
                        abs(added - expected) < 1e-6,  # noqa: PLR2004 - far below any specimen's total
                        f"{words}: the backend holds {added:g} more, expected {expected:g}",
                    )

        self.run(work, runtime)

    def test_an_odd_snapshot_is_taken_or_named_and_harms_no_other(self, runtime: str) -> None:
        """What a backend cannot hold is refused by name and for good; its neighbours arrive."""

        async def work(backend: BackendT) -> None:
            neighbours: list[MetricSnapshot] = []
            async with self.build_sink(backend) as sink:
                for number, (words, odd) in enumerate(iterate_odd(self.now())):
                    good = build_counter(f"neighbour_{number}", number + 1.0, end=self.now())
                    before = copy_totals(backend)
                    outcome = await attempt(sink, [good, odd])
                    self._check_odd(outcome, words)
                    if any(each is odd for each in outcome.taken) and odd.sum != 0.0:
                        changed = find_changed(before, backend.read()) - self.total([good]).keys()
                        check(
                            before is None or changed, f"{words}: said to be taken, and the backend lacks it"
                        )
                    # What was refused as a whole, delivery would halve.
                    left = outcome.rejected if isinstance(outcome.error, PermanentExportError) else ()
                    left = [*left, *outcome.remaining]
                    if any(each is good for each in left):
                        await self._expect_taken(sink, [good], f"beside {words}")
                    if any(each is odd for each in left):
                        again = await attempt(sink, [odd])
                        self._check_odd(again, words)
                        check(not again.remaining, f"{words}: to be sent again for ever: {again.said}")
                    neighbours.append(good)
            held = backend.read()
            if held is not None:
                expected = self.total(neighbours)
                missing = [key for key, total in expected.items() if held.get(key) != total]
                check(not missing, f"beside odd ones, these were lost or doubled: {missing[:5]!r}")

        self.run(work, runtime)

    def test_series_and_windows_are_kept_apart(self, runtime: str) -> None:
        """The same name with other dimensions, or in another window, is another total."""

        async def work(backend: BackendT) -> None:
            need_totals(backend)
            end = self.now()
            windows = [
                [
                    build_counter("apart", value, end=end - age, dimensions=(("zone", zone),))
                    for zone, value in (("a", 1.0), ("b", 20.0))
                ]
                for age in (WINDOW_S, 0.0)
            ]
            async with self.build_sink(backend) as sink:
                for window in windows:
                    await self._expect_taken(sink, window, "as one of two windows")
            self.compare(backend, [*windows[0], *windows[1]], "with two series in two windows")

        self.run(work, runtime)

    # ---- answers

    def test_a_retryable_answer_is_a_retryable_error(self, runtime: str) -> None:
        """Nothing was taken then, and the same window is taken afterwards."""
        self._run_answer(Answer.RETRYABLE, (RetryableExportError,), runtime)

    def test_a_permanent_answer_is_a_permanent_error(self, runtime: str) -> None:
        """Nothing was taken then; the suite's backend takes it when it is sent again all the same."""
        self._run_answer(Answer.PERMANENT, (PermanentExportError, PartialExportError), runtime)

    def test_a_partial_answer_says_which_were_taken(self, runtime: str) -> None:
        """The backend holds what the error does not name, and the rest may be sent again."""
        self._run_answer(Answer.PARTIAL, (PartialExportError,), runtime)

    def _run_answer(self, answer: Answer, errors: tuple[type[Exception], ...], runtime: str) -> None:
        async def work(backend: BackendT) -> None:
            need(backend, answer)
            # A permanent answer is to a whole window: small enough for a single request.
            window = build_window("answered", 12 if answer is Answer.PARTIAL else 4, end=self.now())
            async with self.build_sink(backend) as sink:
                backend.answer_next(answer)
                outcome = await attempt(sink, window)
                expected = " or ".join(error.__name__ for error in errors)
                check(isinstance(outcome.error, errors), f"raised {outcome.said}, expected {expected}")
                self.compare(backend, outcome.taken, f"after an answer of {answer.value}")
                if answer is not Answer.PARTIAL:
                    check(not outcome.taken, f"took {name_series(outcome.taken)} from a request refused")
                rest = [*outcome.remaining, *outcome.rejected]
                check(rest, "names nothing as remaining or rejected")
                await self._expect_taken(sink, rest, "when sent again")
            self.compare(backend, window, "after the second attempt")

        self.run(work, runtime)

    # ---- cancellation

    def test_a_cancelled_export_ends_at_once_and_leaves_the_sink_usable(self, runtime: str) -> None:
        """Nothing of the cancelled window was taken, and it is taken when it comes again."""

        async def work(backend: BackendT) -> None:
            need(backend, Answer.HANG)
            window = build_window("cancelled", 4, end=self.now())
            async with self.build_sink(backend) as sink:
                backend.answer_next(Answer.HANG)
                took_s, outcomes = await self._cancel(sink, window, backend)
                check(took_s < PROMPT_S, f"a cancelled export went on for {took_s:.1f} s")
                lies = [outcome for outcome in outcomes if outcome.error is None]
                check(not lies, "a cancelled export said that the window was taken")
                backend.release()
                self.compare(backend, (), "after a cancelled export")
                await self._expect_taken(sink, window, "after a cancelled export")
            self.compare(backend, window, "after the second attempt")

        self.run(work, runtime)

    def test_a_window_cancelled_at_any_moment_is_whole_when_it_comes_again(self, runtime: str) -> None:
        """Nothing of it is lost then, and nothing doubled but where repeats add."""

        async def work(backend: BackendT) -> None:
            need_totals(backend)
            windows: list[MetricSnapshot] = []
            async with self.build_sink(backend) as sink:
                for turns in _TURNS:
                    window = build_window(f"after_{turns}", _LARGE, end=self.now())
                    async with anyio.create_task_group() as group:
                        group.start_soon(attempt, sink, window)
                        for _ in range(turns):
                            await checkpoint()
                        group.cancel_scope.cancel()
                    await self._expect_taken(sink, window, f"after one cancelled within {turns} turns")
                    windows += window
            self.compare_repeated(sink, backend, windows, "after cancelled exports")

        self.run(work, runtime)

    # ---- what a sink remembers

    def test_another_sink_goes_on_with_what_it_remembers(self, runtime: str) -> None:
        """Where the sink has `dump_state` and `load_state`: totals go on, as after an orderly restart."""

        async def work(backend: BackendT) -> None:
            windows = [
                [build_counter("remembered", value, end=self.now() - age)]
                for value, age in ((3.0, WINDOW_S), (4.0, 0.0))
            ]
            state: bytes | None = None
            for window in windows:
                sink = self.build_sink(backend)
                if not isinstance(sink, RememberingSink):
                    raise NotOfferedError("the sink has no dump_state and load_state")
                if state is not None:
                    sink.load_state(state)
                async with sink:
                    await self._expect_taken(sink, window, "before or after a restart")
                state = sink.dump_state()
                check(type(state) is bytes, f"dump_state returns bytes, not {type(state).__name__}")
            self.compare(backend, [*windows[0], *windows[1]], "after a restart")

        self.run(work, runtime)

    # ---- events

    def test_record_takes_each_event_at_once(self, runtime: str) -> None:
        """Where the sink has `record`: before it is entered, while it is and afterwards, without raising."""

        async def work(backend: BackendT) -> None:
            sink = self.build_sink(backend)
            if not isinstance(sink, EventfulMetricsSink):
                raise NotOfferedError("the sink has no record")
            event = MetricEvent("recorded", -1.5, self.now(), (("zone", "a"),), "gauge", "ms")
            others = MetricEvent("recorded_größe", 1e300, 0.0)
            for each in (event, others):
                sink.record(each)
            async with sink:
                for each in (event, others):
                    check(sink.record(each) is None, "record is no coroutine: it runs where events arrive")  # type: ignore[func-returns-value]
            sink.record(event)

        self.run(work, runtime)

    # ---- what the tests have in common

    async def _cancel(
        self, sink: MetricsSink, window: Sequence[MetricSnapshot], backend: BackendT
    ) -> tuple[float, list[Outcome]]:
        """Cancel an export that hangs. Return how long it went on, and what it said if it ended by itself."""
        outcomes: list[Outcome] = []

        async def export() -> None:
            outcomes.append(await attempt(sink, window))

        async def let_go() -> None:
            # What does not hear of its cancellation is ended by its backend: the test fails and ends.
            await wait_until(lambda: began > 0.0, "the cancellation")
            await anyio.sleep(PROMPT_S)
            backend.release()

        began = took_s = 0.0
        async with anyio.create_task_group() as watch:
            watch.start_soon(let_go)
            async with anyio.create_task_group() as group:
                group.start_soon(export)
                await wait_until(backend.is_hanging, "the request that is to hang")
                began = monotonic()
                group.cancel_scope.cancel()
            took_s = monotonic() - began
            watch.cancel_scope.cancel()
        return took_s, outcomes

    def _build_apart(self) -> MetricsSink:
        kept: list[BackendT] = []

        async def keep(backend: BackendT) -> None:
            kept.append(backend)

        self.run(keep)
        return self.build_sink(kept[0])

    def _build_windows(self, prefix: str, count: int) -> list[tuple[MetricSnapshot, ...]]:
        """Return windows of other series each, the newest last."""
        end = self.now()
        return [
            build_window(f"{prefix}_{number}", 4, end=end - WINDOW_S * (count - 1 - number))
            for number in range(count)
        ]

    async def _expect_taken(self, sink: MetricsSink, snapshots: Sequence[MetricSnapshot], when: str) -> None:
        outcome = await attempt(sink, snapshots)
        check(outcome.error is None, f"{when}: {name_series(snapshots)} not taken: {outcome.said}")

    def _check_odd(self, outcome: Outcome, words: str) -> None:
        expected = (PartialExportError, PermanentExportError)
        check(
            outcome.error is None or isinstance(outcome.error, expected),
            f"{words}: raised {outcome.said}; what is wrong with the data is permanent, or partial",
        )


__all__ = ["AttemptContract"]
