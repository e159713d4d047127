"""What goes into the outbox and what comes back: values that know neither tables nor threads."""

from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from aiokpl_metricsd.snapshot import MetricSnapshot

Batch = Sequence[MetricSnapshot]


class Cut(Struct, frozen=True):
    """A window as one sink is to get it.

    Attributes:
        sink: the sink's name.
        window_id: the same for all snapshots of the window.
        window_end: epoch seconds.
        batches: the window's parts, each of whole series. The same object in several cuts of one commit is
            stored once.
    """

    sink: str
    window_id: str
    window_end: float
    batches: tuple[Batch, ...]


class StoredWindow(Struct, frozen=True):
    """A window that waits for one sink.

    Attributes:
        number: ascending over all windows and sinks, for ever.
        sink: the sink's name.
        window_id: of the cut.
        window_end: epoch seconds.
        counts: snapshots of each part; 0 where the part is settled.
        attempted: the parts that `attempt` noted and nothing has settled since.
    """

    number: int
    sink: str
    window_id: str
    window_end: float
    counts: tuple[int, ...]
    attempted: frozenset[int] = frozenset()


class Mark(Struct, frozen=True):
    """What became of a part of a stored window.

    Attributes:
        number: the window's.
        part: its index in `counts`.
        remaining: what still waits, and was not attempted; None or empty: the part is done.
    """

    number: int
    part: int
    remaining: Batch | None = None


class OpenPart(Struct, frozen=True):
    """What a window that is still open holds so far.

    Attributes:
        number: of the window.
        start: epoch second, included.
        end: epoch second, excluded.
        events: in it.
        blobs: returns its series, encoded. Called in the store's thread, a second time where a full disk
            made the first one fail.
    """

    number: int
    start: int
    end: int
    events: int
    blobs: Callable[[], Iterator[bytes]]


class RecoveredPart(Struct, frozen=True):
    """An `OpenPart` as the last checkpoint has it.

    Attributes:
        number: of the window.
        start: epoch second, included.
        end: epoch second, excluded.
        events: in it.
        blobs: its series, as they were encoded.
    """

    number: int
    start: int
    end: int
    events: int
    blobs: tuple[bytes, ...]


class Sealed(Struct, frozen=True):
    """A checkpoint: what the daemon knew at the moment it sealed, beside the windows that it closed.

    Attributes:
        position: the journal's segment up to which, itself excluded, all this holds.
        closed_until: end of the newest closed window.
        last_number: of the newest window.
        ledger: the daemon's, encoded.
        opened: the windows that are still open; they take the place of the stored ones.
        producers: those that changed, encoded, by their ids.
        forgotten: ids of producers that are known no longer.
    """

    position: int
    closed_until: int
    last_number: int
    ledger: bytes
    opened: tuple[OpenPart, ...] = ()
    producers: Sequence[tuple[int, bytes]] = ()
    forgotten: Sequence[int] = ()


class SinkAccount(Struct, frozen=True):
    """What a sink's ledger says, and what the sink remembers.

    Attributes:
        ledger: encoded.
        state: what the sink dumped; None keeps the stored one.
        marks: what became of parts that the ledger and the state speak of. What is recovered has none.
    """

    ledger: bytes
    state: bytes | None = None
    marks: tuple[Mark, ...] = ()


class Evicted(Struct, frozen=True):
    """A window that went to make room, or what was left of it.

    Attributes:
        sink: the sink's name.
        number: the window's.
        snapshots: how many had no fate yet.
    """

    sink: str
    number: int
    snapshots: int


class Committed(Struct, frozen=True):
    """What became of a commit.

    Attributes:
        stored: one for each cut, in their order. One without a snapshot is stored nowhere: nothing is to be
            settled.
        evicted: the windows that went to make room; one of `stored` only where no other was left.
    """

    stored: list[StoredWindow]
    evicted: list[Evicted]


class RecoveredSink(Struct, frozen=True):
    """What is stored for one sink.

    Attributes:
        account: the last one; None where there is none. Its ledger may count more as waiting than `windows`
            hold: what was evicted after it was written, or could not be stored. That is lost.
        windows: those that wait, oldest first.
        merging: what is held for a longer window.
        removed_at: epoch seconds at which `note_sinks` first missed it; None while it is configured.
        max_age_s: how old its windows may become, as `note_sinks` was last told.
    """

    account: SinkAccount | None
    windows: list[StoredWindow]
    merging: list[MetricSnapshot]
    removed_at: float | None
    max_age_s: float | None


class Recovered(Struct, frozen=True):
    """What the last daemon left.

    Attributes:
        position: the first segment of the journal to be replayed; 0 where there was no checkpoint.
        closed_until: end of the newest closed window; 0 where there was no checkpoint.
        last_number: of the newest window.
        ledger: the daemon's, encoded; None where there was no checkpoint.
        opened: the windows that were open, oldest first.
        producers: encoded, by their ids.
        sinks: what is stored, by the sink's name; those that the configuration no longer has included.
    """

    position: int
    closed_until: int
    last_number: int
    ledger: bytes | None
    opened: list[RecoveredPart]
    producers: list[tuple[int, bytes]]
    sinks: dict[str, RecoveredSink]


__all__ = [
    "Batch",
    "Committed",
    "Cut",
    "Evicted",
    "Mark",
    "OpenPart",
    "Recovered",
    "RecoveredPart",
    "RecoveredSink",
    "Sealed",
    "SinkAccount",
    "StoredWindow",
]
