"""Decoded frames -> segment files, before they are acknowledged; and back, when the daemon starts.

A segment holds the frames between two checkpoints. `rotate` begins the next one at the moment at which a
checkpoint is sealed, so that the checkpoint's position is a segment's number: it covers all before it. Frames
are buffered until `write`, which the receiver has called at the end of its turn, before anything is
acknowledged.

A disk that takes no more costs what came since: the segment is cut back to its last whole record and closed,
and frames are in memory only until a checkpoint begins another segment. What they held is in that checkpoint;
to write on without one would leave a gap in the middle of the journal.

Each start opens a segment of its own and replays the others up to their first bad record.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.storing.replay_note import ReplayNote
from aiokpl_metricsd.storing.segment import (
    HEAD_BYTES,
    RECORD_BYTES,
    SEGMENT_VERSION,
    BadRecordError,
    Record,
    Segment,
    SegmentHead,
    decode_head,
    name_segment,
    put_record,
    read_records,
    remove_segment,
)

_log = logging.getLogger("aiokpl_metricsd.journal")

# Starts in a row that died at a record before it is set aside.
MAX_DEATHS = 3

# What may be appended before it is written at once: a turn of the receiver holds 64 KiB of each source. Made
# once, it spares each record the growing of a buffer, and of it is resident what a turn has ever filled.
_BUFFER_BYTES = 524_288

# Read at once when segments are replayed.
_READ_BYTES = 262_144

_SEGMENT_NAME = re.compile(r"(\d{16,})\.segment")
_SET_ASIDE_NAME = re.compile(r"(\d{16,})-(\d+)\.datagram")
_ANY_NUMBER = re.compile(r"(\d{16,})[.-]")


class Journal:
    """The segments of one state directory.

    Args:
        directory: of its own; made where it is not there.
        state_id: the state's, by which it knows its own segments.
        fsync: wait for the device after each write.

    Attributes:
        position: number of the segment that is written, or opened next.
        is_writable: frames are written. After a failure they are not, until `rotate` succeeds.
        last_error: why the last failure was; "" where there was none.
        segments_damaged: segments of which a part could not be replayed.
        records_set_aside: records that killed too many starts.

    Raises:
        ConfigurationError: the directory cannot be used, or a segment is of a later version.
    """

    def __init__(self, directory: Path, state_id: int, *, fsync: bool = False) -> None:
        """Look at what is there; set aside what is not ours."""
        self._directory = directory
        self._state_id = state_id
        self._fsync = fsync
        self._segment: Segment | None = None
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        # Frames were not written since `write` last answered.
        self._is_owing = False
        # Closed segments that no checkpoint covers, and those that one covers and that are still there.
        self._sizes: dict[int, int] = {}
        self._covered: set[int] = set()
        # A covered segment could not be removed, which is said once.
        self._is_stuck = False
        # The last segment in whose place frames were in memory only; None where a checkpoint has them all.
        self._gap: int | None = None
        self.is_writable = True
        self.last_error = ""
        self.segments_damaged = 0
        self.records_set_aside = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(path.name for path in directory.iterdir())
            self._look(names)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigurationError(f"state_dir: {directory} cannot be used: {reason}") from None
        taken = [int(found[1]) for name in names if (found := _ANY_NUMBER.match(name))]
        self.position = max(taken, default=0) + 1
        # Of the segments in `_sizes`; the one that is written is added.
        self._closed_bytes = sum(self._sizes.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments that no checkpoint covers."""
        return self._closed_bytes + (0 if self._segment is None else self._segment.size_bytes)

    @property
    def is_whole(self) -> bool:
        """Whether each frame that no checkpoint covers is here: a replay would miss none."""
        return self._gap is None and not self._filled

    def append(self, datagram: bytes | memoryview, now: float, lane: bool) -> None:  # noqa: FBT001 - a record's fields
        """Copy a datagram that decoded, for the next `write`."""
        if self._filled + RECORD_BYTES + len(datagram) > _BUFFER_BYTES:
            self._flush()
        if not self.is_writable:
            self._miss()
            return
        self._filled = put_record(self._buffer, self._filled, datagram, now, lane=lane)

    def write(self) -> bool:
        """Write what was appended; return whether all of it since the last call is on disk.

        What could not be written is forgotten: it is in memory only, and the next checkpoint holds it.
        """
        if self._filled:
            self._flush()
        is_whole = self.is_writable and not self._is_owing
        self._is_owing = False
        return is_whole

    def rotate(self) -> int:
        """Begin the next segment, and return its number: the position of the checkpoint being sealed.

        Where it cannot be opened, `is_writable` says so, and the number is taken nevertheless.
        """
        # What was appended is in the checkpoint, and must not be replayed after it.
        if self._filled:
            self._flush()
        if self._segment is not None and self._segment.size_bytes == HEAD_BYTES:
            return self.position
        if self._segment is not None or not self.is_writable:
            self._close_segment()
            self.position += 1
        self._open_segment()
        return self.position

    def forget_before(self, position: int) -> None:
        """Remove the segments before a committed checkpoint's position."""
        for _ in self.forget_before_sliced(position):
            pass

    def forget_before_sliced(self, position: int) -> Iterator[None]:
        """Do the same, and yield between slices of a file. From the first on they count no more."""
        if self._gap is not None and self._gap < position:
            self._gap = None
        for number in [number for number in self._sizes if number < position]:
            self._closed_bytes -= self._sizes.pop(number)
            self._covered.add(number)
        for number in sorted(self._covered):
            try:
                yield from remove_segment(self._path(number))
            except OSError as error:
                # They are covered, and tried again with the next checkpoint.
                if not self._is_stuck:
                    self._say("a segment cannot be removed", number, error)
                self._is_stuck = True
                return
            self._covered.discard(number)
        self._is_stuck = False

    def replay(self, position: int) -> Iterator[Record]:
        """Return the records of the segments from `position` on, in order, and remove those before.

        To be called at the start, before anything is written. Whoever stops in the midst of it has died, as
        far as the next start can see.
        """
        if self._segment is not None:
            raise RuntimeError("a journal is replayed before it is written")
        # A number below the checkpoint's would never be replayed.
        self.position = max(self.position, position)
        self.forget_before(position)
        return self._replay(sorted(self._sizes))

    def close(self) -> None:
        """Write what was appended, and close the segment."""
        self.write()
        self._close_segment()

    # ---- writing

    def _flush(self) -> None:
        if self._segment is None:
            self._open_segment()
        if self._segment is not None:
            try:
                self._segment.write(self._buffer[: self._filled])
            except OSError as error:
                self._close_segment()
                self._fail(error)
        if not self.is_writable:
            self._miss()
        self._filled = 0

    def _miss(self) -> None:
        self._is_owing = True
        self._gap = self.position

    def _open_segment(self) -> None:
        try:
            self._segment = Segment.create(self._directory, self._state_id, self.position, fsync=self._fsync)
        except OSError as error:
            self._fail(error)
            return
        if not self.is_writable:
            self.is_writable = True
            _log.info("the journal is written again", extra={"fields": {"segment": self.position}})

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        self._sizes[self.position] = segment.size_bytes
        self._closed_bytes += segment.size_bytes
        try:
            segment.close()
        except OSError as error:
            # What the kernel had taken it keeps; a device's fault is its own to report.
            self._say("a segment did not close in order", self.position, error)

    def _fail(self, error: OSError) -> None:
        was_writable, self.is_writable = self.is_writable, False
        self.last_error = error.strerror or repr(error)
        if was_writable:
            message = "the journal cannot be written; frames are in memory only until the next checkpoint"
            self._say(message, self.position, error)

    # ---- reading

    def _look(self, names: list[str]) -> None:
        for name in names:
            found = _SEGMENT_NAME.fullmatch(name)
            if found is None:
                continue
            number, path = int(found[1]), self._directory / name
            try:
                with path.open("rb") as file:
                    head = decode_head(file.read(HEAD_BYTES))
                    size_bytes = os.fstat(file.fileno()).st_size
            except OSError as error:
                self._say("a segment cannot be read", number, error)
                continue
            if head is None:
                if size_bytes >= HEAD_BYTES:
                    self._set_aside(path, "damaged", "a segment without a head is set aside")
                else:
                    # Its start died before it had written anything.
                    self._covered.add(number)
            elif head.version > SEGMENT_VERSION:
                raise ConfigurationError(_complain(path, head))
            elif head.state_id != self._state_id:
                suffix = f"of-{head.state_id:016x}"
                self._set_aside(path, suffix, "a segment of another state is set aside, not replayed")
            elif head.number != number:
                self._set_aside(path, "renamed", "a segment under another's name is set aside")
            else:
                self._sizes[number] = size_bytes

    def _set_aside(self, path: Path, suffix: str, message: str) -> None:
        aside = path.with_name(f"{path.name}.{suffix}")
        try:
            path.rename(aside)
        except OSError as error:
            _log.warning(message, extra={"fields": {"file": str(path), "error": str(error)}})
            return
        _log.warning(message, extra={"fields": {"file": str(path), "to": str(aside)}})

    def _replay(self, numbers: list[int]) -> Iterator[Record]:
        note = ReplayNote(self._directory)
        if note.problem and numbers:
            fields = {"error": note.problem}
            _log.warning("a record that kills the replay will not be known", extra={"fields": fields})
        found = [_SET_ASIDE_NAME.fullmatch(path.name) for path in self._directory.iterdir()]
        known = {(int(each[1]), int(each[2])) for each in found if each is not None}
        is_over = False
        try:
            for number in numbers:
                for offset, record in self._read(number):
                    if (number, offset) in known:
                        continue
                    if note.count_deaths(number, offset) >= MAX_DEATHS:
                        self._set_record_aside(number, offset, record)
                        continue
                    note.write(number, offset)
                    yield record
            is_over = True
        finally:
            note.close(is_over=is_over)

    def _read(self, number: int) -> Iterator[tuple[int, Record]]:
        """Return a segment's records up to its first bad one."""
        try:
            with self._path(number).open("rb", buffering=_READ_BYTES) as file:
                yield from read_records(file)
        except BadRecordError as error:
            self.segments_damaged += 1
            fields = {
                "segment": number,
                "offset": error.offset,
                "unread_bytes": self._sizes[number] - error.offset,
                "is_torn": error.is_torn,
            }
            _log.warning("a segment ends at a bad record", extra={"fields": fields})
        except OSError as error:
            self.segments_damaged += 1
            self._say("a segment cannot be read", number, error)

    def _set_record_aside(self, number: int, offset: int, record: Record) -> None:
        self.records_set_aside += 1
        path = self._directory / f"{number:016d}-{offset}.datagram"
        fields: dict[str, object] = {"segment": number, "offset": offset, "file": str(path)}
        try:
            path.write_bytes(record.datagram)
            path.chmod(0o600)
        except OSError as error:
            fields["error"] = str(error)
        message = f"{MAX_DEATHS} starts in a row died at a record; it is set aside and not counted"
        _log.error(message, extra={"fields": fields})

    def _path(self, number: int) -> Path:
        return self._directory / name_segment(number)

    def _say(self, message: str, number: int, error: OSError) -> None:
        _log.warning(message, extra={"fields": {"segment": number, "error": str(error)}})


def _complain(path: Path, head: SegmentHead) -> str:
    return (
        f"state_dir: {path} is of version {head.version}, this daemon reads version {SEGMENT_VERSION}: "
        "start the daemon that wrote it and stop it in order, or move the file away and lose what it holds"
    )


__all__ = ["MAX_DEATHS", "Journal", "Record"]
