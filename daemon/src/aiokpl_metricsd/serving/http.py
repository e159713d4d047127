"""Requests -> answers: `/metrics`, `/ledger`, `/snapshot`, `/healthz`, `/readyz`. Nothing is changed.

The only module that imports aiohttp, and itself imported at the first connection. A page is made in
slices, one in a turn of the event loop, and sent as it is made, so that neither its size nor a slow
reader holds up ingest. What a client may cost is bounded: connections, bytes of a request's head, the
time for it and for the answer. A request has no body.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec
from aiohttp import web

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.live import LIVE_SECONDS
from aiokpl_metricsd.rendering.exposition import Form, accepts_gzip, choose_form
from aiokpl_metricsd.serving.door import Door
from aiokpl_metricsd.serving.host import HostRule
from aiokpl_metricsd.serving.observer import Requests
from aiokpl_metricsd.serving.scrape import Reading, Scrapes
from aiokpl_metricsd.serving.statement import Statement
from aiokpl_metricsd.snapshot import MetricSnapshot

# At once, on all sockets; past it, the one that is idle for longest is closed.
MAX_CONNECTIONS = 32

# Of the line with path and query, and of any one header.
MAX_LINE_BYTES = 4_096

# From the connection to the end of the first request's head.
FIRST_REQUEST_S = 10.0

# From one request to the next. Scrapers come every 15 to 60 s on one connection.
NEXT_REQUEST_S = 75.0

# From the request to the last byte of the answer.
ANSWER_S = 30.0

# Bytes that are sent in one piece.
_PIECE_BYTES = 64 * 1024

# Level 1 makes pages 16 times smaller at a fifth of level 6's time (measured on 100,000 counters).
_GZIP_LEVEL = 1
_GZIP_WBITS = 31

_NOT_FOUND = "not_found"
_HEADERS = {"Cache-Control": "no-store", "Server": "aiokpl-metricsd"}
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"

_SECONDS = {str(seconds): seconds for seconds in range(1, LIVE_SECONDS + 1)}

_log = logging.getLogger("aiokpl_metricsd.http")


class Site(NamedTuple):
    """What is answered from.

    Attributes:
        page: the metrics page, in slices.
        wait_for_page: returns once it can be shown.
        statement: all accounts, after a None for each slice.
        view: the live view, in slices, of so many seconds and of the names that are admitted.
        is_ready: whether events are taken.
        time: epoch seconds.
        requests: where requests are counted.
        scrapes: where a page that was read is noted.
    """

    page: Callable[[Form], Iterator[str]]
    wait_for_page: Callable[[], Awaitable[None]]
    statement: Callable[[], Iterator[Statement | None]]
    view: Callable[[float, int, Callable[[str], bool]], Iterator[list[MetricSnapshot]]]
    is_ready: Callable[[], bool]
    time: Callable[[], float]
    requests: Requests
    scrapes: Scrapes


class LiveRow(msgspec.Struct, frozen=True):
    """One series of the live view. Times are epoch seconds."""

    name: str
    kind: MetricKind
    unit: str | None
    dimensions: dict[str, str]
    count: int
    sum: float
    min: float
    max: float
    mean: float
    window_start: float
    window_end: float


class Answer(NamedTuple):
    """What goes back: the parts are asked for one in a turn of the event loop.

    A page that is sent whole is noted as read.
    """

    status: int
    content_type: str
    parts: Iterator[str | bytes]
    headers: Mapping[str, str] = {}
    reading: Reading | None = None


class HttpServer:
    """Serves one daemon's doors.

    Args:
        site: what is answered from.
    """

    def __init__(self, site: Site) -> None:
        """Serve nobody yet."""
        self._site = site
        self._servers: list[asyncio.Server] = []
        self._turn = asyncio.Lock()
        # Connections: since when nothing was asked on them; None while something is being answered.
        self._idle: dict[web.RequestHandler, float | None] = {}
        self._routes: dict[str, Callable[[web.BaseRequest], Answer]] = {
            "/metrics": self._answer_metrics,
            "/ledger": self._answer_ledger,
            "/snapshot": self._answer_snapshot,
            "/healthz": self._answer_health,
            "/readyz": self._answer_ready,
        }

    async def start(self, doors: list[Door]) -> None:
        """Accept connections at the doors, those that wait there already first."""
        loop = asyncio.get_running_loop()
        for door in doors:
            build = self._build_factory(door, loop)
            if door.address is None:
                self._servers.append(await loop.create_unix_server(build, sock=door.socket))
            else:
                self._servers.append(await loop.create_server(build, sock=door.socket))

    async def close(self) -> None:
        """Accept no more and end every connection."""
        for server in self._servers:
            server.close()
        for protocol in list(self._idle):
            protocol.force_close()
        self._idle.clear()
        # The transports close in the next turn.
        await asyncio.sleep(0)

    # ---- connections

    def _build_factory(
        self, door: Door, loop: asyncio.AbstractEventLoop
    ) -> Callable[[], asyncio.BaseProtocol]:
        rule = None if door.address is None else HostRule(door.hosts)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(request, rule)

        server = web.Server(
            handle,
            access_log=None,
            logger=_log,
            keepalive_timeout=NEXT_REQUEST_S,
            lingering_time=0.0,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
        )

        def build() -> asyncio.BaseProtocol:
            if not self._make_room():
                self._site.requests.refused += 1
                return _Refusal()
            protocol = server()
            self._idle[protocol] = loop.time()
            loop.call_later(FIRST_REQUEST_S, self._reap, protocol, FIRST_REQUEST_S)
            return protocol

        return build

    def _make_room(self) -> bool:
        """Tell whether one more connection has room, closing the one that is idle for longest if it must."""
        if len(self._idle) < MAX_CONNECTIONS:
            return True
        idle = {each: since for each, since in self._idle.items() if since is not None}
        for each in idle:
            if each.transport is None:
                # It has ended, or is about to begin, and then asks for a place itself.
                del self._idle[each]
                return True
        if not idle:
            return False
        longest = min(idle, key=idle.__getitem__)
        del self._idle[longest]
        longest.force_close()
        self._site.requests.refused += 1
        return True

    def _reap(self, protocol: web.RequestHandler, after_s: float) -> None:
        """Close a connection on which nothing was asked for too long."""
        since = self._idle.get(protocol)
        if protocol not in self._idle:
            return
        if protocol.transport is None:
            del self._idle[protocol]
            return
        loop = asyncio.get_running_loop()
        if since is not None and loop.time() - since >= after_s:
            del self._idle[protocol]
            protocol.force_close()
            return
        left_s = NEXT_REQUEST_S if since is None else since + NEXT_REQUEST_S - loop.time()
        loop.call_later(max(left_s, 0.0), self._reap, protocol, NEXT_REQUEST_S)

    # ---- requests

    async def _handle(self, request: web.BaseRequest, rule: HostRule | None) -> web.StreamResponse:
        protocol = request.protocol
        self._idle[protocol] = None
        answer = self._choose(request, rule)
        if answer.reading is not None:
            # Who is refused does not wait.
            await self._site.wait_for_page()
        known = request.path if request.path in self._routes else _NOT_FOUND
        self._site.requests.note(known, answer.status)
        gzip = (
            accepts_gzip(request.headers.get("Accept-Encoding", ""))
            and answer.status == web.HTTPOk.status_code
        )
        headers = {**_HEADERS, "Content-Type": answer.content_type, **answer.headers}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        response = web.StreamResponse(status=answer.status, headers=headers)
        if request.can_read_body or answer.status == web.HTTPMisdirectedRequest.status_code:
            # Whatever follows is not read.
            response.force_close()
        try:
            async with asyncio.timeout(ANSWER_S):
                await response.prepare(request)
                if request.method != "HEAD":
                    await self._send(response, answer.parts, gzip=gzip)
                await response.write_eof()
            if answer.reading is not None and request.method != "HEAD":
                self._site.scrapes.note(answer.reading)
        except TimeoutError:
            _log.warning("an answer took too long", extra={"fields": {"path": known}})
            protocol.force_close()
        finally:
            if protocol in self._idle:
                self._idle[protocol] = asyncio.get_running_loop().time()
        return response

    async def _send(self, response: web.StreamResponse, parts: Iterator[str | bytes], *, gzip: bool) -> None:
        """Send the parts, made one in a turn of the event loop, whoever else is being answered."""
        squeezer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS) if gzip else None
        waiting = bytearray()
        while True:
            async with self._turn:
                part = next(parts, None)
                if part is not None:
                    data = part.encode() if isinstance(part, str) else part
                    waiting += data if squeezer is None else squeezer.compress(data)
                elif squeezer is not None:
                    waiting += squeezer.flush()
                await asyncio.sleep(0)
            if waiting and (part is None or len(waiting) >= _PIECE_BYTES):
                await response.write(bytes(waiting))
                waiting.clear()
            if part is None:
                return

    def _choose(self, request: web.BaseRequest, rule: HostRule | None) -> Answer:
        if rule is not None and not rule.admits(_find_own_host(request), request.headers.get("Host", "")):
            # A name that leads here from a page in somebody's browser (DNS rebinding).
            return _say(web.HTTPMisdirectedRequest.status_code, "this host is not served here")
        route = self._routes.get(request.path)
        if route is None:
            return _say(web.HTTPNotFound.status_code, f"there are {', '.join(self._routes)}")
        if request.method not in ("GET", "HEAD"):
            allowed = {"Allow": "GET, HEAD"}
            return _say(web.HTTPMethodNotAllowed.status_code, "nothing can be changed here", allowed)
        if request.can_read_body:
            return _say(web.HTTPRequestEntityTooLarge.status_code, "a request has no body")
        return route(request)

    def _answer_metrics(self, request: web.BaseRequest) -> Answer:
        form = choose_form(request.headers.get("Accept", ""))
        reading = self._site.scrapes.begin()
        headers = {"Vary": "Accept, Accept-Encoding"}
        return Answer(web.HTTPOk.status_code, form.value, self._site.page(form), headers, reading)

    def _answer_ledger(self, _request: web.BaseRequest) -> Answer:
        parts = _encode_statement(self._site.statement())
        return Answer(web.HTTPOk.status_code, _JSON, parts, {"Vary": "Accept-Encoding"})

    def _answer_snapshot(self, request: web.BaseRequest) -> Answer:
        unknown = set(request.query) - {"seconds", "name"}
        seconds = _SECONDS.get(request.query.get("seconds", str(LIVE_SECONDS)))
        if unknown or seconds is None or len(request.query.getall("seconds", [])) > 1:
            expected = f"expected seconds=1..{LIVE_SECONDS} and name=GLOB, which may be repeated"
            return _say(web.HTTPBadRequest.status_code, expected)
        globs = request.query.getall("name", [])

        def admits(name: str) -> bool:
            return not globs or any(fnmatchcase(name, glob) for glob in globs)

        now = self._site.time()
        parts = _encode_view(now, seconds, self._site.view(now, seconds, admits))
        return Answer(web.HTTPOk.status_code, _JSON, parts, {"Vary": "Accept-Encoding"})

    def _answer_health(self, _request: web.BaseRequest) -> Answer:
        return _say(web.HTTPOk.status_code, "ok")

    def _answer_ready(self, _request: web.BaseRequest) -> Answer:
        if self._site.is_ready():
            return _say(web.HTTPOk.status_code, "ready")
        return _say(web.HTTPServiceUnavailable.status_code, "stopping")


class _Refusal(asyncio.Protocol):
    """Closes a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


