"""Each drain's events are of one second, an idle client wakes once a second, and nothing runs busily."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.pace import Pace
from aiokpl_metrics_client.statistics import State


class Times:
    """Two clocks; the wall's begins in the midst of a second."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.pace = Pace(monotonic=lambda: 50.0 + self.passed, wall=lambda: 1_000.53 + self.passed)


@pytest.fixture
def times() -> Times:
    """Clocks, and a pace that follows them."""
    return Times()


def _outbound(state: State, *, is_waiting: bool, idle_drains: int = 0) -> Outbound:
    fake: Any = SimpleNamespace(state=state, is_waiting=is_waiting, idle_drains=idle_drains)
    return cast("Outbound", fake)


def test_drains_are_a_tenth_of_a_second_apart_but_one_is_just_past_each_boundary(times: Times) -> None:
    pace = times.pace
    drained: list[float] = []
    for millisecond in range(1_000):
        times.passed = millisecond / 1_000
        if pace.is_drain_due:
            pace.note_drain()
            drained.append(times.passed)
    # The boundary is at 0.47.
    assert drained == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.471, 0.571, 0.671, 0.771, 0.871, 0.971], abs=0.006
    )
    assert drained[5] > 0.47


def test_a_drain_may_be_hurried(times: Times) -> None:
    times.pace.note_drain()
    assert not times.pace.is_drain_due
    times.pace.hurry()
    assert times.pace.is_drain_due


def test_idle_buffers_are_looked_for_every_ten_seconds(times: Times) -> None:
    taken: list[int] = []
    for second in range(25):
        times.passed = float(second)
        if times.pace.take_retirement():
            taken.append(second)
    assert taken == [0, 10, 20]


@pytest.mark.parametrize(
    ("state", "is_waiting", "idle_drains", "pause"),
    [
        (State.CONNECTED, False, 10, 0.471),
        (State.CONNECTED, False, 9, 0.1),
        (State.CONNECTED, True, 10, 0.1),
        (State.AWAY, True, 10, 0.2),
        (State.AWAY, False, 10, 0.471),
        (State.HELD_BACK, True, 0, 0.2),
    ],
)
def test_the_thread_sleeps_by_what_there_is_to_do_and_never_past_the_boundary(
    times: Times, state: State, is_waiting: bool, idle_drains: int, pause: float
) -> None:
    outbound = _outbound(state, is_waiting=is_waiting, idle_drains=idle_drains)
    assert times.pace.find_pause(outbound) == pytest.approx(pause)
    times.passed = 0.42
    assert times.pace.find_pause(outbound) == pytest.approx(0.051)


def test_a_full_socket_is_waited_for_until_the_next_drain(times: Times) -> None:
    times.pace.note_drain()
    times.passed = 0.04
    assert times.pace.find_wait() == pytest.approx(0.06)
    times.passed = 0.3
    assert times.pace.find_wait() == 0.0
