"""The listening socket -> connections, refused past a limit or without a descriptor.

An `accept` that fails leaves the connection where it is, and the loop calls again at once: 450,000 times a
second (measured). So a descriptor is kept in reserve, to accept and refuse with; and when even that fails,
the socket is left alone for a while.
"""

import errno
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from aiokpl_metrics_protocol import AckFrame, encode
from aiokpl_metricsd.ledger import LaneRefusal
from aiokpl_metricsd.receiver import EMPTY, Queued

# As many as wait to be accepted at most (`net.core.somaxconn`, Linux's default, read 2026-11).
MAX_LANES = 4_096

# Descriptors left to everything else: HTTP takes 40, sinks some each, files the rest.
_RESERVE_DESCRIPTORS = 128

# What accepting costs, in bytes read: fairness is a matter of bytes. A turn accepts 16.
_COST_BYTES = 4 * 1024

# A pass over all sources accepts as many.
_PASS_CONNECTIONS = 256

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)

# No daemon has the id 0: it says that the lane is refused, and that the front door is open.
_REFUSAL = encode(AckFrame(0))


class LaneLimits(Struct, frozen=True):
    """How many lanes there may be.

    Attributes:
        lanes: in all.
        user_lanes: of one user.
    """

    lanes: int
    user_lanes: int


def build_limits() -> LaneLimits:
    """Return what the process's limit on open files leaves; one user may take three quarters of it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = MAX_LANES if soft == resource.RLIM_INFINITY else soft - _RESERVE_DESCRIPTORS
    lanes = max(1, min(MAX_LANES, descriptors))
    return LaneLimits(lanes, max(1, lanes * 3 // 4))


class Acceptor:
    """Accepts the connections of a listening socket, as a source that is read.

    Args:
        listener: non-blocking, listening.
        admit: takes a connection, or answers why it is refused.
        count_refused: told why a connection was refused.
        pause: asked to leave the socket alone for a while.
    """

    def __init__(
        self,
        listener: socket.socket,
        admit: Callable[[socket.socket], LaneRefusal | None],
        count_refused: Callable[[LaneRefusal], None],
        pause: Callable[[], None],
    ) -> None:
        """Accept nothing yet."""
        self._listener = listener
        self._admit = admit
        self._count_refused = count_refused
        self._pause = pause
        self._spare = -1
        self._keep_spare()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._listener.fileno()

    def read(self) -> int:
        """Accept one connection; return what that cost, or `EMPTY` when none waits."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                return self._refuse_one()
            if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED, errno.EINVAL, errno.EBADF):
                self._pause()
            return EMPTY
        reason = self._admit(connection)
        if reason is not None:
            self._refuse(connection, reason)
        return _COST_BYTES

    def measure_queued(self) -> Queued:
        """Return how many connections are accepted in one go; the kernel does not say how many wait."""
        return Queued(datagrams=_PASS_CONNECTIONS)

    def close(self) -> None:
        """Accept what waits, then close the socket. Its path must be gone, so that no more come."""
        while self.read() >= 0:
            pass
        self._listener.close()
        self._let_spare_go()

    def _refuse_one(self) -> int:
        """Refuse a connection by means of the descriptor in reserve."""
        self._let_spare_go()
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self._pause()
            return EMPTY
        else:
            self._refuse(connection, LaneRefusal.DESCRIPTORS)
            return _COST_BYTES
        finally:
            self._keep_spare()

    def _refuse(self, connection: socket.socket, reason: LaneRefusal) -> None:
        self._count_refused(reason)
        with connection, suppress(OSError):
            connection.send(_REFUSAL, socket.MSG_DONTWAIT)

    def _keep_spare(self) -> None:
        if self._spare < 0:
            with suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _let_spare_go(self) -> None:
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)


__all__ = ["MAX_LANES", "Acceptor", "LaneLimits", "build_limits"]
