"""A sink's options are its constructor's arguments: what they become, and every way they can be wrong."""

import functools
import traceback
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aiokpl_metricsd.configuring.interpolation import Interpolated, collect_secrets
from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks import InMemorySink, NullSink
from aiokpl_metricsd.sinks.loading import build_options
from tests.daemon.acme import AcmeSink, Color

PLACE = Place("sinks.toml", ("sinks", "x"))
X = "sinks.toml: [sinks.x]"
COMMON = ("type", "level", "interval_s")

T = TypeVar("T")


def interpolated(text: str) -> Interpolated:
    return Interpolated(text, "the value of ${X}", is_whole=True)


def options_of(factory: Callable[..., object], /, **table: object) -> dict[str, Any]:
    return build_options(factory, table, PLACE, reserved=COMMON)[0]


def refuse(factory: Callable[..., object], /, **table: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        options_of(factory, **table)
    return str(caught.value)


def test_options_are_the_constructor_s_arguments_converted_to_their_types() -> None:
    options = options_of(
        AcmeSink,
        url="http://a",
        retries=5,
        ratio=1,
        compressed=False,
        mode="fast",
        color="red",
        tags=["a", "b"],
        ports=[1, 2],
        weights={"a": 1},
        directory="/var",
        file="x.log",
        since=datetime(2026, 1, 1, tzinfo=None),  # noqa: DTZ001 - TOML has local times as well
        share="0.1",
        region="us",
    )
    assert options == {
        "url": "http://a",
        "retries": 5,
        "ratio": 1.0,
        "compressed": False,
        "mode": "fast",
        "color": Color.RED,
        "tags": ["a", "b"],
        "ports": [1, 2],
        "weights": {"a": 1.0},
        "directory": Path("/var"),
        "file": "x.log",
        "since": datetime(2026, 1, 1, tzinfo=None),  # noqa: DTZ001
        "share": Decimal("0.1"),
        "region": "us",
    }


def test_what_is_not_given_is_left_to_the_constructor() -> None:
    assert options_of(AcmeSink, url="u") == {"url": "u"}
    assert options_of(NullSink) == {}


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("url", "5", "5"),
        ("retries", "5", 5),
        ("ratio", "0.25", 0.25),
        ("ratio", "1", 1.0),
        ("compressed", "false", False),
        ("compressed", "true", True),
        ("mode", "fast", "fast"),
        ("color", "red", Color.RED),
        ("api_key", "null", "null"),
        ("api_key", "12345", "12345"),
    ],
)
def test_a_value_wholly_out_of_a_variable_is_converted_to_the_option_s_type(
    key: str,
    text: str,
    expected: object,
) -> None:
    value = options_of(AcmeSink, **{"url": "u", key: interpolated(text)})[key]
    assert value == expected
    assert type(value) is type(expected)


def test_a_value_in_an_array_or_a_table_is_converted_as_well() -> None:
    options = options_of(
        AcmeSink,
        url="u",
        ports=[1, interpolated("2")],
        weights={"a": interpolated("0.5")},
        tags=[interpolated("7")],
    )
    assert (options["ports"], options["weights"], options["tags"]) == ([1, 2], {"a": 0.5}, ["7"])
    assert type(options["tags"][0]) is str


def test_no_mark_of_interpolation_reaches_a_sink_that_takes_anything() -> None:
    def make(anything: object, **rest: object) -> None: ...

    options = options_of(make, anything=[interpolated("5")], other=interpolated("6"))
    assert options == {"anything": ["5"], "other": "6"}
    assert type(options["anything"][0]) is str
    assert type(options["other"]) is str


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("url", 5, "url: expected a string, found 5"),
        ("retries", "5", 'retries: expected a whole number, found "5"'),
        ("retries", True, "retries: expected a whole number, found true"),
        ("retries", 5.5, "retries: expected a whole number, found 5.5"),
        ("ratio", "x" * 50, f'ratio: expected a number, found "{"x" * 40}…"'),
        ("compressed", 1, "compressed: expected true or false, found 1"),
        ("mode", "fats", 'mode: expected one of "fast", "safe", found "fats"'),
        ("color", "blue", 'color: expected "red", found "blue"'),
        ("tags", "a", 'tags: expected an array, each item a string, found "a"'),
        ("tags", ["a", 5], "tags[1]: expected an array, each item a string, found 5"),
        ("weights", {"a": "b"}, "weights: expected a table, each value a number, found a table"),
        ("directory", 5, "directory: expected a path, found 5"),
        ("file", ["a"], "file: expected a string, found an array"),
        ("since", "soon", 'since: expected a datetime, found "soon"'),
        ("ratio", datetime(2026, 1, 1, tzinfo=None), "ratio: expected a number, found a date or time"),  # noqa: DTZ001
    ],
)
def test_an_option_of_the_wrong_type_is_refused_with_what_is_expected_and_found(
    key: str,
    value: object,
    expected: str,
) -> None:
    assert refuse(AcmeSink, **{"url": "u", key: value}) == f"{X} {expected}"


