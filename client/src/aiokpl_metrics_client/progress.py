"""How far one producer's frames have come, in counts that agree. Pure: each step gives another `Progress`."""

from typing import NamedTuple


class Progress(NamedTuple):
    """The counts. Replaced whole, so that a reader in any thread sees those of one moment."""

    frames_made: int = 0
    frames_sent: int = 0
    events_sent: int = 0
    bytes_sent: int = 0
    # Of frames that wait; what is folded waits beside them.
    events_pending: int = 0
    bytes_pending: int = 0
    events_in_fold: int = 0
    bytes_in_fold: int = 0
    # All that was ever folded.
    events_folded: int = 0
    events_unacknowledged: int = 0
    bytes_unacknowledged: int = 0
    events_given_up: int = 0
    is_journaled: bool = False
    events_overflowed: int = 0
    # Dropped here, for want of room, or because the system cannot send them: what a flush could not hand
    # over.
    events_without_room: int = 0
    events_unsendable: int = 0
    events_too_large: int = 0

    def after_making(self, events: int, size: int, *, folded: bool) -> "Progress":
        """Return what it is with one more frame that waits, of events that were folded or were not."""
        return self._replace(
            frames_made=self.frames_made + 1,
            events_pending=self.events_pending + events,
            bytes_pending=self.bytes_pending + size,
            events_in_fold=self.events_in_fold - (events if folded else 0),
        )

    def after_sending(self, events: int, size: int, *, is_kept: bool) -> "Progress":
        """Return what it is when the kernel has taken a frame that waited; it may be kept for its ack."""
        return self._replace(
            frames_sent=self.frames_sent + 1,
            events_sent=self.events_sent + events,
            bytes_sent=self.bytes_sent + size,
            events_pending=self.events_pending - events,
            bytes_pending=self.bytes_pending - size,
            events_unacknowledged=self.events_unacknowledged + (events if is_kept else 0),
            bytes_unacknowledged=self.bytes_unacknowledged + (size if is_kept else 0),
            is_journaled=self.is_journaled and is_kept,
        )

    def after_refusal(self, events: int, size: int) -> "Progress":
        """Return what it is when a frame that waited is too large for the system."""
        return self._replace(
            events_pending=self.events_pending - events,
            bytes_pending=self.bytes_pending - size,
            events_unsendable=self.events_unsendable + events,
            events_too_large=self.events_too_large + events,
        )

    def after_ack(self, events: int, size: int, *, is_journaled: bool) -> "Progress":
        """Return what it is when frames that were kept are acknowledged."""
        return self._replace(
            is_journaled=is_journaled,
            events_unacknowledged=self.events_unacknowledged - events,
            bytes_unacknowledged=self.bytes_unacknowledged - size,
        )

    def after_giving_up(self, events: int) -> "Progress":
        """Return what it is when all frames that were kept are dropped."""
        return self._replace(
            events_unacknowledged=0,
            bytes_unacknowledged=0,
            events_given_up=self.events_given_up + events,
            events_unsendable=self.events_unsendable + events,
        )

    def after_discarding(self, events: int) -> "Progress":
        """Return what it is when all that waits is dropped."""
        return self._replace(
            events_pending=0,
            bytes_pending=0,
            events_in_fold=0,
            bytes_in_fold=0,
            events_unsendable=self.events_unsendable + events,
        )


class Mark(NamedTuple):
    """What was encoded or folded at some moment: frames up to `sequence`, and the fold after `unfolds`."""

    sequence: int
    unfolds: int | None


__all__ = ["Mark", "Progress"]
