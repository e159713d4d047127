"""The tables of the outbox: what `Outbox` does, each call one transaction, all in one thread.

A window has a row for each sink and its parts; a part points to a batch, which is shared with the sinks that
got the same one and goes with the last of them. A part that is settled points to nothing, and its window goes
with its last part.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from aiokpl_metricsd.errors import LostPartError, StoreError
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.batches import Batches
from aiokpl_metricsd.storing.checksum import DamagedBlobError, add_checksum
from aiokpl_metricsd.storing.database import Database, open_database
from aiokpl_metricsd.storing.recovery import recover
from aiokpl_metricsd.storing.stored import (
    Batch,
    Committed,
    Cut,
    Evicted,
    Mark,
    Recovered,
    Sealed,
    SinkAccount,
    StoredWindow,
)

_T = TypeVar("_T")


class Store:
    """The outbox of one directory. Use `open` to make one; the methods have the arguments of `Outbox`'s.

    Attributes:
        recovered: what the last daemon left.
        state_id: 63 bits, drawn when the database was made.
        size_bytes: of all stored snapshots, as of the last transaction.
        set_aside: where the damaged database is that was found; None where there was none.
    """

    def __init__(
        self, database: Database, recovered: Recovered, set_aside: Path | None, max_bytes: int
    ) -> None:
        """Take over an open database."""
        self._database = database
        self._connection = database.connection
        self._batches = Batches(database.connection)
        self._max_bytes = max_bytes
        self.recovered = recovered
        self.set_aside = set_aside
        self.size_bytes: int = self._batches.size_bytes
        self.state_id: int
        (self.state_id,) = database.connection.execute("SELECT state_id FROM state").fetchone()

    @classmethod
    def open(cls, directory: Path, *, max_bytes: int, fsync: bool) -> "Store":
        """Open or make the database of a directory; raises as `Outbox.open`."""
        database, recovered, set_aside = open_database(directory, fsync=fsync, read=recover)
        return cls(database, recovered, set_aside, max_bytes)

    @property
    def is_failing(self) -> bool:
        """Whether the last transaction failed."""
        return self._database.is_failing

    @property
    def last_error(self) -> str:
        """What the last failure said."""
        return self._database.last_error

    @property
    def failures(self) -> int:
        """Transactions that failed."""
        return self._database.failures

    @property
    def is_damaged(self) -> bool:
        """Whether the database was found damaged."""
        return self._database.is_damaged

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def commit(
        self,
        sealed: Sealed | None,
        cuts: Sequence[Cut],
        accounts: Mapping[str, SinkAccount],
        merging: Mapping[str, Sequence[MetricSnapshot] | None],
    ) -> Committed:
        """Store a checkpoint, windows, and accounts."""

        def work() -> Committed:
            if sealed is not None:
                self._write_checkpoint(sealed)
            for sink, snapshots in merging.items():
                self._write_merging(sink, snapshots)
            committed = self._write_windows(cuts)
            for sink, account in accounts.items():
                self._write_account(sink, account)
            return committed

        return self._run(work)

    def load(self, number: int, sink: str, part: int) -> list[MetricSnapshot]:
        """Return a part."""
        try:
            found = self._find_part(number, sink, part)
            snapshots = [] if found is None else self._batches.load(found[0])
        except DamagedBlobError as error:
            raise LostPartError(f"window {number}, part {part} is damaged: {error}") from error
        except sqlite3.Error as error:
            self._database.fail(error)
            raise StoreError(str(error)) from error
        if found is None:
            raise LostPartError(f"window {number}, part {part} is not there any more")
        if len(snapshots) != found[1]:
            raise LostPartError(f"window {number}, part {part} is damaged: not all of it is there")
        return snapshots

    def settle(self, sink: str, account: SinkAccount) -> None:
        """Store an account, with its marks."""
        self._run(lambda: self._write_account(sink, account))

    def attempt(self, sink: str, number: int, part: int) -> None:
        """Note an attempt."""

        def work() -> bool:
            if self._find_part(number, sink, part) is None:
                return False
            query = "UPDATE parts SET is_attempted = 1 WHERE number = ? AND part = ?"
            self._connection.execute(query, (number, part))
            return True

        if not self._run(work):
            raise LostPartError(f"window {number}, part {part} is not there any more")

    def discard(self, sink: str, numbers: Collection[int], account: SinkAccount) -> None:
        """Let windows go."""

        def work() -> None:
            query = "SELECT number FROM windows WHERE sink = ?"
            for (number,) in self._connection.execute(query, (sink,)).fetchall():
                if number in numbers:
                    self._delete_window(number)
            self._write_account(sink, account)

        self._run(work)

    def note_sinks(self, names: Mapping[str, float | None], now: float) -> None:
        """Note which sinks are configured."""

        def work() -> None:
            execute = self._connection.execute
            for (name,) in execute("SELECT name FROM sinks WHERE removed_at IS NULL").fetchall():
                if name not in names:
                    execute("UPDATE sinks SET removed_at = ? WHERE name = ?", (now, name))
            for name, max_age_s in names.items():
                self._add_sink(name)
                query = "UPDATE sinks SET max_age_s = ?, removed_at = NULL WHERE name = ?"
                execute(query, (max_age_s, name))

        self._run(work)

    def forget_sink(self, name: str) -> None:
        """Let everything of a sink go."""

        def work() -> None:
            execute = self._connection.execute
            for (number,) in execute("SELECT number FROM windows WHERE sink = ?", (name,)).fetchall():
                self._delete_window(number)
            self._write_merging(name, None)
            execute("DELETE FROM sink_states WHERE sink = ?", (name,))
            execute("DELETE FROM sinks WHERE name = ?", (name,))

        self._run(work)

    def _run(self, work: Callable[[], _T]) -> _T:
        """Do the work in a transaction; what was counted in a failed one is put back."""

        def attempt() -> _T:
            self._batches.size_bytes = self.size_bytes
            return work()

        result = self._database.run(attempt)
        self.size_bytes = self._batches.size_bytes
        return result

    def _write_checkpoint(self, sealed: Sealed) -> None:
        execute = self._connection.execute
        execute(
            "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?, ?)",
            (sealed.position, sealed.closed_until, sealed.last_number, sealed.ledger),
        )
        execute("DELETE FROM opened")
        execute("DELETE FROM opened_blobs")
        for part in sealed.opened:
            execute(
                "INSERT INTO opened VALUES (?, ?, ?, ?)", (part.number, part.start, part.end, part.events)
            )
            for blob in part.blobs():
                query = "INSERT INTO opened_blobs (number, data) VALUES (?, ?)"
                execute(query, (part.number, add_checksum(blob)))
        for producer in sealed.producers:
            execute("INSERT OR REPLACE INTO producers VALUES (?, ?)", producer)
        for producer_id in sealed.forgotten:
            execute("DELETE FROM producers WHERE id = ?", (producer_id,))

    def _write_windows(self, cuts: Sequence[Cut]) -> Committed:
        """Store the cuts; the oldest windows go as room is needed, those of this commit last."""
        (first,) = self._connection.execute("SELECT next_window FROM state").fetchone()
        uses = Counter(id(batch) for cut in cuts for batch in cut.batches)
        batches: dict[int, int] = {}
        stored: list[StoredWindow] = []
        evicted: list[Evicted] = []
        for number, cut in enumerate(cuts, first):
            counts = tuple(map(len, cut.batches))
            stored.append(StoredWindow(number, cut.sink, cut.window_id, cut.window_end, counts))
            if not any(counts):
                continue
            self._add_sink(cut.sink)
            query = "INSERT INTO windows VALUES (?, ?, ?, ?)"
            self._connection.execute(query, (number, cut.sink, cut.window_id, cut.window_end))
            for part, batch in enumerate(cut.batches):
                if batch and id(batch) not in batches:
                    batches[id(batch)] = self._batches.add(batch, uses[id(batch)])
                    evicted += self._evict(first)
                query = "INSERT INTO parts (number, part, batch, snapshots) VALUES (?, ?, ?, ?)"
                self._connection.execute(query, (number, part, batches.get(id(batch)), len(batch)))
        self._connection.execute("UPDATE state SET next_window = ?", (first + len(cuts),))
        evicted += self._evict(first + len(cuts))
        return Committed(stored, evicted)

    def _evict(self, end: int) -> list[Evicted]:
        """Let the oldest windows go, of those before `end`, until there is room."""
        evicted: list[Evicted] = []
        execute = self._connection.execute
        while self._batches.size_bytes > self._max_bytes:
            query = "SELECT number, sink FROM windows WHERE number < ? ORDER BY number LIMIT 1"
            row = execute(query, (end,)).fetchone()
            if row is None:
                break
            number, sink = row
            (count,) = execute("SELECT sum(snapshots) FROM parts WHERE number = ?", (number,)).fetchone()
            self._delete_window(number)
            evicted.append(Evicted(sink, number, count))
        return evicted

    def _write_merging(self, sink: str, snapshots: Batch | None) -> None:
        execute = self._connection.execute
        row = execute("SELECT batch FROM merging WHERE sink = ?", (sink,)).fetchone()
        if row is not None:
            execute("DELETE FROM merging WHERE sink = ?", (sink,))
            self._batches.release(row[0])
        if snapshots:
            self._add_sink(sink)
            execute("INSERT INTO merging VALUES (?, ?)", (sink, self._batches.add(snapshots, 1)))

    def _write_mark(self, sink: str, mark: Mark) -> None:
        found = self._find_part(mark.number, sink, mark.part)
        if found is None:
            return
        remaining = mark.remaining or ()
        batch = self._batches.add(remaining, 1) if remaining else None
        self._connection.execute(
            "UPDATE parts SET batch = ?, snapshots = ?, is_attempted = 0 WHERE number = ? AND part = ?",
            (batch, len(remaining), mark.number, mark.part),
        )
        self._batches.release(found[0])
        if batch is None and not self._has_parts(mark.number):
            self._delete_window(mark.number)

    def _write_account(self, sink: str, account: SinkAccount) -> None:
        self._add_sink(sink)
        execute = self._connection.execute
        execute("UPDATE sinks SET ledger = ? WHERE name = ?", (account.ledger, sink))
        if account.state is not None:
            execute("INSERT OR REPLACE INTO sink_states VALUES (?, ?)", (sink, account.state))
        for mark in account.marks:
            self._write_mark(sink, mark)

    def _add_sink(self, name: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO sinks (name) VALUES (?)", (name,))

    def _find_part(self, number: int, sink: str, part: int) -> tuple[int, int] | None:
        """Return the batch of a part that is not settled, and its snapshots."""
        query = """SELECT batch, snapshots FROM parts JOIN windows USING (number)
            WHERE number = ? AND sink = ? AND part = ? AND batch IS NOT NULL"""
        found: tuple[int, int] | None = self._connection.execute(query, (number, sink, part)).fetchone()
        return found

    def _has_parts(self, number: int) -> bool:
        query = "SELECT 1 FROM parts WHERE number = ? AND batch IS NOT NULL LIMIT 1"
        return self._connection.execute(query, (number,)).fetchone() is not None

    def _delete_window(self, number: int) -> None:
        execute = self._connection.execute
        query = "SELECT batch FROM parts WHERE number = ? AND batch IS NOT NULL"
        for (batch,) in execute(query, (number,)).fetchall():
            self._batches.release(batch)
        execute("DELETE FROM parts WHERE number = ?", (number,))
        execute("DELETE FROM windows WHERE number = ?", (number,))


__all__ = ["Store"]
