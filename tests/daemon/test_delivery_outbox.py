"""Windows wait in the outbox: whatever the process dies of, each is delivered, and counted once."""

import asyncio
import logging
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError, StoreError
from aiokpl_metricsd.outbox import Outbox, Sealed
from aiokpl_metricsd.sinks.contract import RepeatRule
from tests.daemon.delivering.stored import Life, Wall, living, until
from tests.daemon.fakes import ScriptedSink, build_snapshot, build_window, fields_of, hang, serve


class CuttingSink(ScriptedSink):
    """Takes two snapshots at once."""

    max_batch = 2


@pytest.mark.asyncio
async def test_a_window_is_stored_before_a_sink_sees_it_and_is_gone_when_it_was_taken(tmp_path: Path) -> None:
    first, second = ScriptedSink(), ScriptedSink()
    async with living(tmp_path / "a", serve(first, "first"), serve(second, "second")) as life:
        assert await life.hand_over(build_window(3))
        await until(lambda: first.taken and second.taken)
        await life.rest()
        assert life.outbox.size_bytes == 0
    assert first.taken == second.taken == [build_window(3)]
    async with living(tmp_path / "a", serve(first, "first"), serve(second, "second")) as life:
        ledger = life.delivery.ledgers["first"]
        assert (ledger.closed, ledger.delivered, ledger.exports) == (3, 3, 1)
    assert len(first.calls) == 1


@pytest.mark.asyncio
async def test_the_checkpoint_is_stored_with_the_windows(tmp_path: Path) -> None:
    async with living(tmp_path / "a", serve(ScriptedSink())) as life:
        assert await life.delivery.hand_over([(build_window(2), 60.0)], Sealed(7, 60, 1, b"ledger"))
        left = await life.die()
        assert await life.delivery.hand_over([], Sealed(8, 120, 2, b"ledger"))
    async with living(left, serve(ScriptedSink())) as life:
        assert (life.outbox.recovered.position, life.outbox.recovered.closed_until) == (7, 60)


@pytest.mark.asyncio
@pytest.mark.parametrize("ordered", [True, False])
async def test_what_a_dead_backend_did_not_take_outlives_the_process(tmp_path: Path, ordered: bool) -> None:
    dead = ScriptedSink(then=hang, ordered=ordered)
    async with living(tmp_path / "a", serve(dead)) as life:
        for number in range(20):
            await life.hand_over(build_window(3, start=60.0 * number))
        left = await life.die()
    well = ScriptedSink(ordered=ordered)
    async with living(left, serve(well, catch_up_s=0.0)) as life:
        assert life.delivery.queue_windows == {"sink": 20}
        await until(lambda: len(well.taken) == 20)
        await life.rest()
        ledger = life.delivery.ledgers["sink"]
        assert (ledger.closed, ledger.delivered, ledger.waiting, ledger.balance()) == (60, 60, 0, 0)
    starts = [batch[0].window_start for batch in well.taken]
    assert sorted(starts) == [60.0 * number for number in range(20)]
    assert not ordered or starts == sorted(starts)


@pytest.mark.asyncio
async def test_of_a_window_that_was_half_taken_only_the_other_half_is_sent_again(tmp_path: Path) -> None:
    sink = CuttingSink([None, hang])
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: len(sink.calls) == 2)
        left = await life.die()
    well = CuttingSink()
    async with living(left, serve(well)) as life:
        await until(lambda: len(well.taken) == 2)
    assert [[each.name for each in batch] for batch in well.taken] == [["m2", "m3"], ["m4"]]
    assert life.delivery.ledgers["sink"].delivered == 5


@pytest.mark.asyncio
async def test_what_is_left_of_a_batch_is_stored_before_the_pause(tmp_path: Path) -> None:
    window = build_window(4)
    sink = ScriptedSink(
        [PartialExportError(remaining=window[2:], rejected=window[:1], retry_after_s=1_000.0), hang]
    )
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(window)
        await until(lambda: life.delivery.ledgers["sink"].quarantined)
        left = await life.die()
    well = ScriptedSink()
    async with living(left, serve(well)) as life:
        await until(lambda: well.taken)
    assert [each.name for each in well.taken[0]] == ["m2", "m3"]
    ledger = life.delivery.ledgers["sink"]
    assert (ledger.closed, ledger.delivered, ledger.quarantined) == (4, 3, 1)


