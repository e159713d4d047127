"""Listening sockets -> HTTP, imported at the first connection and not before.

aiohttp takes 15 MiB and a quarter of a second to import, and most daemons are never asked anything. So
the sockets are bound at the start, connections wait in the kernel, and the first one has aiohttp
imported, in a thread, while events go on being read.

`admin.sock` lies beside the ingest socket, for this user alone; without it the daemon works all the same,
and says why. A TCP address is the operator's wish, so one that cannot be had is an error.
"""

import logging
import socket
from contextlib import suppress
from errno import EADDRINUSE
from typing import TYPE_CHECKING, NamedTuple

from aiokpl_metricsd.configuring.address import Address, parse_address
from aiokpl_metricsd.errors import ConfigurationError, MetricsdError, SocketInUseError
from aiokpl_metricsd.listener import STREAM_BACKLOG, Listener, listen_beside
from aiokpl_metricsd.sinks.loading import HTTP_EXTRA

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

ADMIN_NAME = "admin.sock"

_PACKAGE = "aiohttp"

_log = logging.getLogger("aiokpl_metricsd")


class Door(NamedTuple):
    """One bound socket.

    Attributes:
        socket: non-blocking, listening.
        listener: owns its path; None for TCP.
        address: as the kernel has it; None for a Unix socket.
        hosts: under which it may be asked; None where the operator lists none.
    """

    socket: socket.socket
    listener: Listener | None = None
    address: Address | None = None
    hosts: "tuple[str, ...] | None" = None

    def close(self) -> None:
        """Close the socket and let its path go."""
        if self.listener is not None:
            self.listener.close()
        self.socket.close()


class Doors:
    """The sockets of one daemon. `open_doors` makes them.

    Attributes:
        opened: the bound sockets.
    """

    def __init__(self, opened: list[Door]) -> None:
        """Serve nobody yet."""
        self.opened = opened
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def attach(self, loop: "asyncio.AbstractEventLoop", serve: "Callable[[], Awaitable[None]]") -> None:
        """Call `serve`, once, when the first connection waits."""
        self._loop = loop
        for door in self.opened:
            loop.add_reader(door.socket.fileno(), self._knock, serve)

    def close(self) -> None:
        """Close the sockets and let their paths go. A second call does nothing."""
        self._detach()
        if self._task is not None:
            self._task.cancel()
        for door in self.opened:
            door.close()

    def _knock(self, serve: "Callable[[], Awaitable[None]]") -> None:
        import asyncio

        self._detach()
        self._task = asyncio.ensure_future(self._serve(serve))

    async def _serve(self, serve: "Callable[[], Awaitable[None]]") -> None:
        try:
            await serve()
        except Exception:  # noqa: BLE001 - an import may raise anything
            # Nobody may be left waiting in the kernel's queue; what the daemon is for goes on.
            _log.exception("HTTP is not served")
            for door in self.opened:
                door.close()

    def _detach(self) -> None:
        if self._loop is not None:
            for door in self.opened:
                self._loop.remove_reader(door.socket.fileno())
            self._loop = None


def open_doors(ingest_path: str, listen: str | None, hosts: "tuple[str, ...] | None" = None) -> Doors:
    """Bind what HTTP is to be served on.

    Args:
        ingest_path: of the ingest socket, which is bound.
        listen: `host:port` of TCP; None for none.
        hosts: names and addresses under which that may be asked; None for no list.

    Raises:
        ConfigurationError: the address cannot be had, or aiohttp is not installed and an address is given.
        SocketInUseError: another process has the address.
    """
    check_installed(listen)
    if not is_installed():
        _log.info("no HTTP: %s", describe_missing())
        return Doors([])
    opened: list[Door] = []
    try:
        admin = listen_beside(ingest_path, ADMIN_NAME)
        opened.append(Door(admin.socket, admin))
    except (MetricsdError, OSError) as error:
        # A second daemon in one directory, one that cannot be written to: events come in all the same.
        _log.warning("no %s: %s", ADMIN_NAME, error)
    if listen is not None:
        try:
            door = _listen_tcp(parse_address(listen))._replace(hosts=hosts)
            opened.append(door)
            _log.info("HTTP waits", extra={"fields": {"listen": str(door.address)}})
        except BaseException:
            Doors(opened).close()
            raise
    return Doors(opened)


def check_installed(listen: str | None) -> None:
    """Make sure that HTTP can be served where it is asked for.

    Raises:
        ConfigurationError: it cannot.
    """
    if listen is not None and not is_installed():
        raise ConfigurationError(describe_missing())


def is_installed() -> bool:
    """Tell whether HTTP can be served, without importing what serves it."""
    from importlib.util import find_spec

    return find_spec(_PACKAGE) is not None


def describe_missing() -> str:
    """Return what to install."""
    return f"HTTP needs the package {_PACKAGE}; install aiokpl-metricsd[{HTTP_EXTRA}]"


def _listen_tcp(address: Address) -> Door:
    connection: socket.socket | None = None
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        connection = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        connection.bind(place)
        connection.listen(STREAM_BACKLOG)
        host, port = connection.getsockname()[:2]
    except OSError as error:
        if connection is not None:
            connection.close()
        kind_of_error = SocketInUseError if error.errno == EADDRINUSE else ConfigurationError
        reason = error.strerror or str(error)
        raise kind_of_error(f"[http] listen: cannot listen on {address}: {reason}") from error
    return Door(connection, None, Address(str(host), int(port)))


__all__ = [
    "ADMIN_NAME",
    "Door",
    "Doors",
    "check_installed",
    "describe_missing",
    "is_installed",
    "open_doors",
]
