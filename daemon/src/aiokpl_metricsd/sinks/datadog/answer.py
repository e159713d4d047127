"""What a request to Datadog ended with -> what follows from it. Pure; knows errors by shape, not by class.

The client's errors carry the answer as `status`, `headers` and `body`. An error without a status is the
connection's: nothing is known of the request.
"""

import json
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from math import isfinite
from typing import Any, Final, cast

from msgspec import Struct

# "Rate limits" of the API reference (docs.datadoghq.com/api/latest/rate-limits, read 2026-11): seconds
# until the next reset. The client's own retries read no other header; proxies and gateways answer with the
# standard one.
_RESET_HEADERS: Final = ("x-ratelimit-reset", "retry-after")

# The answers documented for both endpoints (docs.datadoghq.com/api/latest/metrics, read 2026-11): 202, 400,
# 403, 408, 413, 429. An answer about the body is the data's; every other one is about who sends, when, or
# where.
_REFUSED = frozenset({400, 422})
_UNAUTHORIZED = frozenset({401, 403})
_TOO_LARGE = 413
_TOO_MANY = 429
_MAX_MESSAGE_CHARS = 300


class Fate(StrEnum):
    """What becomes of a failed request."""

    AGAIN = "again"
    SMALLER = "smaller"
    REFUSED = "refused"


class Answer(Struct, frozen=True):
    """How a request failed.

    Attributes:
        fate: what follows.
        message: one line for people.
        retry_after_s: seconds that Datadog asked to wait, or None.
        is_ambiguous: Datadog may have taken the request all the same.
    """

    fate: Fate
    message: str
    retry_after_s: float | None = None
    is_ambiguous: bool = False


def decode_error(error: BaseException, now: float) -> Answer:
    """Return what follows from an error.

    Args:
        error: what the client raised.
        now: epoch seconds, for a Retry-After that is a date.
    """
    status: Any = getattr(error, "status", None)
    if not isinstance(status, int) or not status:
        message = f"no answer: {type(error).__name__}: {_shorten(str(error))}"
        return Answer(Fate.AGAIN, message, is_ambiguous=True)
    text = f"{status}: {_shorten(_describe_body(getattr(error, 'body', None)))}"
    retry_after_s = read_retry_after(getattr(error, "headers", None) or {}, now)
    if status == _TOO_LARGE:
        return Answer(Fate.SMALLER, f"the request is too large ({text})")
    if status in _REFUSED:
        return Answer(Fate.REFUSED, f"refused ({text})")
    if status in _UNAUTHORIZED:
        return Answer(Fate.AGAIN, f"the API key is not accepted ({text})", retry_after_s)
    if status == _TOO_MANY:
        return Answer(Fate.AGAIN, f"throttled ({text})", retry_after_s)
    return Answer(Fate.AGAIN, f"the intake fails ({text})", retry_after_s, is_ambiguous=True)


def decode_errors(body: bytes) -> list[str]:
    """Return the errors that an accepting answer lists. An answer that cannot be read lists none."""
    try:
        return [_shorten(each) for each in _list_errors(json.loads(body))]
    except ValueError:
        return []


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that the headers name; None where they name none that can be used."""
    lowered = {str(name).lower(): str(value) for name, value in headers.items()}
    for name in _RESET_HEADERS:
        wait_s = _read_wait(lowered.get(name, ""), now)
        if wait_s is not None:
            return wait_s
    return None


def _read_wait(text: str, now: float) -> float | None:
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, wait_s) if isfinite(wait_s) else None


def _describe_body(body: Any) -> str:  # noqa: ANN401 - whatever JSON the answer was
    return "; ".join(_list_errors(body)) or str(body or "no reason given")


def _list_errors(body: Any) -> list[str]:  # noqa: ANN401 - the same
    if not isinstance(body, dict):
        return []
    errors = cast("dict[str, object]", body).get("errors")
    return [str(each) for each in cast("Iterable[object]", errors)] if isinstance(errors, list) else []


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _MAX_MESSAGE_CHARS else f"{words[:_MAX_MESSAGE_CHARS]}…"


__all__ = ["Answer", "Fate", "decode_error", "decode_errors", "read_retry_after"]
