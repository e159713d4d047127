"""What a sink costs the daemon: CPU and the loop's longest stall while it exports, memory, what it imports.

Each case is a daemon process of its own that has one sink and nothing else, or all of them. The backends are
in another process and answer at once, so neither their cost nor their slowness is in the figures.
`bench.exporter` is that daemon, `bench.backends` are these, `bench.window` is what is exported.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.backends import serve_backends
from bench.exporter import Report
from bench.samples import MeasurementError, Plan, Samples
from bench.superior import Superior

PREFIX = "export."

# A slow machine is no reason to give up half a window: the timeouts are long.
_CLOUDWATCH = (
    'type = "cloudwatch"\nregion = "eu-west-1"\nendpoint_url = "{http}"\n'
    'aws_access_key_id = "${{KEY:-bench}}"\naws_secret_access_key = "${{KEY:-bench}}"\n'
)
_DATADOG = 'type = "datadog"\napi_key = "${{KEY:-bench}}"\nendpoint_url = "{http}"\nexport_timeout_s = 100\n'
_SINKS: dict[str, str] = {
    "null": 'type = "null"\n',
    "console": 'type = "console"\nformat = "json"\n',
    "jsonl": 'type = "jsonl"\npath = "{directory}/windows.jsonl"\n',
    "prometheus": 'type = "prometheus"\n',
    "cloudwatch": _CLOUDWATCH,
    "cloudwatch_percentiles": f"{_CLOUDWATCH}percentiles = true\n",
    "opentelemetry_grpc": 'type = "opentelemetry"\nendpoint = "{grpc}"\n',
    "opentelemetry_http": ('type = "opentelemetry"\nprotocol = "http/protobuf"\nendpoint = "{http}"\n'),
    "datadog": _DATADOG,
}

# What no daemon may load that has none of the sinks, by how their names begin.
_PACKAGES: dict[str, tuple[str, ...]] = {
    "cloudwatch": ("aiobotocore", "botocore"),
    "opentelemetry": ("opentelemetry",),
    "opentelemetry_grpc": ("grpc",),
    "datadog": ("datadog_api_client",),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A daemon, and what it exports.

    Attributes:
        sinks: by their names in `_SINKS`.
        plain: every series is a counter.
        is_scraped: the page is read after each window.
        quick_series: the window of --quick; 0 where the case is no part of it.
    """

    sinks: tuple[str, ...]
    plain: bool = False
    is_scraped: bool = False
    quick_series: int = 0


_EVERY_SINK = (
    *("console", "jsonl", "prometheus", "cloudwatch_percentiles"),
    *("opentelemetry_grpc", "opentelemetry_http", "datadog"),
)

_FEW, _MANY = 10_000, 100_000
_ROUNDS = {_FEW: 2, _MANY: 1}

CASES: dict[str, Case] = {
    **{name: Case((name,), is_scraped=name == "prometheus") for name in _SINKS},
    "prometheus_counters": Case(("prometheus",), plain=True, is_scraped=True, quick_series=_MANY),
    "all": Case(_EVERY_SINK, quick_series=_FEW),
}

_RESIDENT = ("rss_mib", "start_cpu_ms", "start_stall_cpu_ms", "modules")
_EXPORTED = ("cpu_us_per_series", "stall_cpu_ms", "stall_wall_ms")


def list_keys(name: str) -> Iterator[str]:
    """Return the keys of all figures of a case."""
    yield from (f"{PREFIX}{name}.{quantity}" for quantity in (*_RESIDENT, "peak_mib"))
    for series in (_FEW, _MANY):
        whats = (name, f"{name}_page") if CASES[name].is_scraped else (name,)
        yield from (f"{PREFIX}{what}_{series}.{quantity}" for what in whats for quantity in _EXPORTED)


def collect(plan: Plan, samples: Samples) -> None:
    """Run every wanted case once."""
    wanted = {
        name: case
        for name, case in CASES.items()
        if plan.wants_any(list_keys(name)) and (case.quick_series or not plan.quick)
    }
    if not wanted:
        return
    try:
        with serve_backends() as urls:
            for name, case in wanted.items():
                _run(name, case, urls, samples, quick=plan.quick)
    except MeasurementError as error:
        samples.errors.append(f"{PREFIX}: {error}")


def _run(name: str, case: Case, urls: Mapping[str, str], samples: Samples, *, quick: bool) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            tables = "\n".join(f"[sinks.{sink}]\ntimeout_s = 120\n{_SINKS[sink]}" for sink in case.sinks)
            with Superior(Path(directory), tables.format(directory=directory, **urls)) as superior:
                _measure_idle(name, case, superior, samples)
                for series in (case.quick_series,) if quick else (_FEW, _MANY):
                    _measure_size(name, case, series, superior, samples)
                peak_mib = superior.finish()
                if not quick:
                    samples.add(f"{PREFIX}{name}.peak_mib", peak_mib)
    except MeasurementError as error:
        samples.errors.append(f"{PREFIX}{name}: {error}")


def _measure_idle(name: str, case: Case, superior: Superior, samples: Samples) -> None:
    """Let everything come up, and keep what that took and what stays."""
    report = superior.wait_until_idle()
    _check_packages(case, report)
    samples.add(f"{PREFIX}{name}.rss_mib", superior.read_rss_mib())
    samples.add(f"{PREFIX}{name}.start_cpu_ms", report.cpu_s * 1e3)
    samples.add(f"{PREFIX}{name}.start_stall_cpu_ms", report.stall_cpu_ms)
    samples.add(f"{PREFIX}{name}.modules", len(report.modules))


def _check_packages(case: Case, report: Report) -> None:
    """Refuse a daemon that loads what none of its sinks needs."""
    loaded = {module.partition(".")[0] for module in report.modules}
    for needs, packages in _PACKAGES.items():
        if not any(sink.startswith(needs) for sink in case.sinks) and not loaded.isdisjoint(packages):
            raise MeasurementError(f"{needs} is not configured and yet loaded")


def _measure_size(name: str, case: Case, series: int, superior: Superior, samples: Samples) -> None:
    """Export windows of one size.

    The first of 10,000 counts for none, as there is what is loaded late; nor does the first of 100,000 where
    the sink keeps totals, which would be those of new series.
    """
    has_first = series == _FEW or case.is_scraped
    for number in range(_ROUNDS[series] + has_first):
        exported = superior.export(series, plain=case.plain)
        page = superior.scrape() if case.is_scraped else None
        if number == 0 and has_first:
            continue
        for failure in exported.failures:
            samples.note(f"{name}: {failure}")
        _add(f"{PREFIX}{name}_{series}", exported, series, samples)
        if page is not None:
            _add(f"{PREFIX}{name}_page_{series}", page, series, samples)


def _add(key: str, report: Report, series: int, samples: Samples) -> None:
    samples.add(f"{key}.cpu_us_per_series", report.cpu_s * 1e6 / series)
    samples.add(f"{key}.stall_cpu_ms", report.stall_cpu_ms)
    samples.add(f"{key}.stall_wall_ms", report.stall_wall_ms)


__all__ = ["CASES", "PREFIX", "Case", "collect", "list_keys"]
