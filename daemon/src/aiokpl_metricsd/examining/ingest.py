"""The ingest socket's path -> whether the daemon can listen there, and who can send to it.

Nothing is made: what is not there yet is judged by whoever could make it.
"""

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from aiokpl_metrics_protocol.location import is_trusted_directory
from aiokpl_metricsd.config import IngestOptions
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn
from aiokpl_metricsd.examining.lock import is_locked
from aiokpl_metricsd.listener import LOCK_SUFFIX, check_place

_WRITE_GROUP = 0o020
_WRITE_OTHERS = 0o002


class Life(Struct, frozen=True):
    """Whether somebody listens at a path.

    Attributes:
        is_there: something has the path.
        is_alive: somebody takes datagrams there.
        is_locked: a daemon holds the path's lock.
        error: why that cannot be told; "" where it can.
    """

    is_there: bool
    is_alive: bool = False
    is_locked: bool = False
    error: str = ""


def choose_path(candidates: Sequence[str]) -> str:
    """Return the path that a daemon would take, or has taken: the first that is there or can be made."""
    for path in candidates:
        if os.path.lexists(path) or _can_make(Path(path).parent):
            return path
    return candidates[0]


def look_for_life(path: str) -> Life:
    """Ask who listens at a path."""
    has_lock = is_locked(path + LOCK_SUFFIX)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Life(is_there=False, is_locked=has_lock)
    except OSError as error:
        return Life(is_there=False, is_locked=has_lock, error=error.strerror or str(error))
    is_alive, problem = _ask(path) if stat.S_ISSOCK(status.st_mode) else (False, "it is no socket")
    return Life(is_there=True, is_alive=is_alive, is_locked=has_lock, error=problem)


def _ask(path: str) -> tuple[bool, str]:
    """Tell whether somebody takes datagrams at a socket, and why that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False, ""
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return False, "another kind of socket listens there"
            return False, error.strerror or str(error)
    return True, ""


def check_path(candidates: Sequence[str], options: IngestOptions, *, lanes: bool) -> Finding:
    """Look whether there is a path short enough, and the group."""
    try:
        check_place(candidates, group=options.group, lane=lanes)
    except ConfigurationError as error:
        return fail(str(error), "mend [ingest]; docs/configuration.md says what a path and a group may be")
    return find_ok(f"{choose_path(candidates)} is short enough for a socket")


def check_life(path: str, life: Life) -> Finding:
    """Judge what there is at the path."""
    if life.error:
        return fail(
            f"{path}: {life.error}",
            "run this as the daemon's user; or remove what is there, or set [ingest] socket to another path",
        )
    if life.is_alive and life.is_locked:
        return find_ok(f"{path}: a daemon takes events there")
    if life.is_alive:
        # Its lock is held in another namespace of processes; or the socket is systemd's.
        return find_ok(f"{path}: somebody takes events there, whom this process cannot see")
    if life.is_locked:
        return warn(
            f"{path}: a daemon holds the lock and takes no events",
            "it starts or ends; look again, or at its log",
        )
    if life.is_there:
        return warn(
            f"{path}: a socket without a daemon, as one that was killed leaves it",
            "start the daemon, which takes it over; nothing is to be removed",
        )
    return find_ok(f"{path}: no daemon runs, and nothing is in its way")


def check_directory(path: str) -> Finding:
    """Look whether the socket's directory is one, or can be made, and can be written."""
    directory = Path(path).absolute().parent
    # It says no, and does not raise, where a directory above it cannot be passed.
    if not os.path.isdir(directory):  # noqa: PTH112 - as above
        if os.path.lexists(directory):
            return fail(f"{directory} is no directory", "remove it, or set [ingest] socket to another path")
        if _can_make(directory):
            return find_ok(f"{directory} is not there yet, and can be made")
        return fail(
            f"{directory} cannot be made by uid {os.geteuid()}",
            "make it for this user, or set [ingest] socket to another path",
        )
    if not is_trusted_directory(path):
        return fail(f"{directory} is not of this user with mode 0700", "remove it, or set [ingest] socket")
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        owner = directory.stat()
        return fail(
            f"{directory} cannot be written by uid {os.geteuid()}: it is of uid {owner.st_uid}, "
            f"mode {stat.S_IMODE(owner.st_mode):04o}",
            "give it to the daemon's user, or in Kubernetes set fsGroup",
        )
    return find_ok(f"{directory} can be written")


