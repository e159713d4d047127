"""What a daemon says of itself in one piece: what came in, who sent it, what went out, where it is kept.

`/ledger` sends it as JSON and `status` prints it. The columns have the names that they have in the ledgers,
in the log's last line and in `docs/operations.md`. A `balance` is what an equation does not explain: 0, or
there is a fault in the daemon.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.serving import own_metrics as own
from aiokpl_metricsd.serving.own_metrics import OwnMetric

Columns = dict[str, int | dict[str, int]]


class StoreState(StrEnum):
    """Where something is kept. The value is the word that is shown."""

    MEMORY = "memory"
    JOURNALED = "journaled"
    STORED = "stored"
    FAILING = "failing"


class Loss(Struct, frozen=True):
    """Something that was measured and reaches no backend, or not this one.

    Attributes:
        column: of the ledger.
        count: how much.
        meaning: in a sentence, which says what is counted.
        sink: whose loss it is; "" where it is everybody's.
        reason: the word by which it is counted; "" where there is none.
    """

    column: str
    count: int
    meaning: str
    sink: str = ""
    reason: str = ""


class IngestStatement(Struct, frozen=True):
    """What came in.

    Attributes:
        ledger: its columns.
        events_open: events in windows that are open.
        windows_open: these windows.
        lanes_open: lanes.
        series: that the daemon knows.
        balance: of each equation, by what it counts: `datagrams`, `events`, `lanes`.
    """

    ledger: Columns
    events_open: int
    windows_open: int
    lanes_open: int
    series: int
    balance: dict[str, int]


class ProducerStatement(Struct):
    """The account of one producer, or the sum of several: sent = before + received + missing.

    Attributes:
        id: the beginning of a hash of its id, which is nobody else's business; "" of a sum.
        software: what it says it is, while it has a lane.
        lanes: that it has.
        sent: events, by its own count.
        before: of these, the ones that went to an earlier daemon.
        received: events read.
        missing: events sent and never read.
        folded: of those received, the ones that came folded.
        repeated: frames that had been seen before.
        dropped: events that it discarded, by its own words.
        balance: of the equation.
    """

    id: str = ""
    software: str = ""
    lanes: int = 0
    sent: int = 0
    before: int = 0
    received: int = 0
    missing: int = 0
    folded: int = 0
    repeated: int = 0
    dropped: dict[str, int] = {}
    balance: int = 0


class ProducersStatement(Struct, frozen=True):
    """All producers that number their frames.

    Attributes:
        known: how many there are.
        listed: those of whom most was received, in this order.
        rest: the sum of the others.
    """

    known: int
    listed: list[ProducerStatement]
    rest: ProducerStatement


class SinkStatement(Struct, frozen=True):
    """The account of one sink.

    Attributes:
        ledger: its columns, in snapshots.
        queue_windows: windows that are not wholly delivered.
        is_removed: the configuration does not have it any more; its windows wait until they expire.
        page_refused: of a sink that is scraped, the snapshots that the page cannot show, by reason.
        balance: of the equation.
    """

    ledger: SinkLedger
    queue_windows: int
    is_removed: bool
    page_refused: dict[str, int]
    balance: int


class JournalStatement(Struct, frozen=True):
    """Where frames are kept until the next checkpoint.

    Attributes:
        state: memory, journaled or failing.
        size_bytes: on disk.
        last_error: why it last failed; "" where it did not.
        segments_damaged: of which a part could not be read when the daemon started.
        records_set_aside: frames that killed too many starts.
    """

    state: StoreState = StoreState.MEMORY
    size_bytes: int = 0
    last_error: str = ""
    segments_damaged: int = 0
    records_set_aside: int = 0


class OutboxStatement(Struct, frozen=True):
    """Where windows wait for their backends.

    Attributes:
        state: memory, stored or failing.
        size_bytes: of the snapshots that are stored.
        last_error: why it last failed; "" where it did not.
        failures: transactions that failed.
        set_aside: the damaged database that was found when the daemon started; "" where there was none.
        unstored_windows: windows, one for each sink, that waited in memory as the outbox could not be
            written.
    """

    state: StoreState = StoreState.MEMORY
    size_bytes: int = 0
    last_error: str = ""
    failures: int = 0
    set_aside: str = ""
    unstored_windows: int = 0


class Statement(Struct, frozen=True):
    """The whole.

    Attributes:
        version: of the daemon.
        socket: where it takes events; "" where that is not said.
        started: epoch seconds when it started.
        time: epoch seconds of this statement.
        losses: all that is lost; empty where nothing is.
        ingest: what came in.
        producers: who sent it.
        sinks: what went out, by the sink's name.
        journal: where frames are kept.
        outbox: where windows wait.
    """

    version: str
    socket: str
    started: float
    time: float
    losses: list[Loss]
    ingest: IngestStatement
    producers: ProducersStatement
    sinks: dict[str, SinkStatement]
    journal: JournalStatement
    outbox: OutboxStatement

    def list_faults(self) -> list[str]:
        """Name the equations that do not balance, with the difference."""
        balances = dict(self.ingest.balance)
        for each in (*self.producers.listed, self.producers.rest):
            balances[f"producer {each.id or 'rest'}"] = each.balance
        balances |= {f"sink {name}": each.balance for name, each in self.sinks.items()}
        return [f"{name}: {balance:+d}" for name, balance in balances.items() if balance]


def list_losses(
    ingest: Columns,
    sinks: Mapping[str, SinkStatement],
    journal: JournalStatement,
    outbox: OutboxStatement,
) -> list[Loss]:
    """Return what is lost: the columns whose metrics mean data loss, and what the disk did not give back."""
    losses = list(_list_columns(own.INGEST, ingest))
    for name, sink in sinks.items():
        columns: Columns = {
            column: getattr(sink.ledger, column) for column in own.SINK if hasattr(sink.ledger, column)
        }
        losses += _list_columns(own.SINK, columns, name)
        losses += _list_counts("page_refused", own.SCRAPED_REFUSED.help, sink.page_refused, name)
    if journal.segments_damaged:
        losses.append(Loss("segments_damaged", journal.segments_damaged, own.SEGMENTS_DAMAGED.help))
    if journal.records_set_aside:
        losses.append(Loss("records_set_aside", journal.records_set_aside, own.RECORDS_SET_ASIDE.help))
    if outbox.set_aside:
        meaning = f"{own.OUTBOX_SET_ASIDE.help} It is {outbox.set_aside}."
        losses.append(Loss("outbox_set_aside", 1, meaning))
    return losses


def clean_text(text: str) -> str:
    """Return the text with what no JSON can carry, half of a character, written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _list_columns(metrics: Mapping[str, OwnMetric], columns: Columns, sink: str = "") -> Iterable[Loss]:
    for column, metric in metrics.items():
        if not metric.data_loss:
            continue
        value = columns.get(column, 0)
        counts = value if isinstance(value, dict) else {"": value}
        # Where reasons are told apart, the column of their sum is called so.
        yield from _list_counts(column.removesuffix("_by_reason"), metric.help, counts, sink)


def _list_counts(column: str, meaning: str, counts: Mapping[str, int], sink: str) -> Iterator[Loss]:
    for reason, count in counts.items():
        if count:
            yield Loss(column, count, meaning, sink, reason)


__all__ = [
    "Columns",
    "IngestStatement",
    "JournalStatement",
    "Loss",
    "OutboxStatement",
    "ProducerStatement",
    "ProducersStatement",
    "SinkStatement",
    "Statement",
    "StoreState",
    "clean_text",
    "list_losses",
]
