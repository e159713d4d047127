"""The metrics page after a restart: it goes on where the last daemon's ended, and is not shown before it can.

A scraper takes a total that falls for a counter that began anew, and counts all of it once more when it rises
again. What the last daemon's page showed is in the totals that a sink remembers, in windows that the last
daemon stored and the sink has not taken yet, and in windows that are still open. So whoever asks waits for
the stored ones, and the open ones are seen before the first of them closes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.sinks.scraped import ScrapedSink

# Whoever asks does not wait longer, counted from the daemon's start: where the outbox cannot be read the page
# is the place that tells. Prometheus' own limit is 10 s (`scrape_timeout`, its documentation, read 2026-11).
HOLD_S = 5.0

_LOOK_S = 0.005


class Resuming:
    """Holds the page back at the start.

    Args:
        delivery: of the sinks.
        monotonic: seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        delivery: Delivery,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Hold nothing back yet."""
        self._delivery = delivery
        self._monotonic = monotonic
        self._sleep = sleep
        self._behind: set[str] = set()
        self._until = 0.0

    async def begin(self, scraped: Mapping[str, ScrapedSink]) -> None:
        """See what is open, and hold the page back for what waits. To be called before a window closes."""
        self._until = self._monotonic() + HOLD_S
        self._delivery.note_backlog()
        self._behind = {name for name in scraped if self._delivery.has_backlog(name)}
        for sink in scraped.values():
            for _ in sink.see_open():
                await self._sleep(0.0)

    async def wait(self) -> None:
        """Wait until the page can be shown."""
        while self._behind:
            self._behind = {name for name in self._behind if self._delivery.has_backlog(name)}
            if self._monotonic() >= self._until:
                self._behind.clear()
            if self._behind:
                await self._sleep(_LOOK_S)


__all__ = ["HOLD_S", "Resuming"]
