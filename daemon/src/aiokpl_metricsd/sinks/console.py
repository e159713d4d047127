"""Snapshots -> standard output, as a table for people or as JSON lines.

A stopped terminal or a full pipe blocks whoever writes to it, and may do so for ever. So a worker thread
writes, and it never waits inside `write`: it polls the descriptor and looks, ten times a second, whether the
export was cancelled. A blocked stream holds up this sink alone, and not the process's exit, which a thread
stuck in `write` would.

Every failure to write is retryable, a closed pipe (BrokenPipeError) too, though its reader will not come
back: the fault is not in the data, so it must not be quarantined datum by datum; delivery logs the failure
once a minute, and what does not get out in time is counted as expired. A retry prints the window again from
its heading, on a line of its own.
"""

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from select import POLLOUT, poll
from threading import Event, Lock
from types import TracebackType
from typing import Literal, Self, TextIO, get_args

from anyio import CancelScope, to_thread
from anyio.lowlevel import checkpoint

from aiokpl_metricsd.errors import ConfigurationError, PartialExportError, RetryableExportError
from aiokpl_metricsd.rendering.rows import encode_rows
from aiokpl_metricsd.rendering.table import render_table
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot

Format = Literal["table", "json"]

# Rows that are encoded before others may run: about a millisecond, three with full histograms.
_SLICE_ROWS = 200
# What is collected before a thread is asked to write it; a window of up to about 500 rows is one write.
_WRITE_BYTES = 64 * 1024
# A pipe that polls as writable takes PIPE_BUF bytes without blocking (4,096 on Linux; pipe(7), read 2026-11).
_SAFE_WRITE_BYTES = 4096
# How soon a thread that waits for a blocked stream notices that nobody waits for it any more.
_WAKE_MS = 100
_CLOSE_WAIT_S = 1.0


class ConsoleSink:
    """Prints every window.

    Args:
        format: a table for people, one block a window, with percentiles of histograms; or one JSON object a
            line.
        stream: where to print instead of standard output; for programs and tests.

    Raises:
        ValueError: there is no such format.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = True
    # About 2 MB of text: what is printed again where a crash comes between.
    max_batch = 10_000

    def __init__(
        self,
        *,
        format: Format = "table",  # noqa: A002 - it is the option's name in the configuration
        stream: TextIO | None = None,
    ) -> None:
        """Keep the options; nothing is opened before entering."""
        if format not in get_args(Format):
            raise ValueError(f'format is "table" or "json", not {format!r}')
        self._format = format
        self._stream = stream
        self._outlet: _Outlet | None = None

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Print the snapshots of one window.

        Raises:
            RetryableExportError: the stream took not all of it.
            PartialExportError: some snapshots have no JSON form; the rest is printed.
        """
        outlet = self._outlet
        if outlet is None or not snapshots:
            return
        refused: list[MetricSnapshot] = []
        if self._format == "table":
            parts = _encode_table(snapshots, outlet)
        else:
            parts = _encode_lines(snapshots, refused)
        waiting = bytearray()
        for part in parts:
            waiting += part
            if len(waiting) >= _WRITE_BYTES:
                await _write(outlet, bytes(waiting))
                waiting.clear()
            else:
                await checkpoint()
        if waiting:
            await _write(outlet, bytes(waiting))
        if refused:
            raise PartialExportError("not to be written as JSON", rejected=refused)

    async def __aenter__(self) -> Self:
        """Take hold of the stream.

        Raises:
            ConfigurationError: the process has no standard output.
        """
        if self._outlet is None:
            # Typed as never None, but it is where descriptor 1 was closed before the start.
            stream: TextIO | None = self._stream or sys.stdout
            if stream is None:
                raise ConfigurationError("console: there is no standard output")
            self._outlet = await to_thread.run_sync(_Outlet, stream)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Let go of the stream; it stays open for others."""
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(outlet.close)


class _Outlet:
    """Where the bytes go: a descriptor of our own, or a text stream that has none. Every method may block."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = Lock()
        # The last write ended inside a line.
        self._torn = False
        self._descriptor: int | None = None
        self._write_bytes = _WRITE_BYTES
        self.encoding = "utf-8"
        try:
            inherited = stream.fileno()
        except (OSError, ValueError):
            # It has none, or is closed, which the first export will say.
            return
        with suppress(OSError):
            # What was printed before comes first, if it still can.
            stream.flush()
        self.encoding = stream.encoding or "utf-8"
        self._descriptor, self._write_bytes = _open_apart(inherited)

    @property
    def max_chars(self) -> int | None:
        """The terminal's width; None where it is no terminal."""
        if self._descriptor is None or not os.isatty(self._descriptor):
            return None
        try:
            # A terminal of unknown size says 0.
            return os.get_terminal_size(self._descriptor).columns or None
        except OSError:
            return None

    def write(self, data: bytes, abandoned: Event) -> None:
        """Write all of it, or until `abandoned` is set."""
        # The lock keeps a write from starting while one that was abandoned is still about to notice it.
        with self._lock:
            if self._descriptor is None:
                self._stream.write(data.decode())
                self._stream.flush()
                return
            if self._torn:
                data = b"\n" + data
            view = memoryview(data)
            done = 0
            poller = poll()
            poller.register(self._descriptor, POLLOUT)
            try:
                while done < len(data) and not abandoned.is_set():
                    # Looked at again, because what ends the wait may come after the cancellation.
                    if not poller.poll(_WAKE_MS) or abandoned.is_set():
                        continue
                    try:
                        done += os.write(self._descriptor, view[done : done + self._write_bytes])
                    except BlockingIOError:
                        continue
            finally:
                if done:
                    self._torn = not data[:done].endswith(b"\n")

    def close(self) -> None:
        """Close what was opened here."""
        # Not while a thread still writes to it: the number might come to mean another file. One that hangs
        # for good (only a terminal that we could not open apart can do that) keeps its descriptor.
        if self._lock.acquire(timeout=_CLOSE_WAIT_S):
            try:
                if self._descriptor is not None:
                    os.close(self._descriptor)
                    self._descriptor = None
            finally:
                self._lock.release()


