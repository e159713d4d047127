"""One thread at a time at work, and nobody who comes back into his own work; no Ctrl-C leaves it taken.

A signal handler or a finalizer may come while its own thread is at work: it must neither wait for that thread
nor begin in the midst of it. And an exception may come out of a signal handler at any moment, in the main
thread: between taking a lock and the `try` that would give it back, for instance. Only `with` has no such
moment, and that cannot wait for a limited time; so whoever may not wait looks first.
"""

import threading
import time
from collections.abc import Callable

# How often is looked whether another thread is still at work: it is for one drain.
_POLL_S = 0.002


class Exclusive:
    """Does one thing at a time."""

    __slots__ = ("_lock", "_worker")

    def __init__(self) -> None:
        """Be free."""
        self._lock = threading.RLock()
        # The thread that is at work, or 0.
        self._worker = 0

    def run(
        self, do: Callable[[], bool], timeout_s: float | None, on_abort: Callable[[], None]
    ) -> bool | None:
        """Do something alone, and return what it returns.

        None is that it was not done: time is up, or this very thread is at work. A `timeout_s` of None has no
        end; `on_abort` is called, still alone, where an exception comes out of `do`.
        """
        thread = threading.get_ident()
        deadline = time.monotonic() + (timeout_s or 0.0)
        while timeout_s is not None and self._worker not in (0, thread):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _POLL_S))
        with self._lock:
            if self._worker == thread:
                return None
            try:
                self._worker = thread
                return do()
            except BaseException:
                on_abort()
                raise
            finally:
                self._worker = 0


__all__ = ["Exclusive"]
