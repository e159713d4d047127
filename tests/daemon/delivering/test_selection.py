import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.delivering import selection as selection_module
from aiokpl_metricsd.delivering.selection import Selection, select_window
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.fakes import build_snapshot, build_window

PAIRS = [
    (("stream", "s1"), ("shard", "a")),
    (("stream", "s1"), ("shard", "b")),
    (("shard", "a"), ("error_code", "x")),
    (("stream", "s2"),),
    (),
]
SNAPSHOTS = st.lists(
    st.builds(
        lambda name, value, dimensions: build_snapshot(name, float(value), dimensions=dimensions),
        st.sampled_from(["Requests", "Errors", "Bytes"]),
        st.integers(-1000, 1000),
        st.sampled_from(PAIRS),
    ),
    max_size=60,
)


def test_a_selection_that_takes_nothing_away_returns_the_window_itself() -> None:
    window = build_window(10)
    for selection in (
        Selection(),
        Selection(include=["m*"], exclude=["n*"]),
        Selection(level=MetricsLevel.SUMMARY),
        Selection(drop_dimensions=["host"]),
    ):
        assert selection.select(window).snapshots is window


def test_globs_include_and_exclude_by_name_and_the_rest_is_counted() -> None:
    window = [
        build_snapshot(name) for name in ("UserRecordsPut", "UserRecordsPending", "AllErrors", "allErrors")
    ]
    selected = Selection(include=["User*", "All?rrors"], exclude=["*Pending"]).select(window)
    assert [snapshot.name for snapshot in selected.snapshots] == ["UserRecordsPut", "AllErrors"]
    assert (selected.filtered_count, selected.merged_count) == (2, 0)


def test_a_sink_at_level_none_sees_nothing() -> None:
    selected = Selection(level=MetricsLevel.NONE).select(build_window(3))
    assert (len(selected.snapshots), selected.filtered_count) == (0, 3)


def test_summary_merges_shard_and_error_code_away_and_leaves_the_rest() -> None:
    window = [
        build_snapshot("Put", 1.0, dimensions=(("shard", "1"), ("stream", "s"))),
        build_snapshot("Put", 2.0, dimensions=(("shard", "2"), ("stream", "s"))),
        build_snapshot("Put", 4.0, dimensions=(("stream", "s"),)),
        build_snapshot("Put", 8.0, dimensions=(("error_code", "e"), ("stream", "t"))),
    ]
    selected = Selection(level=MetricsLevel.SUMMARY).select(window)
    assert [(snapshot.dimensions, snapshot.count, snapshot.sum) for snapshot in selected.snapshots] == [
        ((("stream", "s"),), 3, 7.0),
        ((("stream", "t"),), 1, 8.0),
    ]
    assert (selected.filtered_count, selected.merged_count) == (0, 2)


@given(
    SNAPSHOTS,
    st.sampled_from([[], ["stream"], ["stream", "shard", "error_code"]]),
    st.sampled_from([[], ["E*"]]),
)
def test_merging_keeps_totals_and_counts_every_snapshot(
    window: list[MetricSnapshot],
    drop_dimensions: list[str],
    exclude: list[str],
) -> None:
    selected = Selection(drop_dimensions=drop_dimensions, exclude=exclude).select(window)
    kept = [snapshot for snapshot in window if not (exclude and snapshot.name == "Errors")]
    assert selected.filtered_count == len(window) - len(kept)
    assert len(selected.snapshots) + selected.merged_count == len(kept)
    assert sum(snapshot.sum for snapshot in selected.snapshots) == sum(snapshot.sum for snapshot in kept)
    assert sum(snapshot.count for snapshot in selected.snapshots) == len(kept)
    for name in {snapshot.name for snapshot in kept}:
        assert max(s.max for s in selected.snapshots if s.name == name) == max(
            s.max for s in kept if s.name == name
        )
    assert not any(
        key in drop_dimensions for snapshot in selected.snapshots for key, _ in snapshot.dimensions
    )


def test_the_cache_of_names_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection_module, "MAX_CACHED_NAMES", 10)
    selection = Selection(include=["m1*"])
    assert [selection.admits(f"m{number}") for number in range(25)] == [
        str(n).startswith("1") for n in range(25)
    ]
    assert len(selection._verdicts) <= 10


@pytest.mark.asyncio
async def test_a_large_window_is_selected_in_slices() -> None:
    pauses = 0

    async def pause() -> None:
        nonlocal pauses
        pauses += 1
        await asyncio.sleep(0)

    window = [build_snapshot(f"m{n // 2}", dimensions=(("shard", str(n % 2)),)) for n in range(10_000)]
    selection = Selection(level=MetricsLevel.SUMMARY, exclude=["m1"])
    selected = await select_window(selection, window, pause=pause)
    assert selected == selection.select(window)
    assert (len(selected.snapshots), selected.filtered_count, selected.merged_count) == (4_999, 2, 4_999)
    assert pauses == 4 + 19
