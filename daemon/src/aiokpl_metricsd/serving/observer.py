"""The daemon's parts -> samples of its own metrics, the page, the statement. Reads, and changes nothing."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from aiokpl_metricsd import __version__
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.lanes import Lanes
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.rendering.exposition import EOF_LINE, Form
from aiokpl_metricsd.serving import own_metrics as own
from aiokpl_metricsd.serving.own_metrics import Sample
from aiokpl_metricsd.serving.producers import list_producers
from aiokpl_metricsd.serving.resuming import Resuming
from aiokpl_metricsd.serving.scrape import Scrapes
from aiokpl_metricsd.serving.statement import (
    IngestStatement,
    JournalStatement,
    OutboxStatement,
    SinkStatement,
    Statement,
    StoreState,
    clean_text,
    list_losses,
)
from aiokpl_metricsd.sinks.scraped import ScrapedSink


class JournalView(Protocol):
    """What is seen of the journal."""

    is_writable: bool
    last_error: str
    segments_damaged: int
    records_set_aside: int

    @property
    def size_bytes(self) -> int:
        """On disk."""
        ...


class OutboxView(Protocol):
    """What is seen of the outbox."""

    @property
    def size_bytes(self) -> int:
        """Of what is stored."""
        ...

    @property
    def is_failing(self) -> bool:
        """Whether the last transaction failed."""
        ...

    @property
    def last_error(self) -> str:
        """Why the last one that failed did."""
        ...

    @property
    def failures(self) -> int:
        """Transactions that failed."""
        ...

    @property
    def set_aside(self) -> Path | None:
        """The damaged database that was found at the start."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is observed of one daemon.

    Attributes:
        ledger: of what came in.
        decoder: knows the producers.
        aggregator: of what is open.
        registry: of the series.
        windows: the open ones.
        delivery: of what went out.
        lanes: None where none are offered.
        journal: None where frames are in memory alone.
        outbox: None where windows are.
        socket: where events come in.
    """

    ledger: Ledger
    decoder: Decoder
    aggregator: Aggregator
    registry: Registry
    windows: Windows
    delivery: Delivery
    lanes: Lanes | None = None
    journal: JournalView | None = None
    outbox: OutboxView | None = None
    socket: str = ""


class Requests:
    """What HTTP has answered.

    Attributes:
        served: requests, by path and status.
        refused: connections.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.served: dict[tuple[str, int], int] = {}
        self.refused = 0

    def note(self, path: str, status: int) -> None:
        """Count a request. The paths are the server's own, so there are few."""
        self.served[path, status] = self.served.get((path, status), 0) + 1


