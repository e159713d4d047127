"""Windows ahead of the clock -> the current one, at a daemon's end.

Their time is the next daemon's: it will have windows of the same bounds, and a backend that keeps the last
value of a time would lose the earlier one. So their events count in the current window, as early.
"""

from collections.abc import Iterable

from aiokpl_metrics_protocol import Folded
from aiokpl_metricsd.aggregating.statistics import Statistics
from aiokpl_metricsd.aggregating.windows import Window


def take_in(target: Window, ahead: Iterable[Window]) -> int:
    """Move what the windows ahead hold into `target`, empty them, and return how many events that was."""
    moved = 0
    for window in ahead:
        while window.statistics:
            entry, statistics = window.statistics.popitem()
            held = target.statistics.setdefault(entry, statistics)
            if held is not statistics:
                held.add_folded(_fold(statistics), statistics.last_second)
                held.add_shares(statistics)
        moved += window.events
        target.events += window.events
        window.events = 0
    return moved


def _fold(statistics: Statistics) -> Folded:
    return Folded(
        b"",
        statistics.last_second,
        statistics.count,
        statistics.sum,
        statistics.min,
        statistics.max,
        statistics.last,
        statistics.last_second,
        statistics.freeze_histogram(),
    )


__all__ = ["take_in"]
