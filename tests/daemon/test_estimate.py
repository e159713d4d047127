"""A file of rows -> what `check` says of its cost; and what else it looks for."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.cli import app
from aiokpl_metricsd.estimate import decode_series
from aiokpl_metricsd.rendering.rows import encode_rows
from aiokpl_metricsd.sinks.cloudwatch.cost import count_requests, price_metrics, price_requests
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.cloudwatch_stub import isolate

CONFIG = """
[sinks.cw]
type = "cloudwatch"
region = "eu-west-1"
aws_access_key_id = "${{KEY:-a}}"
aws_secret_access_key = "${{KEY:-b}}"
{}
[sinks.screen]
type = "console"
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


def build_window(size: int, end: float) -> list[MetricSnapshot]:
    return [
        MetricSnapshot("Put", 1, 1.0, 1.0, 1.0, (("shard", str(i)), ("stream", "s")), end - 60.0, end)
        for i in range(size)
    ]


def run_check(directory: Path, options: str = "", rows: bytes | None = None) -> Result:
    (directory / "c.toml").write_text(CONFIG.format(options), encoding="utf-8")
    arguments = ["check", "--config", str(directory / "c.toml")]
    if rows is not None:
        (directory / "rows.jsonl").write_bytes(rows)
        arguments += ["--series-from", str(directory / "rows.jsonl")]
    return CliRunner().invoke(app, arguments)


def test_check_tells_how_many_metrics_and_requests_a_file_of_windows_comes_to(tmp_path: Path) -> None:
    now = time.time()
    rows = encode_rows([*build_window(1_500, now - 1e8), *build_window(1_200, now)])[0]
    result = run_check(tmp_path, rows=rows)
    assert result.exit_code == 0
    ok, *lines = result.stdout.splitlines()
    assert ok == "ok: windows of 60 s, sinks: cw (cloudwatch), screen (console)"
    assert lines[:2] == [
        "cw: 1,500 custom metrics: 450.00 USD a month",
        "cw: 87,600 PutMetricData requests a month (2 each 60 s): 0.88 USD",
    ]
    assert len(lines) == 3


def test_the_estimate_is_of_what_the_sink_would_see(tmp_path: Path) -> None:
    rows = encode_rows([*build_window(1_500, 60.0), MetricSnapshot("Left", 1, 1.0, 1.0, 1.0)])[0]
    result = run_check(tmp_path, 'level = "summary"\nexclude = ["Left"]\ninterval_s = 300', rows)
    assert "cw: 1 custom metrics: 0.30 USD a month" in result.stdout
    assert "cw: 8,760 PutMetricData requests a month (1 each 300 s): 0.09 USD" in result.stdout


def test_without_a_file_nothing_is_estimated(tmp_path: Path) -> None:
    result = run_check(tmp_path)
    assert result.stdout == "ok: windows of 60 s, sinks: cw (cloudwatch), screen (console)\n"


def test_where_no_sink_knows_the_cost_check_says_so(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"")
    result = CliRunner().invoke(app, ["check", "--series-from", str(tmp_path / "rows.jsonl")])
    assert result.stdout.splitlines()[1:] == ["no sink knows what its backend charges"]


@pytest.mark.parametrize("rows", [b'{"name": 1}\n', b"garbage\n", b"\xff\n"])
def test_a_file_of_something_else_is_an_error_that_names_the_line(tmp_path: Path, rows: bytes) -> None:
    result = run_check(tmp_path, rows=encode_rows(build_window(1, 60.0))[0] + rows)
    assert result.exit_code == 2
    assert "rows.jsonl: expected rows as the sink jsonl writes them: line 2: " in result.stderr


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--series-from", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}/none: cannot be read: No such file or directory\n"


def test_check_misses_credentials_in_the_table_that_needs_them(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[sinks.cw]\ntype = "cloudwatch"\nregion = "eu-west-1"\n', encoding="utf-8"
    )
    result = CliRunner().invoke(app, ["check", "--config", str(tmp_path / "c.toml")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{tmp_path}/c.toml: [sinks.cw]: cloudwatch: no credentials; ")
    assert result.stderr.count("\n") == 1


def test_every_option_of_the_table_is_taken_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    options = [
        *(
            'namespace = "n"',
            'endpoint_url = "http://127.0.0.1:1"',
            "verify_ssl = false",
            'aws_session_token = "${KEY:-t}"',
        ),
        *(
            "percentiles = true",
            "storage_resolution = 1",
            "max_datums = 10",
            "concurrency = 2",
            "compress = false",
        ),
        *("request_timeout_s = 5", "export_timeout_s = 2.5"),
    ]
    assert run_check(tmp_path, "\n".join(options)).exit_code == 0
    for wrong in ("percentile = true", 'client_factory = "x"', "storage_resolution = 30"):
        assert run_check(tmp_path, wrong).exit_code == 2


def test_rows_come_back_as_the_series_they_were_the_last_of_each() -> None:
    histogram = Histogram()
    histogram.add_values([1.0, 5.0], 1.0, 5.0)
    first, second = (
        MetricSnapshot(
            *("h", count, 6.0, 1.0, 5.0, (("a", "1"), ("b", "2")), 0.0, 60.0),
            kind=MetricKind.HISTOGRAM,
            unit="ms",
            histogram=histogram.freeze(),
        )
        for count in (1, 2)
    )
    huge = MetricSnapshot("huge", 2, float("inf"), 1.7e308, 1.7e308)
    found = decode_series(encode_rows([first, huge, second])[0].splitlines(keepends=True))
    assert [each.name for each in found] == ["h", "huge"]
    assert (found[0].count, found[0].unit, found[0].kind) == (2, "ms", MetricKind.HISTOGRAM)
    assert found[0].histogram == second.histogram
    assert found[0].window_end == 0.0


def test_distributions_need_more_requests() -> None:
    values = [2.0 ** (i / 8 - 0.01) for i in range(150)]
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    shape = histogram.freeze()
    series = [
        MetricSnapshot(
            "h", 150, 1.0, 1.0, max(values), (("i", str(i)),), kind=MetricKind.HISTOGRAM, histogram=shape
        )
        for i in range(1_000)
    ]
    plain, shaped = (
        CloudWatchSink(region="r", percentiles=percentiles).estimate(series, 60.0)
        for percentiles in (False, True)
    )
    assert "(1 each 60 s)" in plain[1]
    assert "(1 each 60 s)" not in shaped[1]


def test_prices_follow_the_tiers() -> None:
    assert price_metrics(0) == 0.0
    assert price_metrics(10_000) == pytest.approx(3_000.0)
    assert price_metrics(10_001) == pytest.approx(3_000.1)
    assert price_metrics(1_000_000) == pytest.approx(3_000 + 24_000 + 37_500)
    assert price_metrics(2_000_000) == pytest.approx(64_500 + 20_000)
    assert count_requests(1, 60.0) == 43_800
    assert price_requests(43_800) == pytest.approx(0.438)


def test_check_refuses_a_sink_that_the_start_refuses(tmp_path: Path) -> None:
    path = tmp_path / "sinks.toml"
    path.write_text('[sinks.nothing]\ntype = "null"\nat_most_once = true\n')
    result = CliRunner().invoke(app, ["check", "--config", str(path)])
    assert result.exit_code == 2
    assert "[sinks.nothing] at_most_once: a repeat does not add here" in result.output
