"""Waiting for something to become true, with a deadline that suits a slow machine."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

TIMEOUT_S = 30.0

_INTERVAL_S = 0.01


def wait_for(read: Callable[[], _T], what: str, timeout_s: float = TIMEOUT_S) -> _T:
    """Call `read` until it returns something true, and return that.

    Raises:
        AssertionError: the time is over; says `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = read()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_INTERVAL_S)


__all__ = ["TIMEOUT_S", "wait_for"]
