"""Process -> its senders: each flushes when the process ends, and begins anew in a forked child.

The interpreter runs exit handlers when it ends, but before Python 3.13 not in a child that `multiprocessing`
forks: that one runs multiprocessing's own finalizers and leaves by `os._exit`. Both ways lead to one flush.
Who leaves by another way (`os._exit`, a signal that nobody handles) is not seen here.

A module that one thread imports while another one forks can never be imported in the child: whoever tries
waits for ever (seen on 3.10 to 3.13). So what sending needs is imported when a client is made, not when the
first event comes or in the sender's thread, and no fork comes in the midst of it. Not at the import of this
package: `socket` takes half as long as the whole rest of it.
"""

import atexit
import contextlib
import importlib
import os
import sys
import threading
from typing import Any, Protocol

from aiokpl_metrics_client.clock import Clock

# For all senders together: how long to wait for a daemon that is there but busy, and for one that is not.
EXIT_TIMEOUT_S = 5.0
EXIT_AWAY_TIMEOUT_S = 0.5

# multiprocessing runs finalizers from the greatest to the least: this one after those that end pools and
# wait for other processes.
_FINALIZER_PRIORITY = -1_000

_MODULES = ("select", "socket")


class Member(Protocol):
    """What a process asks of a sender."""

    def flush(self, timeout_s: float, away_timeout_s: float | None = None) -> bool:
        """Hand over what is recorded, within this time; where the daemon is away, within that."""
        ...

    def send_at_once(self) -> None:
        """Have whoever records send from now on, himself."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew: what was recorded before the fork is the parent's."""
        ...


class _Anchor:
    """What multiprocessing knows our hook by: it keeps a weak reference."""


# A plain set: it is copied in one step, whatever other threads do.
_members: set[Member] = set()
_anchor = _Anchor()
_loading = threading.RLock()
_hooks_installed = False
_finalizer_follows_fork = False
_spent_s = 0.0


def enrol(member: Member) -> None:
    """Have a sender flush at the end of the process, and told of forks in the child."""
    global _hooks_installed  # noqa: PLW0603 - the interpreter takes hooks once a process
    if not _hooks_installed:
        _hooks_installed = True
        atexit.register(_flush_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_loading.acquire,
                after_in_parent=_loading.release,
                after_in_child=_after_fork_in_child,
            )
        _follow_multiprocessing()
    with _loading:
        for name in _MODULES:
            importlib.import_module(name)
    _members.add(member)


def leave(member: Member) -> None:
    """Forget a sender that has ended."""
    _members.discard(member)


def read_members() -> list[Member]:
    """Return the senders that have not ended."""
    return list(_members)


def flush_at_exit(member: Member) -> None:
    """Flush one within what is left of the time that the process's end may take."""
    global _spent_s  # noqa: PLW0603 - one end a process, however many hooks tell of it
    begin = Clock.monotonic()
    # One that fails does not keep the others from it.
    with contextlib.suppress(Exception):
        member.flush(EXIT_TIMEOUT_S - _spent_s, EXIT_AWAY_TIMEOUT_S - _spent_s)
    _spent_s += Clock.monotonic() - begin


def _flush_all() -> None:
    for member in read_members():
        flush_at_exit(member)
        # Exit handlers that were registered before ours come after it, and finalizers after them.
        with contextlib.suppress(Exception):
            member.send_at_once()


def _after_fork_in_child() -> None:
    global _spent_s  # noqa: PLW0603 - a child has an end of its own
    _loading.release()
    _spent_s = 0.0
    for member in read_members():
        with contextlib.suppress(Exception):
            member.after_fork_in_child()
    _follow_multiprocessing()


def _follow_multiprocessing() -> None:
    """Have multiprocessing's children flush, if this process uses it: without it there are none."""
    global _finalizer_follows_fork  # noqa: PLW0603 - multiprocessing keeps it over forks
    util: Any = sys.modules.get("multiprocessing.util")
    # Not while another thread imports it.
    if not hasattr(util, "Finalize"):
        return
    if not _finalizer_follows_fork:
        # A child forgets its finalizers, those of a module that it imported for its parent among them, and
        # calls this afterwards.
        _finalizer_follows_fork = True
        util.register_after_fork(_anchor, _add_finalizer)
    _add_finalizer(_anchor)


def _add_finalizer(_: _Anchor) -> None:
    util: Any = sys.modules.get("multiprocessing.util")
    util.Finalize(None, _flush_all, exitpriority=_FINALIZER_PRIORITY)


__all__ = [
    "EXIT_AWAY_TIMEOUT_S",
    "EXIT_TIMEOUT_S",
    "Member",
    "enrol",
    "flush_at_exit",
    "leave",
    "read_members",
]
