"""One thread at a time at work, without a lock: no Ctrl-C leaves it taken, no forked child waits for ever.

A signal handler or a finalizer may come while its own thread is at work, and must not wait for that thread:
`Exclusive` turns it away, for work that must not begin in the midst of itself; `Guard` lets it in. An
exception may come out of a signal handler at any moment, in the main thread: between taking a lock and the
`try` that would give it back, for instance. And a signal handler may fork while its thread waits, and the
child waits on for a thread that it does not have. So there is no lock: whoever wants to work puts a claim
into a list and looks whether it is the first, within a `try` that takes it out again; and who has to wait
looks now and then, also whether there is still somebody to wait for.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec, TypeVar

from aiokpl_metrics_client.clock import Clock

_P = ParamSpec("_P")
_T = TypeVar("_T")

# How often is looked whether another thread is still at work: it is for one drain.
_POLL_S = 0.002

# What is guarded takes some microseconds mostly, so that a wait begins with this pause, and each is twice the
# one before.
_FIRST_POLL_S = 0.000_02


class _Claim:
    """Of one thread. Compares by identity, so that each takes out its own."""

    __slots__ = ("is_working", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.is_working = False


class _Busy(Enum):
    """Another thread was first."""

    BUSY = "busy"


class Exclusive:
    """Does one thing at a time.

    Attributes:
        is_abandoned: nobody begins any more, and nobody waits: set in a forked child, where the thread that
            is at work may not exist.
    """

    __slots__ = ("_claims", "is_abandoned")

    def __init__(self) -> None:
        """Be free."""
        self._claims: list[_Claim] = []
        self.is_abandoned = False

    def run(
        self, do: Callable[[], bool], timeout_s: float | None, on_abort: Callable[[], None]
    ) -> bool | None:
        """Do something alone, and return what it returns.

        None is that it was not done: time is up, this very thread is at work, or all is abandoned. A
        `timeout_s` of None has no end; `on_abort` is called, still alone, where an exception comes out of
        `do`.
        """
        claim = _Claim(threading.get_ident())
        deadline = None if timeout_s is None else Clock.monotonic() + timeout_s
        while not self.is_abandoned:
            done = self._try(claim, do, on_abort)
            if done is not _Busy.BUSY:
                return done
            left = _POLL_S if deadline is None else deadline - Clock.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _POLL_S))
        return None

    def _try(
        self, claim: _Claim, do: Callable[[], bool], on_abort: Callable[[], None]
    ) -> bool | _Busy | None:
        claims = self._claims
        try:
            # Each of these is one step, whatever other threads do.
            claims.append(claim)
            first = claims[0]
            if first.thread != claim.thread:
                return _Busy.BUSY
            # Another claim of our own thread is that of a frame beneath us: it works, or it was about to.
            if first.is_working:
                return None
            try:
                first.is_working = True
                return do()
            except BaseException:
                on_abort()
                raise
            finally:
                first.is_working = False
        finally:
            claims.remove(claim)


class Guard:
    """Does one thread's work at a time, and at once what that very thread comes back with.

    Nobody waits for a thread that does not run: in a forked child, which has none of its parent's, whoever
    waited has the next turn; at the end of the interpreter, when the others stand still for ever, the main
    thread works without one.
    """

    __slots__ = ("_claims", "_pid")

    # Bound here: at the very end of an interpreter, modules are empty.
    _identify = staticmethod(threading.get_ident)
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self) -> None:
        """Be free."""
        # Of threads, by their numbers. The list stays the same one, for who is in the midst of `run`.
        self._claims: list[int] = []
        self._pid = os.getpid()

    def run(self, do: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `do` returns, called alone. Takes as long as whoever is at work."""
        thread, claims = self._identify(), self._claims
        pause_s = _FIRST_POLL_S
        while True:
            first = claims[:1]
            if first == [thread]:
                # It is of a frame beneath us, which keeps the others out. That one works, or was about to.
                return do(*args, **kwargs)
            if not first:
                try:
                    # Each of these is one step, whatever other threads do.
                    claims.append(thread)
                    if claims[0] == thread:
                        return do(*args, **kwargs)
                finally:
                    claims.remove(thread)
            if self._is_finalizing():
                return do(*args, **kwargs)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S)
            if self._pid != os.getpid():
                self.forget_others()

    def forget_others(self) -> None:
        """Forget the claims of other threads: in a forked child, they do not exist."""
        self._pid = os.getpid()
        thread = self._identify()
        self._claims[:] = [each for each in self._claims if each == thread]


__all__ = ["Exclusive", "Guard"]
