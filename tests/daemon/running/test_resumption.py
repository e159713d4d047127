"""What the last daemon left -> where the windows of this one begin."""

import asyncio
from pathlib import Path

import pytest

from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.running.resumption import Resumption
from aiokpl_metricsd.state import State, open_state
from aiokpl_metricsd.storing.stored import OpenPart, Sealed

NOW = 6_000.5
INTERVAL_S = 60


def leave(directory: Path, closed_until: int, *opened: tuple[int, int]) -> State:
    """Return the state that a daemon left whose windows ended there, with windows that are open."""

    async def store() -> None:
        state = open_state(str(directory), outbox_max_bytes=1 << 20)
        parts = tuple(OpenPart(8 + number, *part, 0, lambda: iter(())) for number, part in enumerate(opened))
        await state.outbox.commit(Sealed(1, closed_until, 7, Ledger().dump(), parts), (), {}, {})
        await state.close()

    asyncio.run(store())
    return open_state(str(directory), outbox_max_bytes=1 << 20)


def begin(state: State | None) -> tuple[Windows, bool, bool]:
    """Return where windows begin, whether the state is new, and whether the clock was set back."""
    resumption = Resumption(state, INTERVAL_S, NOW)
    if state is not None:
        asyncio.run(state.close())
    return resumption.windows, resumption.is_new, resumption.is_set_back


def test_without_a_state_directory_windows_begin_now() -> None:
    windows, is_new, is_set_back = begin(None)
    assert (windows.closed_until, is_new, is_set_back) == (6_000, False, False)


def test_with_a_new_state_directory_windows_begin_now(tmp_path: Path) -> None:
    windows, is_new, is_set_back = begin(open_state(str(tmp_path), outbox_max_bytes=1 << 20))
    assert (windows.closed_until, is_new, is_set_back) == (6_000, True, False)


@pytest.mark.parametrize("closed_until", [0, 5_940, 6_001, 6_061])
def test_windows_begin_where_the_last_ones_ended_even_where_that_is_ahead(
    tmp_path: Path, closed_until: int
) -> None:
    windows, is_new, is_set_back = begin(leave(tmp_path, closed_until))
    assert (windows.closed_until, windows.last_number) == (closed_until, 7)
    assert (is_new, is_set_back) == (False, False)


def test_what_is_open_may_lie_an_interval_ahead(tmp_path: Path) -> None:
    windows, _, is_set_back = begin(leave(tmp_path, 6_001, (6_060, 6_120)))
    assert (windows.closed_until, is_set_back) == (6_001, False)


@pytest.mark.parametrize(
    ("closed_until", "opened"), [(6_062, ()), (5_000, ((9_000, 9_060),))], ids=["closed", "open"]
)
def test_where_the_last_windows_lie_too_far_ahead_the_clock_was_set_back_and_they_begin_now(
    tmp_path: Path, closed_until: int, opened: tuple[tuple[int, int], ...]
) -> None:
    windows, _, is_set_back = begin(leave(tmp_path, closed_until, *opened))
    assert (windows.closed_until, windows.last_number, is_set_back) == (6_000, 7, True)
