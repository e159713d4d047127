"""Snapshots -> a file of JSON lines, with older files beside it.

A window is one append: it is encoded first, so its size is known, and it goes whole into one file. Where the
append fails or comes up short (disk full), the file is cut back to what it was, so the retry neither doubles
nor tears a row. A row torn by the process's death is cut off when the file is next opened.

A file that someone else moved away (logrotate) is noticed before the next window, which goes into a new one;
one that was truncated in place is simply appended to. One daemon writes to one path. Nothing is synced: a row
survives the process, not the machine.

**Every window exactly once.** What the sink remembers is which file it wrote to, and up to where; delivery
stores that with the mark that a batch was taken. After a crash the file may have more than was marked, which
will be exported again: on entering it is cut off, and kept in `PATH.cut` until the next time, since a state
directory that took no marks before the crash may not give those windows again. A file is known by how it
begins, so it is found under the next number too, if it was renamed after the mark; newer files have nothing
then that was marked, and are emptied. A file that someone else moved out of sight since the mark leaves its
successor as it is: one batch may be in both.
"""

import logging
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM, EROFS
from pathlib import Path
from shutil import copyfileobj
from threading import Event, Lock
from types import TracebackType
from typing import Annotated, Self

import msgspec
from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint
from msgspec import Meta, Struct

from aiokpl_metricsd.errors import ConfigurationError, PartialExportError, RetryableExportError
from aiokpl_metricsd.rendering.rows import encode_rows
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot

_log = logging.getLogger("aiokpl_metricsd.sinks.jsonl")

# Rows that are encoded before others may run: about a millisecond, three with full histograms.
_SLICE_ROWS = 200
# Buffers that one writev takes (Linux UIO_MAXIOV; writev(2), read 2026-11): 200,000 rows are one append.
_MAX_BUFFERS = 1024
_MODE = 0o640
# The errors of opening that only the operator can mend.
_PERMANENT = frozenset(
    {EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM, EROFS},
)
# Every row begins so; and no row is longer than the tail that is searched for its beginning: 30 dimensions of
# 255 and 1,024 characters, each at most six bytes as JSON writes them, are 230 KB.
_ROW_START = b'{"window_id":'
_MAX_TAIL_BYTES = 512 * 1024
# How much of a file's beginning tells it from others: its first row, or most of it.
_HEAD_BYTES = 512


class _Mark(Struct, frozen=True, array_like=True):
    """Where a file ended.

    Attributes:
        device: of the file.
        inode: of the file.
        size_bytes: of it.
        head: its beginning, as far as it goes.
    """

    device: int
    inode: int
    size_bytes: int
    head: bytes


class JsonlSink:
    """Appends every window to a file, one JSON object a line, as the module `rows` describes it.

    Args:
        path: the file; its directory exists.
        max_bytes: a window that would take the file past it goes into a new one, and the old one becomes
            `PATH.1`, `PATH.1` becomes `PATH.2`, and so on; only a window that is larger by itself passes it.
        keep: how many renamed files there may be; the oldest is overwritten, and 0 keeps none.

    Raises:
        ValueError: an option is out of its range.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = True
    # About 4 MB of rows: what one append has, and what a crash costs to be written again.
    max_batch = 10_000

    def __init__(
        self,
        *,
        path: str,
        max_bytes: Annotated[int, Meta(ge=1)] | None = 64 * 1024 * 1024,
        keep: Annotated[int, Meta(ge=0, extra={"unit": "files"})] = 5,
    ) -> None:
        """Keep the options; nothing is opened before entering. None as `max_bytes` renames nothing."""
        if not path:
            raise ValueError("path is empty")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is at least 1, not {max_bytes}")
        if keep < 0:
            raise ValueError(f"keep is at least 0, not {keep}")
        self._file = _File(path, max_bytes, keep)
        self._entered = False

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Append the snapshots of one window: all of them, or none.

        Raises:
            RetryableExportError: nothing was appended; the file is as it was.
            PartialExportError: some snapshots have no JSON form; the rest is appended.
        """
        if not self._entered or not snapshots:
            return
        parts: list[bytes] = []
        refused: list[MetricSnapshot] = []
        for start in range(0, len(snapshots), _SLICE_ROWS):
            lines, poisonous = encode_rows(snapshots[start : start + _SLICE_ROWS])
            parts.append(lines)
            refused += poisonous
            await checkpoint()
        abandoned = Event()
        try:
            await to_thread.run_sync(self._file.append, parts, abandoned)
        except OSError as error:
            raise RetryableExportError(f"cannot append to {self._file.path}: {error.strerror}") from error
        finally:
            # asyncio's own cancellation gets here while the thread is still at work: it then takes the window
            # back.
            abandoned.set()
        if refused:
            raise PartialExportError("not to be written as JSON", rejected=refused)

    def dump_state(self) -> bytes:
        """Return which file it is, and where it ended after the last export that returned."""
        return msgspec.msgpack.encode(self._file.restore_to or self._file.mark)

    def load_state(self, state: bytes) -> None:
        """Cut off on entering what the file has more than when this was dumped.

        Raises:
            msgspec.MsgspecError: this is no such state.
        """
        self._file.restore_to = msgspec.msgpack.decode(state, type=_Mark | None)

    async def probe(self, timeout_s: float) -> str:
        """Look whether the file could be opened.

        Raises:
            ConfigurationError: it could not.
        """
        del timeout_s
        return await to_thread.run_sync(_look_at, Path(self._file.path))

    async def __aenter__(self) -> Self:
        """Open the file, or create it. What may pass, as a full disk, is left to the exports.

        Raises:
            ConfigurationError: the directory is missing, the path is no regular file, or access is denied.
        """
        try:
            await to_thread.run_sync(self._file.open)
        except OSError as error:
            if error.errno in _PERMANENT:
                raise ConfigurationError(f"jsonl: cannot open {self._file.path}: {error.strerror}") from error
        self._entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._entered = False
        with CancelScope(shield=True):
            await to_thread.run_sync(self._file.close)


