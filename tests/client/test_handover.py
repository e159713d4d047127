"""A flush drains once and waits as long as it is worth while: by the daemon's state, never past its time."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiokpl_metrics_client import handover as module
from aiokpl_metrics_client.handover import RESTART_S, Handover
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.progress import Mark, Progress
from aiokpl_metrics_client.statistics import State


class Way:
    """A way out that leads nowhere, its socket, and the clock that waiting for it moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.state = State.HELD_BACK
        self.lost_at: float | None = None
        self.progress = Progress()
        self.drains = 0
        self.has_socket = True
        self.transport = SimpleNamespace(wait=self._wait)

    @property
    def outbound(self) -> Outbound:
        """Itself, as what it plays."""
        return cast("Outbound", self)

    def drain(self, *, all_of_it: bool) -> None:
        """Count."""
        assert all_of_it
        self.drains += 1

    def mark(self) -> Mark:
        """Mark how many drains there were."""
        return Mark(self.drains, None)

    def wait_out(self, handover: Handover) -> float:
        """Wait until it is no longer worth while, and return for how long that was."""
        begin = self.now
        for _ in range(10_000):
            if not handover.wait(self.outbound):
                return self.now - begin
        raise AssertionError("it waits for ever")

    def sleep(self, pause_s: float) -> None:
        """Pass the time."""
        assert 0 < pause_s <= 0.05
        self.now += pause_s

    def _wait(self, timeout_s: float) -> bool:
        if self.has_socket:
            self.sleep(timeout_s)
        return self.has_socket


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    """A way out, and its clock."""
    way = Way()
    fake: Any = SimpleNamespace(monotonic=lambda: way.now)
    monkeypatch.setattr(module, "Clock", fake)
    monkeypatch.setattr(time, "sleep", way.sleep)
    return way


def test_it_drains_once_and_keeps_what_had_no_room_until_then(way: Way) -> None:
    handover = Handover(5.0, None)
    way.progress = Progress(events_without_room=3)
    assert [handover.drain(way.outbound) for _ in range(3)] == [Mark(1, None)] * 3
    way.progress = Progress(events_without_room=4, events_unsendable=2)
    assert (way.drains, handover.read_losses(way.outbound)) == (1, (3, 2))


@pytest.mark.parametrize("has_socket", [True, False])
def test_a_daemon_that_is_slow_is_waited_for_until_the_time_is_up(way: Way, has_socket: bool) -> None:
    way.has_socket = has_socket
    handover = Handover(5.0, 0.5)
    assert way.wait_out(handover) == pytest.approx(5.0)
    assert handover.left_s == pytest.approx(0.0)


def test_a_daemon_that_is_away_is_waited_for_until_that_time_is_up_and_without_one_for_all_of_it(
    way: Way,
) -> None:
    way.state, way.has_socket = State.AWAY, False
    assert way.wait_out(Handover(5.0, 0.5)) == pytest.approx(0.5)
    assert way.wait_out(Handover(5.0, None)) == pytest.approx(5.0)
    assert way.wait_out(Handover(0.2, 0.5)) == pytest.approx(0.2)


def test_a_daemon_that_was_lost_just_now_is_being_restarted_and_waited_for(way: Way) -> None:
    way.state, way.has_socket, way.lost_at = State.AWAY, False, way.now - 1.0
    assert way.wait_out(Handover(5.0, 0.5)) == pytest.approx(RESTART_S - 1.0)
    way.lost_at = way.now
    assert way.wait_out(Handover(1.0, 0.5)) == pytest.approx(1.0), "but never past the time"
    way.lost_at = way.now - 60.0
    assert way.wait_out(Handover(5.0, 0.5)) == pytest.approx(0.5)


def test_without_time_nothing_is_waited_for(way: Way) -> None:
    assert way.wait_out(Handover(0.0, None)) == 0.0
    assert way.wait_out(Handover(-1.0, -1.0)) == 0.0
