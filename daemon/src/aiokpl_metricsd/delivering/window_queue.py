"""The windows that wait for one sink: bounded, and in the order that the sink asks for. Pure.

Bounded are those in memory; the outbox has its own bound, and what it keeps costs some hundred bytes here.

`ordered`: the oldest first, always. Otherwise the newest that was never tried comes first, as people look at
it; the rest, the backlog, follows one window every `catch_up_s` at most, so that a backend that just came
back is not overrun: the least often tried first, of these the oldest, which is nearest to being dropped. A
window that cannot be delivered thus holds up no other one.

A window is held back until its `due_at`; one that is not due holds up the later ones of an ordered sink, and
nothing of any other.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from math import inf
from operator import attrgetter

from aiokpl_metricsd.delivering.consignment import Consignment


class WindowQueue:
    """The waiting windows of one sink.

    Args:
        ordered: oldest first.
        max_windows: in memory; past it the oldest is dropped.
        max_snapshots: past it in all windows in memory together the oldest is dropped too, down to one
        window.
        catch_up_s: at least so long between two windows of the backlog.
    """

    def __init__(self, *, ordered: bool, max_windows: int, max_snapshots: int, catch_up_s: float) -> None:
        """Start empty."""
        self._ordered = ordered
        self._max_windows = max_windows
        self._max_snapshots = max_snapshots
        self._catch_up_s = catch_up_s
        self._waiting: list[Consignment] = []
        self._newest_tried = -1
        self._catch_up_at: float | None = None

    def __len__(self) -> int:
        """Return how many windows wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Consignment]:
        """Return the windows, oldest first."""
        return iter(self._waiting)

    def put(self, consignment: Consignment) -> list[Consignment]:
        """Let a window wait, a new one or one that was tried. Return those dropped to make room."""
        insort(self._waiting, consignment, key=_number)
        if consignment.stored is not None:
            return []
        waiting = [each for each in self._waiting if each.stored is None]
        dropped: list[Consignment] = []
        total = sum(each.remaining_count for each in waiting)
        while len(waiting) > self._max_windows or (total > self._max_snapshots and len(waiting) > 1):
            oldest = waiting.pop(0)
            total -= oldest.remaining_count
            dropped.append(oldest)
            self._waiting.remove(oldest)
        return dropped

    def remove(self, stored: int) -> Consignment | None:
        """Take the window out that has this number in the outbox; None where it does not wait here."""
        for consignment in self._waiting:
            if consignment.stored == stored:
                self._waiting.remove(consignment)
                return consignment
        return None

    def take_all(self) -> list[Consignment]:
        """Take all out, oldest first."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def take_unstored(self) -> list[Consignment]:
        """Take those out that are in memory alone, oldest first."""
        unstored = [each for each in self._waiting if each.stored is None]
        if unstored:
            self._waiting = [each for each in self._waiting if each.stored is not None]
        return unstored

    def take(self, clock: Callable[[], float], *, hurry: bool = False) -> Consignment | float | None:
        """Return the next window; or in how many seconds there is one; or None where none waits.

        Args:
            clock: monotonic seconds.
            hurry: hold nothing back.
        """
        waiting = self._waiting
        if not waiting:
            return None
        now = inf if hurry else clock()
        if self._ordered:
            return waiting.pop(0) if waiting[0].due_at <= now else waiting[0].due_at - now
        newest = waiting[-1]
        if newest.number > self._newest_tried and newest.due_at <= now:
            self._newest_tried = newest.number
            return waiting.pop()
        return self._take_from_backlog(now, clock)

    def _take_from_backlog(self, now: float, clock: Callable[[], float]) -> Consignment | float:
        due = [each for each in self._waiting if each.due_at <= now]
        wait_s = min((each.due_at - now for each in self._waiting if each.due_at > now), default=inf)
        if not due:
            return wait_s
        if self._catch_up_at is not None and now < self._catch_up_at:
            return min(wait_s, self._catch_up_at - now)
        self._catch_up_at = clock() + self._catch_up_s
        consignment = min(due, key=_tries)
        self._waiting.remove(consignment)
        return consignment

    def vouch(self) -> None:
        """Tell the stalled windows that the backend has accepted another one."""
        for consignment in self._waiting:
            if consignment.is_stalled:
                consignment.vouch()


_number = attrgetter("number")


def _tries(consignment: Consignment) -> tuple[int, int]:
    return consignment.failures, consignment.number


__all__ = ["WindowQueue"]
