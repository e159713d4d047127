"""The last 60 seconds of one series, as one statistic set a second."""

from collections import deque

from msgspec import Struct

# The KPL's accumulator keeps 60 one-second cells (awslabs/amazon-kinesis-producer,
# `aws/metrics/accumulator.h`, read 2026-11).
LIVE_SECONDS = 60

# Before any second that an event can have.
_NO_SECOND = -(2**63) - 1


class Cell(Struct, gc=False):
    """One second of one series."""

    second: int
    count: int
    sum: float
    min: float
    max: float


class Live:
    """The rolling view of one series. Seconds are whole numbers of whatever clock the caller has."""

    __slots__ = ("_cells", "newest")

    def __init__(self) -> None:
        """Start empty."""
        self._cells: deque[Cell] = deque()
        # The cell of the newest second; before any event, one of a second that no event has.
        self.newest = Cell(_NO_SECOND, 0, 0.0, 0.0, 0.0)

    @property
    def last_second(self) -> int | None:
        """The newest second with an event, or None when there is none."""
        return self.newest.second if self._cells else None

    def add(self, second: int, count: int, total: float, low: float, high: float) -> bool:
        """Add events of one second. Return whether this second is a new one."""
        cell = self.newest
        if cell.second == second:
            _add(cell, count, total, low, high)
            return False
        if cell.second < second:
            cells = self._cells
            self.newest = Cell(second, count, total, low, high)
            cells.append(self.newest)
            while cells[0].second <= second - LIVE_SECONDS:
                cells.popleft()
            return True
        if second > cell.second - LIVE_SECONDS:
            self._add_past(second, count, total, low, high)
        return False

    def read(self, now: int, seconds: int = LIVE_SECONDS) -> tuple[int, float, float, float] | None:
        """Return `(count, sum, min, max)` of the last seconds, `now` included; None when they are empty."""
        count = 0
        total = 0.0
        low = high = 0.0
        for cell in self._cells:
            if now - seconds < cell.second <= now:
                low = min(low, cell.min) if count else cell.min
                high = max(high, cell.max) if count else cell.max
                count += cell.count
                total += cell.sum
        return (count, total, low, high) if count else None

    def bounds(self, now: int) -> tuple[float, float]:
        """Return the first second with an event and the end of the last; `(0.0, 0.0)` when there is none."""
        seconds = [cell.second for cell in self._cells if now - LIVE_SECONDS < cell.second <= now]
        return (float(seconds[0]), float(seconds[-1] + 1)) if seconds else (0.0, 0.0)

    def _add_past(self, second: int, count: int, total: float, low: float, high: float) -> None:
        """Add to a second that is not the newest, in its place."""
        for index, cell in enumerate(self._cells):
            if cell.second == second:
                _add(cell, count, total, low, high)
                return
            if cell.second > second:
                self._cells.insert(index, Cell(second, count, total, low, high))
                return


# Comparing costs a third of what calling `min` does.
def _add(cell: Cell, count: int, total: float, low: float, high: float) -> None:
    cell.count += count
    cell.sum += total
    if low < cell.min:  # noqa: PLR1730
        cell.min = low
    if high > cell.max:  # noqa: PLR1730
        cell.max = high


__all__ = ["LIVE_SECONDS", "Cell", "Live"]
