"""A Unix socket whose descriptor stays ours: no other file that gets its number is written to, or closed.

An application may close all descriptors, and the next file that it opens has the number of our socket. So a
socket goes with its identity, what no other open file has, and is compared with that before each use.
"""

import errno
import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import socket

# Below it are standard input, output and error: where a process has closed one, its `print` would write into
# whatever got the number.
_FIRST_DESCRIPTOR = 3

# A file's device and its number there.
Identity: TypeAlias = tuple[int, int]

# Of what is not open.
NOTHING: Identity = (0, 0)


def make_socket(kind: int) -> "socket.socket":
    """Return a Unix socket that no `print` writes into.

    Raises:
        OSError: there is no descriptor, or another thread took this one for something else.
    """
    import socket

    # Not inheritable, as every descriptor that Python opens: no subprocess gets it.
    connection = socket.socket(socket.AF_UNIX, kind)
    if connection.fileno() >= _FIRST_DESCRIPTOR:
        return connection
    identity = identify(connection)
    # Those that take the low numbers meanwhile, each with what it was when we got it.
    number = connection.detach()
    held = [(number, identity)]
    try:
        while number < _FIRST_DESCRIPTOR:
            number = os.dup(number)
            held.append((number, _identify_number(number)))
        connection = socket.socket(socket.AF_UNIX, kind, 0, number)
        held.pop()
    finally:
        for number, was in held:
            if _identify_number(number) == was:
                os.close(number)
    try:
        check(connection, identity)
    except OSError:
        # It is a copy of what has our first number by now.
        connection.close()
        raise
    return connection


def identify(connection: "socket.socket") -> Identity:
    """Return what no other open file has; `NOTHING` where the descriptor is closed."""
    return _identify_number(connection.fileno())


def _identify_number(number: int) -> Identity:
    try:
        status = os.fstat(number)
    except OSError:
        return NOTHING
    return status.st_dev, status.st_ino


def is_still(connection: "socket.socket", identity: Identity) -> bool:
    """Tell whether a descriptor is open, and what it was when it was identified."""
    return identity != NOTHING and identify(connection) == identity


def wait_for(descriptor: int, timeout_s: float, *, reads: bool, writes: bool) -> bool | None:
    """Wait until a socket is ready. Return whether it is for writing, or None where that cannot be told."""
    import select

    try:
        if not hasattr(select, "poll"):
            # Libraries of green threads take it away, since they cannot make it wait without a thread.
            watched = [descriptor]
            ready = select.select(watched if reads else (), watched if writes else (), (), timeout_s)
            return bool(ready[1])
        poll = select.poll()
        poll.register(descriptor, (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0))
        found = poll.poll(max(1, int(timeout_s * 1000)))
    except (OSError, ValueError):
        return None
    return bool(found) and bool(found[0][1] & select.POLLOUT)


def check(connection: "socket.socket", identity: Identity) -> None:
    """Refuse a descriptor that is no longer what it was.

    Raises:
        OSError: it is closed, or another file's by now.
    """
    if not is_still(connection, identity):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def close(connection: "socket.socket", identity: Identity) -> None:
    """Close a socket; where somebody did so and the number is another file's by now, leave that alone."""
    if is_still(connection, identity):
        connection.close()
    else:
        connection.detach()


__all__ = ["NOTHING", "Identity", "check", "close", "identify", "is_still", "make_socket", "wait_for"]
