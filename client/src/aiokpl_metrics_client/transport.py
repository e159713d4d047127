"""Frame -> socket. Never blocks but in `wait`, never raises; says what became of the frame."""

import errno
import importlib
import os
import time
from enum import Enum
from typing import TYPE_CHECKING

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, is_trusted_directory, socket_candidates

if TYPE_CHECKING:
    import socket

# The kernel is short of memory for now: the same as a full queue (reasoned from unix(7); never seen).
_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM, errno.EINTR})

# The kernel's own bytes come on top of a datagram's.
_SEND_BUFFER_BYTES = 2 * MAX_DATAGRAM_BYTES

# Where the kernel calls the socket writable and still refuses (another producer was quicker, or memory is
# short), the next try waits a little longer each time.
_REFUSED_PAUSE_S = 0.001
_MAX_REFUSED_PAUSES = 20


class Outcome(Enum):
    """What became of a frame."""

    SENT = "sent"
    FULL = "full"
    AWAY = "away"
    TOO_LARGE = "too_large"


class Transport:
    """A connected Unix datagram socket, found and connected when there is something to send.

    Args:
        path: the socket's path; where None, the usual places are looked through at each connection.
    """

    def __init__(self, path: str | None) -> None:
        """Open nothing yet."""
        self._path = path
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] = (0, 0)
        self._refusals = 0
        self.connected_path: str | None = None
        self.problem = ""
        self.supported = True

    def send(self, data: bytes) -> Outcome:
        """Hand one frame to the kernel, if it takes it at once."""
        connection = self._socket
        if connection is None or not self._is_ours(connection):
            connection = self._connect()
            if connection is None:
                return Outcome.AWAY
        try:
            connection.send(data, self._flags)
        except OSError as error:
            if error.errno in _FULL:
                self._refusals += 1
                return Outcome.FULL
            if error.errno == errno.EMSGSIZE:
                return Outcome.TOO_LARGE
            # The daemon went: ECONNREFUSED first, ENOTCONN from then on (measured on Linux 6.18). Anything
            # else is no better: a new connection tells.
            self.problem = f"{self.connected_path}: {error.strerror or error}"
            self.close()
            return Outcome.AWAY
        self._refusals = 0
        return Outcome.SENT

    def wait(self, timeout_s: float) -> bool:
        """Wait until the socket takes another frame. Return False at once when there is no connection.

        POLLOUT is reliable on a connected datagram socket; on an unconnected one it lies (measured).
        """
        connection = self._socket
        if connection is None:
            return False
        import select

        poll = select.poll()
        try:
            poll.register(connection.fileno(), select.POLLOUT)
            ready = poll.poll(max(1, int(timeout_s * 1000)))
        except (OSError, ValueError):
            return False
        if ready and self._refusals > 1:
            pauses = min(self._refusals, _MAX_REFUSED_PAUSES)
            time.sleep(min(timeout_s, pauses * _REFUSED_PAUSE_S))
        return True

    def close(self) -> None:
        """Close the socket. The next `send` opens a new one."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        if self._is_ours(connection):
            connection.close()
        else:
            # Somebody closed our descriptor and the number is another file's by now: leave it alone.
            connection.detach()

    def _is_ours(self, connection: "socket.socket") -> bool:
        """Tell whether the descriptor still is the socket that we opened, and no other file by its number."""
        try:
            status = os.fstat(connection.fileno())
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _connect(self) -> "socket.socket | None":
        self.close()
        import socket

        if not hasattr(socket, "AF_UNIX"):
            self.supported = False
            self.problem = "this platform has no Unix sockets"
            return None
        self._flags = socket.MSG_DONTWAIT
        candidates = socket_candidates() if self._path is None else (self._path,)
        problem = f"no daemon listens at {' or '.join(candidates)}"
        for path in candidates:
            if self._path is None and not is_trusted_directory(path):
                continue
            try:
                return self._open(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                problem = f"{path}: {getattr(error, 'strerror', None) or error}"
        self.problem = problem
        return None

    def _open(self, path: str) -> "socket.socket":
        import socket

        # Not inheritable, as every descriptor that Python opens: no subprocess gets it.
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connection.setblocking(False)  # noqa: FBT003 - its only argument
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < _SEND_BUFFER_BYTES:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            connection.connect(path)
            status = os.fstat(connection.fileno())
        except BaseException:
            connection.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        self._socket = connection
        self._refusals = 0
        self.connected_path = path
        self.problem = ""
        return connection

    _flags = 0


def load_modules() -> None:
    """Import what sending needs, in the caller's thread.

    The sender's thread imports nothing: a process that forks in the midst of another thread's import
    deadlocks in the child as soon as that imports the same module (seen on 3.10 to 3.13). They are not
    imported with this module, since `socket` takes half as long as the whole rest of the client.
    """
    for name in ("select", "socket"):
        importlib.import_module(name)


__all__ = ["Outcome", "Transport", "load_modules"]
