"""Where the daemon's socket is: the places that daemon and clients both look at, in the same order."""

import os
import stat
from collections.abc import Mapping

ENVIRONMENT_VARIABLE = "AIOKPL_METRICSD_SOCKET"
SOCKET_NAME = "metrics.sock"

# sizeof(sun_path) is 108 on Linux with the terminating zero (unix(7), read 2026-11).
MAX_PATH_BYTES = 107


def socket_candidates(environ: Mapping[str, str] | None = None, uid: int | None = None) -> tuple[str, ...]:
    """Return the paths of the ingest socket, best first.

    `AIOKPL_METRICSD_SOCKET`, where set, is the only one. Otherwise the first that exists is the client's and
    the first whose directory can be made is the daemon's: the system's runtime directory, the user's, and a
    directory of the user's own (mode 0700) in the temporary one.

    Args:
        environ: the environment; `os.environ` when None.
        uid: the user's number; the process's own when None.
    """
    environ = os.environ if environ is None else environ
    explicit = environ.get(ENVIRONMENT_VARIABLE)
    if explicit:
        return (explicit,)
    if uid is None:
        uid = os.getuid() if hasattr(os, "getuid") else 0
    runtime = environ.get("XDG_RUNTIME_DIR")
    temporary = environ.get("TMPDIR") or "/tmp"  # noqa: S108 - what is made below it is 0700 and checked
    directories = ["/run/aiokpl-metricsd"]
    if runtime:
        directories.append(os.path.join(runtime, "aiokpl-metricsd"))  # noqa: PTH118 - pathlib is slow to import
    directories.append(os.path.join(temporary, f"aiokpl-metricsd-{uid}"))  # noqa: PTH118
    return tuple(f"{directory}/{SOCKET_NAME}" for directory in directories)


def is_trusted_directory(path: str, uid: int | None = None) -> bool:
    """Tell whether the directory of `path` may hold the socket.

    The temporary directory is everybody's, so a directory in it counts only when it is the user's own and
    closed to others (0700); elsewhere the administrator decides.
    """
    directory = os.path.dirname(path)  # noqa: PTH120
    if uid is None:
        uid = os.getuid() if hasattr(os, "getuid") else 0
    if os.path.basename(directory) != f"aiokpl-metricsd-{uid}":  # noqa: PTH119
        return True
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and status.st_mode & 0o077 == 0


__all__ = [
    "ENVIRONMENT_VARIABLE",
    "MAX_PATH_BYTES",
    "SOCKET_NAME",
    "is_trusted_directory",
    "socket_candidates",
]