class Observer:
    """Reads the counters of one daemon.

    Args:
        parts: the daemon's.
        started: epoch seconds when the daemon started; what no state directory keeps counts from then.
        monotonic: seconds.
    """

    def __init__(self, parts: Parts, started: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet."""
        self._parts = parts
        self._started = started
        self._kept = () if parts.outbox is None else own.KEPT
        self.scraped: Mapping[str, ScrapedSink] = {}
        self.requests = Requests()
        self.scrapes = Scrapes(self._count_scrapable, monotonic)
        self.resuming = Resuming(parts.delivery, monotonic)

    def collect(self) -> list[Sample]:
        """Return every metric of the daemon as it is now."""
        return list(self._collect())

    def render(self, form: Form) -> Iterator[str]:
        """Return the whole page, in slices."""
        yield own.encode_samples(form, self.collect(), self._started, kept=self._kept)
        for sink in self.scraped.values():
            yield from sink.render(form)
        if form is Form.OPENMETRICS:
            yield EOF_LINE

    def read_statement(self, time: Callable[[], float]) -> Iterator[Statement | None]:
        """Return the statement of everything, last, and None after each slice before it.

        All but the producers is of one moment, so that the equations balance.

        Args:
            time: epoch seconds.
        """
        parts = self._parts
        producers = yield from list_producers(parts.decoder.read_producers(), self._read_software)
        ingest, sinks = self._state_ingest(), self._state_sinks()
        journal = _state_journal(parts.journal)
        outbox = _state_outbox(parts.outbox, parts.delivery)
        yield Statement(
            __version__,
            clean_text(parts.socket),
            self._started,
            time(),
            list_losses(ingest.ledger, sinks, journal, outbox),
            ingest,
            producers,
            sinks,
            journal,
            outbox,
        )

    def _count_scrapable(self) -> tuple[int, int]:
        """Return the events that have come in, and the snapshots of sinks that are scraped."""
        ledger, ledgers = self._parts.ledger, self._parts.delivery.ledgers
        scraped = [ledgers[name] for name in self.scraped if name in ledgers]
        lost = sum(ledger.events_refused.values()) + ledger.events_unreadable
        return ledger.events_decoded - lost, sum(each.delivered for each in scraped)

    def _read_software(self) -> Mapping[int, str]:
        return {} if self._parts.lanes is None else self._parts.lanes.read_software()

    def _state_ingest(self) -> IngestStatement:
        parts = self._parts
        events_open = parts.aggregator.events_open
        lanes_open = 0 if parts.lanes is None else len(parts.lanes)
        balance = {
            "datagrams": parts.ledger.balance_datagrams(),
            "events": parts.ledger.balance_events(events_open),
            "lanes": parts.ledger.balance_lanes(lanes_open),
        }
        opened = len(parts.windows.opened)
        return IngestStatement(
            parts.ledger.as_dict(), events_open, opened, lanes_open, len(parts.registry), balance
        )

    def _state_sinks(self) -> dict[str, SinkStatement]:
        delivery = self._parts.delivery
        queues, removed = delivery.queue_windows, delivery.removed_sinks
        statements: dict[str, SinkStatement] = {}
        for name, ledger in delivery.ledgers.items():
            columns = replace(
                ledger,
                dropped_by_reason=dict(ledger.dropped_by_reason),
                last_error=clean_text(ledger.last_error),
            )
            refused = dict(self.scraped[name].refused) if name in self.scraped else {}
            statements[name] = SinkStatement(
                columns, queues.get(name, 0), name in removed, refused, ledger.balance()
            )
        return statements

    def _collect(self) -> Iterator[Sample]:
        parts = self._parts
        yield from own.collect_columns(own.INGEST, parts.ledger.as_dict(), reasons=own.INGEST_REASONS)
        yield Sample(own.EVENTS_OPEN, float(parts.aggregator.events_open))
        yield Sample(own.WINDOWS_OPEN, float(len(parts.windows.opened)))
        yield Sample(own.SERIES, float(len(parts.registry)))
        yield Sample(own.LANES_OPEN, 0.0 if parts.lanes is None else float(len(parts.lanes)))
        yield Sample(own.PRODUCERS, float(parts.decoder.producer_count))
        yield from _collect_journal(_state_journal(parts.journal))
        yield from _collect_outbox(_state_outbox(parts.outbox, parts.delivery))
        queues = parts.delivery.queue_windows
        for name, ledger in parts.delivery.ledgers.items():
            labels = (("sink", name),)
            yield from own.collect_columns(own.SINK, ledger.as_dict(), labels, reasons=own.SINK_REASONS)
            yield Sample(own.SINK_QUEUE, float(queues[name]), labels)
        for name, sink in self.scraped.items():
            labels = (("sink", name),)
            yield Sample(own.SCRAPED_SERIES, float(sink.series_count), labels)
            for reason, count in sink.refused.items():
                yield Sample(own.SCRAPED_REFUSED, float(count), (*labels, ("reason", reason)))
        for (path, status), count in self.requests.served.items():
            yield Sample(own.HTTP_SERVED, float(count), (("path", path), ("status", str(status))))
        yield Sample(own.HTTP_REFUSED, float(self.requests.refused))
        yield from own.collect_process(self._started)


def _state_journal(journal: JournalView | None) -> JournalStatement:
    if journal is None:
        return JournalStatement()
    return JournalStatement(
        StoreState.JOURNALED if journal.is_writable else StoreState.FAILING,
        journal.size_bytes,
        clean_text(journal.last_error),
        journal.segments_damaged,
        journal.records_set_aside,
    )


def _state_outbox(outbox: OutboxView | None, delivery: Delivery) -> OutboxStatement:
    if outbox is None:
        return OutboxStatement()
    return OutboxStatement(
        StoreState.FAILING if outbox.is_failing else StoreState.STORED,
        outbox.size_bytes,
        clean_text(outbox.last_error),
        outbox.failures,
        "" if outbox.set_aside is None else clean_text(str(outbox.set_aside)),
        delivery.unstored_windows,
    )


def _collect_journal(journal: JournalStatement) -> Iterator[Sample]:
    if journal.state is StoreState.MEMORY:
        return
    yield Sample(own.JOURNAL_BYTES, float(journal.size_bytes))
    yield Sample(own.JOURNAL_FAILING, float(journal.state is StoreState.FAILING))
    yield Sample(own.SEGMENTS_DAMAGED, float(journal.segments_damaged))
    yield Sample(own.RECORDS_SET_ASIDE, float(journal.records_set_aside))


def _collect_outbox(outbox: OutboxStatement) -> Iterator[Sample]:
    if outbox.state is StoreState.MEMORY:
        return
    yield Sample(own.OUTBOX_BYTES, float(outbox.size_bytes))
    yield Sample(own.OUTBOX_FAILING, float(outbox.state is StoreState.FAILING))
    yield Sample(own.OUTBOX_FAILED, float(outbox.failures))
    yield Sample(own.OUTBOX_SET_ASIDE, float(bool(outbox.set_aside)))
    yield Sample(own.WINDOWS_UNSTORED, float(outbox.unstored_windows))


def name_own_metrics() -> Sequence[str]:
    """Return the names that the daemon keeps for itself."""
    return [metric.name for metric in own.ALL]


__all__ = ["JournalView", "Observer", "OutboxView", "Parts", "Requests", "name_own_metrics"]
