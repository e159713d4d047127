import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.delivering.interval import Merged, Merger
from aiokpl_metricsd.delivering.slicing import run_at_once, run_sliced
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import build_snapshot, build_window


def test_windows_wait_until_one_ends_with_the_longer_interval() -> None:
    merger = Merger(180)
    assert merger.add([build_snapshot(value=1.0, start=0.0)]) == Merged()
    assert (
        merger.add([build_snapshot(value=2.0, start=60.0), build_snapshot("Other", start=60.0)]).merged_count
        == 1
    )
    assert merger.held_count == 2
    merged = merger.add([build_snapshot(value=4.0, start=120.0)])
    assert merger.held_count == 0
    (window,) = merged.windows
    assert [(each.name, each.count, each.sum) for each in window] == [("Requests", 3, 7.0), ("Other", 1, 1.0)]
    assert {(each.window_start, each.window_end, each.window_id) for each in window} == {
        (0.0, 180.0, "w0..w120")
    }
    assert window[0].last == 4.0


def test_the_interval_is_aligned_to_the_epoch_and_the_window_begins_with_its_first_base_window() -> None:
    merger = Merger(180)
    merger.add(build_window(2, start=240.0))
    (window,) = merger.add(build_window(2, start=300.0)).windows
    assert (window[0].window_start, window[0].window_end) == (240.0, 360.0)


def test_a_window_of_another_interval_completes_the_one_that_is_held() -> None:
    merger = Merger(180)
    merger.add(build_window(2, start=540.0))
    (before_the_step,) = merger.add(build_window(2, start=60.0)).windows
    assert (before_the_step[0].window_start, before_the_step[0].window_end) == (540.0, 600.0)
    (after_it,) = merger.add(build_window(2, start=120.0)).windows
    assert (after_it[0].window_start, after_it[0].window_end, after_it[0].count) == (60.0, 180.0, 2)


def test_a_window_that_needs_no_merging_is_passed_on_uncopied() -> None:
    window = build_window(3, start=120.0)
    assert Merger(180).add(window).windows[0] is window


def test_an_empty_window_completes_the_interval_by_its_end() -> None:
    merger = Merger(180)
    assert merger.add((), 60.0) == Merged()
    merger.add(build_window(2, start=60.0))
    (window,) = merger.add((), 180.0).windows
    assert (window[0].window_start, window[0].window_end, window[0].window_id) == (60.0, 180.0, "w60")
    assert merger.add((), 240.0) == Merged()


def test_a_window_closed_at_shutdown_is_flushed_incomplete() -> None:
    merger = Merger(180)
    merger.add(build_window(2, start=0.0))
    assert [each.window_end for each in run_at_once(merger.flush())] == [60.0, 60.0]
    assert merger.held_count == 0
    assert run_at_once(merger.flush()) == []


def test_a_window_without_a_time_is_not_held() -> None:
    window = [build_snapshot(start=-60.0)]
    assert Merger(180).add(window).windows == (window,)


@given(st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=8, unique=True), max_size=12))
def test_every_snapshot_is_in_one_longer_window_or_held_or_merged(windows: list[list[int]]) -> None:
    merger = Merger(180)
    closed = delivered = merged_count = 0
    for number, names in enumerate(windows):
        merged = merger.add(
            [build_snapshot(f"m{n}", start=60.0 * number) for n in names], 60.0 * (number + 1)
        )
        closed += len(names)
        merged_count += merged.merged_count
        delivered += sum(map(len, merged.windows))
        assert closed == delivered + merged_count + merger.held_count


@pytest.mark.asyncio
async def test_large_windows_are_merged_and_released_in_slices() -> None:
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        await asyncio.sleep(0)

    merger = Merger(120)
    await run_sliced(merger.steps(build_window(2_500, start=0.0)), pause)
    merged = await run_sliced(merger.steps(build_window(2_500, start=60.0)), pause)
    assert (pauses, len(merged.windows[0]), merged.merged_count) == (12, 2_500, 2_500)


@given(
    st.lists(st.lists(st.integers(0, 5), unique=True, max_size=5), min_size=1, max_size=8),
    st.integers(0, 7),
)
def test_a_merger_that_was_dumped_and_restored_goes_on_as_if_nothing_had_been(
    windows: list[list[int]], death: int
) -> None:
    def build(number: int, series: list[int]) -> list[MetricSnapshot]:
        return [build_snapshot(f"m{each}", start=60.0 * number) for each in series]

    whole, restored = Merger(240), Merger(240)
    for number, series in enumerate(windows):
        if number == death:
            held = restored.dump()
            restored = Merger(240)
            restored.restore(held)
        end = 60.0 * (number + 1)
        assert restored.add(build(number, series), end) == whole.add(build(number, series), end)
    assert run_at_once(restored.flush()) == run_at_once(whole.flush())
