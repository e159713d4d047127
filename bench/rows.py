"""The rows of the table: which figure, in what unit, held to which budget, beside which peers.

A row's peers do the same work, or less: where a peer has a cheaper form (value 1, no dimensions), that one
counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: the figure, for people.
        key: its samples.
        budget: the name in `budgets.BUDGETS`; None where nothing was promised.
        peers: the keys of those that it is compared with.
    """

    what: str
    key: str
    budget: str | None = None
    peers: tuple[str, ...] = ()


# What a section's figures are, under its heading.
UNITS: dict[str, str] = {
    "producer": "ns of CPU a call, the loop around it included",
    "import": "ms, or modules",
    "daemon": "CPU seconds per million events",
    "journal": "CPU seconds per million events, the same frames to both",
    "memory": "MiB",
    "start and stall": "ms, or events",
    "export": "µs of CPU a series, a window of 10,000 or 100,000",
    "stall at an export": "ms",
    "sinks": "MiB, ms, or modules",
}

# Of `bench.export`: the daemons by what they export to.
_SINKS: dict[str, str] = {
    "null": "no backend (null)",
    "console": "console, JSON",
    "jsonl": "jsonl",
    "prometheus": "prometheus",
    "cloudwatch": "cloudwatch",
    "cloudwatch_percentiles": "cloudwatch, percentiles",
    "opentelemetry_grpc": "opentelemetry, gRPC",
    "opentelemetry_http": "opentelemetry, HTTP",
    "datadog": "datadog",
    "all": "all seven at once",
}
# Of `bench.journal`, of 1,000 series each.
_JOURNAL: dict[str, str] = {
    "values_1000": "counters",
    "ones_1000": "value 1",
    "histograms_1000": "histograms",
    "short_1000": "four events a series and frame",
}
_EXPORTS: dict[str, str] = {
    **_SINKS,
    "prometheus_page": "prometheus, the page",
    "prometheus_counters_page": "prometheus, a page of counters",
}
_FEW, _MANY = 10_000, 100_000

_RECORD = "instrument.record(value)"
_PUT = "client.put(name, value, stream=…, shard_id=…)"

_BOUND = ("prometheus.inc_bound.ns", "spectator.increment_bound.ns")
_HISTOGRAMS = (
    "prometheus.observe.ns",
    "spectator.record_bound.ns",
    "datadog.histogram_buffered.ns",
    "datadog.histogram_aggregated.ns",
    "opentelemetry.record.ns",
)
_NAMED = (
    "prometheus.labels.ns",
    "datadog.increment_buffered.ns",
    "datadog.increment_aggregated.ns",
    "opentelemetry.add.ns",
    "aiokpl.put.ns",
)
_NAMED_SERIES = (
    "prometheus.labels_series.ns",
    "datadog.increment_series.ns",
    "opentelemetry.add_series.ns",
    "aiokpl.put_series.ns",
)
_TIMERS = ("prometheus.time.ns", "datadog.timed.ns")


def _imports(quantity: str) -> tuple[str, ...]:
    names = ("statsd", "spectator", "prometheus_client", "opentelemetry", "datadog", "aiokpl")
    return tuple(f"import.{name}.{quantity}" for name in names)


def _daemon(what: str, case: str, budget: str | None = None) -> Row:
    return Row(what, f"daemon.{case}.cpu_s_per_million", budget)


def _list_journal() -> Iterator[Row]:
    for case, what in _JOURNAL.items():
        key, in_budget = f"journal.{case}", case != "short_1000"
        yield Row(f"{what}: no state_dir, front door", f"{key}.without_cpu_s_per_million")
        yield Row("  state_dir, lane", f"{key}.with_cpu_s_per_million")
        added = f"{key}.added_cpu_s_per_million"
        yield Row("  the journal's", added, "daemon, the journal adds" if in_budget else None)
        yield Row("  floor: checksum, copy, write", f"{key}.floor_cpu_s_per_million")


def _stall(what: str, figure: str) -> Row:
    return Row(f"stall at the close of {what}", f"stall.{figure}", "longest stall of the event loop")


def _list_exports() -> Iterator[Row]:
    for case, what in _EXPORTS.items():
        for series in (_FEW, _MANY):
            key = f"export.{case}_{series}.cpu_us_per_series"
            has_budget = (case, series) == ("prometheus_counters_page", _MANY)
            yield Row(f"{what}, {series:,}", key, "a page of 100,000 counters" if has_budget else None)


def _list_export_stalls() -> Iterator[Row]:
    budget = "longest stall of the event loop"
    for case, what in _EXPORTS.items():
        yield Row(f"{what}, {_FEW:,}, CPU", f"export.{case}_{_FEW}.stall_cpu_ms", budget)
        yield Row(f"{what}, {_MANY:,}, CPU", f"export.{case}_{_MANY}.stall_cpu_ms", budget)
        yield Row(f"{what}, {_MANY:,}, wall", f"export.{case}_{_MANY}.stall_wall_ms", budget)


