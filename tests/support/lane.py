"""A producer on a lane, written by hand from `docs/protocol.md`, and nothing more than it says."""

import select
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.support.polling import TIMEOUT_S

# encode_series of the name "m" and nothing else: [name, kind, unit, dimensions].
SERIES = msgspec.msgpack.encode(["m", None, None, []])


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """What the daemon answers."""

    sequence: int
    refused: int = 0
    journaled: bool = False
    interval_s: float = 0.0
    daemon_id: int = 0


_decode_ack = msgspec.msgpack.Decoder(Ack).decode


def encode_columns(
    producer_id: int,
    sequence: int,
    sent: int,
    values: Sequence[float] = (1.0,),
    second: int = 0,
    padding: int = 0,
) -> bytes:
    """Return a columns frame of the series `m`, longer by `padding`."""
    totals = [sent, {}]
    return msgspec.msgpack.encode(
        [2, producer_id, sequence, totals, [[SERIES, second, list(values)]], bytes(padding)]
    )


class LaneProducer:
    """One connection, with the numbers of its producer.

    Args:
        path: of the front door.
        producer_id: its id.
        sequence: the lowest frame that is not acknowledged.
        sent: events in the frames before that one.
    """

    def __init__(self, path: Path | str, producer_id: int = 7, sequence: int = 1, sent: int = 0) -> None:
        self.producer_id = producer_id
        self.sequence = sequence
        self.sent = sent
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.socket.settimeout(TIMEOUT_S)
            self.socket.connect(f"{path}.lane")
            # With a timeout, Python waits in spite of MSG_DONTWAIT.
            self.socket.setblocking(False)
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

    def say_hello(self) -> None:
        """Send the first message."""
        self.socket.send(msgspec.msgpack.encode([4, self.producer_id, self.sequence, "by hand"]))

    def send(self, *values: float, second: int = 0, padding: int = 0) -> bytes:
        """Send the next frame, without waiting, with these events, or one; return it.

        Raises:
            BlockingIOError: the lane is full; the number is still to be used.
        """
        values = values or (1.0,)
        frame = encode_columns(self.producer_id, self.sequence, self.sent, values, second, padding)
        self.socket.send(frame)
        self.sequence += 1
        self.sent += len(values)
        return frame

    def fill(self, *, padding: int = 0, second: int = 0) -> int:
        """Send frames of one event until the lane is full; return how many."""
        count = 0
        try:
            while True:
                self.send(second=second, padding=padding)
                count += 1
        except BlockingIOError:
            return count

    def read_ack(self) -> Ack:
        """Wait for an answer."""
        return _decode_ack(self.receive())

    def receive(self) -> bytes:
        """Wait for a message, or for the end."""
        waiting = select.poll()
        waiting.register(self.socket, select.POLLIN)
        assert waiting.poll(TIMEOUT_S * 1_000), "no answer"
        return self.socket.recv(1_000)

    def read_acks(self) -> list[Ack]:
        """Return the answers that are there."""
        acks: list[Ack] = []
        try:
            while message := self.socket.recv(1_000):
                acks.append(_decode_ack(message))
        except (BlockingIOError, ConnectionResetError):
            pass
        return acks

    def wait_until_acknowledged(self, sequence: int | None = None) -> Ack:
        """Return the answer that names a frame, or all that were sent."""
        wanted = self.sequence - 1 if sequence is None else sequence
        while (ack := self.read_ack()).sequence < wanted:
            pass
        return ack


__all__ = ["SERIES", "Ack", "LaneProducer", "encode_columns"]
