"""The socket's path: chosen, locked, bound, and given back; and that of the lanes beside it, `PATH.lane`.

Ownership is a lock on `PATH.lock`, held for life, for both. A probe alone lets two daemons in (198 of 200
simultaneous starts, measured); here it only tells owners that know nothing of the lock. A socket is bound
under another name and renamed over the path, so that there is no moment at which a client finds none. The
lanes' is bound first: who finds the front door finds it as well.
"""

# pathlib takes 7 ms to import, and producers wait for the socket.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH108, PTH116, PTH119, PTH120

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from aiokpl_metrics_protocol.location import MAX_PATH_BYTES, is_trusted_directory
from aiokpl_metricsd.errors import ConfigurationError, SocketInUseError

LOCK_SUFFIX = ".lock"
_NEW_SUFFIX = ".new"

# Where lanes connect, beside the front door.
LANE_SUFFIX = ".lane"

# Connections that wait to be accepted.
STREAM_BACKLOG = 16

# As many as the kernel allows: `net.core.somaxconn`, 4,096 in every pod (listen(2), read 2026-11).
LANE_BACKLOG = socket.SOMAXCONN

# Linux include/uapi/asm-generic/socket.h (6.16, read 2026-11): at 0 no descriptor can be passed. One that is
# passed can block whoever closes it, for as long as its sender chose (4.1 s, measured).
SO_PASSRIGHTS = 83


class Listener:
    """Owns one path and the datagram socket bound to it. Use `listen` to make one.

    Attributes:
        path: where clients find the socket.
        socket: non-blocking, bound.
        lane: non-blocking, listening at `PATH.lane`; None where lanes were not asked for.
    """

    def __init__(
        self, path: str, connection: socket.socket, lock: int, lane: socket.socket | None = None
    ) -> None:
        """Take over a bound socket, the descriptor of its lock, and the socket of the lanes.

        Raises:
            OSError: a path is gone.
        """
        self.path = path
        self.socket = connection
        self.lane = lane
        self._lock = lock
        self._identities = {path: _identify(path)}
        if lane is not None:
            self._identities[path + LANE_SUFFIX] = _identify(path + LANE_SUFFIX)

    def refuse_more(self) -> None:
        """Take no further datagram: senders get EPIPE, what is queued stays readable. The paths go first.

        Lanes that wait to be accepted still can be.
        """
        self._unlink()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the sockets and let the paths go. A second call does nothing."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            # A successor's socket may have got the inode number that ours had.
            return
        self._unlink()
        self.socket.close()
        if self.lane is not None:
            self.lane.close()
        os.close(lock)

    def _unlink(self) -> None:
        """Remove each path, if it still is ours: a successor may have taken it over."""
        for path, identity in self._identities.items():
            with suppress(OSError):
                if _identify(path) == identity:
                    os.unlink(path)


