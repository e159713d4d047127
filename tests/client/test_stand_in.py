"""Whoever records does the thread's work where there is none, seldom, and costs nothing where there is."""

from types import SimpleNamespace
from typing import Any

import pytest

from aiokpl_metrics_client import stand_in as module
from aiokpl_metrics_client.buffers import BufferTable, count_events
from aiokpl_metrics_client.instruments import Counter
from aiokpl_metrics_client.stand_in import StandIn
from aiokpl_metrics_protocol import Series

_NO_OWNER: Any = None


def _unbound(_value: float) -> None:
    raise AssertionError("never bound")


class Stage:
    """A table with one instrument, a clock, and a note of what is asked for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[str] = []
        self.table = BufferTable(10)
        self.counter = self.table.bind(Series("n"), Counter(_unbound, _NO_OWNER))
        self.stand_in = StandIn(
            self.table, lambda: self.asked.append("start"), lambda: self.asked.append("turn")
        )

    def record(self, at: float) -> list[str]:
        """Record one event, and return what that asks for."""
        self.now = 100.0 + at
        self.counter.record(1.0)
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A table, a clock."""
    stage = Stage()
    monkeypatch.setattr(module, "Clock", SimpleNamespace(monotonic=lambda: stage.now))
    return stage


def test_ten_times_a_second_an_event_takes_a_turn_and_once_a_second_one_tries_to_start_the_thread(
    stage: Stage,
) -> None:
    stage.stand_in.serve()
    assert stage.record(0.0) == ["turn"]
    assert [stage.record(at) for at in (0.01, 0.09)] == [[], []]
    assert stage.record(0.11) == ["turn"]
    assert stage.record(0.95) == ["turn"]
    assert stage.record(1.06) == ["start", "turn"]
    # It could not: a second from then on.
    stage.stand_in.serve()
    assert [stage.record(at) for at in (1.9, 2.07)] == [["turn"], ["start", "turn"]]
    assert count_events(stage.table.buffers()) == 8


def test_with_a_thread_again_an_event_is_a_list_append(stage: Stage) -> None:
    plain = stage.counter.record
    stage.stand_in.serve()
    assert stage.counter.record != plain
    stage.stand_in.rest()
    assert stage.counter.record == plain
    assert stage.record(10.0) == []


def test_at_the_end_each_event_is_sent_at_once(stage: Stage) -> None:
    stage.stand_in.serve_last()
    assert [stage.record(0.0), stage.record(0.0)] == [["start"], ["start"]]
    # Whether it was so already makes no difference.
    stage.stand_in.serve_last()
    assert stage.record(0.0) == ["start"]
    assert count_events(stage.table.buffers()) == 3


def test_an_event_in_the_depth_of_a_recursion_is_there_and_leaves_the_turn_to_the_next(
    stage: Stage,
) -> None:
    asked: list[None] = []

    def fail_once() -> None:
        asked.append(None)
        if len(asked) == 1:
            raise RecursionError

    stage.stand_in = StandIn(stage.table, lambda: None, fail_once)
    stage.stand_in.serve()
    stage.record(0.0)
    assert count_events(stage.table.buffers()) == 1
    stage.record(0.2)
    assert len(asked) == 2
