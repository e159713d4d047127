"""Failures in a row -> how long to wait. Exponential, full jitter, never less than the backend asked for."""

from collections.abc import Callable
from math import isfinite

# Full jitter draws from the whole range below the exponential bound: of all forms it spreads many senders
# best (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
BASE_S = 1.0
CAP_S = 60.0

# Ours: a backend that asks for a day is asked again within the hour.
MAX_RETRY_AFTER_S = 3600.0

# 2**6 seconds are above the cap already.
_MAX_EXPONENT = 16


class Backoff:
    """The waiting times of one sink.

    Args:
        random: returns a number in `[0, 1)`.
        base_s: the bound of the first waiting time.
        cap_s: the bound of all.
    """

    def __init__(self, random: Callable[[], float], *, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        """Start with no failure."""
        self._random = random
        self._base_s = base_s
        self._cap_s = cap_s
        self.failures = 0

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Count one more failure and return how long to wait.

        With `retry_after_s` that long and up to `base_s` more, since others were told the same.
        """
        bound_s = min(self._cap_s, self._base_s * 2.0 ** min(self.failures, _MAX_EXPONENT))
        self.failures += 1
        if retry_after_s is not None and isfinite(retry_after_s) and retry_after_s > 0.0:
            return min(retry_after_s, MAX_RETRY_AFTER_S) + self._random() * self._base_s
        return self._random() * bound_s

    def reset(self) -> None:
        """Forget the failures: something succeeded."""
        self.failures = 0


__all__ = ["BASE_S", "CAP_S", "MAX_RETRY_AFTER_S", "Backoff"]
