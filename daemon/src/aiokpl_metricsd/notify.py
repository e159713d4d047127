"""States of the daemon -> systemd, as datagrams to `NOTIFY_SOCKET`. Never raises and never waits.

Without the variable, which only a unit of `Type=notify` has, nothing is sent.
The words are those of sd_notify(3), read 2026-11.
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

ENVIRONMENT_VARIABLE = "NOTIFY_SOCKET"


def notify_ready(environ: Mapping[str, str] = os.environ) -> None:
    """Say that the daemon reads, at its start or after a reload."""
    _notify("READY=1", environ)


def notify_reloading(environ: Mapping[str, str] = os.environ) -> None:
    """Say that a reload begins; `notify_ready` says that it is over."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
    _notify(f"RELOADING=1\nMONOTONIC_USEC={microseconds}", environ)


def notify_stopping(environ: Mapping[str, str] = os.environ) -> None:
    """Say that the daemon hands over what it has, and ends."""
    _notify("STOPPING=1", environ)


def _notify(text: str, environ: Mapping[str, str]) -> None:
    address = environ.get(ENVIRONMENT_VARIABLE, "")
    if not address:
        return
    if address.startswith("@"):
        # An abstract one.
        address = "\0" + address[1:]
    with (
        # ValueError: a NUL within.
        suppress(OSError, ValueError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as door,
    ):
        door.connect(address)
        door.send(text.encode())


__all__ = ["ENVIRONMENT_VARIABLE", "notify_ready", "notify_reloading", "notify_stopping"]
