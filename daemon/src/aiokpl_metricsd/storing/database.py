"""One SQLite file in a directory of our own: locked, opened, checked, set aside; transactions.

* WAL, and `synchronous=OFF` unless asked for: when the process dies, the kernel has the pages; `FULL` is for
  the machine's death.
* The lock is `flock` on a file beside it, held for life, so SQLite's own locks are exclusive and need no
  shared memory, which a full disk would make a SIGBUS of.
* A database that cannot be read is renamed and begun anew; one of another application or of a newer version
  is not touched.
* A database is checked at the start where it is small, or where the last daemon found it damaged; a large one
  would take seconds.
"""

import fcntl
import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from aiokpl_metricsd.errors import ConfigurationError, StateInUseError, StoreError
from aiokpl_metricsd.storing.ballast import Ballast

_T = TypeVar("_T")

_log = logging.getLogger("aiokpl_metricsd.outbox")

# "amdo" in the file's header, where `file` and other applications look.
APPLICATION_ID = 0x616D646F
VERSION = 1

FILE = "outbox.sqlite3"
LOCK = "lock"
_BALLAST = "ballast"

# SQLite reads all of it, at about 1 GB/s from the kernel's cache.
_CHECKED_BYTES = 64 << 20

# How large the WAL stays on disk after a large transaction.
WAL_BYTES = 16 << 20

# How long the start waits for somebody who reads the database, as an operator may.
_LOCKED_S = 5.0

