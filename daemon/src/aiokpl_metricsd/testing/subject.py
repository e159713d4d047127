"""What the contract suite is told about a sink, and how it runs against it."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import isclose
from typing import ClassVar, Generic, TypeVar

import anyio
import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing.backend import Answer, Backend, Key

# No test takes longer, whatever a sink does wrong; delivery's own limits are cut short.
LIMIT_S = 30.0

# How long a cancelled export may take on a busy machine. Delivery leaves it behind after half a second.
PROMPT_S = 2.0

_POLL_S = 0.001

BackendT = TypeVar("BackendT", bound=Backend)


class NotOfferedError(Exception):
    """The backend lacks what a test needs; the test is skipped."""


class Subject(Generic[BackendT]):
    """The hooks. A suite overrides `build_sink`, and the others as far as they can be offered.

    Attributes:
        runtimes: event loops that the sink says it runs under, out of "asyncio" and "trio".
        waits_for_entering: False for a sink that has nothing to open and takes windows at any time.
    """

    runtimes: ClassVar[tuple[str, ...]] = ("asyncio",)
    waits_for_entering: ClassVar[bool] = True

    def build_sink(self, backend: BackendT) -> MetricsSink:
        """Return a new sink that talks to this backend. Also called after the backend has gone."""
        raise NotImplementedError

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[BackendT]:
        """Open a backend of a test's own, which holds nothing yet."""
        # The suite of a sink that offers nothing; whoever names another type overrides this.
        yield Backend()  # type: ignore[misc]  # pyright: ignore[reportReturnType]

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        """Return what the backend is to hold of a snapshot, in the keys of its `read`.

        Where several snapshots have one key, their totals add up. The suite's names and dimensions are ASCII
        letters in lower case, digits and `_`, wherever keys are compared.
        """
        total = snapshot.last if snapshot.kind is MetricKind.GAUGE else snapshot.sum
        return {(snapshot.name, snapshot.dimensions, snapshot.window_end): total}

    def now(self) -> float:
        """Return the epoch seconds at which the suite's newest window has just ended."""
        return time.time() // 60.0 * 60.0

    @pytest.fixture(params=["asyncio", "trio"])
    def runtime(self, request: pytest.FixtureRequest) -> str:
        """The event loop of a test."""
        name = str(request.param)
        if name not in self.runtimes:
            pytest.skip(f"the suite does not say that the sink runs under {name}")
        pytest.importorskip(name)
        return name

    # ---- how tests run

    def run(self, work: Callable[[BackendT], Awaitable[None]], runtime: str = "asyncio") -> None:
        """Run a test against a backend of its own; skip it where that lacks what it needs."""
        ended: list[Exception] = []

        async def main() -> None:
            # What a test ends with is kept until the backend has closed: task groups would wrap it.
            async with self.open_backend() as backend:
                try:
                    with anyio.fail_after(LIMIT_S):
                        await work(backend)
                except (AssertionError, NotOfferedError, TimeoutError) as error:
                    ended.append(error)
                finally:
                    backend.release()

        anyio.run(main, backend=runtime)
        for error in ended:
            if isinstance(error, NotOfferedError):
                pytest.skip(str(error))
            raise error

    def total(self, snapshots: Iterable[MetricSnapshot]) -> dict[Key, float]:
        """Return what the backend is to hold of all these together."""
        totals: dict[Key, float] = {}
        for snapshot in snapshots:
            for key, value in self.expect(snapshot).items():
                totals[key] = totals.get(key, 0.0) + value
        return totals

    def compare(self, backend: Backend, snapshots: Iterable[MetricSnapshot], when: str) -> None:
        """Fail unless the backend holds exactly these; where it cannot be looked into, do nothing.

        Raises:
            AssertionError: it holds less, more, or other things.
        """
        held = backend.read()
        if held is not None:
            check_equal(held, self.total(snapshots), when)

    def compare_repeated(
        self, sink: MetricsSink, backend: Backend, snapshots: Iterable[MetricSnapshot], when: str
    ) -> None:
        """Fail unless the backend holds each at least once, and exactly once where the repeat rule says so.

        Raises:
            AssertionError: it does not.
        """
        check_held = (
            check_least if getattr(sink, "repeat_rule", RepeatRule.ADDS) == RepeatRule.ADDS else check_equal
        )
        check_held(need_totals(backend), self.total(snapshots), when)


