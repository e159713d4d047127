"""What a client knows of itself."""

from enum import Enum

from msgspec import Struct


class DropReason(str, Enum):
    """Why the client discards an event. The value is the word that is counted, here and in the ledger.

    `BUFFER_FULL`: the daemon was away or too slow for longer than the buffers last. `VALUE_INVALID`: no
    finite number. `SERIES_INVALID`: a name or dimension that breaks a limit. `FRAME_TOO_LARGE`: the system's
    send buffer cannot hold a frame; the daemon counts it as missing. `CLOSED`: recorded after `close`, or not
    taken by then. `UNSUPPORTED`: the platform has no Unix sockets.
    """

    BUFFER_FULL = "buffer_full"
    VALUE_INVALID = "value_invalid"
    SERIES_INVALID = "series_invalid"
    FRAME_TOO_LARGE = "frame_too_large"
    CLOSED = "closed"
    UNSUPPORTED = "unsupported"

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
        events_pending: events encoded and waiting for the socket; events not yet encoded are not among them.
        bytes_pending: bytes of the frames that wait.
        events_overflowed: events of series past `max_series`, counted in the overflow series of their name.
        dropped: events discarded, by `DropReason`'s word.
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


__all__ = ["ClientStatistics", "DropReason", "State"]
