"""An error -> what follows from it, told by its shape."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from aiokpl_metricsd.sinks.cloudwatch.answer import Fate, decode_error, read_retry_after

NOW = 1_795_000_020.0


class ServiceError(Exception):
    """What an SDK raises, by shape."""

    def __init__(self, response: object) -> None:
        super().__init__("as the SDK words it")
        self.response = response


def build(status: int | None, code: str | None = None, **headers: str) -> ServiceError:
    metadata: dict[str, Any] = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ServiceError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": metadata})


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "InvalidParameterValue", Fate.REFUSED),
        (400, "SomethingNew", Fate.REFUSED),
        (None, "InvalidParameterCombination", Fate.REFUSED),
        (422, None, Fate.REFUSED),
        (413, None, Fate.SMALLER),
        (400, "RequestEntityTooLarge", Fate.SMALLER),
        (400, "Throttling", Fate.AGAIN),
        (400, "LimitExceeded", Fate.AGAIN),
        (429, None, Fate.AGAIN),
        (400, "ExpiredTokenException", Fate.AGAIN),
        (400, "InvalidClientTokenId", Fate.AGAIN),
        (403, "SomethingNew", Fate.AGAIN),
        (401, None, Fate.AGAIN),
        (400, "InternalServiceFault", Fate.AGAIN),
        (500, "InternalFailure", Fate.AGAIN),
        (503, None, Fate.AGAIN),
        (301, None, Fate.AGAIN),
        (404, "UnknownOperationException", Fate.AGAIN),
    ],
)
def test_the_status_and_the_code_say_what_follows(
    status: int | None, code: str | None, expected: Fate
) -> None:
    assert decode_error(build(status, code), NOW).fate is expected


@pytest.mark.parametrize("error", [OSError("gone"), TimeoutError(), ServiceError("none"), ServiceError({})])
def test_an_error_without_an_answer_may_be_tried_again(error: Exception) -> None:
    answer = decode_error(error, NOW)
    assert answer.fate is Fate.AGAIN
    assert answer.message.startswith(f"no answer: {type(error).__name__}")


@pytest.mark.parametrize("response", [{"Error": None}, {"Error": "x", "ResponseMetadata": []}, {"x": 1}])
def test_an_answer_of_an_odd_shape_is_an_answer(response: object) -> None:
    assert "as the SDK words it" in decode_error(ServiceError(response), NOW).message


def test_the_time_to_wait_comes_with_what_may_be_tried_again() -> None:
    headers = {"retry-after": "3"}
    assert decode_error(build(503, None, **headers), NOW).retry_after_s == 3.0
    assert decode_error(build(400, "Throttling", **headers), NOW).retry_after_s == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120", 120.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=90), usegmt=True), 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_the_time_to_wait_is_a_number_or_a_date(text: str, expected: float | None) -> None:
    assert read_retry_after({"Retry-After": text}, NOW) == expected
