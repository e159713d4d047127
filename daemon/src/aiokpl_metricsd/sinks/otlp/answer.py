"""A gRPC or HTTP status -> what it means for the request. Pure.

Which statuses may be tried again is the OTLP specification's list ("OTLP/gRPC Response", "OTLP/HTTP
Response", 1.7, read 2026-11); all others are refused for good.

Where nobody knows whether the backend took the request (a deadline, a broken connection), a `TimeoutError`
or a `ConnectionError` is raised and no `ExportError`: delivery tries again and counts the snapshots as
ambiguous.
"""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from math import isfinite
from time import time
from typing import NamedTuple

from aiokpl_metricsd.errors import PermanentExportError, RetryableExportError

# A backend may answer with a page.
MAX_WORDS_CHARS = 300

_RETRYABLE_CODES = frozenset({"CANCELLED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"})
_RETRYABLE_STATUSES = frozenset({429, 502, 503, 504})

_OK_STATUSES = range(200, 300)
_REDIRECT_STATUSES = range(300, 400)
_TOO_LARGE_STATUS = 413


class Accepted(NamedTuple):
    """The backend took the request, or most of it.

    Attributes:
        rejected_points: of its points, refused for good; which ones is not said.
        message: why, or a warning; "" where the backend said nothing.
    """

    rejected_points: int = 0
    message: str = ""


class TooLargeError(PermanentExportError):
    """The request is, or may be, too large; nothing of it was taken.

    Attributes:
        is_certain: False where the answer may also mean a quota.
    """

    def __init__(self, message: str, *, is_certain: bool) -> None:
        """Keep what the backend said."""
        super().__init__(message)
        self.is_certain = is_certain


def judge_code(code: str, details: str, retry_after_s: float | None) -> Exception:
    """Return the error that a gRPC status is.

    Args:
        code: its name, as "UNAVAILABLE"; not "OK".
        details: the backend's words.
        retry_after_s: seconds out of the status' RetryInfo, or None where it has none.
    """
    said = f"the backend answered {code}{describe(details)}"
    if code == "DEADLINE_EXCEEDED":
        return TimeoutError(f"{said}; it may have taken the request")
    if code == "RESOURCE_EXHAUSTED":
        if retry_after_s is None:
            return TooLargeError(said, is_certain=False)
        return RetryableExportError(said, retry_after_s=retry_after_s)
    if code in _RETRYABLE_CODES:
        return RetryableExportError(said, retry_after_s=retry_after_s)
    return PermanentExportError(said)


def judge_status(
    status: int, words: str, retry_after_s: float | None, location: str | None
) -> Exception | None:
    """Return the error that an HTTP status is, or None when the request was taken.

    Args:
        status: as 503.
        words: the backend's.
        retry_after_s: seconds out of Retry-After, or None.
        location: where a redirect leads, or None.
    """
    if status in _OK_STATUSES:
        return None
    said = f"the backend answered {status}{describe(words)}"
    if status in _REDIRECT_STATUSES:
        where = f" to {_shorten(location)}" if location else ""
        return PermanentExportError(f"{said}: a redirect{where} is not followed; set the endpoint")
    if status == _TOO_LARGE_STATUS:
        return TooLargeError(said, is_certain=True)
    if status in _RETRYABLE_STATUSES:
        return RetryableExportError(said, retry_after_s=retry_after_s)
    return PermanentExportError(said)


def parse_retry_after(text: str | None, clock: Callable[[], float] = time) -> float | None:
    """Return the seconds that a Retry-After header asks for, or None (RFC 9110, section 10.2.3).

    Args:
        text: the header; seconds or a date.
        clock: epoch seconds.
    """
    if text is None:
        return None
    try:
        delay_s = float(text)
    except ValueError:
        try:
            delay_s = parsedate_to_datetime(text).timestamp() - clock()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, delay_s) if isfinite(delay_s) else None


def describe(words: str) -> str:
    """Return ": words" on one line, or "" where there are none."""
    shown = _shorten(words)
    return f": {shown}" if shown else ""


def _shorten(words: str) -> str:
    return " ".join(words.split())[:MAX_WORDS_CHARS]


__all__ = [
    "MAX_WORDS_CHARS",
    "Accepted",
    "TooLargeError",
    "describe",
    "judge_code",
    "judge_status",
    "parse_retry_after",
]
