"""How many shares summed gauges hold in all open windows: bounded, whoever draws how many producers' ids."""

from aiokpl_metricsd.aggregating.statistics import Statistics

# About 160 bytes each: a hundred processes with five hundred such gauges, in two windows. Past it, values of
# other producers are refused, so that endless many ids, which anybody may draw, take no more memory.
MAX_SHARES = 100_000


class Shares:
    """The places that producers' last values take.

    Args:
        most: how many places there are.

    Attributes:
        taken: how many are.
    """

    def __init__(self, most: int = MAX_SHARES) -> None:
        """Have every place free."""
        self._most = most
        self.taken = 0

    def add(self, statistics: Statistics, source: int, value: float, second: int) -> bool:
        """Note the last value of a source. Return False, and note nothing, where no place is free for it."""
        if self.taken >= self._most and source not in (statistics.shares or ()):
            return False
        self.taken += statistics.add_share(source, value, second)
        return True

    def take(self, count: int) -> None:
        """Take the places of what was restored, even more than there are: those were once admitted."""
        self.taken += count

    def give_back(self, count: int) -> None:
        """Free the places of what has closed, or was held twice."""
        self.taken -= count


__all__ = ["MAX_SHARES", "Shares"]
