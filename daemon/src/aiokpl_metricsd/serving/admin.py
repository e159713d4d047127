"""The daemon's doors and what stands behind them: started by the first who knocks."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING

from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.serving.door import Doors
from aiokpl_metricsd.serving.observer import Observer
from aiokpl_metricsd.snapshot import MetricSnapshot

if TYPE_CHECKING:
    from aiokpl_metricsd.serving.http import HttpServer

# Series of the live view in one turn of the event loop: 2 us each, 20 where 60 seconds are kept.
_SLICE_SERIES = 250


class Admin:
    """Serves HTTP once somebody asks.

    Args:
        doors: the bound sockets; the daemon gives them back.
        observer: reads what `/metrics` and `/ledger` show.
        aggregator: has the live view.
        is_ready: whether events are taken.
        time: epoch seconds.
    """

    def __init__(
        self,
        doors: Doors,
        observer: Observer,
        aggregator: Aggregator,
        is_ready: Callable[[], bool],
        time: Callable[[], float],
    ) -> None:
        """Serve nobody yet."""
        self._doors = doors
        self._observer = observer
        self._aggregator = aggregator
        self._is_ready = is_ready
        self._time = time
        self._server: HttpServer | None = None

    def attach(self) -> None:
        """Wait for the first connection."""
        self._observer.scrapes.reset()
        self._doors.attach(asyncio.get_running_loop(), self._serve)

    async def close(self) -> None:
        """Let the sockets and their paths go, and end every connection."""
        # In this order: the event loop still watches the sockets.
        if self._server is not None:
            await self._server.close()
        self._doors.close()

    def _view(
        self, now: float, seconds: int, admits: Callable[[str], bool]
    ) -> Iterator[list[MetricSnapshot]]:
        return self._aggregator.view_live_sliced(now, seconds, _SLICE_SERIES, admits)

    async def _serve(self) -> None:
        module = await import_in_thread("aiokpl_metricsd.serving.http")
        site = module.Site(
            page=self._observer.render,
            wait_for_page=self._observer.resuming.wait,
            statement=lambda: self._observer.read_statement(self._time),
            view=self._view,
            is_ready=self._is_ready,
            time=self._time,
            requests=self._observer.requests,
            scrapes=self._observer.scrapes,
        )
        server: HttpServer = module.HttpServer(site)
        self._server = server
        await server.start(self._doors.opened)


async def import_in_thread(name: str) -> ModuleType:
    """Import a module while the event loop goes on.

    Raises:
        Exception: whatever the import raises.
    """
    from importlib import import_module

    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    outcome: list[ModuleType | BaseException] = []

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def run() -> None:
        try:
            outcome.append(import_module(name))
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            outcome.append(error)
        # The loop may have ended meanwhile; then nobody waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    # A daemon thread: an import that hangs must not keep the process from ending.
    threading.Thread(target=run, name=f"import {name}", daemon=True).start()
    await done
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


__all__ = ["Admin", "import_in_thread"]
