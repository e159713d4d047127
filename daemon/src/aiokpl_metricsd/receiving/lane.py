"""One lane: a connection to one producer, read like any source, on which acknowledgements go back.

ECONNRESET and EPIPE are not its end: when the producer died with acknowledgements that it had not read, the
first `recv` raises in front of what is still queued, which nobody can send again. The end is an empty read.
"""

import array
import errno
import fcntl
import select
import socket
import termios
from contextlib import suppress
from typing import Protocol

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from aiokpl_metricsd.decoder import Passage
from aiokpl_metricsd.ledger import LaneEnd
from aiokpl_metricsd.receiver import BROKEN, EMPTY, END, Queued
from aiokpl_metricsd.receiving.admission import CREDENTIALS

# With MSG_TRUNC the kernel returns the message's real length, which may exceed the buffer's.
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC

# Reads until the end may fail so often in a row: one that goes on failing never gets there.
_MAX_ERRORS = 3


class LaneKeeper(Protocol):
    """Who has the lane. Nothing here may raise."""

    def take(self, lane: "Lane", message: memoryview) -> None:
        """Take a message; its memory is reused."""
        ...

    def take_oversized(self, lane: "Lane", size_bytes: int) -> None:
        """Take note of a message that was larger than any frame."""
        ...

    def note_end(self, lane: "Lane") -> None:
        """Take note that nothing more is read; `lane.end` says why."""
        ...


class Lane:
    """A connection that was accepted.

    Args:
        connection: of the kind SOCK_SEQPACKET, connected.
        buffer: of `MAX_DATAGRAM_BYTES`; what is read goes there, so all lanes may share it.
        keeper: is told what comes.

    Attributes:
        uid: of the user who connected, as seen from here.
        passage: how far it has come; None until the hello.
        frames: new ones that were read since they were last acknowledged.
        answer: the acknowledgement that was made last.
        is_unjournaled: a frame that it names, and none before it, is in memory only.
        is_deaf: nothing that is sent gets to the other end.
        end: why nothing more is read; None as long as it is.
    """

    def __init__(self, connection: socket.socket, buffer: bytearray, keeper: LaneKeeper) -> None:
        """Read nothing yet."""
        self._socket = connection
        connection.settimeout(0)
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._keeper = keeper
        self._errors = 0
        self.uid = read_uid(connection)
        self.passage: Passage | None = None
        self.frames = 0
        self.answer = b""
        self.is_unjournaled = False
        self.is_deaf = False
        self.end: LaneEnd | None = None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def read(self) -> int:
        """Read one message and hand it on; return its size, or what else `Source.read` may."""
        if self.end is not None:
            return END
        try:
            size = self._socket.recv_into(self._buffer, 0, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return EMPTY
        except OSError:
            self._errors += 1
            if self._errors < _MAX_ERRORS:
                return BROKEN
            size = 0
        if size == 0:
            self.end = LaneEnd.CLOSED if self._is_hung_up() else LaneEnd.EMPTY_MESSAGE
        elif size > MAX_DATAGRAM_BYTES:
            self._errors = 0
            self._keeper.take_oversized(self, size)
        else:
            self._errors = 0
            self._keeper.take(self, self._view[:size])
        if self.end is None:
            return size
        self._keeper.note_end(self)
        return END

    def measure_queued(self) -> Queued:
        """Return the bytes of all messages that are queued (unix(7), SIOCINQ, read 2026-11)."""
        count = array.array("i", [0])
        # Where even that fails, the next read tells why.
        with suppress(OSError):
            fcntl.ioctl(self._socket, termios.FIONREAD, count)
        return Queued(size_bytes=count[0])

    def send(self, message: bytes) -> int:
        """Send without waiting. Return 0, or the number of the error that says to try again later.

        After any other error the lane is deaf, and 0 is returned.
        """
        try:
            self._socket.send(message, socket.MSG_DONTWAIT)
        except InterruptedError:
            return errno.EAGAIN
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                return error.errno
            self.is_deaf = True
        return 0

    def take_no_more(self) -> None:
        """Have the other end told that nothing is taken any more; what is queued stays readable."""
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            self._errors += 1

    def close(self) -> None:
        """Close the connection. The loop must watch it no more."""
        self._socket.close()

    def _is_hung_up(self) -> bool:
        """Tell whether an empty read was the end, and not an empty message, which reads the same."""
        watch = select.poll()
        watch.register(self._socket, select.POLLRDHUP)
        return bool(watch.poll(0)) or self._errors > 0


def read_uid(connection: socket.socket) -> int:
    """Return the user who connected, across namespaces; -1 where the kernel does not say."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    except OSError:
        return -1
    uid: int = CREDENTIALS.unpack(raw)[1]
    return uid


__all__ = ["Lane", "LaneKeeper", "read_uid"]
