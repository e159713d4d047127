"""When the buffers are drained, and how long the thread may sleep in between. Sends nothing, sleeps nowhere.

They are drained ten times a second while events come, and just past each second's boundary, so that what is
drained is of one second. Whatever comes from the socket in between is served at once, and the buffers are
drained no more often for it.
"""

from collections.abc import Callable

from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.statistics import State

# How often the buffers are drained while events come.
DRAIN_INTERVAL_S = 0.1

# After so many drains without an event the thread sleeps to the next second's boundary.
_IDLE_DRAINS = 10

# How often is looked for a daemon that is away, and sent again where the socket was full.
_RETRY_S = 0.2

_RETIRE_INTERVAL_S = 10.0

# Past the boundary by so much, since a sleep may end a little early.
_PAST_BOUNDARY_S = 0.001


class Pace:
    """The times of one process.

    Args:
        monotonic: a clock that never steps.
        wall: the time of day, whose seconds have the boundaries.
    """

    __slots__ = ("_drain_at", "_monotonic", "_retire_at", "_wall")

    def __init__(
        self, monotonic: Callable[[], float] = Clock.monotonic, wall: Callable[[], float] = Clock.wall
    ) -> None:
        """Have everything due."""
        self._monotonic = monotonic
        self._wall = wall
        self._drain_at = self._retire_at = 0.0

    @property
    def is_drain_due(self) -> bool:
        """Whether it is time to drain."""
        return self._monotonic() >= self._drain_at

    def note_drain(self) -> None:
        """Have the next drain an interval from now, or past the boundary where that comes first."""
        self._drain_at = self._monotonic() + min(DRAIN_INTERVAL_S, self._until_boundary())

    def hurry(self) -> None:
        """Have the next drain now."""
        self._drain_at = 0.0

    def take_retirement(self) -> bool:
        """Tell whether idle buffers are to be looked for; the next time is some seconds later."""
        now = self._monotonic()
        if now < self._retire_at:
            return False
        self._retire_at = now + _RETIRE_INTERVAL_S
        return True

    def find_wait(self) -> float:
        """Return how long may be waited for a socket that is full: until the next drain."""
        return max(0.0, min(self._drain_at - self._monotonic(), self._until_boundary()))

    def find_pause(self, outbound: Outbound) -> float:
        """Return how long may be slept: at most until the boundary."""
        pause = self._until_boundary()
        if outbound.is_waiting and outbound.state in (State.HELD_BACK, State.AWAY):
            return min(_RETRY_S, pause)
        if outbound.is_waiting or outbound.idle_drains < _IDLE_DRAINS:
            return min(DRAIN_INTERVAL_S, pause)
        return pause

    def _until_boundary(self) -> float:
        return 1.0 - self._wall() % 1.0 + _PAST_BOUNDARY_S


__all__ = ["DRAIN_INTERVAL_S", "Pace"]
