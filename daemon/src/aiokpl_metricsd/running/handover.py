"""Closed windows -> snapshots -> delivery, with a checkpoint where there is a state directory.

In slices throughout: a window of 100,000 series holds the event loop nowhere for long.
"""

import asyncio
from collections.abc import Sequence

from aiokpl_metricsd.aggregating.windows import Window
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.checkpoint import Checkpointer
from aiokpl_metricsd.delivering.slicing import let_go
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.serving.own_metrics import Differences
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.stored import Sealed

# Series handled between two looks at the socket: 1,000 snapshots take about 2 ms to build.
SLICE_SERIES = 1_000


class Handover:
    """Gives what has closed to the sinks.

    Args:
        aggregator: whose windows they are.
        delivery: takes them.
        checkpointer: seals what is still open; None where nothing is kept.
        differences: the daemon's own metrics, which go with each window; None where they are not wanted.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        delivery: Delivery,
        checkpointer: Checkpointer | None,
        differences: Differences | None,
    ) -> None:
        """Hand over nothing yet."""
        self._aggregator = aggregator
        self._delivery = delivery
        self._checkpointer = checkpointer
        self._differences = differences

    async def hand_over(self, windows: list[Window], over: int | None) -> None:
        """Freeze closed windows and give them to the sinks, together with a checkpoint.

        Args:
            windows: that have closed, oldest first.
            over: end of the newest interval, in epoch seconds; None where the interval goes on, and only a
                checkpoint is due.
        """
        checkpointer = self._checkpointer
        if checkpointer is None or not (windows or over is None or checkpointer.is_due):
            await self._deliver(windows, over, None)
            return
        # What came since the close is in windows that are open, and sealed with them.
        sealed = checkpointer.seal()
        is_stored = False
        try:
            is_stored = await self._deliver(windows, over, sealed)
        finally:
            await checkpointer.release(sealed, is_stored=is_stored)

    async def _deliver(self, windows: list[Window], over: int | None, sealed: Sealed | None) -> bool:
        """Freeze windows and give them to the sinks; return whether they and the checkpoint are stored."""
        frozen = await self._freeze(windows, over)
        kept = [snapshot for window, _ in frozen for snapshot in window]
        is_stored = await self._delivery.hand_over(frozen, sealed)
        del frozen
        await let_go(kept)
        return is_stored

    async def _freeze(
        self, windows: list[Window], over: int | None
    ) -> list[tuple[Sequence[MetricSnapshot], float]]:
        """Return the snapshots of closed windows, each with the window's end."""
        frozen: list[tuple[Sequence[MetricSnapshot], float]] = []
        for window in windows:
            snapshots: list[MetricSnapshot] = []
            for part in self._aggregator.freeze(window, SLICE_SERIES):
                snapshots += part
                await asyncio.sleep(0)
            if self._differences is not None:
                window_id = self._aggregator.name_window(window)
                snapshots += self._differences.build_snapshots(
                    window_id, float(window.start), float(window.end)
                )
            frozen.append((snapshots, float(window.end)))
        if not windows and over is not None:
            # Time has passed, which completes the longer window of a sink.
            frozen.append(((), float(over)))
        return frozen


__all__ = ["SLICE_SERIES", "Handover"]
