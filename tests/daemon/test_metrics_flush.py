"""Flushes: every event in one batch, every batch taken by the sink or counted, in order."""

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks import InMemorySink, MetricSnapshot
from tests.daemon.metrics_fakes import EPOCH_S, Clock, GatedSink, ScriptedSink, Step, build_manager

LOGGER = "aiokpl_metricsd.metrics"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def names(snapshots: Sequence[MetricSnapshot]) -> list[str]:
    return [snapshot.name for snapshot in snapshots]


@pytest.mark.anyio
async def test_a_flush_carries_what_came_since_the_last_one() -> None:
    clock, sink = Clock(1000.5), InMemorySink()
    manager = build_manager(sink, clock)
    manager.put("n", 1.0)
    clock.now = 1010.0
    await manager.flush()
    manager.put("n", 5.0)
    manager.put("m", 2.0)
    clock.now = 1020.0
    await manager.flush()
    first, second = sink.exports
    assert [(s.name, s.count, s.sum, s.window_start, s.window_end) for s in first + second] == [
        ("n", 1, 1.0, EPOCH_S + 1000.5, EPOCH_S + 1010.0),
        ("n", 1, 5.0, EPOCH_S + 1010.0, EPOCH_S + 1020.0),
        ("m", 1, 2.0, EPOCH_S + 1010.0, EPOCH_S + 1020.0),
    ]


@pytest.mark.anyio
async def test_with_nothing_to_say_there_is_no_export() -> None:
    clock, sink = Clock(1000.0), ScriptedSink()
    manager = build_manager(sink, clock)
    await manager.flush()
    assert sink.calls == []
    clock.now = 1010.0
    await manager.flush()
    manager.put("n")
    clock.now = 1020.0
    await manager.flush()
    assert sink.all_snapshots[0].window_start == EPOCH_S + 1010.0


@pytest.mark.anyio
async def test_exported_snapshots_have_kind_unit_last_and_buckets() -> None:
    sink = InMemorySink()
    manager = build_manager(sink)
    for value in (3.0, 1.0, 2.0):
        for name in ("RequestTime", "UserRecordsPending", "UserRecordsDataPut", "mine"):
            manager.put(name, value)
    await manager.flush()
    assert [(s.name, s.kind, s.unit, s.last) for s in sink.all_snapshots] == [
        ("RequestTime", MetricKind.HISTOGRAM, "ms", 2.0),
        ("UserRecordsPending", MetricKind.GAUGE, "count", 2.0),
        ("UserRecordsDataPut", MetricKind.COUNTER, "bytes", 2.0),
        ("mine", MetricKind.COUNTER, None, 2.0),
    ]
    buckets = [snapshot.histogram for snapshot in sink.all_snapshots]
    assert buckets[0] is not None
    assert sum(buckets[0].positive_counts) == 3
    assert buckets[1:] == [None, None, None]


@pytest.mark.anyio
async def test_an_export_that_raises_is_logged_counted_and_offered_again_unchanged_and_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ScriptedSink(OSError("down"), RetryableExportError("busy"))
    manager = build_manager(sink)
    manager.put("a")
    await manager.flush()
    manager.put("b")
    await manager.flush()
    assert (manager.ledger.exports_failed, manager.ledger.batches_waiting) == (2, 2)
    assert [record.name for record in caplog.records] == [LOGGER, LOGGER]
    assert "down" in caplog.messages[0]
    await manager.flush()
    assert [names(batch) for batch in sink.exports] == [["a"], ["b"]]
    assert sink.offered[0] is sink.offered[1] is sink.offered[2]
    assert (manager.ledger.snapshots_delivered, manager.ledger.snapshots_waiting) == (2, 0)


@pytest.mark.anyio
async def test_sixty_batches_are_kept_then_the_oldest_is_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ScriptedSink(*[OSError("down")] * 62)
    manager = build_manager(sink)
    for number in range(60):
        manager.put(f"n{number}")
        await manager.flush()
    assert (manager.ledger.batches_waiting, manager.ledger.batches_dropped) == (60, 0)
    for number in (60, 61):
        manager.put(f"n{number}")
        await manager.flush()
    ledger = manager.ledger
    assert (ledger.batches_waiting, ledger.batches_dropped, ledger.snapshots_dropped) == (60, 2, 2)
    lost = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [message.rsplit(" ", 1)[1] for message in lost] == ["n0", "n1"]
    await manager.flush()
    assert [batch[0].name for batch in sink.exports] == [f"n{number}" for number in range(2, 62)]


@pytest.mark.anyio
async def test_of_a_partial_failure_the_rest_is_offered_again_and_the_refused_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ScriptedSink(lambda batch: PartialExportError("some", remaining=batch[1:2], rejected=batch[2:]))
    manager = build_manager(sink)
    for name in ("taken", "again", "poison"):
        manager.put(name, stream="s")
    await manager.flush()
    ledger = manager.ledger
    assert (ledger.snapshots_delivered, ledger.snapshots_waiting, ledger.snapshots_rejected) == (1, 1, 1)
    assert "poison stream=s" in caplog.text
    manager.put("next")
    await manager.flush()
    assert [names(batch) for batch in sink.exports] == [["again"], ["next"]]


