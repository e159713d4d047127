"""The exact line that each kind of mistake in the configuration is answered with; no secret is in it."""

import re
import traceback
from pathlib import Path

import pytest

from aiokpl_metricsd import config
from aiokpl_metricsd.config import load
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.loading import BUILTIN
from tests.daemon.configuration import SINK, load_text, refuse_text

SECRET = "hunter2"
TOP_KEYS = (
    "dimensions, fsync, grace_s, http, ingest, interval_s, journal_max_bytes, level, limits, metrics, "
    "outbox_max_bytes, self_metrics, shutdown_timeout_s, sinks, state_dir"
)
IDS = "an array of one number or more, each from 0 to 4294967294"
SINK_KEYS = (
    "at_most_once, drop_dimensions, exclude, include, interval_s, level, max_age_s, spread_s, timeout_s, type"
)
TYPES = f'{", ".join(BUILTIN)}, or "package.module:ClassOrFactory"'


# ---- what is wrong with the file


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"^/nowhere/sinks.toml: cannot be read: No such file or directory$"
    ):
        load("/nowhere/sinks.toml", {})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r": cannot be read: Is a directory$"):
        load(str(tmp_path), {})


def test_bytes_that_are_no_text_are_found(tmp_path: Path) -> None:
    (tmp_path / "sinks.toml").write_bytes(b"ab\xff")
    with pytest.raises(ConfigurationError, match=r"/sinks\.toml: not UTF-8 at byte 2$"):
        load(str(tmp_path / "sinks.toml"), {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval_s = 5\nlevel = = 2", "line 2, column 9: invalid value"),
        ("a = 1\na = 2", "line 2, column 6: cannot overwrite a value"),
        ('x = "abc', "line 1, column 9: unterminated string"),
        ("\n\n[sinks", "line 3, column 7: expected ']' at the end of a table declaration"),
        ("a" + ".a" * 5_000 + " = 1", "tables or arrays are nested too deeply"),
        ("a = " + "[" * 5_000, "tables or arrays are nested too deeply"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_line_and_column(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert refuse_text(tmp_path, text) == expected


@pytest.mark.parametrize("text", ["", "interval_s = 5", "[sinks]"])
def test_a_file_without_a_sink_is_refused_with_what_to_add(tmp_path: Path, text: str) -> None:
    assert (
        refuse_text(tmp_path, text)
        == 'no sink; expected at least one, such as [sinks.console] with type = "console"'
    )


# ---- what is wrong with a key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval_s = 0", "interval_s: expected a whole number from 1 to 3600, found 0"),
        ("interval_s = 3601", "interval_s: expected a whole number from 1 to 3600, found 3601"),
        ("interval_s = 1.5", "interval_s: expected a whole number from 1 to 3600, found 1.5"),
        ('interval_s = "60"', 'interval_s: expected a whole number from 1 to 3600, found "60"'),
        ("interval_s = true", "interval_s: expected a whole number from 1 to 3600, found true"),
        ("grace_s = -1", "grace_s: expected a number from 0 to 60, found -1"),
        ("grace_s = nan", "grace_s: expected a number from 0 to 60, found nan"),
        ("grace_s = 1979-05-27", "grace_s: expected a number from 0 to 60, found a date or time"),
        (
            "shutdown_timeout_s = 0",
            "shutdown_timeout_s: expected a number greater than 0 and of at most 86400, found 0",
        ),
        (
            "shutdown_timeout_s = inf",
            "shutdown_timeout_s: expected a number greater than 0 and of at most 86400, found inf",
        ),
        ('level = "full"', 'level: expected one of "none", "summary", "detailed", found "full"'),
        ('state_dir = ""', 'state_dir: expected a string that is not empty, found ""'),
        ("ingest = 5", "ingest: expected a table, found 5"),
        ("sinks = []", "sinks: expected a table, found an array"),
        (
            "intervl_s = 5",
            f"intervl_s: unknown key; expected one of: {TOP_KEYS}; did you mean interval_s?",
        ),
        (
            "[sink.console]",
            f"sink: unknown key; expected one of: {TOP_KEYS}; did you mean sinks?",
        ),
        ('[ingest]\nsocket = ""', '[ingest] socket: expected a string that is not empty, found ""'),
        (
            f'[ingest]\nsocket = "/{"x" * 107}"',
            "[ingest] socket: expected a path of at most 107 bytes, found 108",
        ),
        (
            "[ingest]\nmode = 660",
            '[ingest] mode: expected the octal digits of a file\'s mode, such as "0660", found 660',
        ),
        (
            '[ingest]\nmode = "0680"',
            '[ingest] mode: expected the octal digits of a file\'s mode, such as "0660", found "0680"',
        ),
        (
            '[ingest]\nmode = "0660\\n"',
            '[ingest] mode: expected the octal digits of a file\'s mode, such as "0660", found "0660\\n"',
        ),
        (
            "[ingest]\nport = 1",
            "[ingest] port: unknown key; expected one of: allow_gids, allow_uids, group, mode, socket",
        ),
        (
            "[ingest]\nallow_uids = []",
            f"[ingest] allow_uids: expected {IDS}, found an array",
        ),
        (
            "[ingest]\nallow_gids = [1, 4294967295]",
            f"[ingest] allow_gids[1]: expected {IDS}, found 4294967295",
        ),
        ("[limits]\nmax_series = 0", "[limits] max_series: expected a whole number of at least 1, found 0"),
        (
            "[limits]\nlive_series = -1",
            "[limits] live_series: expected a whole number of at least 0, found -1",
        ),
        ("[dimensions]\npod = 5", "[dimensions] pod: expected a string of 1 to 1024 characters, found 5"),
        ('[dimensions]\npod = ""', '[dimensions] pod: expected a string of 1 to 1024 characters, found ""'),
        ('[dimensions]\n"" = "x"', '[dimensions] "": expected a key of 1 to 255 characters'),
        (
            f'[dimensions]\nx = "{"y" * 1025}"',
            f'[dimensions] x: expected a string of 1 to 1024 characters, found "{"y" * 40}…"',
        ),
        (
            "[dimensions]\n" + "\n".join(f'd{number} = "x"' for number in range(31)),
            "[dimensions]: expected at most 30 dimensions, found 31",
        ),
        ('[metrics]\nLatency = "ms"', '[metrics] Latency: expected a table, found "ms"'),
        ('[metrics.""]\nunit = "ms"', '[metrics] "": expected a name of 1 to 255 characters'),
        (
            '[metrics.Latency]\nkind = "timer"',
            '[metrics.Latency] kind: expected one of "counter", "gauge", "histogram", found "timer"',
        ),
        (
            '[metrics."a.b"]\nkin = "x"',
            '[metrics."a.b"] kin: unknown key; expected one of: kind, unit; did you mean kind?',
        ),
        (
            f'[metrics.m]\nunit = "{"s" * 64}"',
            f'[metrics.m] unit: expected a string of 1 to 63 characters, found "{"s" * 40}…"',
        ),
    ],
)
def test_a_mistake_is_answered_with_table_key_and_what_is_expected(
    tmp_path: Path, text: str, expected: str
) -> None:
    sinks = "" if text.startswith(("sinks", "[sink.")) else SINK
    assert refuse_text(tmp_path, f"{text}\n{sinks}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('level = "summary"', "type: missing; expected a string that is not empty"),
        ("type = 5", "type: expected a string that is not empty, found 5"),
        ('type = ""', 'type: expected a string that is not empty, found ""'),
        (
            'type = "nul"',
            f'type: expected one of {TYPES}, found "nul"; did you mean null?',
        ),
        ('type = "memory"\nlevel = "none"', 'level: expected one of "detailed", "summary", found "none"'),
        (
            'type = "memory"\ninclude = "a*"',
            'include: expected an array, each item a string that is not empty, found "a*"',
        ),
        (
            'type = "memory"\nexclude = ["a", 5]',
            "exclude[1]: expected an array, each item a string that is not empty, found 5",
        ),
        ('type = "memory"\ninterval_s = 90', "interval_s: expected a multiple of the daemon's 60, found 90"),
        ('type = "memory"\ninterval_s = 30', "interval_s: expected a multiple of the daemon's 60, found 30"),
        ('type = "memory"\nspread_s = 31', "spread_s: expected at most half of interval_s, 30, found 31"),
        (
            'type = "memory"\ntimeout_s = 0',
            "timeout_s: expected a number greater than 0 and of at most 86400, found 0",
        ),
        (
            'type = "memory"\nmax_exports = "9"',
            'max_exports: expected a whole number of at least 0, found "9"',
        ),
        (
            'type = "null"\nintervl_s = 5',
            f"intervl_s: unknown key; expected one of: {SINK_KEYS}; did you mean interval_s?",
        ),
        ('type = "jsonl"', "path: missing; expected a string"),
        ('type = "console"\nformat = "xml"', 'format: expected one of "json", "table", found "xml"'),
        (
            'type = "null"\nlevel = "summary"\nlevel_file = "x"',
            "level_file: level is given as well; expected one of the two",
        ),
        ('type = "${NO}"', "type: the variable NO is not set; set it, or write ${NO:-default}"),
    ],
)
def test_a_mistake_in_a_sink_is_answered_with_its_table(tmp_path: Path, text: str, expected: str) -> None:
    assert refuse_text(tmp_path, f"[sinks.cw]\n{text}") == f"[sinks.cw] {expected}"


def test_a_sink_that_is_no_table_is_refused(tmp_path: Path) -> None:
    assert (
        refuse_text(tmp_path, '[sinks]\nconsole = "table"')
        == '[sinks] console: expected a table, found "table"'
    )


def test_a_sink_s_name_is_shown_as_toml_writes_it(tmp_path: Path) -> None:
    assert refuse_text(tmp_path, '[sinks."a.b\\n"]\ntype = 5').startswith('[sinks."a.b\\n"] type: expected')


def test_the_embedded_default_has_a_name_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT", "interval_s = 0")
    with pytest.raises(
        ConfigurationError, match=r"^the embedded default: interval_s: expected a whole number"
    ):
        load(None, {})


@pytest.mark.parametrize(
    "text",
    [
        'interval_s = "${S}"',
        'level = "${S}"',
        'level = "x${S}"',
        'limits = "${S}"',
        '[ingest]\nmode = "${S}"',
        '[ingest]\nmode_file = "${S}"',
        '[limits]\nmax_series = "${S}"',
        '[limits]\nmax_series_file = "secret"',
        '[dimensions]\npod = ["${S}"]',
        '[metrics.m]\nkind = "${S}"',
        '[metrics]\nm = "${S}"',
        '[sinks.x]\ntype = "${S}"',
        '[sinks.x]\ntype_file = "secret"',
        '[sinks.x]\ntype = "memory"\nmax_exports = "${S}"',
        '[sinks.x]\ntype = "memory"\nlevel = "${S}"',
        '[sinks.x]\ntype = "memory"\ninclude = "${S}"',
        '[sinks.x]\ntype = "memory"\nmax_exports_file = "secret"',
    ],
)
def test_a_secret_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text(SECRET)
    with pytest.raises(ConfigurationError) as caught:
        load_text(tmp_path, f"{text}\n{SINK}", {"S": SECRET})
    # The value itself was looked at, and hidden.
    assert re.search(r"\$\{S\}|of the file \"secret\"|found an array", str(caught.value))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
