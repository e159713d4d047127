"""What must be remembered between attempts, so that nothing is overwritten and nothing is added twice.

Datadog keeps one value per series and second, the last one sent, and adds up distribution points. Hence:

* **A second belongs to one window.** The timestamp is the window's end in whole seconds; a window that ends
  in a second that another one of this process has, as one that was flushed early, gets the next free one. A
  repeat of a window has its second again, so it overwrites itself and nothing else.
* **Accepted distributions** are noted per window and series until the window is done, and not sent again.
* **Merged series**, which are several snapshots but one series after their names and tags are mended, keep
  each snapshot's share: a later attempt with some of them sends the value of all.
* **A metric name has one role.** A distribution hides a count or gauge of the same name, so whoever comes
  second gets its role at the end of its name.

All of it is bounded. What is forgotten first is the oldest, and costs what the lines above prevent.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.sinks.datadog.point import Role
from aiokpl_metricsd.sinks.datadog.text import cut_name
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: twice the 60 windows that wait for a sink at most, in the daemon as in-process.
MAX_WINDOWS: Final = 128

# Ours: an hour of windows that end every second; older ones are not accepted anyway.
MAX_SECONDS: Final = 3_600

# Ours: how far a window may be put off its end; half of the ten minutes ahead that Datadog takes.
MAX_SHIFT_S: Final = 300

# Ours: a name is about 200 bytes here.
MAX_NAMES: Final = 65_536

# Ours: snapshots without a time that wait for their next attempt.
MAX_TIMELESS: Final = 100_000

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
WindowKey = tuple[str, float, float]


class WindowMemory(Struct):
    """What is known of one window.

    Attributes:
        second: the timestamp of all its points.
        accepted: the series whose distributions were accepted.
        merged: of metric name and tags that several series share, each one's value.
    """

    second: int
    accepted: set[SeriesKey]
    merged: dict[tuple[str, tuple[str, ...]], dict[SeriesKey, float]]


class Share(Struct):
    """What a window's accepted series become.

    Attributes:
        window: whose they are.
        known: how many there were.
        done: the series whose distributions need not be known any more.
        rest: all others; once it is settled, what there was before.
    """

    window: WindowMemory
    known: int
    done: set[SeriesKey]
    rest: set[SeriesKey]


class Settlement(Struct):
    """What is to be forgotten, worked out beforehand.

    Attributes:
        shares: by window.
        timeless: the identities of snapshots without a time that are not sent again.
    """

    shares: list[Share]
    timeless: list[int]


class Memory:
    """Of one sink. One thread at a time."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._windows: OrderedDict[WindowKey, WindowMemory] = OrderedDict()
        self._owners: dict[int, WindowKey] = {}
        self._names: dict[str, Role] = {}
        self._timeless: dict[int, tuple[MetricSnapshot, WindowKey]] = {}
        self._timeless_number = 0

    def claim_name(self, name: str, role: Role) -> str:
        """Return the name for values of this role: as it is, or with the role at its end."""
        if name not in self._names and len(self._names) >= MAX_NAMES:
            return name
        while self._names.setdefault(name, role) is not role:
            longer = f"{name}.{role.value}"
            name = cut_name(longer, longer)
        return name

    def begin(self) -> WindowKey:
        """Return the key of the window that this attempt's snapshots without a time are in."""
        self._timeless_number += 1
        return ("", 0.0, float(self._timeless_number))

    def find(self, snapshot: MetricSnapshot, now: float, timeless: WindowKey) -> WindowMemory:
        """Return what is known of the snapshot's window.

        Args:
            snapshot: any of the window.
            now: epoch seconds; the end of a window without a time.
            timeless: from `begin`.

        Raises:
            RetryableExportError: there is no second left for the window.
        """
        key = self._name_window(snapshot, timeless)
        window = self._windows.get(key)
        if window is None:
            second = self._allot(key, int(snapshot.window_end or now))
            window = self._windows[key] = WindowMemory(second, set(), {})
            if len(self._windows) > MAX_WINDOWS:
                self._windows.popitem(last=False)
        elif len(self._windows) > 1:
            self._windows.move_to_end(key)
        return window

    def prepare_settlement(self, done: Iterable[MetricSnapshot]) -> Settlement:
        """Look up what is kept for snapshots that are not sent again. Changes nothing."""
        shares: dict[WindowKey, Share] = {}
        timeless: list[int] = []
        for snapshot in done:
            if id(snapshot) in self._timeless:
                timeless.append(id(snapshot))
            name = self._name_window(snapshot, None)
            window = self._windows.get(name)
            key = (snapshot.name, snapshot.dimensions)
            if window is not None and window.accepted and key in window.accepted:
                share = shares.get(name)
                if share is None:
                    share = shares[name] = Share(window, len(window.accepted), set(), set())
                share.done.add(key)
        for share in shares.values():
            share.rest = share.window.accepted - share.done
        return Settlement(list(shares.values()), timeless)

    def settle(self, settlement: Settlement, *, is_alone: bool) -> None:
        """Forget it.

        Args:
            settlement: from `prepare_settlement`.
            is_alone: no attempt runs meanwhile. It takes no time then, however many series there are.
        """
        for share in settlement.shares:
            if is_alone and len(share.window.accepted) == share.known:
                # What was there stays in the share: whoever drops that has the time to free it.
                share.window.accepted, share.rest = share.rest, share.window.accepted
            else:
                share.window.accepted -= share.done
        for identity in settlement.timeless:
            self._timeless.pop(identity, None)

    def _name_window(self, snapshot: MetricSnapshot, timeless: WindowKey | None) -> WindowKey:
        if snapshot.window_end:
            if snapshot.window_id:
                return (snapshot.window_id, 0.0, 0.0)
            return ("", snapshot.window_start, snapshot.window_end)
        # The snapshot is kept, or its identity could become another one's.
        kept = self._timeless.get(id(snapshot))
        if kept is None:
            if timeless is None:
                return ("", 0.0, 0.0)
            if len(self._timeless) >= MAX_TIMELESS:
                del self._timeless[next(iter(self._timeless))]
            kept = self._timeless[id(snapshot)] = (snapshot, timeless)
        return kept[1]

    def _allot(self, key: WindowKey, second: int) -> int:
        for free in range(second, second + MAX_SHIFT_S + 1):
            if self._owners.setdefault(free, key) == key:
                if len(self._owners) > MAX_SECONDS:
                    del self._owners[next(iter(self._owners))]
                return free
        raise RetryableExportError(f"{MAX_SHIFT_S} windows ended in the same second")


__all__ = [
    "MAX_NAMES",
    "MAX_SECONDS",
    "MAX_SHIFT_S",
    "MAX_TIMELESS",
    "MAX_WINDOWS",
    "Memory",
    "SeriesKey",
    "Settlement",
    "Share",
    "WindowKey",
    "WindowMemory",
]
