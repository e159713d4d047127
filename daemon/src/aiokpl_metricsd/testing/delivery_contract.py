"""What a sink promises when delivery works with it: nothing lost, nothing doubled, poison named."""

import asyncio
import logging
from collections.abc import Sequence
from random import Random

import anyio
import pytest

from aiokpl_metricsd.delivering.deadline import CANCEL_GRACE_S
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.delivering.worker import LEAVE_S
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.sinks.contract import MetricsSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing.backend import Answer, Backend
from aiokpl_metricsd.testing.specimen import WINDOW_S, build_counter, build_window
from aiokpl_metricsd.testing.subject import (
    PROMPT_S,
    BackendT,
    NotOfferedError,
    Subject,
    check,
    need,
    need_totals,
    wait_until,
)

# Never reached by itself: an attempt's limit passes when the test says so.
_TIMEOUT_S = 100_000.0
_CLOSE_S = 50_000.0
# Backoffs are shorter, and pass at once.
_LONGEST_BACKOFF_S = 4_000.0

_SCRIPTS = 4
_ANSWERS = 8
_WINDOWS = 3
_SERIES = 12


class _Names(logging.Handler):
    """Keeps the names of metrics that delivery said it quarantined."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = record.__dict__.get("fields", {})
        if "metric" in fields:
            self.names.add(str(fields["metric"]))


class _Courier:
    """Delivers windows to one sink with the daemon's own delivery, in no time.

    Attributes:
        ledger: the sink's, at the end.
        named: metrics that the log named as refused for good.
    """

    def __init__(self, backend: Backend, seed: int = 1) -> None:
        self.ledger = SinkLedger()
        self.named: set[str] = set()
        self._backend = backend
        self._random = Random(seed).random  # noqa: S311 - chance of a test, no secret
        self._expects_hang = False

    async def deliver(
        self, sink: MetricsSink, windows: Sequence[Sequence[MetricSnapshot]], *, expects_hang: bool = False
    ) -> None:
        """Deliver the windows, oldest offered first, until each snapshot has its fate."""
        self._expects_hang = expects_hang
        names = _Names()
        log = logging.Logger("sink contract")  # noqa: LOG001 - the test's own, unknown to the application
        log.addHandler(names)
        settings = SinkSettings(name="sink", sink=sink, selection=Selection(), timeout_s=_TIMEOUT_S)
        delivery = Delivery([settings], log=log, random=self._random, sleep=self._sleep)
        await delivery.start()
        # A window with snapshots says its end itself.
        delivery.hand_over([(window, 0.0) for window in windows])
        self.ledger = delivery.ledgers["sink"]
        try:
            await delivery.close(_CLOSE_S)
        finally:
            self.named = names.names
        left = self.ledger.dropped + self.ledger.waiting
        check(not left, f"{left} snapshots without a fate; the last error: {self.ledger.last_error}")
        check(self.ledger.balance() == 0, "the ledger of the sink does not balance")

    async def _sleep(self, delay_s: float) -> None:
        if delay_s == _TIMEOUT_S and self._expects_hang:
            await wait_until(self._backend.is_hanging, "the request that is to hang")
            self._expects_hang = False
        elif delay_s == CANCEL_GRACE_S:
            await asyncio.sleep(PROMPT_S)
        elif delay_s == LEAVE_S or delay_s > _LONGEST_BACKOFF_S:
            await asyncio.sleep(delay_s)
        else:
            await asyncio.sleep(0)


class DeliveryContract(Subject[BackendT]):
    """The tests of many exports. Delivery runs under asyncio, so these do."""

    def test_a_deadline_is_prompt_and_leaves_the_sink_usable(self) -> None:
        """Delivery ends an attempt that hangs, and the next one delivers the same window."""

        async def work(backend: BackendT) -> None:
            need(backend, Answer.HANG)
            window = build_window("late", 4, end=self.now())
            sink = self.build_sink(backend)
            courier = _Courier(backend)
            backend.answer_next(Answer.HANG)
            async with anyio.create_task_group() as group:
                group.start_soon(self._release_later, backend, courier)
                await courier.deliver(sink, [window], expects_hang=True)
                group.cancel_scope.cancel()
            said = courier.ledger.last_error
            check("none to being cancelled" not in said, f"the export did not end when cancelled: {said}")
            check(courier.ledger.delivered == len(window), f"not delivered afterwards: {said}")
            self.compare(backend, window, "after a deadline")

        self.run(work)

    def test_a_poison_datum_is_named_and_alone_is_missing(self) -> None:
        """Whatever else is in its window arrives once."""

        async def work(backend: BackendT) -> None:
            need_totals(backend)
            if not backend.poison("poison_7"):
                raise NotOfferedError("the backend cannot be told to refuse one metric")
            window = [*build_window("well", 7, end=self.now())]
            window.append(build_counter("poison_7", 7.5, end=self.now()))
            window += build_window("good", 8, end=self.now())
            courier = _Courier(backend)
            await courier.deliver(self.build_sink(backend), [window])
            check(courier.named == {"poison_7"}, f"quarantined {sorted(courier.named)}, expected poison_7")
            check(courier.ledger.quarantined == 1, f"quarantined {courier.ledger.quarantined} snapshots")
            self.compare(
                backend, [each for each in window if each.name != "poison_7"], "after quarantining the poison"
            )

        self.run(work)

    @pytest.mark.parametrize("seed", range(_SCRIPTS))
    def test_nothing_is_lost_or_doubled_whatever_is_answered(self, seed: int) -> None:
        """As long as a backend says what it took, each snapshot arrives once, or is named."""

        async def work(backend: BackendT) -> None:
            need_totals(backend)
            choice: list[Answer] = [
                answer
                for answer in (Answer.ACCEPT, Answer.RETRYABLE, Answer.PARTIAL)
                if answer in backend.answers
            ]
            need(backend, Answer.RETRYABLE)
            random = Random(seed)  # noqa: S311 - chance of a test, no secret
            script: list[Answer] = [random.choice(choice) for _ in range(_ANSWERS)]
            if seed % 2 and Answer.PERMANENT in backend.answers:
                # Once, before anything was accepted: delivery finds that its halves are well.
                script.insert(0, Answer.PERMANENT)
            windows = self._build_sent()
            for answer in script:
                backend.answer_next(answer)
            courier = _Courier(backend, seed)
            await courier.deliver(self.build_sink(backend), windows)
            arrived = [each for window in windows for each in window if each.name not in courier.named]
            counts = (courier.ledger.delivered, courier.ledger.quarantined)
            sent = _WINDOWS * _SERIES
            check(counts == (len(arrived), sent - len(arrived)), f"the ledger says {counts} of {sent}")
            self.compare(backend, arrived, f"after {', '.join(script)}")

        self.run(work)

    def test_a_lost_answer_loses_nothing_and_doubles_only_where_repeats_add(self) -> None:
        """Nobody knows then what was taken: the repeat rule says what sending it again does."""

        async def work(backend: BackendT) -> None:
            need(backend, Answer.LOST)
            need_totals(backend)
            windows = self._build_sent()
            sink = self.build_sink(backend)
            for answer in (Answer.LOST, Answer.ACCEPT, Answer.LOST):
                backend.answer_next(answer)
            courier = _Courier(backend)
            await courier.deliver(sink, windows)
            check(courier.ledger.failures, "the sink took a request without an answer for delivered")
            sent = [each for window in windows for each in window]
            check(courier.ledger.delivered == len(sent), f"delivered {courier.ledger.delivered}, not all")
            self.compare_repeated(sink, backend, sent, "after lost answers")

        self.run(work)

    def _build_sent(self) -> list[tuple[MetricSnapshot, ...]]:
        """Return windows of other series each, the newest last."""
        first = self.now() - WINDOW_S * (_WINDOWS - 1)
        return [
            build_window(f"sent_{number}", _SERIES, end=first + WINDOW_S * number)
            for number in range(_WINDOWS)
        ]

    async def _release_later(self, backend: BackendT, courier: _Courier) -> None:
        """Let go of the request that hangs when it has been cut off: an attempt may have to wait for it."""
        await wait_until(lambda: courier.ledger.failures > 0, "the attempt that is cut off")
        backend.release()


__all__ = ["DeliveryContract"]
