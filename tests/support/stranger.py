"""Processes of other users, which send to a socket. Only root can start them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.child import ROOT
from tests.support.polling import TIMEOUT_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may send as another user")

# Imports first: another user may not read what is installed.
_SCRIPT = """
import os, socket, struct, sys
path, uid, gid, groups, claimed = sys.argv[1:6]
datagrams = [bytes.fromhex(text) for text in sys.argv[6:]]
door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
os.setgroups([int(text) for text in groups.split()])
os.setresgid(int(gid), int(gid), int(gid))
os.setresuid(int(uid), int(uid), int(uid))
door.settimeout(30)
door.connect(path)
for datagram in datagrams:
    if claimed:
        who = struct.pack("=iII", os.getpid(), int(claimed), int(gid))
        door.sendmsg([datagram], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)])
    else:
        door.send(datagram)
"""


def send_as(
    path: Path | str,
    datagrams: Sequence[bytes],
    *,
    uid: int,
    gid: int,
    groups: Sequence[int] = (),
    claimed_uid: int | None = None,
) -> str:
    """Send datagrams from a process of another user; return what went wrong, or "".

    Args:
        path: of the socket.
        datagrams: what is sent.
        uid: the process's user.
        gid: its group.
        groups: its supplementary groups.
        claimed_uid: the user that it says it is; None leaves that to the kernel.
    """
    words = [str(path), str(uid), str(gid), " ".join(map(str, groups))]
    words.append("" if claimed_uid is None else str(claimed_uid))
    command = [sys.executable, "-I", "-S", "-c", _SCRIPT, *words, *(each.hex() for each in datagrams)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return done.stderr.strip().rpartition("\n")[2]


__all__ = ["needs_root", "send_as"]
