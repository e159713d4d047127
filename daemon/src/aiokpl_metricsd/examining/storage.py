"""The state directory -> whether the daemon can keep what it accepts there.

Looked at without opening the database, which may be at work: its header says whose it is, and of which
version.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import unpack_from
from tempfile import TemporaryFile
from typing import Final

from msgspec import Struct

from aiokpl_metricsd.config import Configuration
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn
from aiokpl_metricsd.examining.lock import is_locked
from aiokpl_metricsd.state import check_state_dir
from aiokpl_metricsd.storing.ballast import BALLAST_BYTES
from aiokpl_metricsd.storing.segment import HEAD_BYTES, SEGMENT_VERSION, decode_head

MOUNTS: Final = Path("/proc/self/mountinfo")

_MEMORY: Final = frozenset({"ramfs", "tmpfs"})

# Where SQLite's header has `user_version` and `application_id`, big-endian (sqlite.org/fileformat2.html,
# 1.3, read 2026-11).
_VERSION_OFFSET: Final = 60
_ID_OFFSET: Final = 68
_HEADER_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"

# Written to see whether the disk takes anything; more than fits into a file's inode.
_SAMPLE_BYTES: Final = 64 << 10

_MIB: Final = 1 << 20


class Space(Struct, frozen=True):
    """What a volume has.

    Attributes:
        free_bytes: for this user.
        used_bytes: by what is in the directory already.
        has_files: there is room for one more file.
    """

    free_bytes: int
    used_bytes: int = 0
    has_files: bool = True


def check_directory(directory: Path) -> Finding:
    """Look whether the directory is there, or can be made, whose it is, and whether it can be written."""
    try:
        check_state_dir(str(directory))
    except ConfigurationError as error:
        return fail(str(error), "give it, or the directory above it, to the daemon's user")
    if not directory.is_dir():
        return find_ok(f"{directory} is not there yet, and can be made")
    status = directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    said = f"{directory} is of uid {status.st_uid}, mode {mode:04o}"
    problem = try_to_write(directory)
    if problem is not None:
        is_full = problem.errno in {errno.ENOSPC, errno.EDQUOT}
        return fail(
            f"{said}, and cannot be written: {problem.strerror}",
            "make room on it" if is_full else f"give it to uid {os.geteuid()}, on a disk that can be written",
        )
    if status.st_uid != os.geteuid():
        return warn(f"{said}, and not of uid {os.geteuid()}", "give the daemon a directory of its own")
    if mode & 0o077:
        return warn(f"{said}, open to others", f"chmod 0700 {directory}; it has what producers sent")
    return find_ok(f"{said}, and can be written")


def try_to_write(directory: Path) -> OSError | None:
    """Write a file that has no name, and let it go; return why that cannot be done."""
    try:
        with TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(_SAMPLE_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def find_volume(mounts: str, path: str) -> str:
    """Return the kind of file system that a path is on, "" where the mounts do not say.

    Args:
        mounts: as /proc/self/mountinfo has them; later ones hide earlier ones.
        path: absolute, without links.
    """
    found, longest = "", -1
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape") if len(fields.split()) > 4 else ""  # noqa: PLR2004 - proc(5)
        inside = path == point or path.startswith(f"{point.rstrip('/')}/")
        if point and inside and len(point) >= longest:
            found, longest = rest.split()[0], len(point)
    return found


def check_volume(directory: Path, kind: str) -> Finding:
    """Judge what the directory is on."""
    if kind in _MEMORY:
        return warn(
            f"{directory} is in memory ({kind}): it is charged to the container, and gone with the machine",
            "put state_dir on a disk, in Kubernetes an emptyDir without medium: Memory",
        )
    return find_ok(f"{directory} is on {kind or 'a volume that /proc does not name'}")


def measure_space(directory: Path) -> Space:
    """Return what the volume has, where the directory is or will be."""
    for path in (directory, *directory.absolute().parents):
        with suppress(OSError):
            found = os.statvfs(path)
            used = sum(_measure_files(directory))
            return Space(found.f_bavail * found.f_frsize, used, not found.f_files or found.f_favail > 0)
    return Space(0)


def _measure_files(directory: Path) -> Iterator[int]:
    # One that cannot be entered, or is not there, has nothing for us.
    for path in directory.rglob("*") if os.access(directory, os.R_OK | os.X_OK) else ():
        with suppress(OSError):
            yield path.lstat().st_blocks * 512


def measure_need(configuration: Configuration) -> int:
    """Return the bytes that the daemon may put into `state_dir`, as docs/configuration.md adds them up.

    A damaged database that was set aside is not among them.
    """
    from aiokpl_metricsd.storing.database import KEPT_FREE_BYTES, WAL_BYTES

    # Another journal may come while a checkpoint is written, and a transaction may double the log.
    return (
        2 * configuration.journal_max_bytes
        + configuration.outbox_max_bytes
        + KEPT_FREE_BYTES
        + 2 * WAL_BYTES
        + BALLAST_BYTES
    )


def check_space(space: Space, configuration: Configuration) -> Finding:
    """Judge the free space against what the daemon may put there."""
    need = measure_need(configuration) - space.used_bytes
    said = f"{space.free_bytes // _MIB:,} MiB free, {max(need, 0) // _MIB:,} MiB more may be used"
    advice = "make room, or lower outbox_max_bytes and journal_max_bytes"
    if not space.has_files:
        return fail("the volume has no room for another file (inodes)", "remove files, or use another volume")
    if space.free_bytes < BALLAST_BYTES + _MIB:
        return fail(f"the volume is full: {said}", advice)
    if space.free_bytes < need:
        return warn(f"the volume is too small: {said}", advice)
    return find_ok(said)


def check_versions(directory: Path) -> Finding:
    """Look whether this version can use what is in the directory."""
    from aiokpl_metricsd.storing.database import APPLICATION_ID, FILE, VERSION

    database = directory / FILE
    header = _read_head(database, _HEADER_BYTES)
    advice = "run the version that wrote it, or set state_dir to another directory"
    if header.startswith(_MAGIC) and len(header) == _HEADER_BYTES:
        (version,) = unpack_from(">I", header, _VERSION_OFFSET)
        (application,) = unpack_from(">I", header, _ID_OFFSET)
        if application not in {0, APPLICATION_ID}:
            return fail(f"{database} is another application's", "set state_dir to another directory")
        if version > VERSION:
            return fail(f"{database} is of version {version}, newer than {VERSION}", advice)
    elif header:
        return warn(
            f"{database} is no database, or damaged", "the next start sets it aside, with what waited in it"
        )
    for path in sorted(directory.glob("journal/*.segment")):
        head = decode_head(_read_head(path, HEAD_BYTES))
        if head is not None and head.version > SEGMENT_VERSION:
            return fail(f"{path} is of version {head.version}, newer than {SEGMENT_VERSION}", advice)
    return find_ok("what is kept there is of this version" if header else "nothing is kept there yet")


def _read_head(path: Path, size_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size_bytes)
    except OSError:
        return b""


def check_lock(directory: Path, *, has_daemon: bool) -> Finding:
    """Look whether another daemon uses the directory.

    Args:
        directory: the state directory.
        has_daemon: one runs at the ingest socket, whose directory it may be.
    """
    from aiokpl_metricsd.storing.database import LOCK

    if not is_locked(str(directory / LOCK)):
        return find_ok("no daemon that can be seen from here uses it")
    if has_daemon:
        return find_ok("a daemon uses it, and one takes events at the ingest socket")
    return fail("another daemon uses it", "stop that one, or give each daemon a state_dir of its own")


__all__ = [
    "MOUNTS",
    "Space",
    "check_directory",
    "check_lock",
    "check_space",
    "check_versions",
    "check_volume",
    "find_volume",
    "measure_need",
    "measure_space",
    "try_to_write",
]
