"""A lock file -> whether somebody holds it, read from /proc/locks: to try it could have a start fail."""

import os
from pathlib import Path
from typing import Final

LOCKS: Final = Path("/proc/locks")


def is_locked(path: str) -> bool:
    """Tell whether a process that can be seen from here holds an flock on the file."""
    try:
        status = Path(path).stat()
        text = LOCKS.read_text(encoding="ascii")
    except OSError:
        return False
    return find_lock(text, status.st_dev, status.st_ino)


def find_lock(locks: str, device: int, inode: int) -> bool:
    """Tell whether the file has a lock among these.

    Args:
        locks: as /proc/locks has them (proc_locks(5)).
        device: of the file.
        inode: of the file.
    """
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    return any(
        "FLOCK" in fields and wanted in fields and "->" not in fields
        for fields in map(str.split, locks.splitlines())
    )


__all__ = ["find_lock", "is_locked"]
