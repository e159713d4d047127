"""A flush: what was recorded before it is with the daemon before its time is up, or known not to be.

It waits until one deadline for a daemon that is there but slow, and until another for one that is away. One
that was there a moment ago is being restarted, and is waited for like a slow one, for some seconds.
"""

import time

from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.progress import Mark
from aiokpl_metrics_client.statistics import State

# A daemon that was there this long ago is being restarted: the end of the process waits for it, too.
RESTART_S = 3.0

# How long is waited before the next look: for a socket that is full, for a daemon that is not there.
_FULL_POLL_S = 0.05
_AWAY_POLL_S = 0.02


class Handover:
    """How far one flush has come, and how long it may still take.

    Args:
        timeout_s: for all of it.
        away_timeout_s: where the daemon is away; None is as long.
    """

    __slots__ = ("_away_deadline", "_deadline", "_events_without_room", "_mark")

    def __init__(self, timeout_s: float, away_timeout_s: float | None) -> None:
        """Begin now."""
        now = Clock.monotonic()
        self._deadline = now + timeout_s
        self._away_deadline = self._deadline if away_timeout_s is None else now + away_timeout_s
        self._mark: Mark | None = None
        self._events_without_room = 0

    @property
    def left_s(self) -> float:
        """How long it may still take."""
        return self._deadline - Clock.monotonic()

    def drain(self, outbound: Outbound) -> Mark:
        """Drain once, and return the mark of what was recorded until then."""
        if self._mark is None:
            outbound.drain(all_of_it=True)
            self._mark = outbound.mark()
            self._events_without_room = outbound.progress.events_without_room
        return self._mark

    def read_losses(self, outbound: Outbound) -> tuple[int, int]:
        """Return how many events were ever dropped for want of room, as of the drain, or of a way."""
        return self._events_without_room, outbound.progress.events_unsendable

    def wait(self, outbound: Outbound) -> bool:
        """Wait until it is worth while to send again. Return False when the time is up."""
        left = self.left_s
        if outbound.state is State.AWAY:
            left = min(left, self._find_away_deadline(outbound) - Clock.monotonic())
        if left <= 0:
            return False
        if not outbound.transport.wait(min(left, _FULL_POLL_S)):
            time.sleep(min(left, _AWAY_POLL_S))
        return True

    def _find_away_deadline(self, outbound: Outbound) -> float:
        if outbound.lost_at is None:
            return self._away_deadline
        return max(self._away_deadline, outbound.lost_at + RESTART_S)


__all__ = ["RESTART_S", "Handover"]
