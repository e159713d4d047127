"""What a client knows of itself."""

from enum import Enum

from msgspec import Struct


class DropReason(str, Enum):
    """Why the client discards an event. The value is the word that is counted, here and in the ledger.

    `BUFFER_FULL`: the daemon was away or too slow for longer than the buffers last. `VALUE_INVALID`: no
    finite number. `SERIES_INVALID`: a name or dimension that breaks a limit. `FRAME_TOO_LARGE`: the system's
    send buffer cannot hold a frame; the daemon counts it as missing. `CLOSED`: recorded after `close`, or not
    taken by then. `UNSUPPORTED`: the platform has no Unix sockets. `UNACKNOWLEDGED`: a lane had taken it, no
    daemon acknowledged it, and none offers a lane any more; it may have been counted. `FORKED`: it was in a
    buffer when a fork below Python was noticed: the parent's, who sends it, or the child's own, lost.
    """

    BUFFER_FULL = "buffer_full"
    VALUE_INVALID = "value_invalid"
    SERIES_INVALID = "series_invalid"
    FRAME_TOO_LARGE = "frame_too_large"
    CLOSED = "closed"
    UNSUPPORTED = "unsupported"
    UNACKNOWLEDGED = "unacknowledged"
    FORKED = "forked"

    def __str__(self) -> str:
        """Return the word itself, the same on every Python."""
        return self.value


class State(str, Enum):
    """Where the client stands with the daemon."""

    DISABLED = "disabled"
    IDLE = "idle"
    CONNECTED = "connected"
    HELD_BACK = "held_back"
    AWAY = "away"
    UNSUPPORTED = "unsupported"
    CLOSED = "closed"

    def __str__(self) -> str:
        """Return the word itself, the same on every Python."""
        return self.value


class ClientStatistics(Struct, frozen=True):
    """A client's counts since its process began, or since its fork.

    Attributes:
        state: where the client stands with the daemon.
        socket_path: the socket it last connected to, or None.
        problem: why it is not connected, in words; "" when it is.
        series: series with a buffer.
        events_sent: events that the kernel took.
        frames_sent: datagrams that the kernel took.
        bytes_sent: bytes that the kernel took.
        events_pending: events encoded or folded and waiting for the socket; events not yet drained are not
            among them.
        bytes_pending: bytes of the frames that wait, and about what the folded events take in memory.
        events_overflowed: events of series past `max_series`, counted in the overflow series of their name.
        dropped: events discarded, by `DropReason`'s word.
        transport: "lane", "front_door", or "" while it is not connected.
        journaled: what the daemon last acknowledged is on disk, and survives its death.
        events_unacknowledged: those of `events_sent` that a lane has taken and no daemon acknowledged yet.
        bytes_unacknowledged: bytes of their frames, which are kept until then.
        events_folded: events that were folded so far, since the daemon was away or too slow.
    """

    state: State
    socket_path: str | None
    problem: str
    series: int
    events_sent: int
    frames_sent: int
    bytes_sent: int
    events_pending: int
    bytes_pending: int
    events_overflowed: int
    dropped: dict[str, int]
    transport: str = ""
    journaled: bool = False
    events_unacknowledged: int = 0
    bytes_unacknowledged: int = 0
    events_folded: int = 0


__all__ = ["ClientStatistics", "DropReason", "State"]
