"""A thread in the background, there when it is needed: one at a time, asleep until somebody wakes it.

Signal handlers, finalizers and exit handlers ask for it, wake it and wait for its end, also in the midst of
one another, so that nothing here waits for a lock: who asks while it is being started goes on at once. A
forked child has none; it makes a `Background` of its own and abandons its parent's.
"""

import threading
import time
from collections.abc import Callable

from aiokpl_metrics_client.clock import Clock
from aiokpl_metrics_client.exclusive import Exclusive

# How long after a step that failed the next one is taken.
_FAILURE_PAUSE_S = 0.1

# How often is looked whether there is still something to wait for.
_JOIN_POLL_S = 0.02


class Background:
    """Takes step after step in a daemon thread, until one is the last.

    Args:
        step: sleeps for as long as it may, and works. Returns whether it was the last one.
        on_failure: told of whatever comes out of a step. The thread goes on: nobody else would do its work.
    """

    def __init__(self, step: Callable[[], bool], on_failure: Callable[[BaseException], None]) -> None:
        """Start nothing yet."""
        self._step = step
        self._on_failure = on_failure
        self._starting = Exclusive()
        # Held until somebody wakes the thread. No `Event`: its `set` waits for a lock, for ever if a
        # finalizer calls it while the thread is on its way into `wait`.
        self._sleep_lock = threading.Lock()
        self._sleep_lock.acquire()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread is there, or on its way."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def is_current(self) -> bool:
        """Whether who asks is the thread."""
        return self._thread is threading.current_thread()

    def start(self, on_start: Callable[[Exception | None], None]) -> bool:
        """Start the thread, unless it is there. Return whether that was tried, by this very call.

        Whoever else is at it is enough; to wait would be to wait for ourselves, in a signal handler or in a
        finalizer that the new thread runs first of all. `on_start` is told the outcome before anybody else
        may try: None, or why no thread can start.
        """
        return bool(self._starting.run(lambda: self._try_start(on_start), 0.0, _ignore))

    def _try_start(self, on_start: Callable[[Exception | None], None]) -> bool:
        if self.is_running:
            return False
        thread = threading.Thread(target=self._run, name="aiokpl-metrics-client", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._thread = None
            on_start(error)
        except BaseException:
            # A Ctrl-C. The thread may be on its way, and ends when it finds that it is not ours.
            self._thread = None
            raise
        else:
            on_start(None)
        return True

    def _run(self) -> None:
        while self.is_current:
            try:
                if self._step():
                    return
            except BaseException as error:  # noqa: BLE001, PERF203 - nobody else would do what comes next
                self._on_failure(error)
                time.sleep(_FAILURE_PAUSE_S)

    def sleep(self, timeout_s: float) -> None:
        """Wait until somebody wakes the thread, or for this long. Called by the thread."""
        self._sleep_lock.acquire(timeout=timeout_s)

    def wake(self) -> None:
        """Have the thread go on, or not even fall asleep."""
        try:
            self._sleep_lock.release()
        except RuntimeError:
            # It is on its way already.
            return

    def join(self, timeout_s: float, is_enough: Callable[[], bool]) -> None:
        """Wait for the thread's end, for as long as it is not enough already."""
        thread = self._thread
        deadline = Clock.monotonic() + timeout_s
        while thread is not None and thread.is_alive() and thread is not threading.current_thread():
            left = deadline - Clock.monotonic()
            if left <= 0 or is_enough():
                return
            thread.join(min(left, _JOIN_POLL_S))

    def abandon(self) -> None:
        """Have no thread: in a forked child. A step in the midst of which the fork came is the last."""
        self._starting.is_abandoned = True
        self._thread = None


def _ignore() -> None:
    """Nothing is to be mended: whoever asks next starts it."""


__all__ = ["Background"]
