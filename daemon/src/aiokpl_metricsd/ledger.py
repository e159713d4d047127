"""What came in and what became of it, in datagrams and events. The sums balance, or the code is wrong.

    datagrams received = decoded + repeated + rejected by reason
    events decoded     = in open windows + in closed windows + refused by reason + unreadable
    lanes accepted     = open + ended by reason

Sinks have a ledger each, in `sink_ledger`.
"""

from enum import StrEnum

import msgspec

from aiokpl_metrics_protocol import Reason

# MessagePack has integers of 64 bits; what goes on from here still fits.
_MAX_COUNT = 2**63 - 1


class LaneRefusal(StrEnum):
    """Why a lane was refused. The value is the word that is counted."""

    LANES = "too_many_lanes"
    USER = "too_many_of_user"
    DESCRIPTORS = "no_descriptor"
    NOT_ALLOWED = "not_allowed"


class LaneEnd(StrEnum):
    """Why a lane ended. The value is the word that is counted."""

    CLOSED = "closed"
    NO_HELLO = "no_hello"
    EMPTY_MESSAGE = "empty_message"
    STOPPED = "stopped"


class Ledger:
    """The counts of one daemon since it started, or since its state began.

    Attributes:
        bytes_received: of all datagrams.
        datagrams_received: read from the socket, and messages read from lanes.
        datagrams_decoded: that became frames.
        datagrams_repeated: whose number had been seen.
        datagrams_rejected: by reason.
        events_decoded: events in frames that decoded; a folded set counts as the events in it.
        events_refused: events that broke a limit, by reason.
        events_closed: events in windows that closed.
        events_folded: of those decoded, the ones that came folded.
        events_late: counted in a later window than their own.
        events_early: counted in an earlier window than their own.
        events_overflowed: counted in the overflow series of their name.
        events_missing: sent by a producer, by its own numbers, and never read.
        events_unreadable: of windows that were open at a checkpoint which could not be read again.
        events_dropped_by_clients: discarded by producers, as they report it, by their word.
        frames_unjournaled: of lanes, acknowledged while they were in memory only.
        lanes_accepted: connections that became lanes.
        lanes_refused: connections that did not, by reason.
        lanes_ended: lanes that are no more, by reason.
        series_conflicts: series declared with another kind or unit than the one that holds.
        clock_steps: times the wall clock jumped back by more than a window.
    """

    __slots__ = (
        "bytes_received",
        "clock_steps",
        "datagrams_decoded",
        "datagrams_received",
        "datagrams_rejected",
        "datagrams_repeated",
        "events_closed",
        "events_decoded",
        "events_dropped_by_clients",
        "events_early",
        "events_folded",
        "events_late",
        "events_missing",
        "events_overflowed",
        "events_refused",
        "events_unreadable",
        "frames_unjournaled",
        "lanes_accepted",
        "lanes_ended",
        "lanes_refused",
        "series_conflicts",
    )

    def __init__(self) -> None:
        """Start at zero."""
        self.bytes_received = 0
        self.datagrams_received = 0
        self.datagrams_decoded = 0
        self.datagrams_repeated = 0
        self.datagrams_rejected: dict[Reason, int] = {}
        self.events_decoded = 0
        self.events_refused: dict[Reason, int] = {}
        self.events_closed = 0
        self.events_folded = 0
        self.events_late = 0
        self.events_early = 0
        self.events_overflowed = 0
        self.events_missing = 0
        self.events_unreadable = 0
        self.events_dropped_by_clients: dict[str, int] = {}
        self.frames_unjournaled = 0
        self.lanes_accepted = 0
        self.lanes_refused: dict[LaneRefusal, int] = {}
        self.lanes_ended: dict[LaneEnd, int] = {}
        self.series_conflicts = 0
        self.clock_steps = 0

    def reject_datagram(self, reason: Reason) -> None:
        """Count a datagram that is refused whole."""
        self.datagrams_rejected[reason] = self.datagrams_rejected.get(reason, 0) + 1

    def refuse_events(self, reason: Reason, count: int) -> None:
        """Count events that broke a limit."""
        self.events_refused[reason] = self.events_refused.get(reason, 0) + count

    def refuse_lane(self, reason: LaneRefusal) -> None:
        """Count a connection that became no lane."""
        self.lanes_refused[reason] = self.lanes_refused.get(reason, 0) + 1

    def end_lane(self, reason: LaneEnd) -> None:
        """Count a lane that is no more."""
        self.lanes_ended[reason] = self.lanes_ended.get(reason, 0) + 1

    def balance_datagrams(self) -> int:
        """Return received less the rest: 0."""
        rejected = sum(self.datagrams_rejected.values())
        return self.datagrams_received - self.datagrams_decoded - self.datagrams_repeated - rejected

    def balance_events(self, events_open: int) -> int:
        """Return decoded less the rest, given the events in open windows: 0."""
        lost = sum(self.events_refused.values()) + self.events_unreadable
        return self.events_decoded - events_open - self.events_closed - lost

    def balance_lanes(self, lanes_open: int) -> int:
        """Return accepted less the rest, given the open ones: 0."""
        return self.lanes_accepted - lanes_open - sum(self.lanes_ended.values())

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Return every count by its name; those by reason as a mapping."""
        counts: dict[str, int | dict[str, int]] = {}
        for name in self.__slots__:
            value: int | dict[str, int] = getattr(self, name)
            counts[name] = (
                {str(key): number for key, number in value.items()} if isinstance(value, dict) else value
            )
        return counts

    def dump(self) -> bytes:
        """Return every count, for a checkpoint."""
        return msgspec.msgpack.encode({name: _limit(value) for name, value in self.as_dict().items()})

    def restore(self, dumped: bytes) -> None:
        """Count on from a checkpoint. The lanes that were open then have ended with the daemon.

        Raises:
            msgspec.MsgspecError: it is not what `dump` returned.
        """
        counts = msgspec.msgpack.decode(dumped, type=dict[str, int | dict[str, int]])
        for name in self.__slots__:
            # A count that is new in this version begins at zero; a word that is gone keeps its count.
            value = counts.get(name, getattr(self, name))
            words = _WORDS.get(name)
            if isinstance(value, dict) and words is not None:
                value = {_read_word(words, word): number for word, number in value.items()}
            setattr(self, name, value)
        left = self.balance_lanes(0)
        if left > 0:
            self.lanes_ended[LaneEnd.STOPPED] = self.lanes_ended.get(LaneEnd.STOPPED, 0) + left


# The words by which counts are kept apart, where they are ours.
_WORDS: dict[str, type[Reason] | type[StrEnum]] = {
    "datagrams_rejected": Reason,
    "events_refused": Reason,
    "lanes_ended": LaneEnd,
    "lanes_refused": LaneRefusal,
}


def _limit(value: int | dict[str, int]) -> int | dict[str, int]:
    """Return a count as far as a checkpoint can hold it: columns that claim billions of events add up."""
    if isinstance(value, dict):
        return {word: min(count, _MAX_COUNT) for word, count in value.items()}
    return min(value, _MAX_COUNT)


def _read_word(words: type[Reason] | type[StrEnum], word: str) -> str:
    try:
        return words(word)
    except ValueError:
        return word


__all__ = ["LaneEnd", "LaneRefusal", "Ledger"]
