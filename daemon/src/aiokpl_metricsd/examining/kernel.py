"""The kernel -> what it can do of what the daemon uses. Reads /proc and asks for sockets; changes nothing."""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn
from aiokpl_metricsd.listener import SO_PASSRIGHTS

QUEUE_LENGTH: Final = Path("/proc/sys/net/unix/max_dgram_qlen")

# Linux's default (net/unix/af_unix.c, sysctl_max_dgram_qlen, read 2026-11); one more is queued than it says.
DEFAULT_QUEUE_LENGTH: Final = 10


def check_lanes() -> Finding:
    """Look whether Unix sockets can be lanes."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET):
            return find_ok("SOCK_SEQPACKET over Unix sockets, for lanes")
    except OSError as error:
        return fail(
            f"no SOCK_SEQPACKET over Unix sockets: {error.strerror}",
            "leave state_dir out, which asks for lanes, or run under a kernel that has them",
        )


def check_descriptors_refused() -> Finding:
    """Look whether the kernel can keep producers from passing descriptors."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        return find_ok("SO_PASSRIGHTS: no producer can pass a descriptor")
    # Most kernels of today: nothing to be mended by whoever reads it.
    return find_ok("no SO_PASSRIGHTS before Linux 6.16: a descriptor that a producer passes is closed unread")


def read_queue_length() -> int | None:
    """Return what the kernel is set to, None where it does not say."""
    try:
        return int(QUEUE_LENGTH.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def check_queue_length(length: int | None, *, lanes: bool) -> Finding:
    """Judge how many datagrams wait at the front door.

    Args:
        length: `net.unix.max_dgram_qlen`; None where it is not known.
        lanes: whether there are lanes, which have queues of their own.
    """
    if length is None:
        return find_ok("net.unix.max_dgram_qlen is not to be seen here")
    said = f"net.unix.max_dgram_qlen is {length}: {length + 1} datagrams wait at the front door"
    if length >= DEFAULT_QUEUE_LENGTH:
        return find_ok(said)
    instead = "" if lanes else ", or set state_dir, so that producers have lanes"
    return warn(
        f"{said}, fewer than Linux's usual {DEFAULT_QUEUE_LENGTH + 1}",
        f"sysctl -w net.unix.max_dgram_qlen={DEFAULT_QUEUE_LENGTH}{instead}",
    )


def check_open_files(lanes: int, max_lanes: int, *, has_lanes: bool) -> Finding:
    """Judge how many lanes the limit on open files leaves.

    Args:
        lanes: what it leaves.
        max_lanes: how many there may be at all.
        has_lanes: whether there are any.
    """
    if not has_lanes:
        return find_ok("no lanes, so a few open files do")
    said = f"the limit on open files (RLIMIT_NOFILE) leaves {lanes} lanes"
    if lanes >= max_lanes:
        return find_ok(said)
    # A producer is a process or a thread group; most pods have fewer than this.
    if lanes >= max_lanes // 8:
        return find_ok(f"{said}; a producer past them goes to the front door")
    return warn(
        f"{said}; a producer past them goes to the front door, which acknowledges nothing",
        "raise it: ulimit -n, or LimitNOFILE= in the unit",
    )


__all__ = [
    "check_descriptors_refused",
    "check_lanes",
    "check_open_files",
    "check_queue_length",
    "read_queue_length",
]
