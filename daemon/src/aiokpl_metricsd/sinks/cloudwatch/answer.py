"""What a PutMetricData request ended with -> what follows from it. Pure; knows errors by shape, not by class.

The SDK's errors carry the service's answer as `response`; those of a client that an application brings look
the same. An error without one is the connection's: nothing is known of the request, and it may be repeated.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import Any, Final, cast

from msgspec import Struct

# What botocore takes for a throttled answer (botocore 1.43.117, retries/standard.py), and what the AWS agent
# retries besides (amazon-cloudwatch-agent, plugins/outputs/cloudwatch; both read 2026-11). The service
# throttles with status 400.
THROTTLING_CODES: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceeded",
        "LimitExceededException",
        "LimitExceededFault",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    },
)

# "Common Error Types" of the CloudWatch API reference (read 2026-11): who sends, not what is sent. Some come
# with status 400.
CREDENTIAL_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "RequestInTheFuture",
        "SignatureDoesNotMatch",
        "SubscriptionRequiredException",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    },
)

# The other codes of that list that come with status 400 and pass.
_PASSING_CODES = frozenset(
    {"InternalFailure", "InternalServiceFault", "RequestTimeout", "ServiceUnavailable"}
)

_BAD_REQUEST = 400
_UNAUTHORIZED = frozenset({401, 403})
_UNPROCESSABLE = 422
_TOO_LARGE = 413
_TOO_LARGE_CODES = frozenset({"RequestEntityTooLarge", "RequestEntityTooLargeException"})
_TOO_MANY = 429


class Fate(StrEnum):
    """What becomes of the snapshots of a failed request."""

    AGAIN = "again"
    SMALLER = "smaller"
    REFUSED = "refused"


class Answer(Struct, frozen=True):
    """How a request failed.

    Attributes:
        fate: what follows.
        message: one line for people.
        retry_after_s: seconds that the service asked to wait, or None.
        is_ambiguous: the service may have taken the request all the same.
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
    response = _read_table(getattr(error, "response", None))
    if not response:
        return Answer(Fate.AGAIN, f"no answer: {_describe(error)}", is_ambiguous=True)
    metadata, said = _read_table(response.get("ResponseMetadata")), _read_table(response.get("Error"))
    status = metadata.get("HTTPStatusCode")
    code = str(said.get("Code") or status or "unknown")
    text = f"{code}: {said.get('Message') or error}"
    retry_after_s = read_retry_after(_read_table(metadata.get("HTTPHeaders")), now)
    if status == _TOO_LARGE or code in _TOO_LARGE_CODES:
        return Answer(Fate.SMALLER, f"the request is too large ({text})")
    if status == _TOO_MANY or code in THROTTLING_CODES:
        return Answer(Fate.AGAIN, f"throttled ({text})", retry_after_s)
    if status in _UNAUTHORIZED or code in CREDENTIAL_CODES:
        return Answer(Fate.AGAIN, f"credentials or permissions are not accepted ({text})", retry_after_s)
    if status in {None, _BAD_REQUEST, _UNPROCESSABLE} and code not in _PASSING_CODES:
        return Answer(Fate.REFUSED, f"refused ({text})")
    return Answer(Fate.AGAIN, f"the service fails ({text})", retry_after_s, is_ambiguous=True)


def read_retry_after(headers: Mapping[str, Any], now: float) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date; None where there is none to use."""
    text = next((str(value) for name, value in headers.items() if str(name).lower() == "retry-after"), "")
    try:
        wait_s = float(text)
    except ValueError:
        from email.utils import parsedate_to_datetime  # 10 ms, for a form that is hardly used

        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now
        except ValueError:
            return None
    return max(0.0, wait_s) if isfinite(wait_s) else None


def _read_table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _describe(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


__all__ = ["CREDENTIAL_CODES", "THROTTLING_CODES", "Answer", "Fate", "decode_error", "read_retry_after"]
