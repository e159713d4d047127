"""What one closing puts into the outbox, and to whom it goes then."""

from collections.abc import Sequence

from aiokpl_metricsd.delivering.answer import Batch
from aiokpl_metricsd.delivering.consignment import Consignment
from aiokpl_metricsd.delivering.route import Route
from aiokpl_metricsd.storing.stored import Committed, Cut


class Shelf:
    """What one closing puts into the outbox, and to whom it goes then."""

    def __init__(self) -> None:
        self.cuts: list[Cut] = []
        self._ways: list[tuple[Route, Consignment | tuple[Sequence[Batch], float]]] = []

    def add(self, route: Route, batches: tuple[Batch, ...], waiting: Consignment | None = None) -> None:
        """Add a window, a new one or one that waits in memory."""
        first = batches[0][0]
        self.cuts.append(Cut(route.settings.name, first.window_id, first.window_end, batches))
        self._ways.append((route, waiting or (batches, first.window_end)))

    @property
    def waiting(self) -> list[tuple[Route, Consignment]]:
        """Those that waited in memory."""
        return [(route, way) for route, way in self._ways if isinstance(way, Consignment)]

    def release(self, committed: Committed | None) -> None:
        """Let the windows wait for the workers: in the outbox, or, None, in memory."""
        for number, (route, way) in enumerate(self._ways):
            if isinstance(way, Consignment):
                if committed is not None:
                    way.adopt(committed.stored[number])
                route.worker.return_unstored(way)
            elif committed is not None:
                route.worker.offer_stored(committed.stored[number])
            else:
                route.worker.offer_nowait(*way)


__all__ = ["Shelf"]
