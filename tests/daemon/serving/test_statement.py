"""The daemon's parts -> one statement: complete, balanced, and open about what is lost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest

from aiokpl_metrics_protocol import ColumnsFrame, EventsFrame, MetricEvent, Reason, RowsFrame, encode
from aiokpl_metricsd.decoder import Decoder
from aiokpl_metricsd.delivering.sink_ledger import DropReason, SinkLedger
from aiokpl_metricsd.delivery import Delivery
from aiokpl_metricsd.journal import Journal
from aiokpl_metricsd.outbox import Outbox
from aiokpl_metricsd.rendering.exposition import Form
from aiokpl_metricsd.serving import own_metrics
from aiokpl_metricsd.serving.observer import JournalView, Observer, OutboxView, Parts
from aiokpl_metricsd.serving.statement import (
    Columns,
    JournalStatement,
    Loss,
    OutboxStatement,
    SinkStatement,
    Statement,
    StoreState,
    list_losses,
)
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from tests.daemon.aggregation import BEGIN, Bench
from tests.support.lane import encode_columns


class Accounts:
    """What a delivery shows of itself."""

    def __init__(self, ledgers: Mapping[str, SinkLedger], removed: Sequence[str] = ()) -> None:
        self.ledgers = ledgers
        self.queue_windows = dict.fromkeys(ledgers, 1)
        self.removed_sinks = removed
        self.unstored_windows = 0


class Desk:
    """A decoder and an aggregator whose statement can be read."""

    def __init__(
        self,
        accounts: Accounts | None = None,
        journal: JournalView | None = None,
        outbox: OutboxView | None = None,
    ) -> None:
        self.bench = Bench()
        self.decoder = Decoder(self.bench.ledger)
        parts = Parts(
            ledger=self.bench.ledger,
            decoder=self.decoder,
            aggregator=self.bench.aggregator,
            registry=self.bench.registry,
            windows=self.bench.windows,
            delivery=cast("Delivery", Accounts({}) if accounts is None else accounts),
            journal=journal,
            outbox=outbox,
            socket="/run/x/metrics.sock",
        )
        self.observer = Observer(parts, float(BEGIN))

    def take(self, datagram: bytes) -> None:
        frame = self.decoder.decode(datagram)
        aggregator = self.bench.aggregator
        if isinstance(frame, RowsFrame):
            aggregator.add_rows(frame.events, float(BEGIN))
        elif isinstance(frame, ColumnsFrame):
            self.decoder.note_events(frame, aggregator.add_columns(frame.columns, float(BEGIN)))

    def read(self) -> Statement:
        """Return the statement as it is after its way as JSON."""
        *nothing, statement = self.observer.read_statement(lambda: float(BEGIN + 1))
        assert not any(nothing)
        assert statement is not None
        return msgspec.json.decode(msgspec.json.encode(statement), type=Statement)

    def read_page(self) -> dict[str, float]:
        """Return the samples of the page; of those with labels, one."""
        lines = "".join(self.observer.render(Form.OPENMETRICS)).splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name.partition("{")[0]: float(value) for name, _, value in samples}


def test_a_daemon_that_did_nothing_has_lost_nothing() -> None:
    statement = Desk().read()
    assert statement.losses == []
    assert statement.list_faults() == []
    assert statement.ingest.balance == {"datagrams": 0, "events": 0, "lanes": 0}
    assert (statement.socket, statement.started, statement.time) == ("/run/x/metrics.sock", BEGIN, BEGIN + 1)
    assert (statement.journal, statement.outbox) == (JournalStatement(), OutboxStatement())
    assert statement.journal.state is statement.outbox.state is StoreState.MEMORY


def test_a_page_without_a_state_directory_has_nothing_of_it_and_says_since_when_it_counts() -> None:
    desk = Desk()
    desk.take(encode_columns(7, 1, 0, [1.0]))
    page = desk.read_page()
    assert not [name for name in page if "journal_" in name or "outbox" in name]
    assert page["metricsd_events_decoded_created"] == BEGIN
    assert (page["metricsd_producers"], page["metricsd_open_lanes"]) == (1.0, 0.0)


def test_what_came_in_is_stated_and_balances() -> None:
    desk = Desk()
    desk.take(encode(EventsFrame([MetricEvent("a", 1.0, 0.0)] * 3)))
    desk.take(encode_columns(7, 1, 0, [1.0, 2.0]))
    desk.take(encode_columns(7, 1, 0, [1.0, 2.0]))
    desk.take(encode_columns(7, 5, 12, [1.0]))
    desk.take(b"garbage")
    statement = desk.read()
    assert statement.ingest.balance == {"datagrams": 0, "events": 0, "lanes": 0}
    ledger = statement.ingest.ledger
    assert (ledger["datagrams_received"], ledger["datagrams_decoded"], ledger["events_decoded"]) == (5, 3, 6)
    assert (statement.ingest.events_open, statement.ingest.windows_open, statement.ingest.series) == (6, 1, 2)
    (producer,) = statement.producers.listed
    assert (producer.sent, producer.received, producer.missing, producer.repeated) == (13, 3, 10, 1)
    assert [(loss.column, loss.count) for loss in statement.losses] == [
        ("datagrams_rejected", 1),
        ("events_missing", 10),
    ]


def test_every_column_of_a_sink_is_stated_removed_sinks_too() -> None:
    kept = SinkLedger(closed=10, delivered=5, waiting=2, quarantined=1, last_success=5.0)
    kept.drop(1, DropReason.QUEUE_FULL)
    kept.drop(1, DropReason.FAULT)
    gone = SinkLedger(closed=7, waiting=7, last_error="a\udcff")
    statement = Desk(Accounts({"kept": kept, "gone": gone}, removed=["gone"])).read()
    assert statement.sinks["kept"] == SinkStatement(kept, 1, False, {}, 2)
    assert statement.list_faults() == ["sink kept: +2"]
    assert statement.sinks["gone"].is_removed
    # JSON has no half characters.
    assert statement.sinks["gone"].ledger.last_error == "a\\udcff"
    assert [(loss.sink, loss.column, loss.reason, loss.count) for loss in statement.losses] == [
        ("kept", "dropped", "queue_full", 1),
        ("kept", "dropped", "fault", 1),
        ("kept", "quarantined", "", 1),
    ]


def test_what_a_page_cannot_show_is_a_loss_of_its_sink() -> None:
    desk = Desk(Accounts({"page": SinkLedger()}))
    sink = PrometheusSink(clock=lambda: 0.0)
    sink._refused["name_taken"] = 3
    desk.observer.scraped = {"page": sink}
    (loss,) = desk.read().losses
    assert (loss.sink, loss.column, loss.reason, loss.count) == ("page", "page_refused", "name_taken", 3)


def test_every_metric_that_means_data_loss_is_named_as_lost() -> None:
    ingest: Columns = {
        column: {Reason.TOO_LARGE.value: 1} if column in own_metrics.INGEST_REASONS else 1
        for column in own_metrics.INGEST
    }
    ledger = SinkLedger(
        expired=1, quarantined=1, uncertain=1, dropped=1, dropped_by_reason={DropReason.LOST.value: 1}
    )
    sinks = {"a": SinkStatement(ledger, 0, False, {"word": 1}, 0)}
    journal = JournalStatement(segments_damaged=1, records_set_aside=1)
    losses = list_losses(ingest, sinks, journal, OutboxStatement(set_aside="/x"))
    expected = {metric.help for metric in own_metrics.ALL if metric.data_loss}
    assert {loss.meaning.removesuffix(" It is /x.") for loss in losses} == expected
    assert len(losses) == len(expected)


def test_what_the_disk_did_not_give_back_is_named_as_lost() -> None:
    journal = JournalStatement(segments_damaged=2, records_set_aside=1)
    outbox = OutboxStatement(set_aside="/var/lib/x/outbox.sqlite3.damaged")
    losses = list_losses({}, {}, journal, outbox)
    assert [(loss.column, loss.count) for loss in losses] == [
        ("segments_damaged", 2),
        ("records_set_aside", 1),
        ("outbox_set_aside", 1),
    ]
    assert losses[2].meaning.endswith("/var/lib/x/outbox.sqlite3.damaged.")
    assert all(isinstance(loss, Loss) for loss in losses)


@pytest.mark.asyncio
async def test_the_real_journal_and_the_real_outbox_are_stated(tmp_path: Path) -> None:
    outbox = Outbox.open(tmp_path / "outbox", max_bytes=1 << 20)
    journal = Journal(tmp_path / "journal", outbox.state_id)
    try:
        journal.append(b"datagram", float(BEGIN), lane=True)
        assert journal.write()
        desk = Desk(None, journal, outbox)
        statement = desk.read()
        assert statement.journal.state is StoreState.JOURNALED
        assert statement.journal.size_bytes == journal.size_bytes > 0
        assert statement.outbox == OutboxStatement(StoreState.STORED)
        page = desk.read_page()
        assert page["metricsd_journal_bytes"] == journal.size_bytes
        assert (page["metricsd_journal_failing"], page["metricsd_outbox_failing"]) == (0.0, 0.0)
        assert (page["metricsd_segments_damaged_total"], page["metricsd_outbox_set_aside_total"]) == (
            0.0,
            0.0,
        )
        # They go on over restarts, so since when they count is not said; the others begin with the daemon.
        assert "metricsd_events_decoded_created" not in page
        assert page["metricsd_segments_damaged_created"] == BEGIN
        journal.is_writable = False
        journal.last_error = "No space left on device"
        statement = desk.read()
        assert (statement.journal.state, statement.journal.last_error) == (
            StoreState.FAILING,
            "No space left on device",
        )
        assert desk.read_page()["metricsd_journal_failing"] == 1.0
    finally:
        journal.close()
        await outbox.close()
