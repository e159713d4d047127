"""Signal handlers and finalizers may come at any moment, in any thread, and call anything."""

import gc
import itertools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from aiokpl_metrics_client import MetricsClient, process
from tests.client.door import Door
from tests.support.polling import wait_for

Interrupt = Callable[[Callable[[], object], Callable[[], object]], int]


@pytest.fixture
def interrupt() -> Interrupt:
    """Have a function called by a signal handler a millisecond after its last call, while another one runs.

    Not each millisecond: where a call takes longer than that, handlers would interrupt handlers without end.
    """

    def run(handler: Callable[[], object], work: Callable[[], object]) -> int:
        calls = 0

        def handle(_number: int, _frame: FrameType | None) -> None:
            nonlocal calls
            calls += 1
            try:
                handler()
            finally:
                if not is_over:
                    signal.setitimer(signal.ITIMER_REAL, 0.001)

        is_over = False
        previous = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            deadline = time.monotonic() + 20
            while calls < 100 and time.monotonic() < deadline:
                work()
        finally:
            is_over = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert calls >= 100
        return calls

    return run


def test_a_signal_handler_may_put_new_series_in_the_midst_of_a_put(
    door: Door, client: MetricsClient, interrupt: Interrupt
) -> None:
    numbers = itertools.count()
    mine: list[int] = []

    def work() -> None:
        # The same series as the handler's, with luck at the same moment.
        number = next(numbers)
        client.put(f"n{number % 9_000}")
        mine.append(number)

    calls = interrupt(lambda: client.put(f"n{(len(mine) + 1) % 9_000}"), work)
    client.flush(0.0)
    door.wait_for_events(calls + len(mine))
    door.check()


@pytest.mark.parametrize("method", ["flush", "statistics"])
def test_a_signal_handler_may_call_it_in_the_midst_of_a_flush(
    door: Door, client: MetricsClient, interrupt: Interrupt, method: str
) -> None:
    recorded = 0

    def work() -> None:
        nonlocal recorded
        for series in range(200):
            client.put(f"n{series}")
        recorded += 200
        client.flush()
        door.read()

    interrupt(getattr(client, method), work)
    client.flush()
    door.wait_for_events(recorded)
    door.check()


def test_a_signal_handler_may_close_in_the_midst_of_a_flush(directory: Path) -> None:
    client = MetricsClient(directory / "nobody")
    client.put("n")
    closed: list[bool] = []
    previous = signal.signal(signal.SIGALRM, lambda _number, _frame: closed.append(client.close(0.1)))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert not client.flush(20.0), "it ends early: the client closed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert closed == [False]
    assert client.statistics().dropped == {"closed": 1}


def test_the_very_thread_that_drains_may_come_back_without_a_wait(door: Door, client: MetricsClient) -> None:
    results: list[bool] = []

    class Value:
        def __float__(self) -> float:
            client.put("nested")
            start = time.monotonic()
            results.append(client.flush(30.0))
            results.append(time.monotonic() - start < 10.0)
            return 1.0

    client.put("n", Value())  # type: ignore[arg-type]
    client.put("n", 2.0)
    door.wait_for_events(3)
    assert results[:2] == [False, True]


def test_a_finalizer_may_put_and_let_a_client_go_in_any_thread(door: Door, client: MetricsClient) -> None:
    gone: list[None] = []
    others = len(process.read_members())

    class Last:
        def __init__(self) -> None:
            self.cycle = self
            self.client = MetricsClient(door.path)
            self.client.put("inner")

        def __del__(self) -> None:
            client.put("last")
            gone.append(None)

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(50):
            Last()
            client.put("n")
            door.read()
    finally:
        gc.set_threshold(*threshold)

    def collect() -> bool:
        # While another thread is at it, in the midst of one of these finalizers, `collect` does nothing.
        gc.collect()
        door.read()
        return len(gone) == 50

    wait_for(collect, "all of them to be collected")
    door.wait_for_events(150)
    wait_for(lambda: len(process.read_members()) <= others, "the inner clients to end")


def test_in_the_depth_of_a_recursion_every_event_is_sent_or_counted(
    door: Door, client: MetricsClient
) -> None:
    client.put("known")
    recorded = 1
    raised: list[Exception] = []

    def descend() -> None:
        nonlocal recorded
        for dimensions in ({}, {"depth": str(recorded)}, {"depth": recorded}):
            # A function in between, so that it is `put` for which there is no room, and not this one.
            try:
                put("known", 1.0, **dimensions)
            except RecursionError as error:
                raised.append(error)
            recorded += 1
        descend()

    def put(name: str, value: float, **dimensions: object) -> None:
        client.put(name, value, **dimensions)  # type: ignore[arg-type]

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        with pytest.raises(RecursionError):
            descend()
    finally:
        sys.setrecursionlimit(limit)
    # At the very end not even `put` can be called.
    assert len(raised) <= 6
    assert client.flush(30.0)
    door.read()
    dropped = client.statistics().dropped
    assert set(dropped) == {"series_invalid"}
    assert door.events() + dropped["series_invalid"] == recorded - len(raised)
