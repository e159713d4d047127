"""A statement -> what an operator reads: losses first, no empty columns, nothing that a terminal obeys."""

from aiokpl_metricsd.delivering.sink_ledger import SinkLedger
from aiokpl_metricsd.rendering.statement import render_statement
from aiokpl_metricsd.serving.statement import (
    Columns,
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

BALANCED = {"datagrams": 0, "events": 0, "lanes": 0}
LEDGER: Columns = {
    "datagrams_received": 12,
    "datagrams_decoded": 9,
    "datagrams_repeated": 1,
    "datagrams_rejected": {"truncated": 2},
    "events_decoded": 40,
    "events_closed": 30,
    "events_refused": {},
    "events_late": 3,
    "events_dropped_by_clients": {"buffer_full": 4, "value_invalid": 0},
    "lanes_accepted": 2,
    "lanes_ended": {"closed": 1},
}
PRODUCER = ProducerStatement("a3eb8db89fc5", "by hand", 1, 50, 0, 40, 10, dropped={"buffer_full": 4})


def build_statement(
    losses: list[Loss] | None = None,
    ingest: IngestStatement | None = None,
    producers: ProducersStatement | None = None,
    sinks: dict[str, SinkStatement] | None = None,
    journal: JournalStatement | None = None,
) -> Statement:
    return Statement(
        "1.2.3",
        "/run/x/metrics.sock",
        0.0,
        60.0,
        losses or [],
        ingest or IngestStatement(LEDGER, 10, 1, 1, 5, BALANCED),
        producers or ProducersStatement(1, [PRODUCER], ProducerStatement()),
        sinks or {"archive": SinkStatement(SinkLedger(closed=2, delivered=2), 0, False, {}, 0)},
        journal or JournalStatement(),
        OutboxStatement(),
    )


def test_the_whole_is_readable_and_leaves_out_columns_of_zeros() -> None:
    assert render_statement(build_statement()) == (
        "aiokpl-metricsd 1.2.3  /run/x/metrics.sock  started 1970-01-01 00:00:00 UTC\n"
        "\n"
        "nothing lost\n"
        "\n"
        "INGEST\n"
        "datagrams  12 received = 9 decoded + 1 repeated + 2 rejected\n"
        "events     40 decoded = 10 open + 30 closed + 0 refused\n"
        "lanes      2 accepted = 1 open + 1 ended\n"
        "now        5 series, 1 open windows\n"
        "also       events_late 3, events_dropped_by_clients buffer_full=4\n"
        "\n"
        "PRODUCERS: 1, in events\n"
        "ID            LANES  SENT  RECEIVED  MISSING  DROPPED BY IT  SOFTWARE\n"
        "a3eb8db89fc5      1    50        40       10  buffer_full=4  by hand\n"
        "\n"
        "SINKS, in snapshots\n"
        "SINK     CLOSED  DELIVERED  WAITING  LAST SUCCESS\n"
        "archive       2          2        0  never\n"
        "\n"
        "STORAGE\n"
        "journal  memory: a daemon that is killed loses it; state_dir keeps it\n"
        "outbox   memory: a daemon that is killed loses it; state_dir keeps it\n"
    )


def test_losses_come_before_everything_else_and_say_what_they_are() -> None:
    losses = [
        Loss("events_missing", 1_000, "Nobody read them."),
        Loss("dropped", 7, "Discarded.", "archive", "queue_full"),
    ]
    text = render_statement(build_statement(losses))
    assert text.split("\n\n")[1].splitlines() == [
        "DATA LOSS",
        "WHAT            SINK     REASON      COUNT  MEANING",
        "events_missing                        1000  Nobody read them.",
        "dropped         archive  queue_full      7  Discarded.",
    ]
    assert "nothing lost" not in text


def test_what_is_wrong_without_a_loss_is_said_before_the_accounts() -> None:
    ingest = IngestStatement(LEDGER, 8, 1, 1, 5, {**BALANCED, "events": 2})
    journal = JournalStatement(StoreState.FAILING, 123, "No space left on device")
    text = render_statement(build_statement(None, ingest, journal=journal))
    heading, losses, faults, *_ = text.split("\n\n")
    assert (heading[:15], losses) == ("aiokpl-metricsd", "nothing lost")
    assert faults.splitlines() == [
        "DOES NOT BALANCE, a fault in the daemon: events: +2",
        "FAILING: the journal cannot be written, what comes is in memory: No space left on device",
    ]
    assert "journal  failing, 123 bytes, last error: No space left on device\n" in text


def test_the_sum_of_other_producers_and_removed_sinks_are_named_as_such() -> None:
    rest = ProducerStatement(sent=9, received=9)
    sinks = {
        "old": SinkStatement(
            SinkLedger(closed=4, waiting=4, last_error="it is away", last_success=60.0), 2, True, {}, 0
        )
    }
    text = render_statement(build_statement(producers=ProducersStatement(12, [PRODUCER], rest), sinks=sinks))
    assert "\nPRODUCERS: 12, in events\n" in text
    assert "\n11 others         0     9         9        0\n" in text
    assert (
        "\nSINK           CLOSED  DELIVERED  WAITING  WINDOWS  LAST SUCCESS             LAST ERROR\n"
        "old (removed)       4          0        4        2  1970-01-01 00:01:00 UTC  it is away\n"
    ) in text


def test_without_a_producer_that_numbers_its_frames_that_is_said() -> None:
    producers = ProducersStatement(0, [], ProducerStatement())
    assert "\nPRODUCERS: none that numbers its frames\n" in render_statement(
        build_statement(producers=producers)
    )


def test_nothing_that_a_terminal_would_obey_comes_through() -> None:
    nasty = "\x1b[31mred\r\n"
    producer = ProducerStatement("id", nasty, dropped={nasty: 1})
    sink = SinkStatement(SinkLedger(last_error=nasty), 0, False, {}, 0)
    journal = JournalStatement(StoreState.FAILING, 0, nasty)
    ingest = IngestStatement({"events_dropped_by_clients": {nasty: 1}}, 0, 0, 0, 0, BALANCED)
    text = render_statement(
        build_statement(
            [Loss("dropped", 1, nasty, nasty, nasty)],
            ingest,
            ProducersStatement(1, [producer], ProducerStatement()),
            {nasty: sink},
            journal,
        )
    )
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.count("\\x1b[31mred") == 10
