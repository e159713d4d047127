"""Timers measure what they surround, in every shape, in threads and tasks, with and without an exception."""

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsClient, MetricsLevel, Timer
from aiokpl_metrics_client import instruments as module
from aiokpl_metrics_client.instruments import Instrument
from aiokpl_metrics_protocol import MAX_DIMENSIONS, Series
from tests.client.door import Door

Make = Callable[..., Instrument]


class Clock:
    """Stands in for the clocks of the system."""

    def __init__(self) -> None:
        self.now_ns = 0

    def perf_counter_ns(self) -> int:
        """Return the time."""
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "Clock", clock)
    return clock


def _timer(unit: str = "ms") -> tuple[Timer, list[float]]:
    values: list[float] = []
    owner: Any = None
    return Timer(values.append, owner, unit), values


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


@pytest.mark.parametrize("make", ["counter", "gauge", "histogram", "timer"])
def test_dimensions_are_added_to_an_instrument_of_the_same_class_name_kind_and_unit(
    client: MetricsClient, door: Door, make: str
) -> None:
    factory: Make = getattr(client, make)
    first = factory("n", unit="ms", zone="a")
    second = first.with_dimensions(status=200)
    assert type(second) is type(first)
    assert second.series == Series("n", first.series.kind, "ms", (("status", "200"), ("zone", "a")))
    first.record(1)
    second.record(2)
    assert client.flush()
    door.read()
    assert door.counts() == {("n", first.series.dimensions): 1, ("n", second.series.dimensions): 1}
    assert door.series() == {first.series, second.series}


def test_a_timer_with_dimensions_measures_in_its_unit(client: MetricsClient, clock: Clock) -> None:
    values: list[float] = []
    timer = client.timer("t", unit="us").with_dimensions(zone="a")
    timer.record = values.append
    with timer:
        clock.now_ns += 5_000
    assert values == [5.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"shard": "1", "zone": "a"}),
        ({"zone": "b"}, {"shard": "1", "zone": "b"}),
        ({"zone": ""}, {"shard": "1"}),
        ({"zone": None}, {"shard": "1", "zone": "a"}),
        ({"shard_id": "2"}, {"shard": "2", "zone": "a"}),
        ({"shard": 2}, {"shard": "2", "zone": "a"}),
        ({"shard_id": ""}, {"zone": "a"}),
        ({"stream": "s", "error_code": "e"}, {"error_code": "e", "shard": "1", "stream": "s", "zone": "a"}),
        ({"absent": ""}, {"shard": "1", "zone": "a"}),
        (
            {"self": "x", "unit": "y", "name": "z"},
            {"name": "z", "self": "x", "shard": "1"} | {"unit": "y", "zone": "a"},
        ),
    ],
)
def test_a_dimension_is_replaced_removed_or_left_as_with_put(
    client: MetricsClient, given: dict[str, Any], expected: dict[str, str]
) -> None:
    counter = client.counter("n", shard_id="1", zone="a")
    assert dict(counter.with_dimensions(**given).series.dimensions) == expected
    assert dict(counter.series.dimensions) == {"shard": "1", "zone": "a"}


def test_a_dimension_of_the_client_that_was_left_out_stays_out(
    make_client: Callable[..., MetricsClient],
) -> None:
    counter = make_client(dimensions={"service": "shop", "zone": "a"}).counter("n", service="")
    assert counter.with_dimensions(status="x").series.dimensions == (("status", "x"), ("zone", "a"))
    assert counter.with_dimensions(service="y", zone="").series.dimensions == (("service", "y"),)


def test_dimensions_may_be_added_again_and_again_and_name_one_series(client: MetricsClient) -> None:
    counter = client.counter("n")
    one = counter.with_dimensions(a=1).with_dimensions(b=2)
    other = client.counter("n", b="2", a="1")
    assert one.series == other.series
    series = client.statistics().series
    counter.with_dimensions(b=2, a=1)
    assert client.statistics().series == series


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"": "x"}, "dimension_empty"),
        ({"zone": "x" * 2_000}, "dimension_too_long"),
        ({f"d{number}": "x" for number in range(MAX_DIMENSIONS + 1)}, "too_many_dimensions"),
    ],
)
def test_what_breaks_a_limit_is_refused_where_the_dimensions_are_given(
    client: MetricsClient, given: dict[str, str], reason: str
) -> None:
    counter = client.counter("requests")
    with pytest.raises(ValueError, match=rf"'requests'.* cannot be a series: .+ \({reason}\)"):
        counter.with_dimensions(**given)
    assert client.statistics().series == 1


