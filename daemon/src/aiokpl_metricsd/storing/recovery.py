"""Tables -> what the last daemon left. Read once, at the start.

A blob with a wrong checksum costs only itself, and is said; the daemon's start does not end by it.
"""

import logging
import sqlite3
from collections.abc import Iterator

from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.batches import Batches
from aiokpl_metricsd.storing.checksum import DamagedBlobError, strip_checksum
from aiokpl_metricsd.storing.stored import Recovered, RecoveredPart, RecoveredSink, SinkAccount, StoredWindow

_log = logging.getLogger("aiokpl_metricsd.outbox")


def recover(connection: sqlite3.Connection) -> Recovered:
    """Return all but the windows' snapshots.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    row = connection.execute("SELECT position, closed_until, last_number, ledger FROM checkpoint").fetchone()
    position, closed_until, last_number, ledger = row or (0, 0, 0, None)
    return Recovered(
        position=position,
        closed_until=closed_until,
        last_number=last_number,
        ledger=ledger,
        opened=list(_read_opened(connection)),
        producers=connection.execute("SELECT id, data FROM producers").fetchall(),
        sinks=dict(_read_sinks(connection)),
    )


def _read_opened(connection: sqlite3.Connection) -> Iterator[RecoveredPart]:
    rows = connection.execute("SELECT number, start, end, events FROM opened ORDER BY start").fetchall()
    for number, start, end, events in rows:
        query = "SELECT data FROM opened_blobs WHERE number = ? ORDER BY id"
        blobs: list[bytes] = []
        for (data,) in connection.execute(query, (number,)).fetchall():
            try:
                blobs.append(strip_checksum(data))
            except DamagedBlobError as error:
                _complain("a part of an open window is damaged and left out", {"window": number}, error)
        yield RecoveredPart(number, start, end, events, tuple(blobs))


def _read_sinks(connection: sqlite3.Connection) -> Iterator[tuple[str, RecoveredSink]]:
    states = dict(connection.execute("SELECT sink, data FROM sink_states").fetchall())
    windows: dict[str, list[StoredWindow]] = {}
    for window in _read_windows(connection):
        windows.setdefault(window.sink, []).append(window)
    rows = connection.execute("SELECT name, ledger, max_age_s, removed_at FROM sinks").fetchall()
    for name, ledger, max_age_s, removed_at in rows:
        account = None if ledger is None else SinkAccount(ledger, states.get(name))
        merging = _read_merging(connection, name)
        yield name, RecoveredSink(account, windows.get(name, []), merging, removed_at, max_age_s)


def _read_windows(connection: sqlite3.Connection) -> Iterator[StoredWindow]:
    query = "SELECT number, part, snapshots, is_attempted FROM parts ORDER BY number, part"
    counts: dict[int, list[int]] = {}
    attempted: dict[int, set[int]] = {}
    for number, part, snapshots, is_attempted in connection.execute(query).fetchall():
        counts.setdefault(number, []).append(snapshots)
        if is_attempted:
            attempted.setdefault(number, set()).add(part)
    rows = connection.execute("SELECT number, sink, window_id, window_end FROM windows ORDER BY number")
    for number, sink, window_id, window_end in rows.fetchall():
        parts = tuple(counts.get(number, ()))
        yield StoredWindow(number, sink, window_id, window_end, parts, frozenset(attempted.get(number, ())))


def _read_merging(connection: sqlite3.Connection, sink: str) -> list[MetricSnapshot]:
    row = connection.execute("SELECT batch FROM merging WHERE sink = ?", (sink,)).fetchone()
    try:
        return [] if row is None else Batches(connection).load(row[0])
    except DamagedBlobError as error:
        _complain("what a sink held for a longer window is damaged and left out", {"sink": sink}, error)
        return []


def _complain(message: str, fields: dict[str, object], error: DamagedBlobError) -> None:
    _log.error(message, extra={"fields": {**fields, "error": str(error)}})


__all__ = ["recover"]
