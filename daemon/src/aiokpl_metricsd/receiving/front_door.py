"""The datagram socket -> datagrams. All senders share its queue; nobody is answered."""

import socket
from collections.abc import Callable

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.receiver import EMPTY, Queued

# The kernel's queue holds one more than it says (unix(7), read 2026-11): 11 in every pod, 513 where a
# distribution sets 512.
_QUEUE_PATH = "/proc/sys/net/unix/max_dgram_qlen"
_QUEUE_DATAGRAMS = 1_024

# With MSG_TRUNC the kernel returns the datagram's real length, which may exceed the buffer's.
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC


class FrontDoor:
    """Reads a bound datagram socket and hands each datagram on.

    Args:
        connection: the socket.
        handle: takes a datagram; the memory is reused, so it keeps nothing of it. Must not raise.
        handle_oversized: takes the size of a datagram that was larger than any frame.
        queue_datagrams: how many the kernel queues; None asks it.
    """

    def __init__(
        self,
        connection: socket.socket,
        handle: Callable[[memoryview], None],
        handle_oversized: Callable[[int], None],
        *,
        queue_datagrams: int | None = None,
    ) -> None:
        """Read nothing yet."""
        self._socket = connection
        self._handle = handle
        self._handle_oversized = handle_oversized
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._queue_datagrams = read_queue_datagrams() if queue_datagrams is None else queue_datagrams

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def read(self) -> int:
        """Read one datagram and hand it on; return its size, or `EMPTY` when none is queued."""
        try:
            size = self._socket.recv_into(self._buffer, 0, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return EMPTY
        except OSError:
            # Nothing a datagram socket's reader can mend; what is queued stays queued.
            return EMPTY
        if size > MAX_DATAGRAM_BYTES:
            self._handle_oversized(size)
        else:
            self._handle(self._view[:size])
        return size

    def measure_queued(self) -> Queued:
        """Return how many datagrams the queue holds at most; the kernel does not say how many it has."""
        return Queued(datagrams=self._queue_datagrams)


def read_queue_datagrams() -> int:
    """Return how many datagrams the kernel queues here; a large number where it does not say."""
    try:
        with open(_QUEUE_PATH, "rb") as file:  # noqa: PTH123 - pathlib costs memory
            return int(file.read()) + 1
    except (OSError, ValueError):
        return _QUEUE_DATAGRAMS


__all__ = ["FrontDoor", "read_queue_datagrams"]
