"""Which record is being replayed, noted where the next start finds it.

A record that kills the daemon would kill every start: a decoder's fault, or one that takes all the memory. So
its place is noted before it is replayed, and the note taken away when the replay is over. A start that finds
a note knows where the last one died, and how many in a row died there. One death says little, since whoever
ends the daemon in the midst of a replay leaves the same note; three in a row at the same record say enough.

The note is written with one `pwrite` a record, a microsecond: a mapped file would spare it, and end the
daemon with SIGBUS where a full disk cannot back the page.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from struct import Struct as Layout

# Number and offset of the record, earlier starts in a row that died there.
_NOTE = Layout("<QQI")
_CHECKSUM = Layout("<I")

FILE_NAME = "replaying"


class ReplayNote:
    """The note of one replay.

    Args:
        folder: where the file is.

    Attributes:
        problem: why nothing can be noted; "" while it can.
    """

    def __init__(self, folder: Path) -> None:
        """Read what the last start left, if it died."""
        self.problem = ""
        self._path = folder / FILE_NAME
        self._died_at = (0, 0)
        self._deaths = 0
        self._descriptor = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
            self._read(os.pread(self._descriptor, _NOTE.size + _CHECKSUM.size, 0))
        except OSError as error:
            self._give_up(error)

    def count_deaths(self, number: int, offset: int) -> int:
        """Return how many starts in a row died at a record, the last one included."""
        return self._deaths if (number, offset) == self._died_at else 0

    def write(self, number: int, offset: int) -> None:
        """Note that a record is replayed next."""
        if self._descriptor < 0:
            return
        note = _NOTE.pack(number, offset, self.count_deaths(number, offset))
        try:
            os.pwrite(self._descriptor, note + _CHECKSUM.pack(zlib.crc32(note)), 0)
        except OSError as error:
            self._give_up(error)

    def close(self, *, is_over: bool) -> None:
        """Close the file; take it away when the replay is over."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if is_over:
            with suppress(OSError):
                self._path.unlink()

    def _read(self, note: bytes) -> None:
        if len(note) < _NOTE.size + _CHECKSUM.size:
            return
        if zlib.crc32(note[: _NOTE.size]) != _CHECKSUM.unpack_from(note, _NOTE.size)[0]:
            return
        number, offset, deaths = _NOTE.unpack_from(note)
        self._died_at = (number, offset)
        self._deaths = deaths + 1

    def _give_up(self, error: OSError) -> None:
        self.problem = error.strerror or repr(error)
        self.close(is_over=False)


__all__ = ["FILE_NAME", "ReplayNote"]
