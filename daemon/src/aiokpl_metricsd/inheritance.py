"""Descriptors that a service manager passes -> a listener whose sockets are the manager's.

systemd binds the sockets, keeps them when the daemon ends, and hands them to the next one: what producers
send meanwhile waits in the kernel, and connections are not refused. So they are neither shut down nor taken
away here. The protocol is sd_listen_fds(3), read 2026-11: `LISTEN_FDS` descriptors from 3 on, meant for the
process `LISTEN_PID`.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.listener import (
    LANE_SUFFIX,
    Listener,
    ask_credentials,
    refuse_descriptors,
    take_lock,
)

FIRST_DESCRIPTOR = 3

# More than anybody passes; the number comes from the environment.
_MAX_DESCRIPTORS = 64


class InheritedListener(Listener):
    """Sockets of the service manager, in use by this daemon. Use `inherit` to make one."""

    def __init__(self, path: str, door: socket.socket, lock: int, lane: socket.socket | None) -> None:
        """Take over the sockets, not their paths."""
        super().__init__(path, door, lock, lane)
        self._identities = {}

    def refuse_more(self) -> None:
        """Read no more: what is queued from now on is for the next daemon."""
        self.socket.close()


def inherit(
    environ: Mapping[str, str],
    expected: str | None,
    *,
    lane: bool = False,
    credentials: bool = False,
    first: int = FIRST_DESCRIPTOR,
) -> Listener | None:
    """Return the listener of the sockets that were passed to this process; None where there are none.

    Args:
        environ: the process's environment.
        expected: the path that the configuration names; None takes the socket's own.
        lane: whether lanes are offered.
        credentials: whether each datagram tells who sent it; those that wait already do only where the
            manager has asked for it.
        first: number of the first descriptor.

    Raises:
        ConfigurationError: they are not what the daemon needs. All are closed then.
        SocketInUseError: another daemon holds the lock of the path.
    """
    count = _count_descriptors(environ)
    if count == 0:
        return None
    passed: list[socket.socket] = []
    try:
        passed.extend(_adopt(number) for number in range(first, first + count))
        return _build(passed, expected, lane=lane, credentials=credentials)
    except OSError as error:
        _close(passed)
        message = f"cannot use the sockets that were passed: {error.strerror or error}"
        raise ConfigurationError(message) from error
    except BaseException:
        _close(passed)
        raise


def _build(passed: list[socket.socket], expected: str | None, *, lane: bool, credentials: bool) -> Listener:
    door, lanes = _sort(passed, lane=lane)
    if credentials:
        ask_credentials(door)
    path = _read_path(door)
    if expected is not None and os.path.abspath(expected) != path:  # noqa: PTH100 - pathlib costs import time
        raise ConfigurationError(
            f"[ingest] socket: is {expected}, but the socket passed is {path}; name that one, or none"
        )
    if lanes is not None and _read_path(lanes) != path + LANE_SUFFIX:
        raise ConfigurationError(f"ListenSequentialPacket={_read_path(lanes)}: expected {path}{LANE_SUFFIX}")
    return InheritedListener(path, door, take_lock(path), lanes)


def _count_descriptors(environ: Mapping[str, str]) -> int:
    """Return how many descriptors are meant for this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    text = environ.get("LISTEN_FDS", "")
    if not (text.isdecimal() and int(text) <= _MAX_DESCRIPTORS):
        raise ConfigurationError(f"LISTEN_FDS: expected a number up to {_MAX_DESCRIPTORS}, found {text!r}")
    return int(text)


def _adopt(number: int) -> socket.socket:
    adopted = socket.socket(fileno=number)
    adopted.settimeout(0.0)
    adopted.set_inheritable(False)
    refuse_descriptors(adopted)
    return adopted


def _sort(passed: list[socket.socket], *, lane: bool) -> tuple[socket.socket, socket.socket | None]:
    """Return the front door and the lanes' socket."""
    found: dict[int, socket.socket] = {}
    for each in passed:
        if each.family != socket.AF_UNIX or each.type in found:
            raise _refuse(f"one too many: {each}")
        found[each.type] = each
    door = found.pop(socket.SOCK_DGRAM, None)
    lanes = found.pop(socket.SOCK_SEQPACKET, None)
    if door is None or found:
        raise _refuse("no datagram socket" if door is None else f"one too many: {found.popitem()[1]}")
    if lanes is not None and not lanes.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise _refuse("the one of lanes does not listen")
    if lane and lanes is None:
        raise _refuse("none of lanes, although state_dir is set; add ListenSequentialPacket=PATH.lane")
    if lanes is not None and not lane:
        raise _refuse("one of lanes without state_dir; set state_dir, or remove ListenSequentialPacket=")
    return door, lanes


def _refuse(problem: str) -> ConfigurationError:
    return ConfigurationError(
        "the sockets passed: expected Unix sockets, one of ListenDatagram= and, with state_dir, one of "
        f"ListenSequentialPacket=; found {problem}"
    )


def _read_path(connection: socket.socket) -> str:
    """Return where a socket is bound."""
    name = connection.getsockname()
    path = os.fsdecode(name)
    if not path.startswith("/"):
        raise _refuse("one without an absolute path")
    return path


def _close(passed: list[socket.socket]) -> None:
    for each in passed:
        with suppress(OSError):
            each.close()


__all__ = ["FIRST_DESCRIPTOR", "InheritedListener", "inherit"]