def _list_sinks() -> Iterator[Row]:
    for case, what in _SINKS.items():
        yield Row(f"{what}: memory, idle", f"export.{case}.rss_mib")
        yield Row("  highest, with windows of 100,000 series", f"export.{case}.peak_mib")
        yield Row("  CPU from exec to idle", f"export.{case}.start_cpu_ms")
        yield Row("  modules loaded", f"export.{case}.modules")


_PRODUCER = (
    Row("counter.record(1.0)", "producer.record_ones.ns", _RECORD, _BOUND),
    Row("  of it the caller's own", "producer.record_ones.caller_ns", _RECORD, _BOUND),
    Row("counter.record(value)", "producer.record_values.ns", _RECORD, _BOUND),
    Row("  of it the caller's own", "producer.record_values.caller_ns", _RECORD, _BOUND),
    Row("histogram.record(value)", "producer.record_histogram.ns", _RECORD, _HISTOGRAMS),
    Row(
        "counter.record(value), 1,000 series",
        "producer.record_series.ns",
        _RECORD,
        ("prometheus.inc_series.ns", "spectator.increment_series.ns"),
    ),
    Row("  of it the caller's own", "producer.record_series.caller_ns", _RECORD, _BOUND),
    Row("put(name, value)", "producer.put.ns", _PUT, (*_NAMED, "statsd.pipeline.ns")),
    Row("put(…, stream=, shard_id=)", "producer.put_dimensions.ns", _PUT, _NAMED),
    Row("  of it the caller's own", "producer.put_dimensions.caller_ns", _PUT, _NAMED),
    Row("put(…, stream=, shard_id=), 1,000 series", "producer.put_series.ns", _PUT, _NAMED_SERIES),
    Row("put(…, stream=, shard_id=, region=)", "producer.put_extra.ns", None, _NAMED),
    Row("put(…) at level NONE", "producer.put_none.ns", None, ("aiokpl.put_none.ns",)),
    Row("with timer: pass", "producer.timer.ns", None, _TIMERS),
    Row("MetricsdSink.record(event)", "producer.sink.ns"),
    Row("aiokpl's put with MetricsdSink, caller's own", "aiokpl.put_metricsd.caller_ns"),
    Row("  with aiokpl's InMemorySink", "aiokpl.put_memory.caller_ns"),
    Row("  the difference", "producer.sink_over_memory.ns", "MetricsdSink, over aiokpl's in memory"),
    Row("floor: the loop alone", "floor.loop.ns"),
    Row("floor: append(value), bound to a list", "floor.append.ns"),
)

_IMPORT = (
    Row("client over `import msgspec`, wall", "import.client.over_msgspec_wall_ms", "client import"),
    Row("client over `import msgspec`, CPU", "import.client.over_msgspec_cpu_ms", "client import"),
    Row("client over a bare interpreter, CPU", "import.client.cpu_ms", None, _imports("cpu_ms")),
    Row("modules over a bare interpreter", "import.client.modules", None, _imports("modules")),
    Row(
        "third-party modules and asyncio, but msgspec",
        "import.client.foreign_modules",
        "client import, other modules",
    ),
)

_HUNDRED_THOUSAND = "daemon, every event another of 100,000 series"
_DAEMON = (
    _daemon("columns, value 1, 1 series", "columns_ones_1"),
    _daemon("columns, value 1, 100 series", "columns_ones_100"),
    _daemon("columns, value 1, 1,000 series", "columns_ones_1000", "daemon, counters of value 1"),
    _daemon("columns, value 1, 100,000 series", "columns_ones_100000", _HUNDRED_THOUSAND),
    _daemon("columns, counters, 1 series", "columns_values_1"),
    _daemon("columns, counters, 100 series", "columns_values_100"),
    _daemon(
        "columns, counters, 1,000 series", "columns_values_1000", "daemon, 1,000 series, counters and gauges"
    ),
    _daemon("columns, counters, 100,000 series", "columns_values_100000", _HUNDRED_THOUSAND),
    Row("  the first event of each", "daemon.columns_values_100000.new_cpu_s_per_million"),
    _daemon("columns, histograms, 1 series", "columns_histograms_1"),
    _daemon("columns, histograms, 100 series", "columns_histograms_100"),
    _daemon(
        "columns, histograms, 1,000 series", "columns_histograms_1000", "daemon, 1,000 series, histograms"
    ),
    _daemon("columns, histograms, 100,000 series", "columns_histograms_100000"),
    _daemon(
        "four events a series and frame, counters",
        "columns_short_1000",
        "daemon, four events per series and frame",
    ),
    _daemon("four events a series and frame, histograms", "columns_short_histograms_1000"),
    _daemon("rows, value 1, 1 series", "rows_ones_1"),
    _daemon("rows, value 1, 1,000 series", "rows_ones_1000"),
    _daemon("rows, counters, 1 series", "rows_values_1"),
    _daemon("rows, counters, 100 series", "rows_values_100"),
    _daemon("rows, counters, 1,000 series", "rows_values_1000", "daemon, rows"),
    _daemon("rows, counters, 100,000 series", "rows_values_100000"),
    _daemon("rows, histograms, 1 series", "rows_histograms_1"),
    _daemon("rows, histograms, 1,000 series", "rows_histograms_1000"),
)

