from random import Random

from aiokpl_metricsd.delivering.consignment import Consignment
from aiokpl_metricsd.delivering.window_queue import WindowQueue
from aiokpl_metricsd.storing.stored import StoredWindow
from tests.daemon.fakes import FakeClock, build_window


def build_queue(*, ordered: bool = False, max_windows: int = 10, max_snapshots: int = 1_000) -> WindowQueue:
    return WindowQueue(ordered=ordered, max_windows=max_windows, max_snapshots=max_snapshots, catch_up_s=5.0)


def build(number: int, size: int = 1, failures: int = 0) -> Consignment:
    consignment = Consignment(number, [build_window(size)], Random(1).random)
    consignment.failures = failures
    return consignment


def take(queue: WindowQueue, clock: FakeClock, *, hurry: bool = False) -> int | float | None:
    taken = queue.take(clock, hurry=hurry)
    return taken.number if isinstance(taken, Consignment) else taken


def test_an_ordered_sink_gets_the_oldest_first_without_waiting() -> None:
    queue, clock = build_queue(ordered=True), FakeClock()
    for number in (2, 1, 3):
        queue.put(build(number))
    assert [take(queue, clock) for _ in range(4)] == [1, 2, 3, None]


def test_any_other_sink_gets_the_newest_first_and_the_backlog_at_its_rate() -> None:
    queue, clock = build_queue(), FakeClock()
    for number in (1, 2, 3):
        queue.put(build(number))
    assert [take(queue, clock) for _ in range(3)] == [3, 1, 5.0]
    queue.put(build(4))
    assert [take(queue, clock) for _ in range(2)] == [4, 5.0]
    clock.now += 4.0
    assert take(queue, clock) == 1.0
    clock.now += 1.0
    assert [take(queue, clock) for _ in range(2)] == [2, None]


def test_in_a_hurry_the_backlog_is_not_held_back() -> None:
    queue, clock = build_queue(), FakeClock()
    for number in (1, 2, 3):
        queue.put(build(number))
    assert [take(queue, clock, hurry=True) for _ in range(4)] == [3, 1, 2, None]


def test_of_the_backlog_the_least_often_tried_is_first_so_none_holds_up_the_others() -> None:
    queue, clock = build_queue(), FakeClock()
    queue.put(build(9))
    take(queue, clock)
    for number, failures in ((1, 4), (2, 0), (3, 1), (4, 0)):
        queue.put(build(number, failures=failures))
    assert [take(queue, clock, hurry=True) for _ in range(4)] == [2, 4, 3, 1]


def test_past_the_bound_the_oldest_is_dropped() -> None:
    queue = build_queue(max_windows=2)
    assert queue.put(build(2)) == []
    assert queue.put(build(3)) == []
    assert [dropped.number for dropped in queue.put(build(1))] == [1]
    assert [dropped.number for dropped in queue.put(build(4))] == [2]
    assert len(queue) == 2


def test_past_the_bound_of_snapshots_the_oldest_are_dropped_but_never_the_only_one() -> None:
    queue = build_queue(max_snapshots=10)
    assert queue.put(build(1, size=20)) == []
    assert [dropped.number for dropped in queue.put(build(2, size=6))] == [1]
    queue.put(build(3, size=4))
    assert [dropped.number for dropped in queue.put(build(4, size=9))] == [2, 3]


def test_stalled_windows_learn_that_the_backend_accepts() -> None:
    queue = build_queue()
    consignment = build(1)
    consignment.next_batch()
    consignment.refuse()
    assert consignment.is_stalled
    queue.put(consignment)
    queue.vouch()
    assert not consignment.is_stalled


def build_stored(number: int) -> Consignment:
    stored = StoredWindow(100 + number, "sink", "w", 60.0, (5,))
    return Consignment(number, (), Random(1).random, stored=stored)


def test_the_bounds_are_for_windows_in_memory() -> None:
    queue = build_queue(max_windows=2)
    for number in range(10):
        assert queue.put(build_stored(number)) == []
    dropped = [each.number for number in (10, 11, 12) for each in queue.put(build(number))]
    assert (dropped, len(queue)) == ([10], 12)


def test_windows_are_taken_out_by_their_number_in_the_outbox_and_by_where_they_are() -> None:
    queue = build_queue()
    for consignment in (build_stored(1), build(2), build_stored(3)):
        queue.put(consignment)
    removed = queue.remove(101)
    assert removed is not None
    assert (removed.number, queue.remove(101)) == (1, None)
    assert [each.number for each in queue.take_unstored()] == [2]
    assert queue.take_unstored() == []
    assert [each.number for each in queue] == [3]
    assert [each.number for each in queue.take_all()] == [3]
    assert len(queue) == 0