def _say(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, _TEXT, iter([f"{text}\n"]), headers or {})


def _encode_statement(slices: Iterator[Statement | None]) -> Iterator[bytes]:
    for statement in slices:
        yield b"" if statement is None else msgspec.json.encode(statement) + b"\n"


def _encode_view(now: float, seconds: int, slices: Iterator[list[MetricSnapshot]]) -> Iterator[bytes]:
    """Return one JSON object, in parts."""
    encoder = msgspec.json.Encoder()
    yield b'{"time":%s,"seconds":%d,"series":[' % (repr(now).encode(), seconds)
    is_first = True
    for part in slices:
        # The rows of a list, without its brackets.
        rows = encoder.encode([_build_row(snapshot) for snapshot in part])[1:-1]
        if rows:
            yield rows if is_first else b"," + rows
            is_first = False
        else:
            yield b""
    yield b"]}\n"


def _build_row(snapshot: MetricSnapshot) -> LiveRow:
    return LiveRow(
        snapshot.name,
        snapshot.kind,
        snapshot.unit,
        dict(snapshot.dimensions),
        snapshot.count,
        snapshot.sum,
        snapshot.min,
        snapshot.max,
        snapshot.sum / snapshot.count,
        snapshot.window_start,
        snapshot.window_end,
    )


def _find_own_host(request: web.BaseRequest) -> str:
    """Return the address of this end of a TCP connection: of a wildcard, the one that was connected to."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return str(name[0]) if name else ""


__all__ = ["ANSWER_S", "FIRST_REQUEST_S", "MAX_CONNECTIONS", "HttpServer", "LiveRow", "Site"]
