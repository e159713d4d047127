"""The strict CloudWatch of the other tests is strict: it refuses what each documented limit forbids."""

from copy import deepcopy
from typing import Any

import pytest

from tests.support.cloudwatch_stub import Violation, check_payload, check_protocol, load_strictly

NOW = 1_795_000_020.0
DATUM: dict[str, Any] = {
    "MetricName": "m",
    "Timestamp": NOW,
    "Unit": "Count",
    "StorageResolution": 1,
    "Dimensions": [{"Name": "a", "Value": "1"}],
    "StatisticValues": {"SampleCount": 3.0, "Sum": 4.0, "Minimum": 1.0, "Maximum": 2.0},
    "Values": [1.0, 2.0],
    "Counts": [2, 1],
}


def build(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - a datum's
    return {"Namespace": "n", "MetricData": [deepcopy(DATUM) | changes]}


def test_a_datum_within_every_limit_is_taken() -> None:
    check_payload(build(), NOW)
    check_payload({"Namespace": "n", "MetricData": [DATUM] * 1000}, NOW)
    check_payload({"Namespace": "n", "MetricData": [{"MetricName": "x" * 255, "Value": -(2.0**360)}]}, NOW)
    check_payload(build(Dimensions=[{"Name": f"{i}", "Value": "x" * 1024} for i in range(30)]), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        *({"MetricName": name} for name in ("", " ", "x" * 256, "é", "a\n", 5, None)),
        *({"Timestamp": NOW + offset} for offset in (-14 * 86_400 - 1, 2 * 3600 + 1)),
        *({"Unit": unit} for unit in ("ms", "count", "Fortnights")),
        {"StorageResolution": 5},
        {"Dimensions": [{"Name": f"{i}", "Value": "v"} for i in range(31)]},
        {"Dimensions": [{"Name": "a", "Value": "1"}, {"Name": "a", "Value": "2"}]},
        *({"Dimensions": [{"Name": name, "Value": "v"}]} for name in ("", ":a", "x" * 256, "\t", "ü")),
        *({"Dimensions": [{"Name": "n", "Value": value}]} for value in ("", " ", "x" * 1025, "a\x00", "ü")),
        *(
            {"Values": [number], "Counts": [3]}
            for number in (2.0**361, float("nan"), float("inf"), 1e-200, "1")
        ),
        {"Values": [1.0, 2.0], "Counts": [3]},
        {"Values": [1.0, 1.0], "Counts": [2, 1]},
        {"Values": [1.0, 2.0], "Counts": [3, 0]},
        {"Values": [1.0, 2.5], "Counts": [2, 1]},
        {"Values": [1.0, 2.0], "Counts": [2, 2]},
        {"Values": [1.0 + i / 1000 for i in range(151)], "Counts": [1] * 151},
        {"Values": [], "Counts": []},
        {"StatisticValues": {"SampleCount": 3.0, "Sum": 4.0, "Minimum": 1.0}},
        {"StatisticValues": {"SampleCount": 0.0, "Sum": 4.0, "Minimum": 1.0, "Maximum": 2.0}},
        {"StatisticValues": {"SampleCount": 3.0, "Sum": 4.0, "Minimum": 3.0, "Maximum": 2.0}},
        {"StatisticValues": {"SampleCount": 3.0, "Sum": 2.0**361, "Minimum": 1.0, "Maximum": 2.0}},
        {"Colour": "red"},
    ],
)
def test_a_datum_beyond_one_limit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Violation):
        check_payload(build(**changes), NOW)


@pytest.mark.parametrize(
    "payload",
    [
        *({"Namespace": name, "MetricData": [DATUM]} for name in ("", ":n", "AWS/Kinesis", "x" * 256, "é")),
        {"Namespace": "n", "MetricData": []},
        {"Namespace": "n", "MetricData": [DATUM] * 1001},
        {"Namespace": "n", "MetricData": [{"MetricName": "m"}]},
        {"MetricData": [DATUM]},
    ],
)
def test_a_request_beyond_one_limit_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(Violation):
        check_payload(payload, NOW)


def test_infinity_and_an_unsigned_request_are_refused() -> None:
    with pytest.raises(Violation, match="no JSON"):
        load_strictly(b'{"a": Infinity}')
    with pytest.raises(Violation, match="another operation"):
        check_protocol({}, b"")
    headers = {
        "x-amz-target": "GraniteServiceVersion20100801.PutMetricData",
        "content-type": "application/x-amz-json-1.0",
    }
    with pytest.raises(Violation, match="no signature"):
        check_protocol(headers, b"")
