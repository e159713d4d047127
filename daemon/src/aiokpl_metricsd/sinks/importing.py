"""Packages of backends, imported by one thread at a time.

Sinks are entered at the same time, each importing its package in a thread, and the packages share others
whose modules import each other. Two threads that enter such a ring from two sides would wait for each other;
Python breaks that by handing one of them a module that is not complete, and the import fails: with a
`_DeadlockError`, or with an attribute that is missing (both seen with urllib3, which CloudWatch's and
Datadog's packages share, CPython 3.11).
"""

import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# Re-entrant: who imports may call somebody who does so as well.
_lock = threading.RLock()


def import_alone(load: Callable[[], _T]) -> _T:
    """Return what `load` returns, while no other thread is in here. To be called in a thread: it waits.

    Raises:
        Exception: whatever `load` raises.
    """
    with _lock:
        return load()


__all__ = ["import_alone"]
