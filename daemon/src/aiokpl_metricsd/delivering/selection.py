"""Closed window -> what one sink sees of it. Merging keeps totals; what is filtered out is counted.

`include` and `exclude` are globs on the metric's name (`*`, `?`, `[…]`, case counts); an empty `include`
admits all, and `exclude` wins. The level `summary` takes the dimensions `shard` and `error_code` away,
`drop_dimensions` others; snapshots that are the same series without them become one. Where nothing is
filtered and nothing merged, the sink gets the window itself, uncopied, shared with every other such sink.
"""

import re
from collections.abc import Generator, Sequence
from fnmatch import translate

from msgspec import Struct
from msgspec.structs import replace

from aiokpl_metrics_protocol import MetricsLevel
from aiokpl_metricsd.delivering.merge import merge_snapshots
from aiokpl_metricsd.delivering.slicing import (
    SLICE_MERGES,
    SLICE_SNAPSHOTS,
    Pause,
    Work,
    cut_slices,
    run_at_once,
    run_sliced,
    yield_to_loop,
)
from aiokpl_metricsd.snapshot import MetricSnapshot

# What the KPL's own summary level leaves out, and the protocol's `MetricsLevel.SUMMARY` with it.
SUMMARY_DROPS = frozenset({"shard", "error_code"})

# Names are few, unless somebody puts an id into them; then the cache begins anew rather than grow.
MAX_CACHED_NAMES = 10_000


class Selected(Struct, frozen=True):
    """What a selection made of a window: `len(window) == len(snapshots) + filtered_count + merged_count`.

    Attributes:
        snapshots: what the sink sees; the window itself where nothing was filtered or merged.
        filtered_count: snapshots that the sink does not see.
        merged_count: snapshots that became part of another one.
    """

    snapshots: Sequence[MetricSnapshot]
    filtered_count: int = 0
    merged_count: int = 0


class Selection:
    """What one sink wants to see.

    Args:
        level: `detailed` for all, `summary` without `shard` and `error_code`, `none` for nothing.
        include: globs on names; empty admits all.
        exclude: globs on names that are left out whatever `include` says.
        drop_dimensions: keys of dimensions to merge away.
        interval_s: the length of the sink's windows, a multiple of the base; None for the base itself.
    """

    def __init__(
        self,
        level: MetricsLevel = MetricsLevel.DETAILED,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        drop_dimensions: Sequence[str] = (),
        interval_s: int | None = None,
    ) -> None:
        """Compile the globs."""
        self.level = level
        self.interval_s = interval_s
        self._include = _compile(include)
        self._exclude = _compile(exclude)
        dropped = frozenset(drop_dimensions)
        self._dropped = dropped | SUMMARY_DROPS if level is MetricsLevel.SUMMARY else dropped
        self._verdicts: dict[str, bool] = {}

    def select(self, window: Sequence[MetricSnapshot]) -> Selected:
        """Return what the sink sees, at once."""
        return run_at_once(self.steps(window))

    def steps(self, window: Sequence[MetricSnapshot]) -> Work[Selected]:
        """Return what the sink sees, in slices."""
        if self.level is MetricsLevel.NONE:
            return Selected((), len(window))
        admitted = window
        if self._include is not None or self._exclude is not None:
            admitted = yield from self._filter(window)
        seen = admitted
        if self._dropped:
            seen = yield from self._merge(admitted)
        return Selected(seen, len(window) - len(admitted), len(admitted) - len(seen))

    def admits(self, name: str) -> bool:
        """Return whether the sink sees metrics of this name."""
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = (self._include is None or self._include.match(name) is not None) and (
                self._exclude is None or self._exclude.match(name) is None
            )
            if len(self._verdicts) >= MAX_CACHED_NAMES:
                self._verdicts.clear()
            self._verdicts[name] = verdict
        return verdict

    def keep_dimensions(self, dimensions: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Return the dimensions that the sink sees."""
        if not self._dropped:
            return dimensions
        return tuple([pair for pair in dimensions if pair[0] not in self._dropped])

    def _filter(self, window: Sequence[MetricSnapshot]) -> Work[Sequence[MetricSnapshot]]:
        admits = self.admits
        admitted: list[MetricSnapshot] = []
        for number, part in enumerate(cut_slices(window, SLICE_SNAPSHOTS)):
            if number:
                yield
            admitted.extend([snapshot for snapshot in part if admits(snapshot.name)])
        return window if len(admitted) == len(window) else admitted

    def _merge(self, window: Sequence[MetricSnapshot]) -> Work[Sequence[MetricSnapshot]]:
        if not (yield from self._is_touched(window)):
            return window
        merged: dict[tuple[str, tuple[tuple[str, str], ...]], MetricSnapshot] = {}
        for number, part in enumerate(cut_slices(window, SLICE_MERGES)):
            if number:
                yield
            for snapshot in part:
                dimensions = self.keep_dimensions(snapshot.dimensions)
                series = (snapshot.name, dimensions)
                other = merged.get(series)
                if other is not None:
                    merged[series] = merge_snapshots(other, snapshot)
                elif len(dimensions) == len(snapshot.dimensions):
                    merged[series] = snapshot
                else:
                    merged[series] = replace(snapshot, dimensions=dimensions)
        return list(merged.values())

    def _is_touched(self, window: Sequence[MetricSnapshot]) -> Generator[None, None, bool]:
        """Return whether any snapshot has a dimension that is to go."""
        dropped = self._dropped
        for number, part in enumerate(cut_slices(window, SLICE_SNAPSHOTS)):
            if number:
                yield
            for snapshot in part:
                for key, _ in snapshot.dimensions:
                    if key in dropped:
                        return True
        return False


async def select_window(
    selection: Selection,
    window: Sequence[MetricSnapshot],
    *,
    pause: Pause = yield_to_loop,
) -> Selected:
    """Return what the sink sees, pausing between slices so that no slice keeps the event loop for 10 ms."""
    return await run_sliced(selection.steps(window), pause)


def _compile(globs: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(glob) for glob in globs)) if globs else None


__all__ = ["MAX_CACHED_NAMES", "SUMMARY_DROPS", "Selected", "Selection", "select_window"]