@pytest.mark.anyio
async def test_a_partial_failure_with_nothing_left_does_not_hold_up_the_next_batch() -> None:
    sink = ScriptedSink(OSError(), lambda batch: PartialExportError(rejected=batch[:1]))
    manager = build_manager(sink)
    for name in ("a", "b"):
        manager.put(name)
        await manager.flush()
    assert [names(batch) for batch in sink.exports] == [["b"]]
    assert manager.ledger.snapshots_rejected == 1


@pytest.mark.anyio
async def test_a_batch_refused_for_good_is_counted_named_and_not_offered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = ScriptedSink(OSError(), PermanentExportError("400"))
    manager = build_manager(sink)
    for number in range(12):
        manager.put(f"n{number}")
    await manager.flush()
    manager.put("good")
    await manager.flush()
    assert [names(batch) for batch in sink.exports] == [["good"]]
    assert (manager.ledger.snapshots_rejected, manager.ledger.exports_failed) == (12, 2)
    assert "n0, n1," in caplog.text
    assert "and 2 more" in caplog.text


@pytest.mark.anyio
async def test_a_cancelled_export_is_neither_lost_nor_merged_with_what_comes_next() -> None:
    sink = GatedSink()
    manager = build_manager(sink)
    manager.put("a")
    async with anyio.create_task_group() as group:
        group.start_soon(manager.flush)
        await sink.began.wait()
        group.cancel_scope.cancel()
    assert (manager.ledger.snapshots_waiting, manager.ledger.exports_failed) == (1, 0)
    sink.gate.set()
    manager.put("a")
    await manager.flush()
    assert [[s.count for s in batch] for batch in sink.exports] == [[1], [1]]


@pytest.mark.anyio
async def test_flushes_at_the_same_time_take_turns() -> None:
    sink = GatedSink()
    manager = build_manager(sink)
    manager.put("a")
    async with anyio.create_task_group() as group:
        group.start_soon(manager.flush)
        await sink.began.wait()
        manager.put("b")
        for _ in range(3):
            group.start_soon(manager.flush)
        await anyio.wait_all_tasks_blocked()
        assert sink.calls == ["hold"]
        sink.gate.set()
    assert [names(batch) for batch in sink.exports] == [["a"], ["b"]]


@pytest.mark.anyio
async def test_a_sink_that_flushes_its_own_manager_does_not_deadlock() -> None:
    class Recursive(InMemorySink):
        async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
            await manager.flush()

    manager = build_manager(Recursive())
    manager.put("a")
    await manager.flush()
    assert manager.ledger.exports_failed == 1


def test_a_cancellation_that_a_sink_leaks_is_a_failed_export(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        sink = ScriptedSink(asyncio.CancelledError())
        manager = build_manager(sink)
        manager.put("a")
        await manager.flush()
        assert manager.ledger.exports_failed == 1
        await manager.flush()
        assert names(sink.all_snapshots) == ["a"]

    asyncio.run(main())
    assert len(caplog.records) == 1


# ---- nothing is lost and nothing is doubled, whatever happens

STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.sampled_from(["RequestTime", "UserRecordsPending", "mine"]), st.integers(-9, 9)
        ),
        st.tuples(st.just("put"), st.just("mine"), st.just(float("nan"))),
        st.tuples(
            st.just("flush"), st.sampled_from(["ok", "fail", "partial", "permanent", "cancel"]), st.just(0)
        ),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 90)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(steps=STEPS)
def test_totals_are_conserved(backend: str, steps: list[tuple[str, str, float]]) -> None:
    anyio.run(run_steps, steps, backend=backend)


async def run_steps(steps: list[tuple[str, str, float]]) -> None:
    clock, sink, refused = Clock(), ScriptedSink(), list[MetricSnapshot]()

    def fail_partly(batch: tuple[MetricSnapshot, ...]) -> BaseException:
        sink._exports.append(batch[2:])
        refused.extend(batch[1:2])
        return PartialExportError(remaining=batch[:1], rejected=batch[1:2])

    def fail_for_good(batch: tuple[MetricSnapshot, ...]) -> BaseException:
        refused.extend(batch)
        return PermanentExportError()

    scripts: dict[str, Step] = {"fail": OSError(), "partial": fail_partly, "permanent": fail_for_good}
    manager = build_manager(sink, clock)
    put: list[tuple[str, float]] = []
    for kind, what, number in steps:
        if kind == "put":
            manager.put(what, number)
            put.extend([(what, number)] if number == number else [])  # noqa: PLR0124 - that is how to tell a NaN
        elif kind == "wait":
            clock.now += number
        else:
            with anyio.CancelScope() as scope:
                if what == "cancel":
                    scope.cancel()
                sink.script = [scripts.get(what)]
                await manager.flush()
    sink.script = []
    await manager.flush()
    ledger, seen = manager.ledger, [*sink.all_snapshots, *refused]
    assert ledger.snapshots_waiting == 0
    assert (
        ledger.snapshots_closed
        == ledger.snapshots_delivered + ledger.snapshots_rejected + ledger.snapshots_dropped
    )
    assert (len(sink.all_snapshots), len(refused)) == (ledger.snapshots_delivered, ledger.snapshots_rejected)
    for name in ("RequestTime", "UserRecordsPending", "mine"):
        values = [number for other, number in put if other == name]
        of_name = [snapshot for snapshot in seen if snapshot.name == name]
        assert sum(snapshot.count for snapshot in of_name) == len(values)
        assert sum(snapshot.sum for snapshot in of_name) == sum(values)
        windows = sorted((s.window_start, s.window_end) for s in of_name)
        assert all(end <= start for (_, end), (start, _) in pairwise(windows))
