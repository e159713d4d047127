"""What a daemon says of itself is judged: what is lost, what is failing, what does not add up."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.examining.account import ask_account, judge_account
from aiokpl_metricsd.examining.finding import Outcome
from aiokpl_metricsd.serving.statement import (
    IngestStatement,
    JournalStatement,
    Loss,
    OutboxStatement,
    ProducersStatement,
    ProducerStatement,
    SinkStatement,
    Statement,
    StoreState,
)

WELL = Statement(
    version="1.2",
    socket="/run/m.sock",
    started=0.0,
    time=0.0,
    losses=[],
    ingest=IngestStatement({}, 0, 0, 0, 0, {"events": 0}),
    producers=ProducersStatement(0, [], ProducerStatement()),
    sinks={},
    journal=JournalStatement(),
    outbox=OutboxStatement(),
)


def build_sink(queue_windows: int) -> SinkStatement:
    """Return the account of a sink whose last attempt failed."""
    ledger = SinkLedger(closed=30, waiting=30, last_error="503")
    return SinkStatement(ledger, queue_windows, is_removed=False, page_refused={}, balance=0)


def judge(statement: Statement) -> list[tuple[Outcome, str]]:
    return [(each.outcome, each.message) for each in judge_account(statement)]


def test_a_daemon_that_lost_nothing_is_well() -> None:
    assert judge(WELL) == [(Outcome.OK, "the daemon has lost nothing (1.2)")]


def test_each_loss_is_a_warning_with_its_number_and_reason() -> None:
    losses = [Loss("dropped", 1_234, "Dropped.", "cw", "queue_full"), Loss("events_missing", 2, "Missing.")]
    assert judge(replace(WELL, losses=losses)) == [
        (Outcome.WARNING, "lost: 1,234 cw dropped queue_full"),
        (Outcome.WARNING, "lost: 2 events_missing"),
    ]


def test_a_disk_that_cannot_be_written_is_a_failure() -> None:
    failing = replace(
        WELL,
        journal=JournalStatement(StoreState.FAILING, last_error="No space left on device"),
        outbox=OutboxStatement(StoreState.FAILING, last_error="disk I/O error"),
    )
    assert judge(failing) == [
        (Outcome.FAILURE, "the journal cannot be written: No space left on device"),
        (Outcome.FAILURE, "the outbox cannot be written: disk I/O error"),
    ]


def test_windows_that_wait_are_a_warning_and_the_one_on_its_way_is_not() -> None:
    assert judge(replace(WELL, sinks={"cw": build_sink(3)})) == [
        (Outcome.WARNING, "cw: 30 snapshots wait; its last error was: 503")
    ]
    assert judge(replace(WELL, sinks={"cw": build_sink(1)}))[0][0] is Outcome.OK


def test_accounts_that_do_not_add_up_are_a_failure() -> None:
    ingest = IngestStatement({}, 0, 0, 0, 0, {"events": 7})
    assert judge(replace(WELL, ingest=ingest)) == [(Outcome.FAILURE, "does not balance: events: +7")]


def test_nobody_to_ask_is_a_warning(tmp_path: Path) -> None:
    (finding,) = ask_account(str(tmp_path / "m.sock"))
    assert finding.outcome is Outcome.WARNING


@pytest.mark.parametrize("column", ["dropped", "expired"])
def test_advice_says_where_to_read_on(column: str) -> None:
    (finding,) = judge_account(replace(WELL, losses=[Loss(column, 1, "It is gone.", "cw")]))
    assert finding.advice == "It is gone. docs/operations.md says what to do"
