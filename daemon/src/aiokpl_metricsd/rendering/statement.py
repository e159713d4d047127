"""A daemon's statement -> lines for people: what is lost first, then what came in, from whom, what went out.

Whole columns of zeros are left out. Text comes from producers and backends, so whatever a terminal might obey
is shown escaped.
"""

from collections.abc import Mapping, Sequence
from time import gmtime, strftime

from aiokpl_metricsd.rendering.table import escape_text
from aiokpl_metricsd.serving.statement import (
    Columns,
    IngestStatement,
    JournalStatement,
    OutboxStatement,
    ProducersStatement,
    ProducerStatement,
    SinkStatement,
    Statement,
    StoreState,
)

_GAP = "  "

# Headings of columns with text; numbers are aligned at their right.
_TEXT = frozenset({"WHAT", "SINK", "REASON", "MEANING", "ID", "DROPPED BY IT", "SOFTWARE"})
_TEXT_OF_SINKS = frozenset({"LAST SUCCESS", "LAST ERROR"})

# Shown also where they are zero.
_KEPT = frozenset({"SENT", "RECEIVED", "CLOSED", "DELIVERED", "WAITING"})

# Of an ingest ledger, the columns that stand in its equations.
_IN_EQUATIONS = frozenset(
    {
        "datagrams_received",
        "datagrams_decoded",
        "datagrams_repeated",
        "datagrams_rejected",
        "events_decoded",
        "events_closed",
        "events_refused",
        "events_unreadable",
        "lanes_accepted",
        "lanes_ended",
    }
)


def render_statement(statement: Statement) -> str:
    """Return whole lines."""
    heading = f"aiokpl-metricsd {statement.version}{_GAP}{statement.socket}{_GAP}started "
    blocks = [
        [escape_text(heading) + _format_time(statement.started)],
        _render_losses(statement),
        _render_faults(statement),
        ["INGEST", *_render_ingest(statement.ingest)],
        _render_producers(statement.producers),
        ["SINKS, in snapshots", *_render_sinks(statement.sinks)],
        ["STORAGE", *_render_storage(statement.journal, statement.outbox)],
    ]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks if block)


def _render_losses(statement: Statement) -> list[str]:
    if not statement.losses:
        return ["nothing lost"]
    rows = [(loss.column, loss.sink, loss.reason, str(loss.count), loss.meaning) for loss in statement.losses]
    return ["DATA LOSS", *_render_grid(("WHAT", "SINK", "REASON", "COUNT", "MEANING"), rows)]


def _render_faults(statement: Statement) -> list[str]:
    """Say what is wrong, but no loss yet."""
    faults = [
        f"DOES NOT BALANCE, a fault in the daemon: {escape_text(each)}" for each in statement.list_faults()
    ]
    for name, store in (("journal", statement.journal), ("outbox", statement.outbox)):
        if store.state is StoreState.FAILING:
            reason = f"FAILING: the {name} cannot be written, what comes is in memory: {store.last_error}"
            faults.append(escape_text(reason))
    return faults


def _render_ingest(ingest: IngestStatement) -> list[str]:
    ledger = ingest.ledger
    # Seldom anything but zero: a reader need not wonder what it is.
    unreadable = ("unreadable",) if ledger.get("events_unreadable") else ()
    lines = [
        _format_equation(ledger, "datagrams", "received", ("decoded", "repeated", "rejected")),
        _format_equation(ledger, "events", "decoded", ("closed", "refused", *unreadable), ingest.events_open),
        _format_equation(ledger, "lanes", "accepted", ("ended",), ingest.lanes_open),
        f"now        {ingest.series} series, {ingest.windows_open} open windows",
    ]
    others = {
        column: _format_counts(value) if isinstance(value, dict) else str(value)
        for column, value in ledger.items()
        if value and column not in _IN_EQUATIONS
    }
    if others:
        lines.append("also       " + ", ".join(f"{column} {value}" for column, value in others.items()))
    return lines


def _format_equation(
    ledger: Columns, what: str, whole: str, parts: Sequence[str], opened: int | None = None
) -> str:
    terms = [] if opened is None else [f"{opened} open"]
    terms += [f"{_sum_of(ledger, f'{what}_{part}')} {part}" for part in parts]
    return f"{what:<9}{_GAP}{_sum_of(ledger, f'{what}_{whole}')} {whole} = {' + '.join(terms)}"


