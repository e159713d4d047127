"""Credentials of a sender -> whether it may send. Used only where the operator lists who may.

The kernel tells them, and only root can tell it others. On a datagram it tells the *real* user and group, or
whichever of its own the sender names; on a connection the *effective* ones, and the supplementary groups.
Whom it cannot tell, it calls 65534: a user that is not mapped into the daemon's user namespace, and whoever
sent before the socket was asked for credentials.
"""

import logging
import socket
import struct
from collections.abc import Callable, Collection
from typing import NamedTuple

from aiokpl_metricsd.log import Throttle

# struct ucred of unix(7), read 2026-11: pid, uid, gid.
CREDENTIALS = struct.Struct("=iII")

# Linux include/uapi/asm-generic/socket.h (6.18, read 2026-11).
_SO_PEERGROUPS = 59

# What Python's getsockopt takes at most: 256 groups. Of a sender that has more, none counts.
_GROUPS_BYTES = 1_024

# What the kernel shows for a user or group that it cannot tell (`kernel.overflowuid`, its default).
UNTOLD = 65_534

_log = logging.getLogger("aiokpl_metricsd")


class Sender(NamedTuple):
    """Who sends, as seen from here.

    Attributes:
        uid: its user.
        gid: its group.
        groups: its supplementary groups, where the kernel tells them.
    """

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


_NOBODY = Sender(UNTOLD, UNTOLD)


class Admission:
    """Lets those send whose user or one of whose groups is listed. Whoever is refused is named in the log.

    Args:
        uids: users that may send.
        gids: groups that may send.
        clock: monotonic seconds.
    """

    def __init__(self, uids: Collection[int], gids: Collection[int], clock: Callable[[], float]) -> None:
        """Refuse everybody else."""
        self._uids = frozenset(uids)
        self._gids = frozenset(gids)
        # One line a minute in all: a sender may have many users.
        self._throttle = Throttle(clock=clock)

    def admits(self, sender: Sender) -> bool:
        """Tell whether this one may send."""
        gids = self._gids
        if sender.uid in self._uids or sender.gid in gids or not gids.isdisjoint(sender.groups):
            return True
        times = self._throttle.admit("")
        if times:
            fields = {"uid": sender.uid, "gid": sender.gid, "times": times}
            message = "refused what came from a user that [ingest] allow_uids and allow_gids do not list"
            _log.warning(message, extra={"fields": fields})
        return False


def build_admission(
    uids: Collection[int] | None, gids: Collection[int] | None, clock: Callable[[], float]
) -> Admission | None:
    """Return what admits senders; None where nothing is listed, and everybody may send.

    Args:
        uids: users that may send; None where none are listed.
        gids: the same, of groups.
        clock: monotonic seconds.
    """
    return None if uids is None and gids is None else Admission(uids or (), gids or (), clock)


def read_sender(ancillary: "list[tuple[int, int, bytes]]") -> Sender:
    """Return who sent a datagram, from what `recvmsg` returned beside it."""
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(raw) == CREDENTIALS.size:
            _, uid, gid = CREDENTIALS.unpack(raw)
            return Sender(uid, gid)
    return _NOBODY


def read_peer(connection: socket.socket) -> Sender:
    """Return who connected, across namespaces."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    except OSError:
        return _NOBODY
    _, uid, gid = CREDENTIALS.unpack(raw)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        groups = b""
    return Sender(uid, gid, struct.unpack(f"={len(groups) // 4}I", groups))


__all__ = ["CREDENTIALS", "UNTOLD", "Admission", "Sender", "build_admission", "read_peer", "read_sender"]