def test_details_are_left_out_at_summary(make_client: Callable[..., MetricsClient]) -> None:
    counter = make_client(level=MetricsLevel.SUMMARY).counter("n")
    assert counter.with_dimensions(shard_id="1", zone="a").series.dimensions == (("zone", "a"),)


def test_of_a_disabled_and_of_a_closed_client_dimensions_can_still_be_added(
    make_client: Callable[..., MetricsClient], client: MetricsClient
) -> None:
    make_client(level=MetricsLevel.NONE).counter("n").with_dimensions(a=1).record(1)
    counter = client.counter("n")
    client.close()
    counter.with_dimensions(a=1).record(1)
    assert client.statistics().dropped == {"closed": 1}


def test_what_a_timer_cannot_measure_is_refused_where_it_is_decorated() -> None:
    timer, values = _timer()
    decorate: Any = timer

    def generate() -> Iterator[int]:
        yield 1

    async def generate_too() -> AsyncIterator[int]:
        yield 1

    for function in (generate, generate_too, functools.partial(generate)):
        with pytest.raises(TypeError, match=r"cannot decorate a generator function.*`with timer:` in it"):
            timer(function)
    for kind in (classmethod, staticmethod, property):
        with pytest.raises(TypeError, match=f"put it below @{kind.__name__}, not above it"):
            decorate(kind(timer))
    with pytest.raises(TypeError, match="a timer decorates functions, not 5"):
        decorate(5)
    assert values == []


@pytest.mark.asyncio
async def test_an_object_with_an_asynchronous_call_is_measured_until_its_coroutine_ends(clock: Clock) -> None:
    class Work:
        async def __call__(self, left: int) -> int:
            await asyncio.sleep(0)
            clock.now_ns += 5_000_000
            return left + 1

    timer, values = _timer()
    assert await timer(Work())(1) == 2
    assert await timer(functools.partial(Work(), 2))() == 3
    assert values == [5.0, 5.0]


def test_methods_of_every_sort_are_measured_below_their_decorator(clock: Clock) -> None:
    timer, values = _timer()

    class Work:
        @timer
        def plain(self) -> str:
            return "plain"

        @classmethod
        @timer
        def of_class(cls) -> str:
            return cls.__name__

        @staticmethod
        @timer
        def of_none() -> str:
            return "none"

    assert (Work().plain(), Work.of_class(), Work.of_none()) == ("plain", "Work", "none")
    assert values == [clock.now_ns] * 3


@pytest.mark.parametrize("make", ["counter", "gauge", "histogram", "timer"])
@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (("",), "a name has 1 to 255 characters"),
        (("x" * 256,), "a name has 1 to 255 characters"),
        ((5,), "a name is a string, not 5"),
        ((None,), "a name is a string, not None"),
        (("lone \udc80",), "a text has half a surrogate pair"),
    ],
    ids=["empty", "long", "number", "none", "surrogate"],
)
def test_a_bad_name_is_refused_where_the_instrument_is_made_with_what_is_allowed(
    client: MetricsClient, make: str, given: tuple[object, ...], allowed: str
) -> None:
    with pytest.raises(ValueError, match=allowed) as refused:
        getattr(client, make)(*given)
    assert len(str(refused.value)) < 600
    assert client.statistics().series == 0


@pytest.mark.parametrize(
    ("unit", "allowed"), [("u" * 64, "a unit has at most 63 characters"), (5, "a unit is a string, not 5")]
)
def test_a_bad_unit_is_refused_where_the_instrument_is_made(
    client: MetricsClient, unit: object, allowed: str
) -> None:
    with pytest.raises(ValueError, match=allowed):
        client.counter("n", unit=unit)  # type: ignore[arg-type]