# Free pages are kept for the next windows; past this and half of the file they go back to the disk, so many
# with each transaction.
KEPT_FREE_BYTES = 16 << 20
_SHRINK_PAGES = 1_024

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_SCHEMA = f"""
CREATE TABLE state (only_one INTEGER PRIMARY KEY, state_id INTEGER NOT NULL, next_window INTEGER NOT NULL);
CREATE TABLE checkpoint (only_one INTEGER PRIMARY KEY, position INTEGER NOT NULL,
    closed_until INTEGER NOT NULL, last_number INTEGER NOT NULL, ledger BLOB NOT NULL);
CREATE TABLE opened (number INTEGER PRIMARY KEY, start INTEGER NOT NULL, end INTEGER NOT NULL,
    events INTEGER NOT NULL);
CREATE TABLE opened_blobs (id INTEGER PRIMARY KEY, number INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE producers (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE sinks (name TEXT PRIMARY KEY, ledger BLOB, max_age_s REAL, removed_at REAL);
-- Apart from the sink: SQLite writes a row whole, and a state may have megabytes.
CREATE TABLE sink_states (sink TEXT PRIMARY KEY, data BLOB NOT NULL);
-- The blobs of a batch are numbered from its own id.
CREATE TABLE batches (id INTEGER PRIMARY KEY, blobs INTEGER NOT NULL, bytes INTEGER NOT NULL,
    uses INTEGER NOT NULL);
CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE merging (sink TEXT PRIMARY KEY, batch INTEGER NOT NULL);
CREATE TABLE windows (number INTEGER PRIMARY KEY, sink TEXT NOT NULL, window_id TEXT NOT NULL,
    window_end REAL NOT NULL);
CREATE TABLE parts (number INTEGER NOT NULL, part INTEGER NOT NULL, batch INTEGER, snapshots INTEGER NOT NULL,
    is_attempted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (number, part)) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


class DamagedDatabaseError(Exception):
    """The database cannot be read."""


class Database:
    """One open database. Use `open_database` to make one.

    Attributes:
        connection: in autocommit mode; to be written to by `run` alone.
        is_failing: the last transaction failed.
        last_error: what the last failure said; "" when there was none.
        failures: transactions that failed.
        is_damaged: it was found damaged, so that the next start sets it aside.
    """

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: int, ballast: Ballast) -> None:
        """Take over the connection and the lock."""
        self.connection = connection
        self.is_failing = False
        self.last_error = ""
        self.failures = 0
        self.is_damaged = False
        self._directory = directory
        self._lock = lock
        self._ballast = ballast
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        self._kept_free_pages = KEPT_FREE_BYTES // page_bytes

    def run(self, work: Callable[[], _T]) -> _T:
        """Do the work in a transaction; a second time, without the ballast, where the disk is full.

        Raises:
            StoreError: it could not be done, and nothing was changed.
        """
        try:
            try:
                result = self._try(work)
            except sqlite3.Error as error:
                if _code_of(error) not in _FULL or not self._ballast.drop():
                    raise
                result = self._try(work)
        except Exception as error:
            self.fail(error)
            raise StoreError(_describe(error)) from error
        if self.is_failing:
            self.is_failing = False
            _log.info("the outbox is written again", extra={"fields": {"failures": self.failures}})
        self._ballast.restore()
        self._shrink()
        return result

    def fail(self, error: Exception) -> None:
        """Count a failure, and say the first of several."""
        self.failures += 1
        self.last_error = _describe(error)
        is_ours = isinstance(error, (sqlite3.Error, OSError))
        if not self.is_failing or not is_ours:
            fields = {"directory": str(self._directory), "error": self.last_error}
            message = "the outbox cannot be written: windows wait in memory"
            _log.error(message, extra={"fields": fields}, exc_info=None if is_ours else error)
        self.is_failing = True
        if isinstance(error, sqlite3.Error) and _code_of(error) in _DAMAGED:
            self.is_damaged = True
            with suppress(OSError):
                _marker_of(self._directory).touch(mode=0o600)

    def close(self) -> None:
        """Close the file and give the directory back."""
        with suppress(sqlite3.Error):
            # What is in the WAL goes into the database, and the WAL's space back.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.connection.close()
        os.close(self._lock)

    def _try(self, work: Callable[[], _T]) -> _T:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work()
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has ended it already where the disk was full in the middle.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise
        return result

    def _shrink(self) -> None:
        """Give some of the free pages back where there are many. What was committed stands in any case."""
        execute = self.connection.execute
        with suppress(sqlite3.Error):
            (free,) = execute("PRAGMA freelist_count").fetchone()
            if free > self._kept_free_pages and free * 2 > execute("PRAGMA page_count").fetchone()[0]:
                # `execute` would end it after the first page: it returns a row without columns for each.
                self.connection.executescript(f"PRAGMA incremental_vacuum({_SHRINK_PAGES})")


def open_database(
    directory: Path, *, fsync: bool, read: Callable[[sqlite3.Connection], _T]
) -> tuple[Database, _T, Path | None]:
    """Open the database of a directory, made where it is missing; a damaged one is set aside.

    Args:
        directory: made where it is missing, closed to others.
        fsync: whether a transaction is to survive the machine.
        read: what is to be read of it at the start.

    Returns:
        The database, what was read, and where a damaged one is by now.

    Raises:
        ConfigurationError: the directory cannot be used, or the database is not this version's.
        StateInUseError: another daemon uses it.
    """
    lock = _take_directory(directory)
    try:
        ballast = Ballast(directory / _BALLAST)
        aside = None
        try:
            connection, found = _open(directory, ballast, read, fsync=fsync)
        except DamagedDatabaseError as error:
            aside = _put_aside(directory, error)
            connection, found = _open(directory, ballast, read, fsync=fsync)
        ballast.restore()
        return Database(directory, connection, lock, ballast), found, aside
    except (sqlite3.Error, OSError, DamagedDatabaseError) as error:
        os.close(lock)
        raise ConfigurationError(f"state_dir: {directory / FILE} cannot be used: {error}") from error
    except BaseException:
        os.close(lock)
        raise


def _take_directory(directory: Path) -> int:
    """Make the directory, close it to others, lock it; return the lock."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(directory / LOCK, flags, 0o600)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"state_dir: {directory} cannot be used: {reason}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        message = f"state_dir: {directory}: another daemon uses it; stop it, or set state_dir to another path"
        raise StateInUseError(message) from None
    except OSError as error:
        os.close(lock)
        raise ConfigurationError(f"state_dir: {directory} cannot be locked: {error}") from error
    if not os.access(directory, os.W_OK):
        os.close(lock)
        raise ConfigurationError(f"state_dir: {directory} cannot be written")
    return lock


def _close_to_others(directory: Path) -> None:
    """Give a directory of ours mode 0700. One that is somebody's too, as /tmp is, keeps its own."""
    status = directory.stat()
    if status.st_uid != os.geteuid() or not stat.S_IMODE(status.st_mode) & 0o077:
        return
    names = os.listdir(directory)  # noqa: PTH208 - a list, not an iterator to be closed
    if not names or LOCK in names:
        directory.chmod(0o700)


