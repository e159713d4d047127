"""Socket -> datagrams, in bounded turns of the event loop."""

import asyncio
import socket
from collections.abc import Callable

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.clock import Clock

# A turn reads at most this much in all, so that timers and sinks get their time: with a bound by number, full
# queues of large datagrams held the loop up for 4 s (measured).
TURN_BYTES = 64 * 1024
TURN_S = 0.010

# A pass reads what is queued now: the kernel's queue holds `net.unix.max_dgram_qlen` + 1 datagrams, 11 by
# default and in every pod, 513 where a distribution sets 512.
PASS_DATAGRAMS = 1_024


class Receiver:
    """Reads a non-blocking datagram socket and hands each datagram on.

    Args:
        connection: the bound socket.
        handle: takes a datagram; the memory is reused, so it keeps nothing of it. Must not raise.
        handle_oversized: takes the size of a datagram that was larger than any frame.
        clock: bounds a turn.
    """

    def __init__(
        self,
        connection: socket.socket,
        handle: Callable[[memoryview], None],
        handle_oversized: Callable[[int], None],
        clock: Clock,
    ) -> None:
        """Read nothing yet."""
        self._socket = connection
        self._handle = handle
        self._handle_oversized = handle_oversized
        self._monotonic = clock.monotonic
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._view = memoryview(self._buffer)
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read from now on, whenever something is queued."""
        self._loop = loop
        loop.add_reader(self._socket.fileno(), self.read_turn)

    def detach(self) -> None:
        """Read no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None

    def read_turn(self) -> None:
        """Read until the socket is empty or the turn over; the loop calls again while something is queued."""
        deadline = self._monotonic() + TURN_S
        left = TURN_BYTES
        while left > 0:
            size = self._read()
            if size < 0:
                return
            left -= size
            if self._monotonic() >= deadline:
                return

    def read_pass(self) -> None:
        """Read what is queued now, but not for ever what comes meanwhile."""
        for _ in range(PASS_DATAGRAMS):
            if self._read() < 0:
                return

    def drain(self) -> None:
        """Read to the end; the socket must take nothing any more."""
        while self._read() >= 0:
            pass

    def _read(self) -> int:
        """Read one datagram and hand it on; return its size, or -1 when none is queued."""
        try:
            # With MSG_TRUNC the kernel returns the datagram's real length, which may exceed the buffer's.
            size = self._socket.recv_into(self._buffer, 0, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return -1
        except OSError:
            # Nothing a datagram socket's reader can mend; what is queued stays queued.
            return -1
        if size > MAX_DATAGRAM_BYTES:
            self._handle_oversized(size)
        else:
            self._handle(self._view[:size])
        return size


_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC

__all__ = ["PASS_DATAGRAMS", "TURN_BYTES", "TURN_S", "Receiver"]