class _File:
    """The file and the older ones beside it. Every method may block, so threads call them, one at a time.

    Attributes:
        path: of the file.
        mark: where it ended when it was last opened or appended to; None before.
        restore_to: where it is to end when it is next opened; None for anywhere.
    """

    def __init__(self, path: str, max_bytes: int | None, keep: int) -> None:
        self.path = path
        self.mark: _Mark | None = None
        self.restore_to: _Mark | None = None
        self._max_bytes = max_bytes
        self._keep = keep
        self._lock = Lock()
        self._descriptor: int | None = None
        # The size to go back to, while what follows it is not to be kept.
        self._cut_at: int | None = None

    def open(self) -> None:
        """Open the file unless it is open.

        Raises:
            OSError: the directory is missing, the path is no regular file, or opening is refused.
        """
        with self._lock:
            if self.restore_to is not None:
                self._restore(self.restore_to)
                self.restore_to = None
            self.mark = _mark(self._follow())

    def append(self, parts: Sequence[bytes], abandoned: Event) -> None:
        """Append all of it; or nothing, if that fails or `abandoned` is set by then.

        Raises:
            OSError: it failed.
        """
        with self._lock:
            if abandoned.is_set():
                return
            if self.restore_to is not None:
                self._restore(self.restore_to)
                self.restore_to = None
            descriptor = self._follow()
            if self._cut_at is not None:
                self._cut(descriptor)
            size = os.fstat(descriptor).st_size
            if self._max_bytes and size and size + sum(map(len, parts)) > self._max_bytes:
                self._rotate()
                descriptor, size = self._follow(), 0
            self._cut_at = size
            try:
                _write_all(descriptor, parts)
                if not abandoned.is_set():
                    self._cut_at = None
                    self.mark = _mark(descriptor)
            finally:
                if self._cut_at is not None:
                    self._cut(descriptor)

    def close(self) -> None:
        """Close the file if it is open."""
        with self._lock:
            self._close()

    def _follow(self) -> int:
        """Return a descriptor of the file that has the path now."""
        if self._descriptor is not None:
            here = os.fstat(self._descriptor)
            try:
                there = Path(self.path).stat()
            except FileNotFoundError:
                there = None
            if there is not None and os.path.samestat(here, there):
                return self._descriptor
            self._close()
        self._descriptor = _open_regular(self.path)
        return self._descriptor

    def _cut(self, descriptor: int) -> None:
        if self._cut_at is not None and os.fstat(descriptor).st_size > self._cut_at:
            os.ftruncate(descriptor, self._cut_at)
        self._cut_at = None

    def _name_all(self) -> list[str]:
        return [self.path, *(f"{self.path}.{number}" for number in range(1, self._keep + 1))]

    def _restore(self, mark: _Mark) -> None:
        """Cut off what was appended after the mark, in this file and in newer ones."""
        names = self._name_all()
        found = next((number for number, name in enumerate(names) if _is_marked(name, mark)), None)
        if found is None:
            here = _stat(self.path)
            # The same file with another beginning was emptied since, by `keep` 0 or someone else. With the
            # same beginning it lost its end, as when the machine died.
            is_same = here is not None and (here.st_dev, here.st_ino) == (mark.device, mark.inode)
            if is_same and not mark.head.startswith(_read_head(self.path)):
                self._cut_off([(self.path, 0)])
            return
        newer = [(name, 0) for name in reversed(names[:found]) if _stat(name) is not None]
        self._cut_off([(names[found], mark.size_bytes), *newer])
        for name in names[1:found]:
            with suppress(FileNotFoundError):
                Path(name).unlink()

    def _cut_off(self, ends: Sequence[tuple[str, int]]) -> None:
        """Cut files to their sizes, oldest first, and keep what is cut off beside them."""
        longer = [(name, size) for name, size in ends if Path(name).stat().st_size > size]
        if not longer:
            return
        kept = f"{self.path}.cut"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(kept, flags, _MODE), "wb") as file:
            for name, size in longer:
                with Path(name).open("rb") as source:
                    source.seek(size)
                    copyfileobj(source, file)
            cut_bytes = file.tell()
        for name, size in longer:
            os.truncate(name, size)
        fields = {"file": self.path, "kept": kept, "bytes": cut_bytes}
        _log.warning("rows without a mark are cut off; their windows come again", extra={"fields": fields})

    def _rotate(self) -> None:
        """Move every file one number on, up to the first number that is free, else onto the oldest."""
        names = self._name_all()
        if len(names) == 1:
            # In place: a new file might be taken for another one's successor.
            os.truncate(self.path, 0)
            return
        free = next((i for i, name in enumerate(names) if i and not os.path.lexists(name)), len(names) - 1)
        for number in range(free, 0, -1):
            Path(names[number - 1]).replace(names[number])

    def _close(self) -> None:
        self._cut_at = None
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def _open_regular(path: str) -> int:
    # O_NONBLOCK: a pipe without a reader is refused at once instead of waited for; a regular file knows no
    # blocking.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, _MODE)
    try:
        _check_regular(descriptor)
        _mend(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mark(descriptor: int) -> _Mark:
    here = os.fstat(descriptor)
    head = os.pread(descriptor, min(_HEAD_BYTES, here.st_size), 0)
    return _Mark(here.st_dev, here.st_ino, here.st_size, head)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - beside os.truncate
    except FileNotFoundError:
        return None


def _is_marked(path: str, mark: _Mark) -> bool:
    """Return whether it is the file that was marked, or a copy of it."""
    here = _stat(path)
    if here is None or not stat.S_ISREG(here.st_mode) or here.st_size < mark.size_bytes:
        return False
    if not mark.size_bytes:
        return (here.st_dev, here.st_ino) == (mark.device, mark.inode)
    return _read_head(path).startswith(mark.head)


def _read_head(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - pathlib costs import time
        return file.read(_HEAD_BYTES)


def _check_regular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(EINVAL, "it is no regular file")


def _mend(descriptor: int) -> None:
    """Make sure that the file ends with a whole line."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _MAX_TAIL_BYTES, max(0, size - _MAX_TAIL_BYTES))
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    if torn.startswith(_ROW_START) or _ROW_START.startswith(torn):
        os.ftruncate(descriptor, size - len(torn))
    else:
        # Not ours, so not ours to delete.
        os.write(descriptor, b"\n")


def _write_all(descriptor: int, parts: Sequence[bytes]) -> None:
    waiting = deque(memoryview(part) for part in parts if part)
    while waiting:
        written = os.writev(descriptor, [waiting[i] for i in range(min(len(waiting), _MAX_BUFFERS))])
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.popleft())
        if written:
            waiting[0] = waiting[0][written:]


def _look_at(path: Path) -> str:
    """Return what there is at a path that can be appended to.

    Raises:
        ConfigurationError: it cannot be.
    """
    directory = path.parent
    if not directory.is_dir():
        raise ConfigurationError(f"there is no directory {directory}; make it, or name another path")
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path} is no file; name another path")
    # Files are renamed beside it, too.
    if not os.access(directory, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigurationError(f"{path} cannot be written by uid {os.geteuid()}; give it to this user")
    return f"{path} can be appended to"


__all__ = ["JsonlSink"]