def test_an_unknown_option_is_answered_with_the_known_ones_and_the_nearest() -> None:
    assert refuse(InMemorySink, max_export=5) == (
        f"{X} max_export: unknown key; "
        "expected one of: interval_s, level, max_exports, type; did you mean max_exports?"
    )


def test_a_missing_option_is_named_with_its_type() -> None:
    assert refuse(AcmeSink, retries=1) == f"{X} url: missing; expected a string"


@pytest.mark.parametrize("key", ["client_factory", "clock"])
def test_an_argument_that_toml_cannot_say_is_no_option(key: str) -> None:
    line = refuse(AcmeSink, **{"url": "u", key: "x"})
    assert line.startswith(f"{X} {key}: unknown key; expected one of: api_key,")


def test_a_required_argument_that_toml_cannot_say_is_named() -> None:
    def make(client: Callable[[], object]) -> None: ...

    assert refuse(make) == (
        f'{X} type: the constructor requires "client", which has a type that TOML cannot say; '
        "name a factory without it"
    )


def test_a_required_argument_named_like_a_key_of_every_sink_is_named() -> None:
    def make(interval_s: int, level: str = "x") -> None: ...

    assert refuse(make) == (
        f'{X} type: the constructor requires "interval_s", which is a key of every sink\'s table; '
        "name a factory without it"
    )


def test_a_required_argument_by_position_only_is_named() -> None:
    def make(url: str, /) -> None: ...

    assert 'requires "url"' in refuse(make)


def test_an_argument_without_an_annotation_takes_what_toml_says() -> None:
    def make(anything, other=5):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - on purpose
        ...

    assert options_of(make, anything=[1, "a"], other={"a": 1}) == {"anything": [1, "a"], "other": {"a": 1}}


def test_a_factory_that_takes_any_keyword_gets_every_key() -> None:
    def make(known: int = 1, **rest: object) -> None: ...

    assert options_of(make, known=2, other="x") == {"known": 2, "other": "x"}
    assert refuse(make, known="x") == f'{X} known: expected a whole number, found "x"'


def test_a_partial_is_a_factory_too() -> None:
    make = functools.partial(AcmeSink, url="fixed")
    assert options_of(make, retries=5) == {"retries": 5}


def test_a_wrapped_factory_shows_the_signature_beneath() -> None:
    def make(url: "str") -> None: ...

    @functools.wraps(make)
    def wrapper(*args: object, **options: object) -> None: ...

    assert refuse(wrapper, url=5) == f"{X} url: expected a string, found 5"


def test_an_annotation_that_cannot_be_resolved_takes_what_toml_says() -> None:
    def make(client: "NotImported" = None, size: "int" = 1) -> None: ...  # type: ignore[name-defined] # noqa: F821

    assert options_of(make, client={"a": 1}, size=2) == {"client": {"a": 1}, "size": 2}
    assert refuse(make, size="x") == f'{X} size: expected a whole number, found "x"'


def test_a_union_that_cannot_be_told_apart_takes_what_toml_says() -> None:
    def make(tags: list[str] | tuple[int, ...] = (), item: T | None = None) -> T | None:
        return item

    assert options_of(make, tags=[1, "a"], item=5) == {"tags": [1, "a"], "item": 5}


def test_a_factory_without_a_signature_gets_every_key() -> None:
    assert options_of(dict, a=1, b="x") == {"a": 1, "b": "x"}


def test_an_option_is_read_from_a_file_and_kept_from_messages(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    table = {"url": "u", "api_key_file": str(tmp_path / "key")}
    options, marked = build_options(AcmeSink, table, PLACE)
    assert options == {"url": "u", "api_key": "hunter2"}
    assert list(collect_secrets(marked)) == ["hunter2"]


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("retries", interpolated("hunter2"), "the value of ${X}"),
        ("mode", interpolated("hunter2"), "the value of ${X}"),
        (
            "mode",
            Interpolated("hunter2", "a string with the value of ${X}", is_whole=False),
            "a string with the",
        ),
        ("ports", [1, interpolated("hunter2")], "the value of ${X}"),
        ("retries", "https://user:hunter2@host", "a string"),
        ("api_key", ["hunter2"], "an array"),
        ("weights", {"a": interpolated("hunter2")}, "a table"),
    ],
)
def test_a_secret_of_the_wrong_type_is_not_shown(key: str, value: object, shown: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        options_of(AcmeSink, **{"url": "u", key: value})
    assert shown in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_number_under_a_telling_key_is_not_shown() -> None:
    assert refuse(AcmeSink, url="u", api_key=12345) == (f"{X} api_key: expected a string, found a number")