def _open(
    directory: Path, ballast: Ballast, read: Callable[[sqlite3.Connection], _T], *, fsync: bool
) -> tuple[sqlite3.Connection, _T]:
    try:
        return _open_once(directory, read, fsync=fsync)
    except sqlite3.Error as error:
        if _code_of(error) not in _FULL or not ballast.drop():
            raise
    return _open_once(directory, read, fsync=fsync)


def _open_once(
    directory: Path, read: Callable[[sqlite3.Connection], _T], *, fsync: bool
) -> tuple[sqlite3.Connection, _T]:
    path = directory / FILE
    # SQLite would make it readable to others, and its companions like it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, _LOCKED_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, fsync=fsync)
        _check(connection, path, _marker_of(directory))
        return connection, read(connection)
    except sqlite3.Error as error:
        connection.close()
        if _code_of(error) in _DAMAGED:
            raise DamagedDatabaseError(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise


def _prepare(connection: sqlite3.Connection, path: Path, *, fsync: bool) -> None:
    execute = connection.execute
    # Before anything is read: it holds for the first lock on.
    execute("PRAGMA locking_mode = EXCLUSIVE")
    (application_id,) = execute("PRAGMA application_id").fetchone()
    (tables,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID and (tables or application_id):
        message = f"state_dir: {path} is another application's database; set state_dir to another path"
        raise ConfigurationError(message)
    if version > VERSION:
        message = f"state_dir: {path} is of a newer version ({version}, this is {VERSION}); run that version"
        raise ConfigurationError(f"{message}, or set state_dir to another path")
    execute("PRAGMA auto_vacuum = INCREMENTAL")
    execute("PRAGMA journal_mode = WAL").fetchall()
    execute("PRAGMA temp_store = MEMORY")
    execute(f"PRAGMA synchronous = {'FULL' if fsync else 'OFF'}")
    # What was deleted need not be overwritten, as some builds do: it would cost as much as to write it.
    execute("PRAGMA secure_delete = OFF").fetchall()
    execute(f"PRAGMA journal_size_limit = {WAL_BYTES}").fetchall()
    if application_id != APPLICATION_ID:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
        # SQLite has an integer of 64 bits, of which one is the sign.
        state_id = int.from_bytes(os.urandom(8), "big") >> 1
        execute("INSERT INTO state VALUES (1, ?, 1)", (state_id,))
        execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path, marker: Path) -> None:
    """Look for damage where it takes no time, or where damage was found.

    Raises:
        DamagedDatabaseError: there is some.
    """
    if path.stat().st_size > _CHECKED_BYTES and not marker.exists():
        return
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise DamagedDatabaseError(str(finding))
    marker.unlink(missing_ok=True)


def _put_aside(directory: Path, error: DamagedDatabaseError) -> Path:
    """Rename the damaged database, so that nothing of it is lost for good. An earlier one goes: disks end."""
    path = directory / FILE
    aside = path.with_name(FILE + ".damaged")
    for suffix in ("-wal", "-shm", "-journal"):
        # A WAL must never meet another database than its own.
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    path.replace(aside)
    with suppress(FileNotFoundError):
        path.with_name(FILE + "-wal").replace(aside.with_name(aside.name + "-wal"))
    _marker_of(directory).unlink(missing_ok=True)
    fields = {"file": str(aside), "error": str(error)}
    message = "the outbox is damaged and set aside; windows that waited in it are lost, and it begins anew"
    _log.critical(message, extra={"fields": fields})
    return aside


def _marker_of(directory: Path) -> Path:
    """Return the file that says that the database was found damaged."""
    return directory / f"{FILE}-check"


def _code_of(error: sqlite3.Error) -> int:
    # The lower byte of an extended code is the primary one.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, (sqlite3.Error, OSError)) and str(error) else repr(error)


__all__ = [
    "APPLICATION_ID",
    "FILE",
    "KEPT_FREE_BYTES",
    "LOCK",
    "VERSION",
    "WAL_BYTES",
    "DamagedDatabaseError",
    "Database",
    "open_database",
]