def _render_producers(producers: ProducersStatement) -> list[str]:
    if not producers.known:
        return ["PRODUCERS: none that numbers its frames"]
    rows = [_list_producer(each.id, each) for each in producers.listed]
    others = producers.known - len(producers.listed)
    if others:
        rows.append(_list_producer(f"{others} others", producers.rest))
    headings = (
        *("ID", "LANES", "SENT", "BEFORE", "RECEIVED", "MISSING", "FOLDED", "REPEATED"),
        *("DROPPED BY IT", "SOFTWARE"),
    )
    return [f"PRODUCERS: {producers.known}, in events", *_render_grid(headings, rows)]


def _list_producer(name: str, producer: ProducerStatement) -> tuple[str, ...]:
    return (
        name,
        str(producer.lanes),
        str(producer.sent),
        str(producer.before),
        str(producer.received),
        str(producer.missing),
        str(producer.folded),
        str(producer.repeated),
        _format_counts(producer.dropped),
        producer.software,
    )


def _render_sinks(sinks: Mapping[str, SinkStatement]) -> list[str]:
    headings = (
        *("SINK", "CLOSED", "DELIVERED", "WAITING", "WINDOWS", "MERGING", "MERGED", "FILTERED", "EXPIRED"),
        *("QUARANTINED", "DROPPED", "UNCERTAIN", "AMBIGUOUS", "EXPORTS", "FAILURES"),
        *("LAST SUCCESS", "LAST ERROR"),
    )
    rows: list[tuple[str, ...]] = []
    for name, sink in sinks.items():
        ledger = sink.ledger
        numbers = (
            *(ledger.closed, ledger.delivered, ledger.waiting, sink.queue_windows, ledger.merging),
            *(ledger.merged, ledger.filtered, ledger.expired, ledger.quarantined, ledger.dropped),
            *(ledger.uncertain, ledger.ambiguous, ledger.exports, ledger.failures),
        )
        rows.append(
            (
                f"{name} (removed)" if sink.is_removed else name,
                *map(str, numbers),
                _format_time(ledger.last_success) if ledger.last_success else "never",
                ledger.last_error,
            )
        )
    return _render_grid(headings, rows)


def _render_storage(journal: JournalStatement, outbox: OutboxStatement) -> list[str]:
    return [
        _describe_store("journal", journal.state, journal.size_bytes, journal.last_error),
        _describe_store("outbox ", outbox.state, outbox.size_bytes, outbox.last_error)
        + (f", {outbox.unstored_windows} windows waited in memory" if outbox.unstored_windows else ""),
    ]


def _describe_store(name: str, state: StoreState, size_bytes: int, last_error: str) -> str:
    if state is StoreState.MEMORY:
        return f"{name}  memory: a daemon that is killed loses it; state_dir keeps it"
    error = f", last error: {last_error}" if last_error else ""
    return f"{name}  {state}, {size_bytes} bytes{escape_text(error)}"


def _render_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines, without the columns in which no row says anything."""
    cells = [[escape_text(cell) for cell in row] for row in rows]
    chosen = [
        (number, heading)
        for number, heading in enumerate(headings)
        if heading in _KEPT or any(row[number] not in ("", "0") for row in cells)
    ]
    lines = [""] * (len(cells) + 1)
    for number, heading in chosen:
        column = [heading, *(row[number] for row in cells)]
        width = max(map(len, column))
        is_text = heading in _TEXT or heading in _TEXT_OF_SINKS
        for line, cell in enumerate(column):
            lines[line] += (cell.ljust(width) if is_text else cell.rjust(width)) + _GAP
    return [line.rstrip() for line in lines]


def _sum_of(ledger: Columns, column: str) -> int:
    value = ledger.get(column, 0)
    return sum(value.values()) if isinstance(value, dict) else value


def _format_counts(counts: Mapping[str, int]) -> str:
    return " ".join(f"{escape_text(word)}={count}" for word, count in counts.items() if count)


def _format_time(seconds: float) -> str:
    try:
        return strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


__all__ = ["render_statement"]