def _identify(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def listen_beside(path: str, name: str) -> Listener:
    """Bind a stream socket for this user alone in the directory of an ingest socket that is bound.

    Args:
        path: of the ingest socket.
        name: of the new one.

    Raises:
        SocketInUseError: another process listens there.
        ConfigurationError: something else is there.
        OSError: it cannot be made.
    """
    beside = os.path.join(os.path.dirname(path), name)  # noqa: PTH118 - as above
    problem = _find_problem(beside)
    if problem is not None:
        raise ConfigurationError(f"{beside}: {problem}")
    return _listen_at(beside, 0o600, None, socket.SOCK_STREAM)


def listen(
    candidates: Sequence[str],
    *,
    mode: int,
    group: str | None,
    lane: bool = False,
    credentials: bool = False,
) -> Listener:
    """Bind the first path of `candidates` that can be made.

    Args:
        candidates: paths, best first.
        mode: the socket's permission bits.
        group: the socket's group, by name or number; None takes the directory's, where this user may give
            the socket to it.
        lane: whether lanes are offered, too, with the same mode and group.
        credentials: whether each datagram tells who sent it.

    Raises:
        SocketInUseError: another process listens there.
        ConfigurationError: no path can be made; says why for each.
    """
    problems: list[str] = []
    for path in candidates:
        problem = _find_problem(path + LANE_SUFFIX if lane else path)
        if problem is None:
            try:
                return _listen_at(path, mode, group, lane=lane, credentials=credentials)
            except OSError as error:
                problem = error.strerror or str(error)
        problems.append(f"{path}: {problem}")
    raise _refuse_paths(problems)


def check_place(candidates: Sequence[str], *, group: str | None, lane: bool = False) -> None:
    """Make sure that `listen` finds a path and a group, as far as can be seen without making a socket.

    Raises:
        ConfigurationError: no path can be a socket's, or there is no such group.
    """
    suffix = LANE_SUFFIX if lane else ""
    found = [(path, _find_problem(path + suffix)) for path in candidates]
    problems = [f"{path}: {problem}" for path, problem in found if problem is not None]
    if len(problems) == len(candidates):
        raise _refuse_paths(problems)
    if group is not None:
        _group_number(group)


def _refuse_paths(problems: Sequence[str]) -> ConfigurationError:
    reasons = "; ".join(problems)
    return ConfigurationError(
        f"cannot create the ingest socket: {reasons}; set [ingest] socket to a path that can be made"
    )


def _find_problem(path: str) -> str | None:
    """Return what makes a path one that no socket can have, or None."""
    if "\0" in path:
        return "a path has no NUL character"
    excess = len(os.fsencode(path)) + len(_NEW_SUFFIX) - MAX_PATH_BYTES
    if excess <= 0:
        return None
    limit = len(os.fsencode(path.removesuffix(LANE_SUFFIX))) - excess
    return f"a socket's path has at most {limit} bytes here"


def _listen_at(
    path: str,
    mode: int,
    group: str | None,
    kind: int = socket.SOCK_DGRAM,
    *,
    lane: bool = False,
    credentials: bool = False,
) -> Listener:
    _make_directory(path)
    lock = take_lock(path)
    with ExitStack() as undo:
        undo.callback(os.close, lock)
        _check_free(path)
        lanes: socket.socket | None = None
        if lane:
            _check_free(path + LANE_SUFFIX)
            lanes = _bind(path + LANE_SUFFIX, mode, group, socket.SOCK_SEQPACKET)
            undo.callback(os.unlink, path + LANE_SUFFIX)
            undo.callback(lanes.close)
        connection = _bind(path, mode, group, kind, credentials=credentials)
        undo.callback(connection.close)
        listener = Listener(path, connection, lock, lanes)
        undo.pop_all()
        return listener


def _make_directory(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    private = os.path.basename(directory) == f"aiokpl-metricsd-{os.getuid()}"
    if private:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
    else:
        os.makedirs(directory, 0o755, exist_ok=True)
    if not is_trusted_directory(path):
        message = (
            f"{directory}: is not a directory of this user with mode 0700; remove it or set [ingest] socket"
        )
        raise ConfigurationError(message)


def take_lock(path: str) -> int:
    """Return the descriptor of the lock that owns a path; whoever closes it lets the path go.

    Raises:
        SocketInUseError: another daemon has it.
        OSError: it cannot be made.
    """
    lock = os.open(path + LOCK_SUFFIX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        message = f"{path}: another daemon runs here; stop it, or set [ingest] socket to another path"
        raise SocketInUseError(message) from error
    return lock


def _check_free(path: str) -> None:
    """Make sure that nobody listens at the path, and that nothing but a stale socket is there."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        message = f"{path}: is there and no socket; remove it, or set [ingest] socket to another path"
        raise ConfigurationError(message)
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.settimeout(0)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                continue
            except FileNotFoundError:
                # Its owner took it away meanwhile.
                return
            except BlockingIOError:
                # A listener whose queue of connections is full.
                pass
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    continue
                raise
        message = f"{path}: another program listens here; stop it, or set [ingest] socket to another path"
        raise SocketInUseError(message)


def _bind(path: str, mode: int, group: str | None, kind: int, *, credentials: bool = False) -> socket.socket:
    temporary = path + _NEW_SUFFIX
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    refuse_descriptors(connection)
    if credentials:
        ask_credentials(connection)
    try:
        # Nobody connects before it has its group and mode: who has connected stays.
        os.fchmod(connection.fileno(), 0)
        connection.bind(temporary)
        _open_to(temporary, mode, group)
        if kind != socket.SOCK_DGRAM:
            connection.listen(STREAM_BACKLOG if kind == socket.SOCK_STREAM else LANE_BACKLOG)
        os.rename(temporary, path)
    except BaseException:
        connection.close()
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return connection


def refuse_descriptors(connection: socket.socket) -> None:
    """Have a socket, and those that are accepted from it, take no descriptors; older kernels cannot."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def ask_credentials(connection: socket.socket) -> None:
    """Have the kernel tell who sent each datagram. What was sent before has no sender's credentials."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def _open_to(path: str, mode: int, group: str | None) -> None:
    """Give a socket its group and mode; neither goes to what another user puts in its place meanwhile."""
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(place)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(errno.EEXIST, "another user puts files of this name here")
        opened = f"/proc/self/fd/{place}"
        if group is not None:
            _give_to(opened, group, path)
        else:
            _give_to_directorys(opened, path)
        os.chmod(opened, mode)
    finally:
        os.close(place)


def _give_to_directorys(opened: str, path: str) -> None:
    """Give a socket to the group of its directory, where this user may; else it stays with the process's."""
    gid = os.stat(os.path.dirname(os.path.abspath(path))).st_gid
    with suppress(PermissionError):
        os.chown(opened, -1, gid)


def _give_to(opened: str, group: str, path: str) -> None:
    try:
        os.chown(opened, -1, _group_number(group))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no group has this number"
        message = (
            f"[ingest] group: cannot give {path} to group {group}: {reason}; use one of this user's groups"
        )
        raise ConfigurationError(message) from error


def _group_number(group: str) -> int:
    if group.isdecimal():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        message = f"[ingest] group: this system has no group {group!r}; use one that exists, or its number"
        raise ConfigurationError(message) from error


__all__ = [
    "LANE_SUFFIX",
    "LOCK_SUFFIX",
    "SO_PASSRIGHTS",
    "STREAM_BACKLOG",
    "Listener",
    "ask_credentials",
    "check_place",
    "listen",
    "listen_beside",
    "refuse_descriptors",
    "take_lock",
]
