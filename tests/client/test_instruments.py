"""Timers measure what they surround, in every shape, in threads and tasks, with and without an exception."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsClient, Timer
from aiokpl_metrics_client import instruments as module


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        """Return the time."""
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def _timer(unit: str = "ms") -> tuple[Timer, list[float]]:
    values: list[float] = []
    return Timer(values.append, None, unit), values


@pytest.mark.parametrize(("unit", "expected"), [("ns", 5e8), ("us", 5e5), ("ms", 500.0), ("s", 0.5)])
def test_a_timer_measures_in_its_unit(clock: Clock, unit: str, expected: float) -> None:
    timer, values = _timer(unit)
    with timer:
        clock.now_ns += 500_000_000
    assert values == [expected]


@pytest.mark.parametrize("unit", ["", "m", "minutes", "MS"])
def test_another_unit_is_refused(client: MetricsClient, unit: str) -> None:
    with pytest.raises(ValueError, match="one of ns, us, ms, s"):
        client.timer("t", unit=unit)


def test_nested_blocks_of_one_timer_and_of_others_measure_their_own(clock: Clock) -> None:
    timer, values = _timer()
    other, other_values = _timer()
    with timer:
        clock.now_ns += 1_000_000
        with timer, other:
            clock.now_ns += 10_000_000
        clock.now_ns += 100_000_000
    assert values == [10.0, 111.0]
    assert other_values == [10.0]


def test_an_exception_is_measured_and_passed_on(clock: Clock) -> None:
    timer, values = _timer()

    @timer
    def fail() -> None:
        clock.now_ns += 1_000_000
        raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(KeyError), timer:
        fail()
    assert values == [1.0, 1.0, 1.0]


def test_interleaved_generators_measure_their_own_timers(clock: Clock) -> None:
    first, first_values = _timer()
    second, second_values = _timer()

    def generate(timer: Timer) -> Iterator[None]:
        with timer:
            yield

    one, two = generate(first), generate(second)
    next(one)
    clock.now_ns += 1_000_000
    next(two)
    clock.now_ns += 10_000_000
    assert next(one, None) is None
    clock.now_ns += 100_000_000
    assert next(two, None) is None
    assert (first_values, second_values) == ([11.0], [110.0])
    assert module._starts.get() is None


def test_a_block_that_began_in_another_context_is_not_guessed(clock: Clock) -> None:
    timer, values = _timer()
    timer.__exit__(None, None, None)
    assert values == []


def test_a_decorated_function_keeps_its_name_and_results(clock: Clock) -> None:
    timer, values = _timer()

    @timer
    def add(left: int, *, right: int) -> int:
        """Add."""
        clock.now_ns += 3_000_000
        return left + right

    assert add(1, right=2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Add.")
    assert values == [3.0]


def test_a_recursive_function_is_measured_at_each_call(clock: Clock) -> None:
    timer, values = _timer()

    @timer
    def descend(depth: int) -> None:
        clock.now_ns += 1_000_000
        if depth:
            descend(depth - 1)

    descend(2)
    assert values == [1.0, 2.0, 3.0]


@pytest.mark.asyncio
async def test_a_coroutine_function_is_measured_until_it_ends(clock: Clock) -> None:
    timer, values = _timer()

    @timer
    async def work() -> str:
        clock.now_ns += 1_000_000
        await asyncio.sleep(0)
        clock.now_ns += 1_000_000
        return "done"

    assert inspect.iscoroutinefunction(work)
    assert await work() == "done"
    assert values == [2.0]


@pytest.mark.asyncio
async def test_a_cancelled_coroutine_is_measured(clock: Clock) -> None:
    timer, values = _timer()
    entered = asyncio.Event()

    @timer
    async def work() -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    clock.now_ns += 7_000_000
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert values == [7.0]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["with", "async with"])
async def test_concurrent_tasks_with_one_timer_measure_their_own(clock: Clock, kind: str) -> None:
    timer, values = _timer()
    gates = [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> None:
        if kind == "with":
            with timer:
                await gates[number].wait()
        else:
            async with timer:
                await gates[number].wait()

    tasks = []
    for number in range(3):
        tasks.append(asyncio.create_task(work(number)))
        await asyncio.sleep(0)
        clock.now_ns += 1_000_000
    for number in range(3):
        gates[number].set()
        await tasks[number]
        clock.now_ns += 10_000_000
    # Task n began at n ms and ended at 3 + 10 n ms.
    assert values == [3.0, 12.0, 21.0]


@pytest.mark.asyncio
async def test_a_task_made_within_a_block_has_blocks_of_its_own(clock: Clock) -> None:
    timer, values = _timer()

    async def child() -> None:
        with timer:
            clock.now_ns += 1_000_000

    with timer:
        task = asyncio.create_task(child())
        await task
        clock.now_ns += 10_000_000
    assert values == [1.0, 11.0]


def test_threads_with_one_timer_measure_their_own() -> None:
    timer, values = _timer("s")
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait(30)
        for _ in range(100):
            with timer:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(values) == 400
    assert all(0 <= value <= time.perf_counter() - start for value in values)


@pytest.mark.parametrize("make", ["counter", "gauge", "histogram", "timer"])
def test_an_instrument_keeps_its_client_alive(client: MetricsClient, make: str) -> None:
    factory: Callable[[str], Any] = getattr(client, make)
    assert factory("n")._owner is client
