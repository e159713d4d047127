"""Sinks come, go and are replaced while windows close; what waits for one is not lost by it."""

import asyncio
from pathlib import Path

import pytest

from aiokpl_metricsd.delivering.removed import DEFAULT_MAX_AGE_S
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.errors import RetryableExportError
from tests.daemon.delivering.stored import Wall, living, until
from tests.daemon.fakes import (
    FakeClock,
    ScriptedSink,
    build_window,
    fields_of,
    hang,
    offer,
    running,
    serve,
    settle,
)


class CountingSink(ScriptedSink):
    """Remembers how many snapshots it took."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self.before = 0

    def dump_state(self) -> bytes:
        return str(self.before + len(self.names)).encode()

    def load_state(self, state: bytes) -> None:
        self.before = int(state)


@pytest.mark.asyncio
async def test_a_sink_that_is_added_gets_the_next_window_and_is_left_when_removed() -> None:
    clock, first, second = FakeClock(), ScriptedSink(), ScriptedSink()
    async with running(clock, serve(first, "first")) as delivery:
        await offer(delivery, build_window(2))
        await delivery.add(serve(second, "second"))
        offer(delivery, build_window(3, start=60.0))
        await settle()
        await settle()
        assert sorted(len(batch) for batch in first.taken) == [2, 3]
        assert [len(batch) for batch in second.taken] == [3]
        with pytest.raises(ValueError, match="already"):
            await delivery.add(serve(second, "second"))
        await delivery.remove("second")
        assert second.left == 1
        offer(delivery, build_window(4, start=120.0))
        await settle()
        assert len(second.taken) == 1
        assert list(delivery.ledgers) == list(delivery.queue_windows) == ["first"]
        with pytest.raises(KeyError):
            await delivery.remove("second")


@pytest.mark.asyncio
async def test_in_memory_what_waits_for_a_removed_sink_is_dropped_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, dead = FakeClock(), ScriptedSink(then=RetryableExportError(retry_after_s=900.0))
    async with running(clock, serve(dead)) as delivery:
        offer(delivery, build_window(2))
        await settle()
        offer(delivery, build_window(2, start=60.0))
        ledger = delivery.ledgers["sink"]
        await clock.run(delivery.remove("sink"))
        assert (ledger.dropped_by_reason, ledger.balance()) == ({"removed": 4}, 0)
    assert [fields["snapshots"] for fields in fields_of(caplog, "not delivered, dropped")] == [4]


@pytest.mark.asyncio
@pytest.mark.parametrize("is_hanging", [True, False])
async def test_a_replaced_sink_gets_what_waited_for_the_old_one(is_hanging: bool) -> None:
    clock, well = FakeClock(), ScriptedSink(ordered=True)
    old = ScriptedSink(then=hang if is_hanging else RetryableExportError(), ordered=True)
    async with running(clock, serve(old)) as delivery:
        for number in range(3):
            offer(delivery, build_window(2, start=60.0 * number))
        await settle()
        ledger = delivery.ledgers["sink"]
        assert await clock.run(delivery.replace(serve(well))) <= 10.0
        await settle()
        assert (old.left, well.entered) == (1, 1)
        assert [batch[0].window_start for batch in well.taken] == [0.0, 60.0, 120.0]
        assert delivery.ledgers["sink"] is ledger
        assert (ledger.closed, ledger.delivered) == (6, 6)


@pytest.mark.asyncio
@pytest.mark.parametrize("change", ["remove", "replace"])
async def test_a_change_that_the_end_cuts_off_leaves_its_sink_to_the_end(change: str) -> None:
    clock, sink = FakeClock(), ScriptedSink(then=hang)
    async with running(clock, serve(sink)) as delivery:
        offer(delivery, build_window(2))
        await settle()
        work = delivery.remove("sink") if change == "remove" else delivery.replace(serve(ScriptedSink()))
        changing = asyncio.ensure_future(work)
        await settle()
        # As the daemon does when it is told to stop.
        changing.cancel()
        assert await clock.run(delivery.close(4.0)) == 3.0
        assert sink.left == 1
        ledger = delivery.ledgers["sink"]
        assert (ledger.dropped_by_reason, ledger.balance()) == ({"shutdown": 2}, 0)


@pytest.mark.asyncio
async def test_a_replaced_sink_goes_on_with_the_longer_window_and_with_what_the_old_one_remembered() -> None:
    clock, old, new = FakeClock(), CountingSink(), CountingSink()
    async with running(clock, serve(old, selection=Selection(interval_s=180))) as delivery:
        offer(delivery, build_window(2))
        await settle()
        await delivery.replace(serve(new, selection=Selection(interval_s=120)))
        offer(delivery, build_window(2, start=60.0))
        await settle()
        assert [[each.count for each in batch] for batch in new.taken] == [[2, 2]]
        assert delivery.ledgers["sink"].balance() == 0
        other = CountingSink()
        await delivery.replace(serve(other))
        assert other.before == 2


@pytest.mark.asyncio
async def test_a_removed_sink_that_comes_again_gets_its_windows(tmp_path: Path) -> None:
    dead, well = ScriptedSink(then=hang), ScriptedSink(ordered=True)
    async with living(tmp_path / "a", serve(ScriptedSink(), "other"), serve(dead)) as life:
        await life.hand_over(build_window(2))
        await life.hand_over(build_window(2, start=60.0))
        await life.delivery.remove("sink", timeout_s=0.01)
        assert life.delivery.removed_sinks == ("sink",)
        assert life.delivery.queue_windows == {"sink": 2, "other": 0}
        await life.hand_over(build_window(2, start=120.0))
        await life.delivery.add(serve(well))
        await until(lambda: len(well.taken) == 2)
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: not ledger.waiting)
        assert (ledger.closed, ledger.delivered, len(life.delivery.removed_sinks)) == (4, 4, 0)


@pytest.mark.asyncio
async def test_a_stored_window_goes_on_where_the_replaced_sink_was(tmp_path: Path) -> None:
    old, new = CountingSink(then=hang), CountingSink()
    async with living(tmp_path / "a", serve(old)) as life:
        await life.hand_over(build_window(3))
        await until(lambda: old.calls)
        await life.delivery.replace(serve(new), timeout_s=0.01)
        await until(lambda: not life.outbox.size_bytes)
        left = await life.die()
    again = CountingSink()
    async with living(left, serve(again)) as life:
        assert again.before == 3


@pytest.mark.asyncio
async def test_what_a_sink_remembers_is_that_of_its_marks(tmp_path: Path) -> None:
    sink = CountingSink(script=[None, None, hang])
    sink.max_batch = 2  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: len(sink.calls) == 3)
        left = await life.die()
    again = CountingSink()
    async with living(left, serve(again)) as life:
        assert again.before == 4
        await until(lambda: again.names == ["m4"])


@pytest.mark.asyncio
async def test_a_state_that_cannot_be_read_or_dumped_costs_no_window(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OddSink(CountingSink):
        def dump_state(self) -> bytes:
            if not self.taken:
                return b"odd"
            raise ZeroDivisionError

    for number in range(3):
        sink = OddSink()
        async with living(tmp_path / "a", serve(sink)) as life:
            await life.hand_over(build_window(2, start=60.0 * number))
            await until(lambda taken=sink.taken: bool(taken))  # type: ignore[misc]
            await life.delivery.replace(serve(CountingSink()))
    assert "dumping the sink's state failed" in caplog.messages


@pytest.mark.asyncio
async def test_windows_of_a_sink_that_is_gone_wait_and_are_named_until_they_expire(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    selection = Selection(interval_s=180)
    wall = Wall(200.0)
    settings = [serve(ScriptedSink(then=hang), "gone"), serve(ScriptedSink(), "held", selection=selection)]
    async with living(tmp_path / "a", *settings, wall=wall) as life:
        await life.hand_over(build_window(2))
        left = await life.die()
    other = ScriptedSink()
    async with living(left, serve(other, "other"), wall=wall) as life:
        assert life.delivery.removed_sinks == ("gone", "held")
        assert life.delivery.queue_windows == {"gone": 1, "held": 0, "other": 0}
        assert fields_of(caplog, "windows wait for sinks that are not configured") == [
            {"sinks": {"gone": 1, "held": 0}}
        ]
        assert life.delivery.ledgers["gone"].waiting == 2
        await life.hand_over(build_window(1, start=60.0))
        left = await life.die()
    wall.now += DEFAULT_MAX_AGE_S + 1.0
    async with living(left, serve(other, "other"), wall=wall) as life:
        gone = [life.delivery.ledgers["gone"], life.delivery.ledgers["held"]]
        await life.hand_over(build_window(1, start=120.0))
        assert life.delivery.removed_sinks == ()
        assert [(ledger.expired, ledger.waiting, ledger.merging, ledger.balance()) for ledger in gone] == [
            (2, 0, 0, 0)
        ] * 2
        left = await life.die()
    async with living(left, serve(other, "other"), wall=wall) as life:
        assert list(life.outbox.recovered.sinks) == ["other"]


@pytest.mark.asyncio
async def test_windows_of_removed_sinks_make_room_as_any_others(tmp_path: Path) -> None:
    dead = ScriptedSink(then=hang, ordered=True)
    async with living(tmp_path / "a", serve(dead), serve(dead, "other")) as life:
        for number in range(3):
            await life.hand_over(build_window(50, start=60.0 * number))
        left = await life.die()
    async with living(left, serve(ScriptedSink(then=hang, ordered=True), "other"), max_bytes=700) as life:
        ledger = life.delivery.ledgers["sink"]
        for number in range(3, 6):
            await life.hand_over(build_window(50, start=60.0 * number))
        assert ledger.dropped_by_reason == {"queue_full": 150}
        assert ledger.balance() == 0


@pytest.mark.asyncio
async def test_a_renamed_sink_is_removed_and_added_before_the_start_too(tmp_path: Path) -> None:
    sink = ScriptedSink()
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(2))
        await until(lambda: sink.taken)
        await life.delivery.remove("sink")
        await life.delivery.add(serve(sink, "renamed"))
        await life.hand_over(build_window(2, start=60.0))
        await until(lambda: len(sink.taken) == 2)
    assert (sink.entered, sink.left) == (2, 2)
