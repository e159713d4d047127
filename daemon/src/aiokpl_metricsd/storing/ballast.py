"""Four MiB that are given up when the disk is full, so that marks and deletes go through.

On a full disk SQLite cannot even delete: what is delivered could not be marked, and would be delivered again
for ever.
"""

import os
from contextlib import suppress
from pathlib import Path

BALLAST_BYTES = 4 << 20

# It is made again where there is room for more than itself, or it would come and go with every transaction.
_FREE_RATIO = 3


class Ballast:
    """The file that takes up the space.

    Args:
        path: where it is.
        size_bytes: how much it takes up.
    """

    def __init__(self, path: Path, *, size_bytes: int = BALLAST_BYTES) -> None:
        """Look whether it is there, whole."""
        self._path = path
        self._size_bytes = size_bytes
        with suppress(OSError):
            self.is_there = path.stat().st_size == size_bytes
            return
        self.is_there = False

    def restore(self) -> None:
        """Make it where it is missing and there is room."""
        if self.is_there:
            return
        with suppress(OSError):
            free = os.statvfs(self._path.parent)
            if free.f_bavail * free.f_frsize < self._size_bytes * _FREE_RATIO:
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(file, 0, self._size_bytes)
                self.is_there = True
            finally:
                os.close(file)
                if not self.is_there:
                    self._path.unlink()

    def drop(self) -> bool:
        """Give the space up. Return whether there was any."""
        if not self.is_there:
            return False
        self.is_there = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


__all__ = ["BALLAST_BYTES", "Ballast"]
