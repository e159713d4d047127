"""The same application for every server: it counts its requests, and calls nothing at its end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from aiokpl_metrics_client import MetricsClient

# Made at import, with an instrument: in the master where the server preloads, and forked from there.
metrics = MetricsClient()
_requests = metrics.counter("bound")
# Recorded in the process that imports: once if preloaded, once a worker otherwise.
metrics.put("imports")


def count() -> None:
    """Record a request."""
    metrics.put("requests")
    _requests.record(1)


def wsgi(
    environ: MutableMapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Answer a request of a WSGI server."""
    count()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


async def asgi(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer a request of an ASGI server, and flush when the server's lifespan ends.

    uvicorn ends a process by the signal that it was told to end by, so that no exit handler runs.
    """
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await asyncio.to_thread(metrics.flush)
        await send({"type": "lifespan.shutdown.complete"})
        return
    count()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


__all__ = ["asgi", "count", "metrics", "wsgi"]
