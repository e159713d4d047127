"""References in configuration values: what they become, and what is said when they cannot."""

import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd.configuring.interpolation import (
    Interpolated,
    collect_secrets,
    inline_files,
    interpolate,
)
from aiokpl_metricsd.configuring.place import Place
from aiokpl_metricsd.errors import ConfigurationError

ENVIRON = {"HOST": "db1", "PORT": "9000", "EMPTY": "", "NESTED": "${HOST}"}
PLACE = Place("sinks.toml", ("sinks", "x"))
X = "sinks.toml: [sinks.x]"


def resolve(text: str) -> str:
    value = interpolate({"key": text}, ENVIRON, PLACE)["key"]
    assert isinstance(value, str)
    return value


def refuse(table: dict[str, object], place: Place = PLACE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        interpolate(table, ENVIRON, place)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${HOST}", "db1"),
        ("${HOST}:${PORT}", "db1:9000"),
        ("a ${HOST} b", "a db1 b"),
        ("${MISSING:-fallback}", "fallback"),
        ("${HOST:-fallback}", "db1"),
        ("${EMPTY:-fallback}", "fallback"),
        ("${EMPTY}", ""),
        ("${MISSING:-}", ""),
        ("${MISSING:-a:-b}", "a:-b"),
        ("${MISSING:-/var/lib/x}", "/var/lib/x"),
        ("${NESTED}", "${HOST}"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$${${HOST}", "${db1"),
        ("$HOST", "$HOST"),
        ("100 $", "100 $"),
        ("a}b", "a}b"),
        ("", ""),
    ],
)
def test_a_reference_becomes_the_variable_s_text(text: str, expected: str) -> None:
    assert resolve(text) == expected


@pytest.mark.parametrize("text", ["${PORT}", "${MISSING:-5}", "${EMPTY}"])
def test_a_value_that_is_one_reference_is_marked_as_whole(text: str) -> None:
    value = resolve(text)
    assert isinstance(value, Interpolated)
    assert value.is_whole


@pytest.mark.parametrize("text", ["${HOST}${PORT}", " ${PORT}", "${PORT}0"])
def test_a_value_with_more_than_one_reference_is_marked_but_not_as_whole(text: str) -> None:
    value = resolve(text)
    assert isinstance(value, Interpolated)
    assert not value.is_whole


@pytest.mark.parametrize("text", ["plain", "$${HOST}", "$"])
def test_a_value_without_a_reference_is_not_marked(text: str) -> None:
    assert type(resolve(text)) is str


def test_values_are_replaced_at_any_depth_and_keys_never() -> None:
    table = {"${HOST}": ["${HOST}", {"a": "${PORT}"}, ["${HOST}"]], "n": 5, "on": True}
    result = interpolate(table, ENVIRON, PLACE)
    assert result == {"${HOST}": ["db1", {"a": "9000"}, ["db1"]], "n": 5, "on": True}


def test_the_given_table_stays_as_it_is() -> None:
    table = {"a": {"b": ["${HOST}"]}}
    interpolate(table, ENVIRON, PLACE)
    assert table == {"a": {"b": ["${HOST}"]}}


@given(st.text().filter(lambda text: "${" not in text))
def test_a_text_without_a_reference_is_never_changed(text: str) -> None:
    assert interpolate({"key": text}, {}, PLACE) == {"key": text}


@given(st.text())
def test_any_text_of_a_variable_arrives_as_it_is(text: str) -> None:
    assert interpolate({"key": "<${X}>"}, {"X": text}, PLACE) == {"key": f"<{text}>"}


def test_a_missing_variable_is_named_with_its_table_and_key() -> None:
    expected = f"{X} region: the variable REGION is not set; set it, or write ${{REGION:-default}}"
    assert refuse({"region": "${REGION}"}) == expected


def test_a_missing_variable_inside_a_table_or_an_array_is_named_with_its_whole_path() -> None:
    assert refuse({"headers": {"a b": ["x", "${NO}"]}}).startswith(
        'sinks.toml: [sinks.x.headers] "a b"[1]: the variable NO is not set;',
    )


def test_at_the_top_of_the_file_the_error_has_no_table() -> None:
    assert refuse({"state_dir": "${NO}"}, Place("sinks.toml")).startswith(
        "sinks.toml: state_dir: the variable NO"
    )


def test_an_unclosed_reference_is_refused() -> None:
    expected = f'{X} key: a "${{" without its "}}"; write "$${{" for a literal one'
    assert refuse({"key": "a${HOST"}) == expected


@pytest.mark.parametrize("text", ["${}", "${1A}", "${A B}", "${A-b}", "${A:default}", "${:-x}", "${é}"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    expected = f'{X} key: expected ${{NAME}} or ${{NAME:-default}}, NAME of letters, digits and "_"'
    assert refuse({"key": text}) == expected


def test_a_reference_inside_a_default_is_refused() -> None:
    expected = f"{X} key: the default of ${{NO}} cannot hold another reference"
    assert refuse({"key": "${NO:-${HOST}}"}) == expected


def test_a_default_never_appears_in_an_error() -> None:
    assert "hunter2" not in refuse({"key": "${N O:-hunter2}"})


def test_what_is_marked_shows_where_it_came_from_and_never_its_text() -> None:
    value = interpolate({"key": "${PW}"}, {"PW": "hunter2"}, PLACE)
    assert repr(value) == "{'key': <the value of ${PW}>}"


# ---- OPTION_file


def read(
    table: dict[str, object], known: tuple[str, ...] = ("api_key",), *, is_open: bool = False
) -> dict[str, object]:
    return inline_files(table, known, PLACE, is_open=is_open)


def refuse_file(table: dict[str, object], known: tuple[str, ...] = ("api_key",)) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(table, known)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"two\nlines\n", "two\nlines"),
        (b"kept\n\n", "kept\n"),
        (b" kept ", " kept "),
        (b"", ""),
    ],
)
def test_an_option_is_read_from_its_file_without_the_last_line_end(
    tmp_path: Path,
    content: bytes,
    expected: str,
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    result = read({"api_key_file": str(file), "other": 1})
    assert result == {"api_key": expected, "other": 1}
    value = result["api_key"]
    assert isinstance(value, Interpolated)
    assert value.is_whole


def test_a_file_s_text_is_not_interpolated(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("${HOST}")
    assert read({"api_key_file": str(tmp_path / "secret")}) == {"api_key": "${HOST}"}


def test_a_known_key_that_ends_like_a_file_s_stays_a_key() -> None:
    assert read({"ca_file": "/ca.pem"}, ("ca", "ca_file")) == {"ca_file": "/ca.pem"}


def test_an_open_table_reads_any_option_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    assert read({"anything_file": str(tmp_path / "f")}, (), is_open=True) == {"anything": "text"}


def test_a_key_that_is_only_the_suffix_is_left_to_the_table() -> None:
    assert read({"_file": "x"}) == {"_file": "x"}


def test_an_option_given_in_both_ways_is_refused() -> None:
    expected = f"{X} api_key_file: api_key is given as well; expected one of the two"
    assert refuse_file({"api_key": "a", "api_key_file": "b"}) == expected
    assert refuse_file({"api_key_file": "b", "api_key": "a"}) == expected


def test_a_file_for_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    assert refuse_file({"api_kye_file": "/secret"}) == (
        f"{X} api_kye_file: unknown key: there is no option api_kye to read; did you mean api_key_file?"
    )


def test_a_file_that_is_not_there_is_named() -> None:
    assert refuse_file({"api_key_file": "/nowhere/secret"}) == (
        f'{X} api_key_file: cannot read the file "/nowhere/secret": No such file or directory'
    )


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff\xfe")
    assert refuse_file({"api_key_file": str(tmp_path / "f")}) == (
        f'{X} api_key_file: the file "{tmp_path}/f" is not UTF-8'
    )


@pytest.mark.parametrize("path", [5, "", ["a"], True])
def test_a_path_that_is_none_is_refused(path: object) -> None:
    assert refuse_file({"api_key_file": path}) == f"{X} api_key_file: expected the path of a file"


def test_a_path_with_a_zero_byte_is_refused() -> None:
    assert refuse_file({"api_key_file": "a\0b"}) == f'{X} api_key_file: "a\\u0000b" is no path'


def test_a_secret_given_where_its_file_belongs_stays_hidden() -> None:
    table = interpolate({"api_key_file": "${KEY}"}, {"KEY": "hunter2"}, PLACE)
    with pytest.raises(ConfigurationError) as caught:
        read(table)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert "the value of ${KEY}" in str(caught.value)


def test_secrets_are_what_was_interpolated_and_what_stands_under_a_telling_key() -> None:
    table: dict[str, object] = {
        "region": "eu-1",
        "host": Interpolated("db1", "the value of ${HOST}", is_whole=True),
        "api_key": "literal",
        "headers": {"X-Anything": "deep", "list": ["deeper", 5]},
    }
    assert list(collect_secrets(table)) == ["db1", "literal", "deep", "deeper"]
