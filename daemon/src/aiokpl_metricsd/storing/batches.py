"""Batches of snapshots in the database, each counted by who uses it; it goes with its last use."""

import sqlite3
from collections.abc import Sequence

from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.storing.checksum import DamagedBlobError
from aiokpl_metricsd.storing.snapshot_codec import decode_blob, encode_blobs


class Batches:
    """The batches of one database; inside its transactions.

    Attributes:
        size_bytes: of all blobs. A transaction that fails leaves it to its owner to be put back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Add up what is there."""
        self._connection = connection
        (self.size_bytes,) = connection.execute("SELECT ifnull(sum(bytes), 0) FROM batches").fetchone()

    def add(self, batch: Sequence[MetricSnapshot], uses: int) -> int:
        """Store a batch, blob by blob; return its id."""
        execute = self._connection.execute
        first: int
        (first,) = execute("SELECT ifnull(max(id), 0) + 1 FROM blobs").fetchone()
        size_bytes = count = 0
        for count, blob in enumerate(encode_blobs(batch), 1):
            # SQLite runs without the interpreter's lock: other threads go on between two blobs.
            execute("INSERT INTO blobs VALUES (?, ?)", (first + count - 1, blob))
            size_bytes += len(blob)
        execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (first, count, size_bytes, uses))
        self.size_bytes += size_bytes
        return first

    def load(self, batch: int) -> list[MetricSnapshot]:
        """Return a batch.

        Raises:
            DamagedBlobError: it is not what was stored.
        """
        execute = self._connection.execute
        row = execute("SELECT blobs FROM batches WHERE id = ?", (batch,)).fetchone()
        snapshots: list[MetricSnapshot] = []
        for blob in range(batch, batch + (0 if row is None else row[0])):
            found = execute("SELECT data FROM blobs WHERE id = ?", (blob,)).fetchone()
            if found is None:
                raise DamagedBlobError("a blob is missing")
            snapshots += decode_blob(found[0])
        return snapshots

    def release(self, batch: int) -> None:
        """Let one use go, and the batch with the last one."""
        execute = self._connection.execute
        row = execute("SELECT blobs, bytes, uses FROM batches WHERE id = ?", (batch,)).fetchone()
        if row is None:
            return
        blobs, size_bytes, uses = row
        if uses > 1:
            execute("UPDATE batches SET uses = uses - 1 WHERE id = ?", (batch,))
            return
        execute("DELETE FROM blobs WHERE id BETWEEN ? AND ?", (batch, batch + blobs - 1))
        execute("DELETE FROM batches WHERE id = ?", (batch,))
        self.size_bytes -= size_bytes


__all__ = ["Batches"]
