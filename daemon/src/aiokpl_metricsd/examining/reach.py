"""Where a backend is -> whether it can be reached: its name, TCP, TLS, and the time that it says.

Each step has its own error, since each is mended elsewhere. Resolving a name cannot be cancelled, so a thread
does it that keeps no process alive.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import Any

from msgspec import Struct

from aiokpl_metricsd import __version__
from aiokpl_metricsd.sinks.contract import Endpoint

# An answer's head is read up to here.
_MAX_HEAD_BYTES = 16 * 1024

# Addresses of one name that are tried, one after the other.
_MAX_ADDRESSES = 4

Resolve = Callable[[str, int], list[str]]


class UnreachableError(Exception):
    """A backend cannot be reached.

    Attributes:
        advice: what to do.
    """

    def __init__(self, message: str, advice: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.advice = advice


class Reached(Struct, frozen=True):
    """How a backend was reached.

    Attributes:
        words: in a few words.
        date: epoch seconds, by its own clock, in the middle of the second that it said; None where it said
            none.
        asked_at: epoch seconds when that was, by ours.
    """

    words: str
    date: float | None = None
    asked_at: float = 0.0


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name. Blocks.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def reach(
    endpoint: Endpoint, timeout_s: float, wall_clock: Callable[[], float], resolve: Resolve = resolve
) -> Reached:
    """Connect to a backend and, where it speaks HTTP, ask it for the time.

    Args:
        endpoint: where it is.
        timeout_s: how long each step may take.
        wall_clock: epoch seconds.
        resolve: returns the addresses of a name; blocks.

    Raises:
        UnreachableError: it cannot be reached; says why.
    """
    place = f"{endpoint.host}:{endpoint.port}"
    addresses = await _resolve(endpoint, timeout_s, resolve)
    connection = await _connect(place, addresses[:_MAX_ADDRESSES], endpoint.port, timeout_s)
    reader, writer = await _greet(endpoint, place, connection, timeout_s)
    words = f"{place} answers over {'TLS' if endpoint.tls is not None else 'TCP'}"
    try:
        if not endpoint.speaks_http:
            return Reached(words)
        before = wall_clock()
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(timeout_s):
                head = await _ask_head(reader, writer, endpoint.host)
            date = read_date(head)
            if date is not None:
                # A date has whole seconds: it is half a second later than it says, on average.
                return Reached(words, date + 0.5, (before + wall_clock()) / 2)
        return Reached(f"{words}, and does not say the time")
    finally:
        writer.close()


async def _resolve(endpoint: Endpoint, timeout_s: float, resolve: Resolve) -> list[str]:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str] | None, error: Exception | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(addresses or [])

    def work() -> None:
        addresses, caught = None, None
        try:
            addresses = resolve(endpoint.host, endpoint.port)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            caught = error
        # The loop may be gone.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, addresses, caught)

    Thread(target=work, name="resolve", daemon=True).start()
    try:
        addresses = await asyncio.wait_for(found, timeout_s)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    else:
        if addresses:
            return addresses
        reason = "it has no address"
    raise UnreachableError(
        f"{endpoint.host}: the name cannot be resolved: {reason}",
        "look at the name, and at DNS where the daemon runs (in Kubernetes dnsPolicy and network policies)",
    )


async def _connect(place: str, addresses: list[str], port: int, timeout_s: float) -> socket.socket:
    reason = ""
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.wait_for(
                asyncio.get_running_loop().sock_connect(connection, (address, port)), timeout_s
            )
        except TimeoutError:
            reason = f"no answer within {timeout_s:g} s"
        except OSError as error:
            # asyncio writes the address into the words, which is shown already.
            reason = os.strerror(error.errno) if error.errno else str(error)
        else:
            return connection
        connection.close()
    raise UnreachableError(
        f"{place}: no connection: {reason}",
        "look whether it runs, at the port, and at firewalls, security groups and network policies between",
    )


async def _greet(
    endpoint: Endpoint, place: str, connection: socket.socket, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls: dict[str, Any] = (
        {} if endpoint.tls is None else {"ssl": endpoint.tls, "server_hostname": endpoint.host}
    )
    advice = "look whether it speaks TLS at this port, and whether something between takes TLS apart"
    try:
        return await asyncio.wait_for(asyncio.open_connection(sock=connection, **tls), timeout_s)
    except ssl.SSLCertVerificationError as error:
        advice = "trust the authority that signed it, or look who answers there; see the sink's page"
        reason = f"its certificate is not accepted: {error.verify_message or error.reason}"
    except TimeoutError:
        reason = f"no greeting within {timeout_s:g} s"
    except (OSError, ValueError) as error:
        reason = (
            getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or "it hung up"
        )
    connection.close()
    raise UnreachableError(f"{place}: no TLS: {reason or 'it hung up'}", advice)


async def _ask_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> bytes:
    shown = f"[{host}]" if ":" in host else host
    request = (
        f"HEAD / HTTP/1.1\r\nHost: {shown}\r\nUser-Agent: aiokpl-metricsd/{__version__}\r\n"
        "Connection: close\r\n\r\n"
    )
    writer.write(request.encode("ascii", "replace"))
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_BYTES:
        part = await reader.read(_MAX_HEAD_BYTES)
        if not part:
            break
        head += part
    return head


def read_date(head: bytes) -> float | None:
    """Return what the header Date of an answer says, in epoch seconds; None where there is none to use."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"date":
            with suppress(ValueError, TypeError, OverflowError):
                return parsedate_to_datetime(value.decode("latin-1").strip()).timestamp()
    return None


__all__ = ["Reached", "UnreachableError", "reach", "read_date", "resolve"]