@pytest.mark.asyncio
async def test_poison_is_found_in_a_stored_window_and_is_no_poison_after_the_restart(tmp_path: Path) -> None:
    window = (*build_window(300), build_snapshot("Bad"), *build_window(300, prefix="n"))
    sink = CuttingSink(poison=["Bad"])
    sink.max_batch = 100
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(window)
        await until(lambda: life.delivery.ledgers["sink"].delivered == 600)
        assert life.delivery.ledgers["sink"].quarantined == 1
        await life.rest()
        assert life.outbox.size_bytes == 0
    assert sorted(sink.names) == sorted(each.name for each in window if each.name != "Bad")


@pytest.mark.asyncio
async def test_a_backend_that_refuses_everything_costs_no_data_and_is_asked_again(tmp_path: Path) -> None:
    sink = CuttingSink(then=PermanentExportError("403"))
    sink.max_batch = 50
    async with living(tmp_path / "a", serve(sink, catch_up_s=0.0)) as life:
        await life.hand_over(build_window(200))
        await until(lambda: len(sink.calls) > 200)
        assert life.delivery.ledgers["sink"].quarantined == 0
        left = await life.die()
    well = CuttingSink()
    well.max_batch = 50
    async with living(left, serve(well)) as life:
        await until(lambda: life.delivery.ledgers["sink"].delivered == 200)


@pytest.mark.asyncio
async def test_a_longer_window_goes_on_where_the_last_daemon_was_killed(tmp_path: Path) -> None:
    selection = Selection(interval_s=180)
    async with living(tmp_path / "a", serve(ScriptedSink(), selection=selection)) as life:
        for start in (0.0, 60.0):
            await life.hand_over(build_window(2, start=start))
        left = await life.die()
    sink = ScriptedSink()
    async with living(left, serve(sink, selection=selection)) as life:
        ledger = life.delivery.ledgers["sink"]
        assert (ledger.closed, ledger.merging, ledger.merged, ledger.balance()) == (4, 2, 2, 0)
        await life.hand_over(build_window(2, start=120.0))
        await until(lambda: sink.taken)
    (window,) = sink.taken
    assert [(each.count, each.window_start, each.window_end, each.window_id) for each in window] == [
        (3, 0.0, 180.0, "w0..w120")
    ] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("interval_s", [None, 120])
async def test_a_longer_window_of_another_length_is_delivered_as_far_as_it_came(
    tmp_path: Path, interval_s: int | None
) -> None:
    async with living(tmp_path / "a", serve(ScriptedSink(), selection=Selection(interval_s=600))) as life:
        await life.hand_over(build_window(2))
        await life.hand_over(build_window(2, start=60.0))
        left = await life.die()
    sink = ScriptedSink(ordered=True)
    async with living(left, serve(sink, selection=Selection(interval_s=interval_s))) as life:
        await life.hand_over(build_window(1, start=240.0))
        await until(lambda: sink.taken)
    spans = [(batch[0].window_start, batch[0].window_end) for batch in sink.taken]
    assert spans == [(0.0, 120.0), (240.0, 300.0)]


@pytest.mark.asyncio
async def test_an_orderly_end_delivers_what_is_held_and_keeps_what_is_not_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink, dead = ScriptedSink(), ScriptedSink(then=RetryableExportError())
    selection = Selection(interval_s=600)
    settings = [serve(sink, selection=selection), serve(dead, "dead")]
    async with living(tmp_path / "a", *settings, close_s=0.5) as life:
        await life.hand_over(build_window(2))
    assert [len(batch) for batch in sink.taken] == [2]
    assert fields_of(caplog, "not delivered yet, kept") == [{"sink": "dead", "snapshots": 2, "windows": 1}]
    well = ScriptedSink()
    async with living(tmp_path / "a", serve(sink, selection=selection), serve(well, "dead")) as life:
        ledger = life.delivery.ledgers["dead"]
        await until(lambda: ledger.delivered)
        assert (ledger.delivered, ledger.dropped, ledger.closed) == (2, 0, 2)
    assert len(sink.taken) == 1


