"""A backend that is idempotent and survives SIGKILL: a database keyed by window, name and dimensions.

What comes again replaces what was there. A repeat that says something else than the first time is noted, as
the backend of a real vendor would silently show other figures. A configuration names it by import string.
"""

import random
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from anyio import to_thread

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.rendering.rows import encode_rows
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.rows import Row

_SCHEMA = """\
CREATE TABLE IF NOT EXISTS rows (
    window_id TEXT, name TEXT, dimensions TEXT, text BLOB, repeats INTEGER, changed INTEGER,
    PRIMARY KEY (window_id, name, dimensions)
) WITHOUT ROWID
"""

_STORE = """\
INSERT INTO rows VALUES (?, ?, ?, ?, 0, 0)
ON CONFLICT DO UPDATE SET
    repeats = repeats + 1, changed = changed + (text != excluded.text), text = excluded.text
"""

_decode_row = msgspec.json.Decoder(Row).decode


class KeyedSink:
    """Stores every window in a file of its own.

    Args:
        path: the database.
        failing_ratio: how many exports fail, of one; half of them only say so, and have stored the window.
    """

    repeat_rule = RepeatRule.REPLACES

    def __init__(self, *, path: str, failing_ratio: float = 0.0) -> None:
        self._path = path
        self._failing_ratio = failing_ratio
        self._connection: sqlite3.Connection | None = None

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Store them, or fail, or both.

        Raises:
            RetryableExportError: by chance.
        """
        chance = random.random()
        if chance < self._failing_ratio / 2:
            raise RetryableExportError("by chance; nothing was stored")
        await to_thread.run_sync(self._store, tuple(snapshots))
        if chance < self._failing_ratio:
            raise RetryableExportError("by chance; all was stored")

    async def __aenter__(self) -> Self:
        """Open the database."""
        self._connection = sqlite3.connect(self._path, check_same_thread=False)
        # What the kernel has is there after a SIGKILL.
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute(_SCHEMA)
        self._connection.commit()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()

    def _store(self, snapshots: tuple[MetricSnapshot, ...]) -> None:
        assert self._connection is not None
        lines, refused = encode_rows(snapshots)
        assert not refused
        keys = [
            (each.window_id, each.name, msgspec.json.encode(sorted(each.dimensions))) for each in snapshots
        ]
        with self._connection:
            self._connection.executemany(
                _STORE, [(*key, line) for key, line in zip(keys, lines.splitlines(), strict=True)]
            )


def read_keyed_rows(path: Path) -> list[Row]:
    """Return the rows of a database, each once."""
    with _reading(path) as connection:
        return [_decode_row(text) for (text,) in connection.execute("SELECT text FROM rows")]


def count_changed(path: Path) -> int:
    """Return how many rows came again, and said something else."""
    return _count(path, "changed")


def count_repeats(path: Path) -> int:
    """Return how often a row came again."""
    return _count(path, "repeats")


def _count(path: Path, column: str) -> int:
    with _reading(path) as connection:
        found = connection.execute(f"SELECT coalesce(sum({column}), 0) FROM rows").fetchone()  # noqa: S608
        return int(found[0])


@contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


__all__ = ["KeyedSink", "count_changed", "count_repeats", "read_keyed_rows"]