def check(is_so: object, message: str) -> None:
    """Fail with the message unless it is so.

    Raises:
        AssertionError: it is not.
    """
    # No `assert`: it would say nothing in a package whose asserts pytest does not rewrite.
    if not is_so:
        raise AssertionError(message)


def check_equal(held: Mapping[Key, float], expected: Mapping[Key, float], when: str) -> None:
    """Fail unless the totals are equal, but for the rounding of a sum.

    Raises:
        AssertionError: they are not; says the first few that differ.
    """
    differing = [
        f"{key!r}: holds {held.get(key)!r}, expected {expected.get(key)!r}"
        for key in dict.fromkeys([*expected, *held])
        if not _is_close(held.get(key), expected.get(key))
    ]
    check(not differing, f"{when}, the backend's totals are wrong: {'; '.join(differing[:5])}")


def check_least(held: Mapping[Key, float], expected: Mapping[Key, float], when: str) -> None:
    """Fail where the backend holds less than expected, or what was never sent.

    Raises:
        AssertionError: it does.
    """
    lost = [key for key, value in expected.items() if not held.get(key, 0.0) >= value * (1.0 - 1e-9)]
    check(not lost, f"{when}, the backend lacks {lost[:5]!r}")
    foreign = held.keys() - expected.keys()
    check(not foreign, f"{when}, the backend holds what was never sent: {sorted(map(repr, foreign))[:5]}")


def need(backend: Backend, *answers: Answer) -> None:
    """Skip the test where the backend cannot be told to answer so.

    Raises:
        NotOfferedError: it cannot.
    """
    missing = [answer.value for answer in answers if answer not in backend.answers]
    if missing:
        raise NotOfferedError(f"the backend cannot be told to answer: {', '.join(missing)}")


def need_totals(backend: Backend) -> Mapping[Hashable, float]:
    """Return what the backend holds; skip the test where it cannot be looked into.

    Raises:
        NotOfferedError: it cannot.
    """
    held = backend.read()
    if held is None:
        raise NotOfferedError("the backend cannot be looked into")
    return held


def copy_totals(backend: Backend) -> dict[Key, float] | None:
    """Return what the backend holds at this moment; None where it cannot be looked into."""
    held = backend.read()
    return None if held is None else dict(held)


def find_changed(before: Mapping[Key, float] | None, after: Mapping[Key, float] | None) -> set[Key]:
    """Return the keys that came, or whose total is another one now."""
    if before is None or after is None:
        return set()
    # As text, in which NaN is NaN.
    return {key for key, total in after.items() if key not in before or repr(before[key]) != repr(total)}


async def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until it is so.

    Raises:
        AssertionError: it was not within the limit.
    """
    with anyio.move_on_after(LIMIT_S / 2.0):
        while not is_so():  # noqa: ASYNC110 - a backend may be another thread's, and has no event
            await anyio.sleep(_POLL_S)
    check(is_so(), f"never happened: {what}")


def name_series(snapshots: Sequence[MetricSnapshot]) -> str:
    """Return the names of the series, for a message."""
    return ", ".join(f"{snapshot.name} {dict(snapshot.dimensions)}" for snapshot in snapshots[:5])


def _is_close(held: float | None, expected: float | None) -> bool:
    if held is None or expected is None:
        # A total of nothing need not be there.
        return (held or 0.0) == (expected or 0.0) == 0.0
    return isclose(held, expected, rel_tol=1e-9)


__all__ = [
    "LIMIT_S",
    "PROMPT_S",
    "BackendT",
    "NotOfferedError",
    "Subject",
    "check",
    "check_equal",
    "check_least",
    "copy_totals",
    "find_changed",
    "name_series",
    "need",
    "need_totals",
    "wait_until",
]
