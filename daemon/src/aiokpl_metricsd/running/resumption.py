"""What the last daemon left -> the windows, the numbers and the ledger of this one. Once, at the start.

First the checkpoint, then the journal behind it, frame by frame, as they came. What is late is decided by the
windows that have closed, not by the clock.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiokpl_metrics_protocol import ColumnsFrame, FoldedFrame, RowsFrame
from aiokpl_metricsd.aggregating.windows import Windows, latest_begin
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.checkpoint import restore
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.ledger import Ledger

if TYPE_CHECKING:
    # Only for its type: without a state directory no database is loaded.
    from aiokpl_metricsd.state import State

_log = logging.getLogger("aiokpl_metricsd")

_Frame = ColumnsFrame | FoldedFrame | RowsFrame


class Resumption:
    """How one daemon begins.

    Args:
        state: what the last daemon left; None where nothing is kept.
        interval_s: the windows' length.
        now: epoch seconds.

    Attributes:
        windows: where this daemon's begin; none is open.
        is_new: there is a state directory, and no checkpoint in it yet.
        is_set_back: the clock is behind the last windows by more than an interval. To wait until it is there
            again would make everything late, and would keep for as long what was open.
    """

    def __init__(self, state: "State | None", interval_s: int, now: float) -> None:
        """Let windows begin where those of the last daemon ended, or now."""
        self._state = state
        recovered = None if state is None else state.outbox.recovered
        self.is_new = recovered is not None and recovered.ledger is None
        self.is_set_back = False
        if recovered is None or recovered.ledger is None:
            self.windows = Windows(interval_s, int(now))
            return
        latest = latest_begin(now, interval_s)
        # What is open may be an interval ahead of the clock it was counted by.
        self.is_set_back = recovered.closed_until > latest or any(
            part.start > latest + interval_s for part in recovered.opened
        )
        begin = int(now) if self.is_set_back else recovered.closed_until
        self.windows = Windows(interval_s, begin, recovered.last_number)

    def restore(self, aggregator: Aggregator, decoder: Decoder, ledger: Ledger) -> None:
        """Count on from the checkpoint: nothing was counted yet, and the windows are `windows`."""
        if self._state is not None:
            restore(self._state.outbox.recovered, aggregator, decoder, ledger)
            ledger.clock_steps += self.is_set_back

    def replay(
        self, aggregator: Aggregator, decoder: Decoder, count: Callable[[_Frame, float], object]
    ) -> None:
        """Count what came after the checkpoint, and let go of what was recovered.

        Args:
            aggregator: as restored.
            decoder: as restored.
            count: takes a frame and the epoch second at which it came.
        """
        if self._state is None:
            return
        recovered = self._state.outbox.recovered
        frames = 0
        for record in self._state.journal.replay(recovered.position):
            frame = decoder.decode(record.datagram)
            if frame is not None:
                count(frame, record.now)
                frames += 1
        if recovered.ledger is not None or frames:
            fields = {"windows": len(recovered.opened), "frames": frames, "events": aggregator.events_open}
            _log.info("went on from the state directory", extra={"fields": fields})
        self._state.outbox.forget_recovered()


__all__ = ["Resumption"]
