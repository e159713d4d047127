"""What is said of a request that the backend may have taken all the same."""

from collections.abc import Callable

import pytest

from aiokpl_metricsd.sinks.cloudwatch import answer as cloudwatch
from aiokpl_metricsd.sinks.datadog import answer as datadog


class AnsweredError(Exception):
    """An error with an answer, in the shape of either client."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


@pytest.mark.parametrize("decode", [cloudwatch.decode_error, datadog.decode_error])
def test_only_a_lost_answer_or_a_failing_backend_leaves_it_open(
    decode: Callable[[BaseException, float], cloudwatch.Answer | datadog.Answer],
) -> None:
    errors = {
        "lost": ConnectionResetError(),
        "failing": AnsweredError(503, "ServiceUnavailable"),
        "throttled": AnsweredError(429, "Throttling"),
        "forbidden": AnsweredError(403, "AccessDenied"),
        "refused": AnsweredError(400, "InvalidParameterValue"),
    }
    said = {name: decode(error, 0.0).is_ambiguous for name, error in errors.items()}
    assert said == {"lost": True, "failing": True, "throttled": False, "forbidden": False, "refused": False}