def _open_apart(inherited: int) -> tuple[int, int]:
    """Open the same terminal or pipe once more, not blocking, and say how much may be written at once.

    O_NONBLOCK belongs to the open file description, which standard output shares with the shell and with
    other processes: setting it there would break them. Where opening is refused (a pipe of another user, a
    socket, no /proc), a duplicate does, in writes so small that they do not block after a poll.
    """
    mode = os.fstat(inherited).st_mode
    if stat.S_ISREG(mode):
        # Opened apart it would have an offset of its own. A file never blocks for long.
        return os.dup(inherited), _WRITE_BYTES
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{inherited}", flags), _WRITE_BYTES
    except OSError:
        return os.dup(inherited), _SAFE_WRITE_BYTES


async def _write(outlet: _Outlet, data: bytes) -> None:
    abandoned = Event()
    try:
        # Abandoned, so that a cancelled export ends at once; the thread follows within _WAKE_MS.
        await to_thread.run_sync(outlet.write, data, abandoned, abandon_on_cancel=True)
    except (OSError, ValueError) as error:
        # ValueError is a text stream that was closed.
        raise RetryableExportError(f"cannot print: {error}") from error
    finally:
        abandoned.set()


def _encode_table(snapshots: Sequence[MetricSnapshot], outlet: _Outlet) -> Iterator[bytes]:
    for text in render_table(snapshots, max_chars=outlet.max_chars):
        yield text.encode(outlet.encoding, "backslashreplace")


def _encode_lines(snapshots: Sequence[MetricSnapshot], refused: list[MetricSnapshot]) -> Iterator[bytes]:
    for start in range(0, len(snapshots), _SLICE_ROWS):
        lines, poisonous = encode_rows(snapshots[start : start + _SLICE_ROWS])
        refused += poisonous
        yield lines


__all__ = ["ConsoleSink"]