_MEMORY = (
    Row("idle, console sink", "startup.idle.rss_mib", "memory, idle"),
    Row("1 series, counters", "daemon.columns_values_1.rss_mib"),
    Row("100 series, counters", "daemon.columns_values_100.rss_mib"),
    Row("1,000 series, counters", "daemon.columns_values_1000.rss_mib"),
    Row("1,000 series, histograms", "daemon.columns_histograms_1000.rss_mib"),
    Row("100,000 series, two events each", "daemon.columns_two_100000.rss_mib", "memory, 100,000 series"),
    Row(
        "  highest, with its close and export", "daemon.columns_two_100000.peak_mib", "memory, 100,000 series"
    ),
    Row("  highest, its close without a checkpoint", "stall.closing_100000.peak_mib"),
    Row("  highest, its close with a checkpoint", "stall.checkpoint_100000.peak_mib"),
    Row("100,000 series, histograms", "daemon.columns_histograms_100000.rss_mib"),
    Row("  highest, with its close and export", "daemon.columns_histograms_100000.peak_mib"),
)

_START = (
    Row("from exec to accepting, wall", "startup.accepting.wall_ms", "from exec to accepting"),
    Row("from exec to accepting, CPU", "startup.accepting.cpu_ms", "from exec to accepting"),
    Row("from exec to reading, wall", "startup.reading.wall_ms"),
    Row("from exec to reading, CPU", "startup.reading.cpu_ms"),
    _stall("100,000 series, wall", "closing_100000.wall_ms"),
    _stall("100,000 series, CPU", "closing_100000.cpu_ms"),
    _stall("100,000 histograms, wall", "closing_histograms_100000.wall_ms"),
    _stall("100,000 histograms, CPU", "closing_histograms_100000.cpu_ms"),
    _stall("100,000 series, with its checkpoint, wall", "checkpoint_100000.wall_ms"),
    _stall("100,000 series, with its checkpoint, CPU", "checkpoint_100000.cpu_ms"),
    Row(
        "events lost while 100,000 series close",
        "loss.closing_100000.events",
        "events lost while 100,000 series are flushed",
    ),
    Row(
        "  of them nobody's drops",
        "loss.closing_100000.unaccounted_events",
        "events lost while 100,000 series are flushed",
    ),
)

_RESTART = tuple(
    Row(f"from exec to {what}, {directory}, {clock}", f"restart.{case}.{figure}", budget)
    for case, directory in (("empty", "new state_dir"), ("replay", "31 MiB of journal"))
    for what, quantity, budget in (
        ("accepting", "accepting", "from exec to accepting"),
        ("the first ack", "ack", None),
    )
    for clock, figure in (("wall", f"{quantity}.wall_ms"), ("CPU", f"{quantity}.cpu_ms"))
)


def _list_lanes() -> Iterator[Row]:
    budget = "longest stall of the event loop"
    for case, what in (("full", "forty full lanes"), ("large", "of frames of 60 KB each")):
        key = f"lanes.{case}"
        yield Row(f"{what} and a flood of rows: timer, wall", f"{key}.timer.wall_ms", budget)
        yield Row("  timer, CPU", f"{key}.timer.cpu_ms", budget)
        yield Row("  a lane without an ack, CPU", f"{key}.ack.cpu_ms", budget)
        yield Row(
            "  a lane without an ack, wall less the loop's waits for a processor",
            f"{key}.ack.running_ms",
            budget,
        )
        yield Row("  a lane without an ack, wall, as its process sees it", f"{key}.ack.seen_ms", budget)
        yield Row("  CPU of the daemon a byte, ns", f"{key}.cpu_ns_per_byte")


_FAULTS = tuple(
    Row(f"stall while {what}, {clock}", f"faults.{case}.{figure}", "longest stall of the event loop")
    for case, what in (
        ("cloudwatch_fail", "cloudwatch answers 500"),
        ("datadog_hang", "datadog hangs"),
        ("grpc_reset", "OTLP, gRPC, breaks off"),
        ("http_fail", "OTLP, HTTP, answers 500"),
    )
    for clock, figure in (("wall", "wall_ms"), ("CPU", "cpu_ms"))
)

SECTIONS: dict[str, tuple[Row, ...]] = {
    "producer": _PRODUCER,
    "import": _IMPORT,
    "daemon": _DAEMON,
    "journal": tuple(_list_journal()),
    "memory": _MEMORY,
    "start and stall": (*_START, *_RESTART, *_list_lanes(), *_FAULTS),
    "export": tuple(_list_exports()),
    "stall at an export": tuple(_list_export_stalls()),
    "sinks": tuple(_list_sinks()),
}

__all__ = ["SECTIONS", "UNITS", "Row"]