def check_senders(path: str, options: IngestOptions) -> Finding:
    """Say who can send, by the socket's mode or, where there is none, by the one that it will get."""
    try:
        status = Path(path).stat()
        mode, gid, uid = stat.S_IMODE(status.st_mode), status.st_gid, status.st_uid
    except OSError:
        mode, uid = options.mode_bits, os.geteuid()
        gid = _find_gid(options.group) if options.group else _find_directory_gid(path)
    senders = [f"uid {uid}"]
    if mode & _WRITE_GROUP:
        senders.append(f"group {_name_group(gid)}")
    if mode & _WRITE_OTHERS:
        senders = ["every user"]
    said = f"mode {mode:04o}: {' and '.join(senders)} can send{_describe_listed(options)}"
    closed = _find_closed(Path(path).absolute().parent, mode, gid)
    if closed is not None and mode & (_WRITE_GROUP | _WRITE_OTHERS):
        if options.group is None:
            # As the directory in the temporary one is, on purpose.
            return find_ok(f"uid {uid} can send; {closed} is closed to others, whatever the socket's mode is")
        return warn(f"{said}, but {closed} does not let all of them in", f"chmod o+x {closed}")
    if mode & _WRITE_OTHERS:
        return warn(said, 'set [ingest] mode to "0660" and group to one that the producers share')
    return find_ok(said)


def _describe_listed(options: IngestOptions) -> str:
    if not options.lists_senders:
        return ""
    listed = [f"uid {each}" for each in options.allow_uids or ()]
    listed += [f"gid {each}" for each in options.allow_gids or ()]
    return f", of whom {', '.join(listed) or 'nobody'} may"


def _find_directory_gid(path: str) -> int:
    """Return the group that a socket takes from its directory."""
    try:
        return Path(path).absolute().parent.stat().st_gid
    except OSError:
        return os.getegid()


def _find_closed(directory: Path, mode: int, gid: int) -> Path | None:
    """Return the first directory on the way that those who may send cannot pass."""
    for each in reversed((directory, *directory.parents)):
        with suppress(OSError):
            status = each.stat()
            by_group = status.st_gid == gid and status.st_mode & stat.S_IXGRP and not mode & _WRITE_OTHERS
            if not (by_group or status.st_mode & stat.S_IXOTH):
                return each
    return None


def _can_make(directory: Path) -> bool:
    """Tell whether a directory is there and can be written, or can be made."""
    for each in (directory, *directory.absolute().parents):
        if os.path.lexists(each):
            return each.is_dir() and os.access(each, os.W_OK | os.X_OK, effective_ids=True)
    return False


def _find_gid(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return os.getegid()


def _name_group(gid: int) -> str:
    try:
        return f"{grp.getgrgid(gid).gr_name} ({gid})"
    except (KeyError, OverflowError):
        return str(gid)


def check_group(options: IngestOptions) -> Iterator[Finding]:
    """Look whether this user may give the socket to the group; nothing without a group."""
    if options.group is None:
        return
    gid = _find_gid(options.group)
    if os.geteuid() == 0 or gid in {os.getegid(), *os.getgroups()}:
        yield find_ok(f"the socket can be given to group {_name_group(gid)}")
    else:
        yield fail(
            f"uid {os.geteuid()} is not in group {_name_group(gid)}, so it cannot give the socket to it",
            "add the daemon's user to the group, or leave [ingest] group out",
        )


__all__ = [
    "Life",
    "check_directory",
    "check_group",
    "check_life",
    "check_path",
    "check_senders",
    "choose_path",
    "look_for_life",
]
