"""Windows -> Delivery -> OtlpSink -> a real receiver: nothing is lost and nothing doubled on the way.

As long as a backend says that it did not take a request, each snapshot of each window arrives exactly once,
in the order of the windows.
"""

# ruff: noqa: ANN401 - protobuf's messages have no types that say more

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

import pytest

from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.delivery import Delivery, SinkSettings
from aiokpl_metricsd.sinks.otlp.sink import OtlpSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.otlp_receiver import Answer, Receiver, read_points, serve_grpc, serve_http

LIMIT_S = 20.0
WINDOWS = 4
SERIES = 40

REFUSALS = {
    "grpc": [
        Answer(code=code) for code in ("UNAVAILABLE", "ABORTED", "CANCELLED", "DATA_LOSS", "OUT_OF_RANGE")
    ]
    + [Answer(code="RESOURCE_EXHAUSTED", retry_after_s=1), Answer(code="INVALID_ARGUMENT")],
    "http": [Answer(status=status) for status in (429, 502, 503, 504, 500, 302)]
    + [Answer(status=503, retry_after_s=1)],
}


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver(protocol: str) -> Iterator[Receiver]:
    with serve_grpc() if protocol == "grpc" else serve_http() as receiver:
        yield receiver


def build_window(number: int, size: int = SERIES) -> tuple[MetricSnapshot, ...]:
    start = 60.0 * number
    return tuple(
        MetricSnapshot(
            f"m{series}", 1, 1.0, 1.0, 1.0, window_start=start, window_end=start + 60, window_id=f"w{number}"
        )
        for series in range(size)
    )


async def no_pause(delay_s: float) -> None:
    """Pass at once for a backoff; a limit of an export is an hour, so that it is never reached."""
    if delay_s >= 3_600.0:
        await asyncio.Event().wait()
    await asyncio.sleep(0)


async def deliver(
    sink: OtlpSink, windows: list[tuple[MetricSnapshot, ...]], is_done: Callable[[SinkLedger], bool]
) -> SinkLedger:
    settings = SinkSettings(name="otlp", sink=sink, selection=Selection(), timeout_s=3_600.0)
    delivery = Delivery([settings], sleep=no_pause, random=Random(3).random)
    await delivery.start()
    for window in windows:
        delivery.hand_over([(window, window[0].window_end)])
    ledger = delivery.ledgers["otlp"]

    async def watch() -> None:
        while not is_done(ledger):  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0)

    await asyncio.wait_for(watch(), LIMIT_S)
    await delivery.close(5.0)
    assert ledger.balance() == 0
    return ledger


def run(work: Awaitable[SinkLedger]) -> SinkLedger:
    async def wrap() -> SinkLedger:
        return await work

    return asyncio.run(wrap())


def series_of(receiver: Receiver) -> Counter[tuple[str, int]]:
    return Counter((name, point.time_unix_nano // 10**9) for name, _, point in receiver.points)


def test_every_window_arrives_once_whatever_is_refused_before_it(receiver: Receiver, protocol: str) -> None:
    receiver.script = [answer for refusal in REFUSALS[protocol] for answer in (refusal, Answer())]
    windows = [build_window(number) for number in range(WINDOWS)]
    sink = OtlpSink(endpoint=receiver.endpoint, protocol=protocol)
    ledger = run(deliver(sink, windows, lambda ledger: ledger.delivered == WINDOWS * SERIES))
    expected = {
        (f"aiokpl.m{series}", 60 * number + 60) for number in range(WINDOWS) for series in range(SERIES)
    }
    assert series_of(receiver) == Counter(expected)
    assert (ledger.quarantined, ledger.dropped, ledger.ambiguous) == (0, 0, 0)
    assert ledger.failures >= 1
    times = [point.time_unix_nano for _, _, point in receiver.points]
    assert times == sorted(times)


def test_a_poison_datum_is_found_and_alone_is_missing(receiver: Receiver, protocol: str) -> None:
    refusal = Answer(code="INVALID_ARGUMENT") if protocol == "grpc" else Answer(status=400)

    def choose(request: Any) -> Answer:
        return refusal if any(name == "aiokpl.m17" for name, _, _ in read_points(request)) else Answer()

    receiver.choose = choose
    sink = OtlpSink(endpoint=receiver.endpoint, protocol=protocol)
    ledger = run(
        deliver(sink, [build_window(0)], lambda ledger: ledger.delivered + ledger.quarantined == SERIES)
    )
    assert (ledger.delivered, ledger.quarantined) == (SERIES - 1, 1)
    assert series_of(receiver) == Counter({(f"aiokpl.m{each}", 60) for each in range(SERIES) if each != 17})


def test_a_partial_success_is_not_sent_again(receiver: Receiver, protocol: str) -> None:
    receiver.script = [Answer(rejected=3, words="three of them", takes=True)]
    sink = OtlpSink(endpoint=receiver.endpoint, protocol=protocol)
    ledger = run(deliver(sink, [build_window(0)], lambda ledger: ledger.delivered == SERIES))
    assert (receiver.attempts, sink.points_rejected) == (1, 3)
    assert "rejected 3 of 40 points" in ledger.last_error


def test_cumulative_totals_are_right_after_answers_that_got_lost() -> None:
    with serve_http() as receiver:
        receiver.script = [Answer(event="reset", takes=True), Answer(), Answer(event="close", takes=True)]
        windows = [build_window(number, 5) for number in range(3)]
        sink = OtlpSink(endpoint=receiver.endpoint, protocol="http", temporality="cumulative")
        run(deliver(sink, windows, lambda ledger: ledger.delivered == 15))
        latest = {name: point.as_double for name, _, point in receiver.points}
        assert latest == {f"aiokpl.m{each}": 3.0 for each in range(5)}


def test_delta_may_double_after_an_answer_that_got_lost_and_is_counted_as_ambiguous() -> None:
    with serve_http() as receiver:
        receiver.script = [Answer(event="reset", takes=True)]
        sink = OtlpSink(endpoint=receiver.endpoint, protocol="http")
        ledger = run(deliver(sink, [build_window(0, 5)], lambda ledger: ledger.delivered == 5))
        assert ledger.ambiguous == 5
        assert series_of(receiver) == Counter({(f"aiokpl.m{each}", 60): 2 for each in range(5)})
