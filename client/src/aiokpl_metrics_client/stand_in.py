"""Event -> a turn of the thread's work, done by who records it: where no thread can start, and at the end.

What `put` and instruments append by is wrapped then, so that nothing of it costs an event while there is a
thread. A turn waits for nobody, and an event that comes too deep in a recursion leaves it to the next one.
"""

from collections.abc import Callable

from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.instruments import Append
from aiokpl_metrics_client.pace import DRAIN_INTERVAL_S

# How often an event tries to start the thread.
_START_INTERVAL_S = 1.0


class StandIn:
    """Has those who record do the thread's work, or no longer.

    Args:
        table: what they record into.
        start: starts the thread, if that is possible by now; at the end of the process, sends at once.
        take_turn: drains and sends, unless somebody is at it.
    """

    def __init__(self, table: BufferTable, start: Callable[[], None], take_turn: Callable[[], None]) -> None:
        """Leave it to the thread."""
        self._table = table
        self._start = start
        self._take_turn = take_turn
        self._wrap: Callable[[Append], Append] | None = None
        self._turn_at = self._start_at = 0.0

    def serve(self) -> None:
        """Take turns from now on: no thread could start."""
        self._start_at = Clock.monotonic() + _START_INTERVAL_S
        self._use(self._build_serving)

    def serve_last(self) -> None:
        """Have each event sent at once from now on: the process ends."""
        self._use(self._build_last)

    def rest(self) -> None:
        """Leave it to the thread."""
        self._use(None)

    def _use(self, wrap: Callable[[Append], Append] | None) -> None:
        if self._wrap != wrap:
            self._wrap = wrap
            self._table.wrap(wrap)

    def _build_serving(self, append: Append) -> Append:
        # Bound here: at the very end of an interpreter, modules are empty.
        monotonic = Clock.monotonic

        def record(value: float) -> None:
            append(value)
            try:
                if monotonic() >= self._turn_at:
                    self._serve()
            except RecursionError:
                # The event is there; one that comes less deep in a recursion serves.
                return

        return record

    def _build_last(self, append: Append) -> Append:
        def record(value: float) -> None:
            append(value)
            # It starts no thread, unless this is a child by now.
            self._start()

        return record

    def _serve(self) -> None:
        now = Clock.monotonic()
        self._turn_at = now + DRAIN_INTERVAL_S
        if now >= self._start_at:
            self._start()
        self._take_turn()


__all__ = ["StandIn"]
