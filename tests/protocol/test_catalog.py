"""The KPL's names: spelled as aiokpl 0.2.0 and the C++ KPL spell them, with their kinds and units."""

import importlib.metadata

import pytest

import aiokpl_metrics_protocol
from aiokpl_metrics_protocol import CATALOG, MetricKind, catalog, check_series

COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

EXPECTED = {
    "UserRecordsReceived": (COUNTER, "count"),
    "UserRecordsPut": (COUNTER, "count"),
    "UserRecordsDataPut": (COUNTER, "bytes"),
    "KinesisRecordsPut": (COUNTER, "count"),
    "KinesisRecordsDataPut": (COUNTER, "bytes"),
    "AllErrors": (COUNTER, "count"),
    "ErrorsByCode": (COUNTER, "count"),
    "ExpiredRecords": (COUNTER, "count"),
    "UserRecordsPending": (GAUGE, "count"),
    "RetriesPerRecord": (HISTOGRAM, "count"),
    "BufferedTime": (HISTOGRAM, "ms"),
    "RequestTime": (HISTOGRAM, "ms"),
    "UserRecordExpired": (COUNTER, "count"),
    "BufferingTime": (HISTOGRAM, "ms"),
    "UserRecordsPerKinesisRecord": (HISTOGRAM, "count"),
    "KinesisRecordsPerPutRecordsRequest": (HISTOGRAM, "count"),
    "UserRecordsPerPutRecordsRequest": (HISTOGRAM, "count"),
}


def _read_names() -> dict[str, str]:
    return {name: value for name, value in vars(catalog).items() if name.startswith("NAME_")}


def test_each_name_has_its_kind_and_unit() -> None:
    assert dict(CATALOG) == EXPECTED


def test_each_constant_is_in_the_catalog_and_nothing_else_is() -> None:
    names = _read_names()
    assert sorted(names.values()) == sorted(CATALOG)
    assert len(names) == len(set(names.values()))


def test_each_constant_is_exported_by_the_package() -> None:
    for name, value in _read_names().items():
        assert getattr(aiokpl_metrics_protocol, name) == value
        assert name in aiokpl_metrics_protocol.__all__
        assert name in catalog.__all__


def test_the_catalog_breaks_none_of_the_wire_s_own_limits() -> None:
    for name, description in CATALOG.items():
        assert check_series(name, description.kind.value, description.unit, ()) is None


def test_nobody_can_change_the_catalog() -> None:
    with pytest.raises(TypeError):
        CATALOG["UserRecordsPut"] = CATALOG["BufferedTime"]  # type: ignore[index] # pyright: ignore[reportIndexIssue]


def test_the_constants_that_aiokpl_has_are_spelled_and_valued_as_there() -> None:
    aiokpl_metrics = pytest.importorskip("aiokpl.metrics", exc_type=ImportError)
    assert importlib.metadata.version("aiokpl") == "0.2.0"
    theirs = {name: value for name, value in vars(aiokpl_metrics).items() if name.startswith("NAME_")}
    assert len(theirs) == 12
    ours = _read_names()
    assert {name: ours.get(name) for name in theirs} == theirs


def test_a_kind_is_written_as_its_word() -> None:
    assert [str(kind) for kind in MetricKind] == ["counter", "gauge", "histogram"]
    assert f"{MetricKind.GAUGE}" == "gauge"
