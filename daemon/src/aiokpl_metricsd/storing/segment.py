"""A file of the journal: a head, then records, each with its length and checksum. Written once, then read.

    head     magic, version, the state's id, the segment's number, checksum
    record   length, arrival, flags, the datagram, checksum

A segment ends at its first bad record: where that begins, nothing says any more where the next one does. So
after a write that failed the file is cut back to its last whole record, and never written again.
"""

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct as Layout
from typing import BinaryIO, NamedTuple, Self

from msgspec import Struct

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES

SEGMENT_VERSION = 1

_MAGIC = b"aiokpl-j"

# Whatever a later version's head has, it begins like this.
_PREFIX = Layout("<8sI")
_HEAD = Layout("<8sIQQ")
_CHECKSUM = Layout("<I")
_RECORD = Layout("<IdB")

HEAD_BYTES = _HEAD.size + _CHECKSUM.size

# What a record has beside its datagram.
RECORD_BYTES = _RECORD.size + _CHECKSUM.size

_LANE = 1

# Of a file's bytes, those that are let go of at once: 8 MiB take the kernel 1 ms. Removed in one go, 32 MiB
# held the loop up for 16 ms by the wall, and 512 MiB for 190 (ext4, Linux 6.18, measured on a busy machine).
_REMOVED_BYTES = 8 * 1024 * 1024


class Record(Struct, frozen=True, gc=False):
    """One datagram that had decoded.

    Attributes:
        now: epoch seconds when it arrived.
        lane: it came on a lane.
        datagram: as it was.
    """

    now: float
    lane: bool
    datagram: bytes


class SegmentHead(NamedTuple):
    """What a segment says of itself; of a later version than ours, that alone."""

    version: int
    state_id: int = 0
    number: int = 0


class BadRecordError(Exception):
    """Where a segment ends although its file goes on.

    Attributes:
        offset: of the bad record in the file.
        is_torn: the file ends within it, as when the machine or the disk stopped in the midst of it.
    """

    def __init__(self, offset: int, *, is_torn: bool) -> None:
        """Keep where it is."""
        super().__init__(f"bad record at {offset}")
        self.offset = offset
        self.is_torn = is_torn


def encode_head(state_id: int, number: int) -> bytes:
    """Return what a segment begins with."""
    head = _HEAD.pack(_MAGIC, SEGMENT_VERSION, state_id, number)
    return head + _CHECKSUM.pack(zlib.crc32(head))


def decode_head(head: bytes) -> SegmentHead | None:
    """Return what a segment's first bytes say, or None where they are no head."""
    if len(head) < _PREFIX.size:
        return None
    magic, version = _PREFIX.unpack_from(head)
    if magic != _MAGIC or not version:
        return None
    if version > SEGMENT_VERSION:
        return SegmentHead(version)
    if len(head) < HEAD_BYTES or zlib.crc32(head[: _HEAD.size]) != _CHECKSUM.unpack_from(head, _HEAD.size)[0]:
        return None
    _, version, state_id, number = _HEAD.unpack_from(head)
    return SegmentHead(version, state_id, number)


def put_record(
    buffer: memoryview, offset: int, datagram: bytes | memoryview, now: float, *, lane: bool
) -> int:
    """Write a record into a buffer that has room for it; return where it ends."""
    begin = offset + _RECORD.size
    end = begin + len(datagram)
    _RECORD.pack_into(buffer, offset, len(datagram), now, lane)
    buffer[begin:end] = datagram
    _CHECKSUM.pack_into(buffer, end, zlib.crc32(buffer[offset:end]))
    return end + _CHECKSUM.size


def measure_records(written: memoryview, size_bytes: int) -> int:
    """Return how long the whole records are among the first bytes of what was to be written."""
    whole = 0
    while whole + RECORD_BYTES <= size_bytes:
        length, _, _ = _RECORD.unpack_from(written, whole)
        following = whole + RECORD_BYTES + length
        if following > size_bytes:
            break
        whole = following
    return whole


def read_records(file: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Return the records of an open segment, each with its offset.

    Raises:
        BadRecordError: one of them is not whole.
        OSError: the file cannot be read.
    """
    offset = HEAD_BYTES
    file.seek(offset)
    while head := file.read(_RECORD.size):
        if len(head) < _RECORD.size:
            raise BadRecordError(offset, is_torn=True)
        length, now, flags = _RECORD.unpack(head)
        if not 0 < length <= MAX_DATAGRAM_BYTES:
            raise BadRecordError(offset, is_torn=False)
        datagram = file.read(length)
        checksum = file.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise BadRecordError(offset, is_torn=True)
        if _CHECKSUM.pack(zlib.crc32(datagram, zlib.crc32(head))) != checksum:
            raise BadRecordError(offset, is_torn=False)
        yield offset, Record(now, bool(flags & _LANE), datagram)
        offset += RECORD_BYTES + length


class Segment:
    """The segment that is being written.

    Args:
        path: of its file, which must not be there yet.
        state_id: the state's.
        number: the segment's.
        fsync: what is written is on the device, not only with the kernel.

    Attributes:
        size_bytes: of the file.

    Raises:
        OSError: it cannot be made; there is no file then, or an empty one.
    """

    def __init__(self, path: Path, state_id: int, number: int, *, fsync: bool) -> None:
        """Make the file, closed to others, and write its head."""
        self._fsync = fsync
        self.size_bytes = 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._write(encode_head(state_id, number))
            if fsync:
                _sync_folder(path.parent)
        except BaseException:
            self.close()
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def create(cls, folder: Path, state_id: int, number: int, *, fsync: bool) -> Self:
        """Make a segment in a folder, under the name of its number."""
        return cls(folder / name_segment(number), state_id, number, fsync=fsync)

    def write(self, records: memoryview) -> None:
        """Write whole records.

        Raises:
            OSError: not all of them are there. The file has been cut back to its last whole one; it may be
                closed now, not written again.
        """
        before = self.size_bytes
        try:
            self._write(records)
        except OSError:
            self._cut(before + measure_records(records, self.size_bytes - before))
            raise

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, data: bytes | memoryview) -> None:
        remaining = data
        while remaining:
            # A full disk takes what still fits, and says why it took no more when it is asked again.
            written = os.write(self._descriptor, remaining)
            self.size_bytes += written
            if written == len(remaining):
                break
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            remaining = remaining[written:]
        if self._fsync:
            os.fdatasync(self._descriptor)

    def _cut(self, size_bytes: int) -> None:
        if size_bytes < self.size_bytes:
            # Where even that fails, the torn record's checksum ends the segment.
            with suppress(OSError):
                os.truncate(self._descriptor, size_bytes)
                self.size_bytes = size_bytes


def name_segment(number: int) -> str:
    """Return the name of a segment's file. Names sort as numbers do."""
    return f"{number:016d}.segment"


def remove_segment(path: Path) -> Iterator[None]:
    """Remove a segment's file, and yield between its slices. It must be covered: it gets shorter first.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return
    while size_bytes > _REMOVED_BYTES:
        size_bytes -= _REMOVED_BYTES
        os.truncate(path, size_bytes)
        yield
    path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "HEAD_BYTES",
    "RECORD_BYTES",
    "SEGMENT_VERSION",
    "BadRecordError",
    "Record",
    "Segment",
    "SegmentHead",
    "decode_head",
    "encode_head",
    "measure_records",
    "name_segment",
    "put_record",
    "read_records",
    "remove_segment",
]
