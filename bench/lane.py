"""The producer's end of a lane, bare: prepared frames go out, acknowledgements are read, and that is all.

It keeps the one rule of our client that the daemon notices: at most `WINDOW_BYTES` are unacknowledged.
"""

import socket
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec

from aiokpl_metrics_protocol import AckFrame, HelloFrame, encode
from bench.samples import MeasurementError

# aiokpl_metrics_client: bytes that are sent and not acknowledged.
WINDOW_BYTES = 262_144

_TIMEOUT_S = 60.0
_ACK_BYTES = 1_000

_decode_ack = msgspec.msgpack.Decoder(AckFrame).decode


class LaneClient:
    """One connection to `PATH.lane`, of a producer whose first frame has the number 1.

    Args:
        path: of the front door.
        producer_id: its id.
        sequence: the lowest frame that is not acknowledged.
    """

    def __init__(self, path: str, producer_id: int, sequence: int = 1) -> None:
        """Connect, and say hello."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._waiting: deque[int] = deque()
        self._waiting_bytes = 0
        self._acknowledged = sequence - 1
        try:
            self.socket.connect(f"{path}.lane")
            self.socket.settimeout(_TIMEOUT_S)
            self.socket.send(encode(HelloFrame(producer_id, sequence, "bench")))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.socket.close()

    def read_ack(self) -> AckFrame:
        """Wait for an acknowledgement.

        Raises:
            MeasurementError: the daemon refused, hung up, or did not write down what it acknowledges.
        """
        message = self.socket.recv(_ACK_BYTES)
        if not message:
            raise MeasurementError("the daemon closed the lane")
        ack = _decode_ack(message)
        if not ack.daemon_id or ack.refused:
            raise MeasurementError(f"the daemon refused: {ack}")
        if not ack.journaled:
            raise MeasurementError("the daemon does not write its journal")
        return ack

    def send_all(self, frames: Sequence[bytes]) -> None:
        """Send frames with the numbers that follow, and return when all of them are acknowledged."""
        waiting = self._waiting
        for frame in frames:
            while waiting and self._waiting_bytes + len(frame) > WINDOW_BYTES:
                self._settle(self.read_ack().sequence)
            self.socket.send(frame)
            waiting.append(len(frame))
            self._waiting_bytes += len(frame)
        while waiting:
            self._settle(self.read_ack().sequence)

    def _settle(self, sequence: int) -> None:
        while self._acknowledged < sequence and self._waiting:
            self._acknowledged += 1
            self._waiting_bytes -= self._waiting.popleft()


__all__ = ["WINDOW_BYTES", "LaneClient"]
