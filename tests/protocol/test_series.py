"""Each limit of a series at, below and above its bound, and which of several broken ones is named."""

import pytest
from hypothesis import given, settings

from aiokpl_metrics_protocol import (
    MAX_DIMENSION_KEY_CHARS,
    MAX_DIMENSION_VALUE_CHARS,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    MAX_UNIT_CHARS,
    SUMMED_GAUGE,
    MetricKind,
    Reason,
    Series,
    check_series,
    decode_series,
    encode_series,
)
from tests.protocol import strategies


def _check(
    name: str = "jobs",
    kind: str | None = None,
    unit: str | None = None,
    dimensions: tuple[tuple[str, str], ...] = (),
) -> Reason | None:
    return check_series(name, kind, unit, dimensions)


def _build_dimensions(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"key{index}", "value") for index in range(count))


def test_the_limits_are_those_that_were_agreed() -> None:
    assert MAX_NAME_CHARS == 255
    assert MAX_DIMENSIONS == 30
    assert MAX_DIMENSION_KEY_CHARS == 255
    assert MAX_DIMENSION_VALUE_CHARS == 1024
    assert MAX_UNIT_CHARS == 63


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, Reason.NAME_EMPTY), (1, None), (254, None), (255, None), (256, Reason.NAME_TOO_LONG)],
)
def test_a_name_has_1_to_255_characters(length: int, expected: Reason | None) -> None:
    assert _check("n" * length) is expected
    # Characters are counted, not bytes.
    assert _check("ü" * length) is expected
    assert _check("🙂" * length) is expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (None, None),
        *((kind.value, None) for kind in MetricKind),
        (SUMMED_GAUGE, None),
        ("", Reason.KIND_UNKNOWN),
        ("Counter", Reason.KIND_UNKNOWN),
        ("timer", Reason.KIND_UNKNOWN),
        ("gauge_max", Reason.KIND_UNKNOWN),
    ],
)
def test_a_kind_is_one_of_four_words_or_not_declared(kind: str | None, expected: Reason | None) -> None:
    assert _check(kind=kind) is expected


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (None, None),
        ("", None),
        ("ms", None),
        ("u" * 62, None),
        ("u" * 63, None),
        ("u" * 64, Reason.UNIT_TOO_LONG),
    ],
)
def test_a_unit_has_at_most_63_characters(unit: str | None, expected: Reason | None) -> None:
    assert _check(unit=unit) is expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, None), (1, None), (29, None), (30, None), (31, Reason.TOO_MANY_DIMENSIONS)],
)
def test_a_series_has_at_most_30_dimensions(count: int, expected: Reason | None) -> None:
    assert _check(dimensions=_build_dimensions(count)) is expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, Reason.DIMENSION_EMPTY), (1, None), (254, None), (255, None), (256, Reason.DIMENSION_TOO_LONG)],
)
def test_a_key_has_1_to_255_characters(length: int, expected: Reason | None) -> None:
    assert _check(dimensions=(("k" * length, "v"),)) is expected
    assert _check(dimensions=(*_build_dimensions(3), ("ü" * length, "v"))) is expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, Reason.DIMENSION_EMPTY), (1, None), (1023, None), (1024, None), (1025, Reason.DIMENSION_TOO_LONG)],
)
def test_a_value_has_1_to_1024_characters(length: int, expected: Reason | None) -> None:
    assert _check(dimensions=(("k", "v" * length),)) is expected
    assert _check(dimensions=(*_build_dimensions(3), ("k", "ü" * length))) is expected


@pytest.mark.parametrize(
    ("dimensions", "expected"),
    [
        ((("a", "1"), ("b", "1")), None),
        ((("a", "1"), ("A", "1")), None),
        ((("a", "1"), ("a", "1")), Reason.DIMENSION_DUPLICATE),
        ((("a", "1"), ("b", "1"), ("a", "2")), Reason.DIMENSION_DUPLICATE),
        ((*_build_dimensions(29), ("key0", "v")), Reason.DIMENSION_DUPLICATE),
    ],
)
def test_keys_differ(dimensions: tuple[tuple[str, str], ...], expected: Reason | None) -> None:
    assert _check(dimensions=dimensions) is expected


def test_the_order_of_dimensions_breaks_no_limit() -> None:
    assert _check(dimensions=(("b", "1"), ("a", "1"))) is None


def test_all_limits_may_be_reached_at_once() -> None:
    dimensions = tuple((f"{index:0255}", "v" * 1024) for index in range(30))
    assert _check("n" * 255, "histogram", "u" * 63, dimensions) is None


def test_the_first_broken_limit_is_the_one_that_is_named() -> None:
    many = _build_dimensions(31)
    assert _check("", "timer", "u" * 64, many) is Reason.NAME_EMPTY
    assert _check("n" * 256, "timer", "u" * 64, many) is Reason.NAME_TOO_LONG
    assert _check("n", "timer", "u" * 64, many) is Reason.KIND_UNKNOWN
    assert _check("n", "gauge", "u" * 64, many) is Reason.UNIT_TOO_LONG
    assert _check("n", "gauge", "u" * 63, (*many, ("", ""))) is Reason.TOO_MANY_DIMENSIONS


@given(strategies.series)
@settings(deadline=None)
def test_any_decoded_series_passes_or_has_a_reason_and_keeps_it_on_the_wire(series: Series) -> None:
    reason = check_series(series.name, series.kind, series.unit, series.dimensions)
    assert reason is None or isinstance(reason, Reason)
    again = decode_series(encode_series(series))
    assert check_series(again.name, again.kind, again.unit, again.dimensions) is reason
