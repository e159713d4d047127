"""Datagram -> frame, repeats dropped. Never raises: a bad datagram is counted and dropped.

A frame with numbers says what its producer has sent before, so what is missing is known in events. A number
that is not higher than the producer's last one is a repeat, and a jump is a loss, on the front door, where a
frame comes at most once, and on a lane, where it comes until it is acknowledged.

On a lane, whatever arrives has a place in the producer's row, since it must be acknowledged: a frame that
does not decode takes the number that comes next, and is refused. What has no place in that row (rows, a
frame of another producer, a second hello) is refused without a number. `Passage` keeps one lane's place.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from math import inf

from msgspec import MsgspecError, Struct
from msgspec import msgpack as packing

from aiokpl_metrics_protocol import (
    AckFrame,
    ColumnsFrame,
    DeferredFrame,
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

# Producers whose numbers are kept; past it, those without a lane go first, in the order in which they came
# or their lanes ended.
MAX_PRODUCERS = 65_536

# How long the number of a producer without a lane is kept. One that comes back later has long given up.
KEEP_PRODUCER_S = 24 * 3_600.0

# The highest that a frame can have: 63 bits.
_MAX_SEQUENCE = 2**63 - 1

# What a producer says of itself is not more than this at once, which at a million events a second is 285
# years, nor is a count of ours more than that: with wrong totals nobody is to make numbers that a checkpoint
# cannot hold, which has 64 bits for each.
_MAX_CLAIM = 2**53
_MAX_CLAIMED = 2**62

# Where a producer has only said hello: its first frame says what it had sent before.
_UNKNOWN = -1


class Producer(Struct, array_like=True, gc=False):
    """The account of one producer: sent = before + received + missing.

    It is stored as it stands, so it grows at its end only.

    Attributes:
        sequence: of its last frame.
        sent: events up to and with that frame, by its own count; -1 until a frame told.
        before: events it had sent before it was first seen, which went to an earlier daemon.
        received: events read.
        missing: events that it has sent, by its numbers, and nobody read.
        folded: of those received, the ones that came folded.
        repeated: frames that had been seen before.
        dropped: events that it discarded, as it last reported, by the words of the ledger.
        idle_since: epoch seconds since when it has no lane and no frame came; 0.0 while that is not known.
    """

    sequence: int
    sent: int = _UNKNOWN
    before: int = 0
    received: int = 0
    missing: int = 0
    folded: int = 0
    repeated: int = 0
    dropped: dict[str, int] = {}
    idle_since: float = 0.0


class Passage(Struct):
    """How far one lane has come.

    Attributes:
        producer_id: whose lane it is.
        sequence: of the last frame that has its fate; all before it have theirs.
        refused: frames that were refused.
        software: what the producer says it is.
        read: the highest number read on this lane; less than `sequence` while frames are sent again.
    """

    producer_id: int
    sequence: int
    refused: int = 0
    software: str = ""
    read: int = 0


_encode_producer = packing.Encoder().encode
_decode_producer = packing.Decoder(Producer).decode


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
        # How many lanes each producer has; those without are in order of their going.
        self._lanes: dict[int, int] = {}
        self._without_lane: OrderedDict[int, None] = OrderedDict()
        # For who stores them: which changed, which are stored, and which of those are known no more.
        self._changed: set[int] = set()
        self._stored: set[int] = set()
        self._forgotten: set[int] = set()

    def decode(self, datagram: bytes | memoryview) -> RowsFrame | ColumnsFrame | FoldedFrame | None:
        """Return the frame, or None when it is rejected or was seen before."""
        # Every datagram comes by here: `_decode` written out.
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
                return None
        elif isinstance(frame, (HelloFrame, AckFrame)):
            # They belong on lanes; nobody answers on the front door.
            ledger.reject_datagram(Reason.UNEXPECTED_FRAME)
            return None
        ledger.datagrams_decoded += 1
        return frame

    def open_lane(self, datagram: bytes | memoryview) -> Passage | None:
        """Return the passage of a lane whose first message this is, or None when it is no hello."""
        frame = self._decode(datagram)
        if frame is None:
            return None
        if not isinstance(frame, HelloFrame):
            self._ledger.reject_datagram(Reason.UNEXPECTED_FRAME)
            return None
        self._ledger.datagrams_decoded += 1
        # All below the number that it names has been acknowledged, by this daemon or an earlier one.
        behind = max(frame.sequence - 1, 0)
        producer = self._producers.get(frame.producer_id)
        if producer is None:
            producer = self._add(frame.producer_id, behind)
        self._lanes[frame.producer_id] = self._lanes.get(frame.producer_id, 0) + 1
        self._without_lane.pop(frame.producer_id, None)
        producer.idle_since = 0.0
        self._changed.add(frame.producer_id)
        return Passage(frame.producer_id, max(producer.sequence, behind), 0, frame.software, behind)

    def decode_lane(
        self, datagram: bytes | memoryview, passage: Passage
    ) -> ColumnsFrame | FoldedFrame | None:
        """Return the frame, or None when it is refused or was seen before; the passage goes on either way."""
        frame = self._decode(datagram)
        if frame is None:
            self._refuse_next(passage)
            return None
        if not isinstance(frame, (ColumnsFrame, FoldedFrame)) or frame.producer_id != passage.producer_id:
            self._ledger.reject_datagram(Reason.UNEXPECTED_FRAME)
            passage.refused += 1
            return None
        is_new = self._admit(frame)
        passage.read = max(passage.read, frame.sequence)
        passage.sequence = max(passage.sequence, frame.sequence)
        if not is_new:
            return None
        self._ledger.datagrams_decoded += 1
        return frame

    def close_lane(self, passage: Passage, now: float) -> None:
        """Note at epoch second `now` that a lane is no more."""
        producer_id = passage.producer_id
        left = self._lanes.get(producer_id, 0) - 1
        if left > 0:
            self._lanes[producer_id] = left
            return
        self._lanes.pop(producer_id, None)
        producer = self._producers.get(producer_id)
        if producer is not None:
            producer.idle_since = now
            self._without_lane[producer_id] = None
            self._without_lane.move_to_end(producer_id)
            self._changed.add(producer_id)

    def reject_decoded(self, reason: Reason) -> None:
        """Count a frame that turned out not to decode, when its rows were looked at."""
        self._ledger.datagrams_decoded -= 1
        self._ledger.reject_datagram(reason)

    def reject_oversized(self, size_bytes: int, passage: Passage | None = None) -> None:
        """Count a datagram that was too large to be read, from the front door or on a lane."""
        self.reject_unread(size_bytes, Reason.TOO_LARGE)
        if passage is not None:
            self._refuse_next(passage)

    def reject_unread(self, size_bytes: int, reason: Reason) -> None:
        """Count a datagram that nobody looked into."""
        self._ledger.datagrams_received += 1
        self._ledger.bytes_received += size_bytes
        self._ledger.reject_datagram(reason)

    def note_events(self, frame: ColumnsFrame | FoldedFrame, events: int) -> None:
        """Remember how many events the frame carried: the next one's total then tells what is missing."""
        producer = self._producers.get(frame.producer_id)
        if producer is None:
            return
        producer.sent = frame.totals.sent + events
        if producer.received > _MAX_CLAIMED:
            # Of columns that claim four billion events each. The account goes on as that of a new producer.
            producer.before += producer.received
            producer.received = producer.folded = 0
        producer.received += events
        if frame.__class__ is FoldedFrame:
            producer.folded += events

    @property
    def producer_count(self) -> int:
        """How many producers' numbers are kept."""
        return len(self._producers)

    def read_producers(self) -> Iterator[tuple[int, Producer, int]]:
        """Return each producer's id, its account, which is live, and how many lanes it has.

        Others may run meanwhile: a producer that is forgotten then is left out, and so is one that is new.
        """
        for key in list(self._producers):
            producer = self._producers.get(key)
            if producer is not None:
                yield key, producer, self._lanes.get(key, 0)

    def forget_idle(self, now: float, slice_producers: int) -> Iterator[int]:
        """Forget producers that have no lane and sent nothing for a day, in slices; yield how many went."""
        candidates = list(self._without_lane)
        for start in range(0, len(candidates), slice_producers):
            gone = 0
            for producer_id in candidates[start : start + slice_producers]:
                producer = self._producers.get(producer_id)
                if producer is None or producer_id not in self._without_lane:
                    continue
                if producer.idle_since == 0.0 or producer.idle_since > now:
                    # A frame came since the last look, or the clock was set back.
                    producer.idle_since = now
                    self._changed.add(producer_id)
                elif now - producer.idle_since >= KEEP_PRODUCER_S:
                    self._forget(producer_id)
                    gone += 1
            yield gone

    def dump_changed(self) -> list[tuple[int, bytes]]:
        """Return the producers that changed since the last call, encoded, by their ids."""
        changed, self._changed = self._changed, set()
        self._stored |= changed
        return [(key, _encode_producer(self._producers[key])) for key in changed]

    def forgotten(self) -> list[int]:
        """Return the ids of those that were dumped, and forgotten since the last call."""
        gone, self._forgotten = self._forgotten, set()
        return list(gone)

    def keep_changed(self, changed: Iterable[tuple[int, bytes]], forgotten: Iterable[int]) -> None:
        """Take note that what the last calls returned could not be stored: the next ones return it again."""
        for producer_id, _ in changed:
            if producer_id in self._producers:
                self._changed.add(producer_id)
        self._forgotten.update(each for each in forgotten if each not in self._producers)

    def restore(self, items: Iterable[tuple[int, bytes]]) -> list[MsgspecError]:
        """Know the producers that were dumped, none of which has a lane.

        Those that were idle for longest come first, to be forgotten first; those that were not idle, last.

        Returns:
            What is wrong with those that are not what `dump_changed` returned; they are left out.
        """
        wrong: list[MsgspecError] = []
        restored: list[tuple[float, int]] = []
        for producer_id, blob in items:
            try:
                producer = self._producers[producer_id] = _decode_producer(blob)
            except MsgspecError as error:
                wrong.append(error)
                continue
            self._stored.add(producer_id)
            restored.append((producer.idle_since or inf, producer_id))
        for _, producer_id in sorted(restored):
            self._without_lane[producer_id] = None
        return wrong

    def _decode(self, datagram: bytes | memoryview) -> DeferredFrame | None:
        """Count a datagram and return the frame in it, or None when it is rejected."""
        ledger = self._ledger
        ledger.datagrams_received += 1
        ledger.bytes_received += len(datagram)
        try:
            return decode_deferred(datagram)
        except ProtocolError as error:
            ledger.reject_datagram(error.reason)
            return None

    def _admit(self, frame: ColumnsFrame | FoldedFrame) -> bool:
        """Tell whether a frame is new, and take its number; a repeat is counted."""
        totals = frame.totals
        producer_id = frame.producer_id
        producer = self._producers.get(producer_id)
        if producer is None:
            producer = self._add(producer_id, frame.sequence)
        elif frame.sequence <= producer.sequence:
            producer.repeated += 1
            self._ledger.datagrams_repeated += 1
            self._changed.add(producer_id)
            return False
        if totals.sent != producer.sent:
            self._note_gap(producer, totals.sent)
        producer.sequence = frame.sequence
        producer.idle_since = 0.0
        if totals.dropped:
            self._note_dropped(producer, totals.dropped)
        self._changed.add(producer_id)
        return True

    def _note_gap(self, producer: Producer, sent: int) -> None:
        """Count what a producer has sent by its own total, and what is known of it does not explain."""
        gap = sent - producer.sent
        if producer.sent == _UNKNOWN:
            # What it had sent before it was first seen went to an earlier daemon.
            producer.before = sent
        elif 0 < gap <= _MAX_CLAIM and self._ledger.events_missing + gap <= _MAX_CLAIMED:
            producer.missing += gap
            self._ledger.events_missing += gap
        else:
            # It takes back what it said, or cannot have sent that. The account stays true to what it says
            # now.
            producer.before += gap
        producer.sent = sent

    def _refuse_next(self, passage: Passage) -> None:
        """Take the lane's next number for a frame that is refused, which may have been refused before."""
        passage.refused += 1
        passage.read = min(passage.read + 1, _MAX_SEQUENCE)
        passage.sequence = max(passage.sequence, passage.read)
        producer = self._producers.get(passage.producer_id)
        if producer is not None and producer.sequence < passage.sequence:
            producer.sequence = passage.sequence
            self._changed.add(passage.producer_id)

    def _add(self, producer_id: int, sequence: int) -> Producer:
        if len(self._producers) >= self._max_producers:
            self._forget(next(iter(self._without_lane or self._producers)))
        producer = Producer(sequence)
        self._producers[producer_id] = producer
        self._forgotten.discard(producer_id)
        if producer_id not in self._lanes:
            self._without_lane[producer_id] = None
        return producer

    def _forget(self, producer_id: int) -> None:
        del self._producers[producer_id]
        self._without_lane.pop(producer_id, None)
        self._changed.discard(producer_id)
        if producer_id in self._stored:
            self._stored.discard(producer_id)
            self._forgotten.add(producer_id)

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
            if 0 < more <= _MAX_CLAIM and total[word] + more <= _MAX_CLAIMED:
                total[word] += more
                producer.dropped[word] = count


__all__ = ["KEEP_PRODUCER_S", "MAX_PRODUCERS", "Decoder", "Passage", "Producer"]
