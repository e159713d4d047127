"""Datagram -> frame, repeats dropped. Never raises: a bad datagram is counted and dropped.

A frame with numbers says what its producer has sent before, so what is missing is known in events. On the
front door, where a frame comes at most once, a lower number than the last one is a repeat and a jump is a
loss.
"""

from msgspec import Struct

from aiokpl_metrics_protocol import (
    AckFrame,
    ColumnsFrame,
    FoldedFrame,
    HelloFrame,
    ProtocolError,
    Reason,
    RowsFrame,
    decode_deferred,
)
from aiokpl_metricsd.ledger import Ledger

# Words for which drops are counted apart: our client has six, and any producer may have its own. Past that,
# and where a word is longer than a word is, they are one.
_MAX_WORDS = 16
_MAX_WORD_CHARS = 40
_OTHER_WORD = "other"

# Producers whose numbers are kept; past it, the one that was first seen goes.
MAX_PRODUCERS = 65_536


class Producer(Struct, gc=False):
    """What is known of one producer.

    Attributes:
        sequence: of its last frame.
        events: it has sent up to and with that frame, by its own count.
        dropped: events that it discarded, as it last reported, by the words of the ledger.
    """

    sequence: int
    events: int
    dropped: dict[str, int]


class Decoder:
    """Decodes datagrams and keeps the producers' numbers.

    Args:
        ledger: where datagrams are counted.
        max_producers: whose numbers are kept.
    """

    def __init__(self, ledger: Ledger, *, max_producers: int = MAX_PRODUCERS) -> None:
        """Know no producer yet."""
        self._ledger = ledger
        self._max_producers = max_producers
        self._producers: dict[int, Producer] = {}

    def decode(self, datagram: bytes | memoryview) -> RowsFrame | ColumnsFrame | FoldedFrame | None:
        """Return the frame, or None when it is rejected or was seen before."""
        ledger = self._ledger
        ledger.datagrams_received += 1
        ledger.bytes_received += len(datagram)
        try:
            frame = decode_deferred(datagram)
        except ProtocolError as error:
            ledger.reject_datagram(error.reason)
            return None
        if isinstance(frame, (ColumnsFrame, FoldedFrame)):
            if not self._admit(frame):
                ledger.datagrams_repeated += 1
                return None
        elif isinstance(frame, (HelloFrame, AckFrame)):
            # They belong on lanes; nobody answers on the front door.
            ledger.reject_datagram(Reason.UNEXPECTED_FRAME)
            return None
        ledger.datagrams_decoded += 1
        return frame

    def reject_decoded(self, reason: Reason) -> None:
        """Count a frame that turned out not to decode, when its rows were looked at."""
        self._ledger.datagrams_decoded -= 1
        self._ledger.reject_datagram(reason)

    def reject_oversized(self, size_bytes: int) -> None:
        """Count a datagram that was too large to be read."""
        self._ledger.datagrams_received += 1
        self._ledger.bytes_received += size_bytes
        self._ledger.reject_datagram(Reason.TOO_LARGE)

    def note_events(self, frame: ColumnsFrame | FoldedFrame, events: int) -> None:
        """Remember how many events the frame carried: the next one's total then tells what is missing."""
        producer = self._producers.get(frame.producer_id)
        if producer is not None:
            producer.events = frame.totals.sent + events

    def _admit(self, frame: ColumnsFrame | FoldedFrame) -> bool:
        totals = frame.totals
        producer = self._producers.get(frame.producer_id)
        if producer is None:
            # What it had sent before it was first seen went to an earlier daemon.
            if len(self._producers) >= self._max_producers:
                del self._producers[next(iter(self._producers))]
            producer = Producer(frame.sequence, totals.sent, {})
            self._producers[frame.producer_id] = producer
        elif frame.sequence <= producer.sequence:
            return False
        else:
            if totals.sent > producer.events:
                self._ledger.events_missing += totals.sent - producer.events
            producer.sequence = frame.sequence
        if totals.dropped:
            self._note_dropped(producer, totals.dropped)
        return True

    def _note_dropped(self, producer: Producer, dropped: dict[str, int]) -> None:
        total = self._ledger.events_dropped_by_clients
        reported: dict[str, int] = {}
        for reason, count in dropped.items():
            # The words are the producer's; their number and length are bounded here.
            room = len(total) < _MAX_WORDS and len(reason) <= _MAX_WORD_CHARS
            word = reason if reason in total or (room and count) else _OTHER_WORD
            reported[word] = reported.get(word, 0) + count
            if count:
                total.setdefault(word, 0)
        for word, count in reported.items():
            more = count - producer.dropped.get(word, 0)
            if more > 0:
                total[word] += more
                producer.dropped[word] = count


__all__ = ["MAX_PRODUCERS", "Decoder", "Producer"]
