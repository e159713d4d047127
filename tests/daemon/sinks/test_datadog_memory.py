"""What is done with is forgotten, nothing else is, and an attempt that runs beside it loses nothing."""

from itertools import product

import pytest

from aiokpl_metricsd.sinks.datadog.memory import Memory, SeriesKey, WindowMemory
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.sinks.datadog_snapshots import build_snapshot

NOW = 1_000.0


def build_window(window_id: str, count: int) -> list[MetricSnapshot]:
    return [build_snapshot("h", 1.0, dimensions=(("n", str(n)),), window_id=window_id) for n in range(count)]


def accept(memory: Memory, snapshots: list[MetricSnapshot]) -> WindowMemory:
    """Note that all of their distributions were accepted."""
    window = memory.find(snapshots[0], NOW, memory.begin())
    window.accepted |= set(map(key_of, snapshots))
    return window


def key_of(snapshot: MetricSnapshot) -> SeriesKey:
    return (snapshot.name, snapshot.dimensions)


@pytest.mark.parametrize(("is_alone", "done_count"), list(product((True, False), (0, 3, 5))))
def test_what_is_done_with_is_forgotten_and_nothing_else(*, is_alone: bool, done_count: int) -> None:
    memory = Memory()
    first, second = build_window("a", 5), build_window("b", 5)
    windows = [accept(memory, each) for each in (first, second)]
    memory.settle(memory.prepare_settlement([*first[:done_count], second[0]]), is_alone=is_alone)
    assert windows[0].accepted == set(map(key_of, first[done_count:]))
    assert windows[1].accepted == set(map(key_of, second[1:]))


def test_alone_nothing_is_freed_before_the_settlement_is() -> None:
    """The event loop settles: it has no time to free 100,000 series."""
    memory = Memory()
    snapshots = build_window("a", 5)
    window = accept(memory, snapshots)
    before = window.accepted
    settlement = memory.prepare_settlement(snapshots)
    memory.settle(settlement, is_alone=True)
    assert settlement.shares[0].rest is before
    assert not window.accepted


@pytest.mark.parametrize("is_alone", [True, False])
def test_what_was_accepted_after_it_was_worked_out_stays(*, is_alone: bool) -> None:
    memory = Memory()
    snapshots = build_window("a", 3)
    window = accept(memory, snapshots[:2])
    settlement = memory.prepare_settlement(snapshots[:2])
    accept(memory, snapshots[2:])
    memory.settle(settlement, is_alone=is_alone)
    assert window.accepted == {key_of(snapshots[2])}


def test_snapshots_without_a_time_are_let_go() -> None:
    memory = Memory()
    snapshot = MetricSnapshot("h", 1, 1.0, 1.0, 1.0)
    first = memory.find(snapshot, NOW, memory.begin())
    assert memory.find(snapshot, NOW, memory.begin()) is first
    memory.settle(memory.prepare_settlement([snapshot]), is_alone=True)
    assert memory.find(snapshot, NOW, memory.begin()) is not first
