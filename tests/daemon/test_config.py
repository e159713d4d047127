"""The configuration: its defaults, its keys, and the page that documents them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiokpl_metrics_protocol import MetricKind, MetricsLevel
from aiokpl_metricsd import config
from aiokpl_metricsd.config import IngestOptions, LimitOptions, MetricOptions, load
from aiokpl_metricsd.sinks import InMemorySink, NullSink
from aiokpl_metricsd.sinks.loading import build_sink
from tests.daemon.configuration import SINK, load_text

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


# ---- what is there


def test_the_embedded_default_prints_windows_of_five_seconds() -> None:
    configuration = load(None, {})
    assert configuration.interval_s == 5
    assert list(configuration.sinks) == ["console"]
    sink = configuration.sinks["console"]
    assert (sink.name, sink.type, sink.interval_s, sink.options) == ("console", "console", 5, {})
    assert type(build_sink(sink)).__name__ == "ConsoleSink"


def test_everything_but_the_sinks_has_a_default(tmp_path: Path) -> None:
    configuration = load_text(tmp_path, SINK)
    assert configuration.level is MetricsLevel.DETAILED
    assert (configuration.interval_s, configuration.grace_s, configuration.shutdown_timeout_s) == (
        60,
        2.0,
        5.0,
    )
    assert configuration.state_dir is None
    assert configuration.ingest == IngestOptions(socket=None, mode="0660", group=None)
    assert configuration.limits == LimitOptions(max_series=100_000, live_series=2_000)
    assert configuration.dimensions == {}
    assert configuration.metrics == {}


def test_a_sink_s_table_has_defaults_for_what_every_sink_takes(tmp_path: Path) -> None:
    sink = load_text(tmp_path, "interval_s = 30\n" + SINK).sinks["m"]
    assert sink.factory is InMemorySink
    assert (sink.level, sink.interval_s, sink.timeout_s) == (MetricsLevel.DETAILED, 30, 30.0)
    assert (sink.include, sink.exclude, sink.drop_dimensions, sink.options) == ((), (), (), {})


def test_every_key_is_read(tmp_path: Path) -> None:
    configuration = load_text(
        tmp_path,
        """
        level = "summary"
        interval_s = 10
        grace_s = 1
        state_dir = "/var/lib/metrics"
        shutdown_timeout_s = 2.5
        [ingest]
        socket = "/run/m.sock"
        mode = "600"
        group = "app"
        [limits]
        max_series = 7
        live_series = 0
        [dimensions]
        pod = "p-1"
        log_file = "a dimension, and no file"
        [metrics.Latency]
        kind = "histogram"
        unit = "ms"
        [metrics."a b"]
        unit = "bytes"
        [sinks.m]
        type = "memory"
        level = "summary"
        include = ["User*"]
        exclude = ["UserRecordsP*"]
        drop_dimensions = ["pod"]
        interval_s = 60
        timeout_s = 3
        max_exports = 9
        [sinks.n]
        type = "aiokpl_metricsd.sinks:NullSink"
        """,
    )
    assert configuration.level is MetricsLevel.SUMMARY
    assert (configuration.interval_s, configuration.grace_s, configuration.shutdown_timeout_s) == (
        10,
        1.0,
        2.5,
    )
    assert configuration.state_dir == "/var/lib/metrics"
    assert configuration.ingest == IngestOptions(socket="/run/m.sock", mode="600", group="app")
    assert configuration.ingest.mode_bits == 0o600
    assert configuration.limits == LimitOptions(max_series=7, live_series=0)
    assert configuration.dimensions == {"pod": "p-1", "log_file": "a dimension, and no file"}
    assert configuration.metrics == {
        "Latency": MetricOptions(kind=MetricKind.HISTOGRAM, unit="ms"),
        "a b": MetricOptions(unit="bytes"),
    }
    assert list(configuration.sinks) == ["m", "n"]
    memory = configuration.sinks["m"]
    assert (memory.level, memory.interval_s, memory.timeout_s) == (MetricsLevel.SUMMARY, 60, 3.0)
    assert (memory.include, memory.exclude, memory.drop_dimensions) == (
        ("User*",),
        ("UserRecordsP*",),
        ("pod",),
    )
    assert memory.options == {"max_exports": 9}
    assert configuration.sinks["n"].factory is NullSink


def test_values_out_of_variables_are_converted_and_defaults_hold(tmp_path: Path) -> None:
    configuration = load_text(
        tmp_path,
        """
        interval_s = "${INTERVAL}"
        grace_s = "${GRACE:-1.5}"
        level = "${LEVEL}"
        [limits]
        max_series = "${MAX:-50}"
        [dimensions]
        pod = "${POD}-x"
        [metrics.m]
        kind = "${KIND}"
        [sinks.m]
        type = "${TYPE:-memory}"
        include = ["${NAMES}"]
        max_exports = "${EXPORTS}"
        """,
        {"INTERVAL": "10", "LEVEL": "none", "POD": "p", "KIND": "gauge", "NAMES": "5", "EXPORTS": "3"},
    )
    assert (configuration.interval_s, configuration.grace_s) == (10, 1.5)
    assert configuration.level is MetricsLevel.NONE
    assert configuration.limits.max_series == 50
    assert configuration.dimensions == {"pod": "p-x"}
    assert configuration.metrics["m"].kind is MetricKind.GAUGE
    sink = configuration.sinks["m"]
    assert (sink.factory, sink.type, sink.include, sink.options) == (
        InMemorySink,
        "memory",
        ("5",),
        {"max_exports": 3},
    )
    assert type(sink.type) is str
    assert type(configuration.dimensions["pod"]) is str


def test_any_option_can_be_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n").write_text("30\n")
    configuration = load_text(
        tmp_path,
        'interval_s_file = "n"\n[sinks.m]\ntype = "memory"\nmax_exports_file = "n"\ntimeout_s_file = "n"',
    )
    assert configuration.interval_s == 30
    assert (configuration.sinks["m"].options, configuration.sinks["m"].timeout_s) == (
        {"max_exports": 30},
        30.0,
    )


def test_a_sink_s_own_argument_may_end_like_a_file_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(ca_file: str) -> NullSink:
        return NullSink()

    monkeypatch.setattr("aiokpl_metricsd.sinks.null.make", make, raising=False)
    sink = load_text(
        tmp_path, '[sinks.x]\ntype = "aiokpl_metricsd.sinks.null:make"\nca_file = "/ca.pem"'
    ).sinks["x"]
    assert sink.options == {"ca_file": "/ca.pem"}


# ---- promises


def test_reading_the_default_imports_no_module_that_only_errors_or_other_sinks_need() -> None:
    program = (
        "import sys; from aiokpl_metricsd.config import load; load(None, {}); "
        "print(*sorted({'difflib', 'json', 'typer', 'aiokpl_metricsd.sinks.jsonl'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_the_module_does_not_import_the_parser() -> None:
    program = "import sys, aiokpl_metricsd.config; print('tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def toml_fences() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", toml_fences())
def test_every_example_of_the_documentation_loads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "acme_sinks", raising=False)
    (tmp_path / "acme_sinks.py").write_text("from aiokpl_metricsd.sinks import NullSink as AcmeSink\n")
    environ = {"POD_NAME": "app-7", "REGION": "eu-1", "WINDOW_S": "10", "RUN_DIR": str(tmp_path)}
    (tmp_path / "max-bytes").write_text("1000000\n")
    assert load_text(tmp_path, text, environ).sinks


def test_the_documentation_has_the_embedded_default() -> None:
    assert config.DEFAULT in toml_fences()
