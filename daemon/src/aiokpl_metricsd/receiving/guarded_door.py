"""The datagram socket -> the datagrams of those who may send; the others' are counted and dropped.

Each datagram brings its sender's credentials along, which costs a microsecond more; so this door is taken
only where the operator lists who may send.
"""

import socket
from collections.abc import Callable

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES, Reason
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.receiver import EMPTY
from aiokpl_metricsd.receiving.admission import CREDENTIALS, Admission, read_sender
from aiokpl_metricsd.receiving.front_door import FrontDoor

# With MSG_TRUNC the kernel returns the datagram's real length, which may exceed the buffer's.
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC | socket.MSG_CMSG_CLOEXEC

# Not `CMSG_SPACE`: the padding would have room for a descriptor. Credentials come first.
_CONTROL_BYTES = socket.CMSG_LEN(CREDENTIALS.size)


class GuardedDoor(FrontDoor):
    """Reads a bound datagram socket and hands on what comes from those who may send.

    The socket must have been asked for credentials before it was bound, since what was sent earlier has none.

    Args:
        connection: the socket.
        handle: takes a datagram; the memory is reused, so it keeps nothing of it. Must not raise.
        decoder: counts what is not handed on.
        admission: says who may send.
        queue_datagrams: how many the kernel queues; None asks it.
    """

    def __init__(
        self,
        connection: socket.socket,
        handle: Callable[[memoryview], None],
        decoder: Decoder,
        admission: Admission,
        *,
        queue_datagrams: int | None = None,
    ) -> None:
        """Read nothing yet."""
        super().__init__(connection, handle, decoder.reject_oversized, queue_datagrams=queue_datagrams)
        self._decoder = decoder
        self._admission = admission
        self._buffers = [self._buffer]

    def read(self) -> int:
        """Read one datagram and hand it on, or count it as refused; return its size, or `EMPTY`."""
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into(self._buffers, _CONTROL_BYTES, _FLAGS)
        except OSError:
            # None is queued, or nothing that a reader can mend.
            return EMPTY
        if not self._admission.admits(read_sender(ancillary)):
            self._decoder.reject_unread(size, Reason.NOT_ALLOWED)
        elif size > MAX_DATAGRAM_BYTES:
            self._handle_oversized(size)
        else:
            self._handle(self._view[:size])
        return size


def build_door(
    connection: socket.socket,
    handle: Callable[[memoryview], None],
    decoder: Decoder,
    admission: Admission | None,
) -> FrontDoor:
    """Return the front door: guarded where only some may send."""
    if admission is None:
        return FrontDoor(connection, handle, decoder.reject_oversized)
    return GuardedDoor(connection, handle, decoder, admission)


__all__ = ["GuardedDoor", "build_door"]