@pytest.mark.asyncio
async def test_a_window_on_its_way_at_the_end_is_stored_with_what_was_taken_of_it(tmp_path: Path) -> None:
    window = build_window(4)
    sink = ScriptedSink([PartialExportError(remaining=window[1:]), hang])
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(window)
        await until(lambda: len(sink.calls) == 2)
    well = ScriptedSink()
    async with living(tmp_path / "a", serve(well)) as life:
        await until(lambda: well.taken)
    assert [each.name for each in well.taken[0]] == ["m1", "m2", "m3"]
    assert life.delivery.ledgers["sink"].delivered == 4


@pytest.mark.asyncio
async def test_a_window_that_is_too_old_leaves_the_outbox(tmp_path: Path) -> None:
    wall, sink = Wall(60.0), ScriptedSink([hang])
    async with living(tmp_path / "a", serve(sink, max_age_s=600.0, timeout_s=0.01), wall=wall) as life:
        wall.now = 700.0
        await life.hand_over(build_window(2))
        await until(lambda: life.delivery.ledgers["sink"].expired == 2)
        await life.rest()
        assert life.outbox.size_bytes == 0


@pytest.mark.asyncio
async def test_past_the_outbox_bound_the_oldest_windows_go_and_are_counted(tmp_path: Path) -> None:
    sink = ScriptedSink(then=hang, ordered=True)
    async with living(tmp_path / "a", serve(sink), max_bytes=1_000) as life:
        for number in range(10):
            await life.hand_over(build_window(50, start=60.0 * number))
        ledger = life.delivery.ledgers["sink"]
        assert life.outbox.size_bytes <= 1_000
        assert ledger.dropped == ledger.dropped_by_reason["queue_full"] > 0
        assert (ledger.balance(), ledger.dropped % 50) == (0, 0)
        left, dropped = await life.die(), ledger.dropped
    well = ScriptedSink(ordered=True)
    async with living(left, serve(well)) as life:
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: not ledger.waiting)
        # The first one had left the outbox, but was on its way from memory.
        assert ledger.dropped_by_reason == {"queue_full": dropped, "lost": 50}
        assert ledger.delivered == 450 - dropped
    assert [batch[0].window_start for batch in well.taken] == [60.0 * n for n in range(dropped // 50 + 1, 10)]


@pytest.mark.asyncio
async def test_a_part_that_is_not_to_be_read_is_counted_and_the_others_delivered(tmp_path: Path) -> None:
    async with living(tmp_path / "a", serve(CuttingSink(then=hang))) as life:
        await life.hand_over(build_window(6))
        left = await life.die()
    outbox = Outbox.open(left, max_bytes=1 << 30)
    outbox._store._connection.execute("UPDATE blobs SET data = x'00112233445566' WHERE id = 2")
    await outbox.close()
    well = CuttingSink()
    async with living(left, serve(well)) as life:
        await until(lambda: life.delivery.ledgers["sink"].dropped)
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: not ledger.waiting)
        assert (ledger.delivered, ledger.dropped_by_reason) == (4, {"unreadable": 2})
        await life.rest()
        assert life.outbox.size_bytes == 0


class Broken:
    """Lets calls of an outbox fail, as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, life: Life, *names: str) -> None:
        self.is_broken = True
        for name in names:
            monkeypatch.setattr(life.outbox._store, name, self.wrap(getattr(life.outbox._store, name)))

    def wrap(self, method: Any) -> Any:  # noqa: ANN401 - of whatever signature
        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if self.is_broken:
                raise StoreError("disk full")
            return method(*args, **kwargs)

        return call


@pytest.mark.asyncio
async def test_what_cannot_be_stored_is_delivered_from_memory_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = ScriptedSink()
    async with living(tmp_path / "a", serve(sink)) as life:
        Broken(monkeypatch, life, "commit")
        assert not await life.hand_over(build_window(3))
        await until(lambda: sink.taken)
        assert life.delivery.unstored_windows == 1
    assert life.delivery.ledgers["sink"].delivered == 3
    assert "windows cannot be stored, and wait in memory" in caplog.messages


@pytest.mark.asyncio
async def test_words_of_an_error_that_cannot_be_encoded_cost_no_window(tmp_path: Path) -> None:
    sink = ScriptedSink([ValueError("no such file: \udcff")])
    async with living(tmp_path / "a", serve(sink)) as life:
        assert await life.hand_over(build_window(1))
        await until(lambda: life.delivery.ledgers["sink"].failures)
        assert await asyncio.wait_for(life.hand_over(build_window(1, start=60.0)), 10.0)
    assert life.delivery.ledgers["sink"].last_error == "ValueError: no such file: \\udcff"


@pytest.mark.asyncio
async def test_what_could_not_be_stored_is_stored_with_the_next_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ScriptedSink(then=RetryableExportError(retry_after_s=60.0), ordered=True)
    async with living(tmp_path / "a", serve(sink)) as life:
        broken = Broken(monkeypatch, life, "commit")
        for number in range(3):
            assert not await life.hand_over(build_window(2, start=60.0 * number))
        broken.is_broken = False
        await until(lambda: sink.calls)
        assert await life.hand_over(build_window(2, start=180.0))
        left = await life.die()
    well = ScriptedSink(ordered=True)
    async with living(left, serve(well)) as life:
        await until(lambda: len(well.taken) == 4)
        assert life.delivery.ledgers["sink"].balance() == 0
    assert [batch[0].window_start for batch in well.taken] == [0.0, 60.0, 120.0, 180.0]
    assert (life.delivery.ledgers["sink"].delivered, life.delivery.ledgers["sink"].dropped) == (8, 0)


@pytest.mark.asyncio
async def test_what_no_checkpoint_covers_is_stored_with_the_next_checkpoint_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = ScriptedSink(then=RetryableExportError(retry_after_s=60.0))
    longer = serve(ScriptedSink(), "longer", selection=Selection(interval_s=600))
    async with living(tmp_path / "a", serve(busy), longer) as life:
        broken = Broken(monkeypatch, life, "commit")
        assert not await life.delivery.hand_over([(build_window(2), 60.0)], Sealed(7, 60, 1, b"ledger"))
        broken.is_broken = False
        await until(lambda: busy.calls)
        # After a crash its events would be replayed: they must not be in the outbox as well.
        assert not await life.delivery.hand_over([((), 120.0)], None)
        assert life.outbox.size_bytes == 0
        assert await life.delivery.hand_over([], Sealed(8, 120, 1, b"ledger"))
        left = await life.die()
    async with living(left, serve(ScriptedSink(then=hang)), longer) as life:
        sinks = life.outbox.recovered.sinks
        assert [sum(each.counts) for each in sinks["sink"].windows] == [2]
        assert len(sinks["longer"].merging) == 2
        assert life.outbox.recovered.position == 8


@pytest.mark.asyncio
async def test_what_waited_in_memory_when_the_process_died_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = CuttingSink([None, RetryableExportError(retry_after_s=60.0)])
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(2))
        await until(lambda: sink.taken)
        with monkeypatch.context() as patch:
            Broken(patch, life, "commit")
            await life.hand_over(build_window(5, start=60.0))
        await until(lambda: len(sink.calls) == 2)
        await life.delivery._store_accounts()
        left = await life.die()
    async with living(left, serve(ScriptedSink())) as life:
        ledger = life.delivery.ledgers["sink"]
        assert (ledger.closed, ledger.delivered, ledger.dropped_by_reason) == (7, 2, {"lost": 5})
    assert fields_of(caplog, "not there after the restart, lost") == [{"sink": "sink", "snapshots": 5}]


@pytest.mark.asyncio
async def test_a_mark_that_could_not_be_stored_is_stored_with_the_next_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = CuttingSink()
    async with living(tmp_path / "a", serve(sink)) as life:
        broken = Broken(monkeypatch, life, "settle")
        await life.hand_over(build_window(6))
        await until(lambda: len(sink.taken) == 3)
        await life.rest()
        assert life.outbox.size_bytes > 0
        broken.is_broken = False
        await life.hand_over(build_window(1, start=60.0))
        await until(lambda: not life.outbox.size_bytes)
        left = await life.die()
    again = CuttingSink()
    async with living(left, serve(again)) as life:
        await life.rest()
        assert life.delivery.ledgers["sink"].delivered == 7
    assert again.calls == []


@pytest.mark.asyncio
async def test_what_was_taken_and_could_not_be_marked_before_the_death_goes_again_and_the_ledger_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ScriptedSink()
    async with living(tmp_path / "a", serve(sink)) as life:
        Broken(monkeypatch, life, "settle")
        await life.hand_over(build_window(3))
        await until(lambda: life.delivery.ledgers["sink"].delivered)
        await life.delivery._store_accounts()
        left = await life.die()
    again = ScriptedSink()
    async with living(left, serve(again)) as life:
        await until(lambda: again.taken)
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: not ledger.waiting)
        assert (ledger.closed, ledger.delivered, ledger.balance()) == (3, 3, 0)


@pytest.mark.asyncio
async def test_one_hanging_sink_holds_up_no_other_one_and_no_commit(tmp_path: Path) -> None:
    stuck, well = ScriptedSink(then=hang), ScriptedSink()
    async with living(tmp_path / "a", serve(stuck, "stuck"), serve(well, "well", catch_up_s=0.0)) as life:
        for number in range(10):
            assert await life.hand_over(build_window(5, start=60.0 * number))
        await until(lambda: len(well.taken) == 10)
        await until(lambda: life.delivery.queue_windows == {"stuck": 10, "well": 0})


@pytest.mark.asyncio
async def test_sinks_that_see_the_same_share_what_is_stored(tmp_path: Path) -> None:
    sizes: list[int] = []
    for number in range(1, 3):
        sinks = [serve(CuttingSink(then=hang), f"s{index}") for index in range(number)]
        async with living(tmp_path / f"a{number}", *sinks) as life:
            await life.hand_over(build_window(100))
            sizes.append(life.outbox.size_bytes)
    assert sizes[0] == sizes[1] > 0


@pytest.mark.asyncio
async def test_a_cancelled_hand_over_is_done_all_the_same(tmp_path: Path) -> None:
    sink = ScriptedSink()
    async with living(tmp_path / "a", serve(sink)) as life:
        handing = asyncio.ensure_future(life.hand_over(build_window(2)))
        await asyncio.sleep(0)
        handing.cancel()
        await until(lambda: sink.taken)
    assert not await life.hand_over(build_window(2, start=60.0))
    assert life.delivery.ledgers["sink"].closed == 2


@pytest.mark.asyncio
async def test_a_ledger_that_cannot_be_read_begins_anew_and_the_windows_are_delivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with living(tmp_path / "a", serve(ScriptedSink(then=hang))) as life:
        await life.hand_over(build_window(2))
        left = await life.die()
    outbox = Outbox.open(left, max_bytes=1 << 30)
    outbox._store._connection.execute("UPDATE sinks SET ledger = x'c1'")
    await outbox.close()
    well = ScriptedSink()
    async with living(left, serve(well)) as life:
        await until(lambda: well.taken)
        await life.rest()
        assert (life.delivery.ledgers["sink"].closed, life.delivery.ledgers["sink"].delivered) == (2, 2)
    assert "reading the sink's ledger failed" in caplog.messages


@pytest.mark.asyncio
async def test_a_backend_that_is_down_for_a_thousand_windows_gets_all_of_them_and_another_notices_nothing(
    tmp_path: Path,
) -> None:
    dead, well = ScriptedSink(then=RetryableExportError(retry_after_s=900.0), ordered=True), ScriptedSink()

    async with living(tmp_path / "a", serve(dead, "dead"), serve(well, "well", catch_up_s=0.0)) as life:
        for number in range(500):
            assert await life.hand_over(build_window(2, start=60.0 * number))
        left = await life.die()
        await until(lambda: len(well.taken) == 500)
    async with living(left, serve(dead, "dead"), serve(well, "well", catch_up_s=0.0)) as life:
        for number in range(500, 1_000):
            assert await life.hand_over(build_window(2, start=60.0 * number))
        left = await life.die()
    back = ScriptedSink(ordered=True)
    async with living(left, serve(back, "dead"), serve(well, "well", catch_up_s=0.0)) as life:
        ledgers = life.delivery.ledgers
        await until(lambda: not (ledgers["dead"].waiting or ledgers["well"].waiting))
        assert (ledgers["dead"].closed, ledgers["dead"].delivered) == (2_000, 2_000)
        assert (ledgers["well"].closed, ledgers["well"].delivered) == (2_000, 2_000)
    assert [batch[0].window_start for batch in back.taken] == [60.0 * number for number in range(1_000)]


@pytest.mark.asyncio
async def test_no_checkpoint_is_taken_while_what_could_not_be_stored_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiokpl_metricsd.delivering.intake._UNSTORED_S", 0.05)
    sink = ScriptedSink([hang])
    async with living(tmp_path / "a", serve(sink, timeout_s=3_600.0)) as life:
        broken = Broken(monkeypatch, life, "commit")
        assert not await life.hand_over(build_window(3))
        await until(lambda: sink.calls)
        broken.is_broken = False
        assert not await life.hand_over(build_window(3, start=60.0)), "it would be covered, and nowhere"
        assert life.delivery.unstored_windows == 2
        left = await life.die()
    async with living(left, serve(ScriptedSink())) as life:
        assert life.delivery.ledgers["sink"].dropped == 0


@pytest.mark.asyncio
async def test_what_could_not_be_stored_and_waits_for_its_turn_is_stored_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ScriptedSink([RetryableExportError("busy", retry_after_s=0.2)])
    async with living(tmp_path / "a", serve(sink)) as life:
        broken = Broken(monkeypatch, life, "commit")
        assert not await life.hand_over(build_window(3))
        await until(lambda: sink.calls)
        broken.is_broken = False
        assert await life.hand_over(build_window(3, start=60.0))
        await until(lambda: life.delivery.ledgers["sink"].delivered == 6)
        assert life.delivery.ledgers["sink"].balance() == 0


@pytest.mark.asyncio
async def test_the_last_success_and_the_last_error_outlive_the_daemon(tmp_path: Path) -> None:
    sink = ScriptedSink([None, RetryableExportError("busy", retry_after_s=60.0)])
    async with living(tmp_path / "a", serve(sink), wall=Wall(1_000.0)) as life:
        await life.hand_over(build_window(2, start=900.0))
        await until(lambda: sink.taken)
        await life.hand_over(build_window(2, start=960.0))
        await until(lambda: len(sink.calls) == 2)
    async with living(tmp_path / "a", serve(ScriptedSink(then=hang)), wall=Wall(2_000.0)) as life:
        ledger = life.delivery.ledgers["sink"]
        assert (ledger.last_success, ledger.last_error) == (1_000.0, "RetryableExportError: busy")


@pytest.mark.asyncio
@pytest.mark.parametrize("rule", [RepeatRule.ADDS, RepeatRule.REPLACES])
async def test_what_was_on_its_way_at_an_orderly_end_is_sent_again_and_counted_as_ambiguous(
    tmp_path: Path, rule: RepeatRule
) -> None:
    sink, again = CuttingSink(then=hang), CuttingSink()
    for each in (sink, again):
        each.repeat_rule = rule
    async with living(tmp_path / "a", serve(sink)) as life:
        await life.hand_over(build_window(5))
        await until(lambda: sink.calls)
    async with living(tmp_path / "a", serve(again)) as life:
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: not ledger.waiting)
        assert (ledger.delivered, ledger.ambiguous) == (5, 2 if rule is RepeatRule.ADDS else 0)


@pytest.mark.asyncio
async def test_a_removal_that_the_end_cuts_off_is_stored_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = ScriptedSink(then=RetryableExportError())
    async with living(tmp_path / "a", serve(sink, selection=Selection(interval_s=600))) as life:
        await life.hand_over(build_window(2))
        commit, has_begun, goes_on = life.outbox._store.commit, Event(), Event()

        def wait(*arguments: Any) -> Any:  # noqa: ANN401 - as it is
            has_begun.set()
            assert goes_on.wait(10.0)
            return commit(*arguments)

        monkeypatch.setattr(life.outbox._store, "commit", wait)
        removing = asyncio.ensure_future(life.delivery.remove("sink"))
        await until(has_begun.is_set)
        removing.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        ledger = life.delivery.ledgers["sink"]
        await until(lambda: ledger.waiting)
    assert (ledger.waiting, ledger.merging, ledger.dropped) == (2, 0, 0)
