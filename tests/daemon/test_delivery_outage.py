"""A backend is down for 1,000 windows: it gets them all once it returns, and no other sink notices."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from aiokpl_metricsd.errors import RetryableExportError
from tests.daemon.delivering.stored import Life, Wall, draw, until
from tests.daemon.fakes import ScriptedSink, build_window, serve

WINDOWS = 1_000
SERIES = 3
INTERVAL_S = 60.0

REFUSED = RetryableExportError("connection refused")


@asynccontextmanager
async def living(directory: Path, wall: Wall, down: ScriptedSink, well: ScriptedSink) -> AsyncGenerator[Life]:
    """Live with a sink whose backend may be down and one whose backend never is, and end in order."""
    sinks = (serve(down, "down", catch_up_s=0.0), serve(well, "well"))
    life = Life(directory, *sinks, wall=wall, random=draw(3))
    await life.delivery.start()
    try:
        yield life
    finally:
        await life.delivery.close(0.05)
        await life.outbox.close()
    for ledger in life.delivery.ledgers.values():
        assert ledger.balance() == 0


async def close_windows(life: Life, wall: Wall, well: ScriptedSink, numbers: range) -> None:
    """Let windows close, each at its time; the backend that is well has each before the next one closes."""
    for taken, number in enumerate(numbers, start=1):
        wall.now = (number + 1) * INTERVAL_S
        assert await life.hand_over(build_window(SERIES, start=number * INTERVAL_S))
        await until(partial(_has_taken, well, taken))


def _has_taken(sink: ScriptedSink, windows: int) -> bool:
    return len(sink.taken) == windows


def check(sink: ScriptedSink, numbers: range, *, ordered: bool) -> None:
    """Assert that a sink has taken each window once and whole, under its own time."""
    assert all(len(window) == SERIES for window in sink.taken)
    assert all(len({each.window_id for each in window}) == 1 for window in sink.taken)
    times = [(window[0].window_start, window[0].window_end) for window in sink.taken]
    assert sorted(times) == [(number * INTERVAL_S, (number + 1) * INTERVAL_S) for number in numbers]
    assert not ordered or times == sorted(times)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("ordered", [True, False], ids=["oldest first", "newest first"])
async def test_a_backend_that_was_down_for_a_thousand_windows_gets_them_all(
    tmp_path: Path, ordered: bool
) -> None:
    wall = Wall(0.0)
    down, well = ScriptedSink(then=REFUSED, ordered=ordered), ScriptedSink(ordered=True)
    async with living(tmp_path / "a", wall, down, well) as life:
        await close_windows(life, wall, well, range(WINDOWS))
        assert not down.taken
        await until(lambda: life.delivery.queue_windows == {"down": WINDOWS, "well": 0})
        down.then = None
        await until(lambda: len(down.taken) == WINDOWS)
        await life.rest()
        assert life.outbox.size_bytes == 0
    check(down, range(WINDOWS), ordered=ordered)
    check(well, range(WINDOWS), ordered=True)
    for name in ("down", "well"):
        ledger = life.delivery.ledgers[name]
        assert (ledger.closed, ledger.delivered) == (WINDOWS * SERIES,) * 2
    assert life.delivery.ledgers["well"].failures == 0


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("ordered", [True, False], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended in order"])
async def test_a_restart_in_the_midst_of_the_outage_changes_nothing(
    tmp_path: Path, ordered: bool, killed: bool
) -> None:
    wall = Wall(0.0)
    first, second = range(WINDOWS // 2), range(WINDOWS // 2, WINDOWS)
    down, well = ScriptedSink(then=REFUSED, ordered=ordered), ScriptedSink(ordered=True)
    directory = tmp_path / "a"
    async with living(directory, wall, down, well) as life:
        await close_windows(life, wall, well, first)
        if killed:
            directory = await life.die()
    assert not down.taken
    check(well, first, ordered=True)

    down, well = ScriptedSink(then=REFUSED, ordered=ordered), ScriptedSink(ordered=True)
    async with living(directory, wall, down, well) as life:
        await close_windows(life, wall, well, second)
        await until(lambda: life.delivery.queue_windows == {"down": WINDOWS, "well": 0})
        down.then = None
        await until(lambda: len(down.taken) == WINDOWS)
        await life.rest()
        assert life.outbox.size_bytes == 0
    check(down, range(WINDOWS), ordered=ordered)
    check(well, second, ordered=True)
    for name in ("down", "well"):
        ledger = life.delivery.ledgers[name]
        assert (ledger.closed, ledger.delivered) == (WINDOWS * SERIES,) * 2
