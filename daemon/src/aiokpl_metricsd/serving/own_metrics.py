"""Ledgers -> the daemon's own metrics. `docs/metrics.md` has a row for each; a test compares the two.

DATA LOSS in a help text means: what is counted there was accepted or sent, and reaches no backend, or not
this one. Everything else is work done, or waiting.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from msgspec import Struct

from aiokpl_metrics_protocol import MetricKind, Reason
from aiokpl_metricsd.delivering.sink_ledger import DropReason
from aiokpl_metricsd.ledger import LaneEnd, LaneRefusal
from aiokpl_metricsd.rendering.exposition import Form, encode_head, encode_labels, find_unit, format_number
from aiokpl_metricsd.snapshot import MetricSnapshot

Labels = tuple[tuple[str, str], ...]


class OwnMetric(Struct, frozen=True):
    """One metric of the daemon.

    Attributes:
        name: as it is in every sink; a counter has `_total` at its end.
        help: one sentence.
        kind: counter or gauge.
        unit: as the sinks know it.
        data_loss: an increase means that data was lost.
    """

    name: str
    help: str
    kind: MetricKind = MetricKind.COUNTER
    unit: str | None = "count"
    data_loss: bool = False

    @property
    def help_text(self) -> str:
        """The sentence, with a warning where one is due."""
        return f"DATA LOSS: {self.help}" if self.data_loss else self.help


class Sample(Struct, frozen=True):
    """The value of one metric, for one set of labels."""

    metric: OwnMetric
    value: float
    labels: Labels = ()


def _loss(name: str, help_text: str) -> OwnMetric:
    return OwnMetric(name, help_text, data_loss=True)


def _gauge(name: str, help_text: str, unit: str | None = "count") -> OwnMetric:
    return OwnMetric(name, help_text, MetricKind.GAUGE, unit)


# What a column of the ingest ledger is called, by the column.
INGEST = {
    "bytes_received": OwnMetric(
        "metricsd_datagrams_received_bytes_total", "Bytes in all datagrams that were read.", unit="bytes"
    ),
    "clock_steps": OwnMetric(
        "metricsd_clock_stepped_total", "Times the wall clock went back by more than a window."
    ),
    "datagrams_decoded": OwnMetric("metricsd_datagrams_decoded_total", "Datagrams that became frames."),
    "datagrams_received": OwnMetric("metricsd_datagrams_received_total", "Datagrams read from the socket."),
    "datagrams_rejected": _loss(
        "metricsd_datagrams_rejected_total", "Datagrams refused whole, by reason; their events are unknown."
    ),
    "datagrams_repeated": OwnMetric(
        "metricsd_datagrams_repeated_total", "Datagrams that had been counted before, and were not again."
    ),
    "events_closed": OwnMetric("metricsd_events_closed_total", "Events in windows that have closed."),
    "events_decoded": OwnMetric(
        "metricsd_events_decoded_total", "Events in frames that decoded, refused ones included."
    ),
    "events_dropped_by_clients": _loss(
        "metricsd_client_events_dropped_total", "Events that producers discarded, by their own word for it."
    ),
    "events_early": OwnMetric(
        "metricsd_events_counted_early_total", "Events ahead of the clock, counted in the current window."
    ),
    "events_folded": OwnMetric(
        "metricsd_events_folded_total", "Events that came as statistic sets, folded by their producer."
    ),
    "events_late": OwnMetric(
        "metricsd_events_counted_late_total",
        "Events of closed windows, counted in the oldest open one.",
    ),
    "events_missing": _loss(
        "metricsd_events_missed_total", "Events that producers have sent, by their numbers, and nobody read."
    ),
    "events_overflowed": OwnMetric(
        "metricsd_events_overflowed_total",
        "Events of series past max_series, counted in the overflow series of their name.",
    ),
    "events_unreadable": _loss(
        "metricsd_window_events_damaged_total",
        "Events of open windows that a damaged checkpoint could not give back.",
    ),
    "events_refused": _loss("metricsd_events_refused_total", "Events that broke a limit, by reason."),
    "frames_unjournaled": OwnMetric(
        "metricsd_frames_unjournaled_total", "Frames of lanes acknowledged while they were in memory only."
    ),
    "lanes_accepted": OwnMetric("metricsd_lanes_accepted_total", "Connections that became lanes."),
    "lanes_ended": OwnMetric("metricsd_lanes_ended_total", "Lanes that are no more, by reason."),
    "lanes_refused": OwnMetric(
        "metricsd_lanes_declined_total",
        "Connections that became no lane, by reason; their producers use the front door.",
    ),
    "series_conflicts": OwnMetric(
        "metricsd_series_conflicted_total", "Declarations of another kind or unit than the one that holds."
    ),
}

# What a column of a sink's ledger is called, by the column; each has the label `sink`.
SINK = {
    "ambiguous": OwnMetric(
        "metricsd_sink_snapshots_repeated_total",
        "Snapshots sent again although the backend, which adds, may have had them: they may count twice.",
    ),
    "closed": OwnMetric("metricsd_sink_snapshots_closed_total", "Snapshots of closed windows for the sink."),
    "delivered": OwnMetric("metricsd_sink_snapshots_delivered_total", "Snapshots that the backend took."),
    "dropped_by_reason": _loss(
        "metricsd_sink_snapshots_dropped_total",
        "Snapshots discarded before they were delivered, by reason.",
    ),
    "expired": _loss(
        "metricsd_sink_snapshots_expired_total", "Snapshots that became too old before the backend took them."
    ),
    "exports": OwnMetric("metricsd_sink_exports_attempted_total", "Attempts to export."),
    "failures": OwnMetric("metricsd_sink_exports_failed_total", "Attempts that did not wholly succeed."),
    "filtered": OwnMetric(
        "metricsd_sink_snapshots_filtered_total", "Snapshots that the sink does not want to see."
    ),
    "merged": OwnMetric("metricsd_sink_snapshots_merged_total", "Snapshots that became part of another one."),
    "quarantined": _loss(
        "metricsd_sink_snapshots_quarantined_total", "Snapshots that the backend refused for good."
    ),
    "uncertain": _loss(
        "metricsd_sink_snapshots_doubted_total",
        "Snapshots tried once without an answer and not again, as at_most_once asks.",
    ),
    "waiting": _gauge("metricsd_sink_waiting_snapshots", "Snapshots that wait for the backend."),
    "merging": _gauge("metricsd_sink_merging_snapshots", "Snapshots in a longer window that is open."),
    "last_error": _gauge(
        "metricsd_sink_last_error",
        "1, with the kind of the last failure as error; nothing where there was none. The log has its words.",
    ),
    "last_success": _gauge(
        "metricsd_sink_last_success_timestamp_seconds",
        "Epoch seconds when the backend last took anything; 0 when it never did.",
        "s",
    ),
}

# The reasons of a column that has them.
INGEST_REASONS = {
    "datagrams_rejected": tuple(reason.value for reason in Reason),
    "events_refused": tuple(reason.value for reason in Reason),
    "lanes_ended": tuple(reason.value for reason in LaneEnd),
    "lanes_refused": tuple(reason.value for reason in LaneRefusal),
}
SINK_REASONS = {"dropped_by_reason": tuple(reason.value for reason in DropReason)}

# Columns that are no metric: a sum of others.
NO_METRIC = frozenset({"dropped"})

SINK_QUEUE = _gauge("metricsd_sink_waiting_windows", "Windows that are not wholly delivered to the sink.")
SCRAPED_REFUSED = _loss(
    "metricsd_page_snapshots_refused_total",
    "Snapshots that the page cannot show, by reason.",
)
SCRAPED_SERIES = _gauge("metricsd_page_series", "Series of the sink that the page shows.")

EVENTS_OPEN = _gauge("metricsd_open_events", "Events in windows that are open.")
WINDOWS_OPEN = _gauge("metricsd_open_windows", "Windows that are open.")
SERIES = _gauge("metricsd_series", "Series that the daemon knows.")
LANES_OPEN = _gauge("metricsd_open_lanes", "Lanes that are open.")
PRODUCERS = _gauge("metricsd_producers", "Producers whose numbers the daemon keeps.")

# Of the state directory; nothing of it is shown where there is none.
JOURNAL_BYTES = _gauge(
    "metricsd_journal_bytes", "Bytes on disk of frames that no checkpoint holds yet.", "bytes"
)
JOURNAL_FAILING = _gauge("metricsd_journal_failing", "1 while the journal cannot be written, otherwise 0.")
SEGMENTS_DAMAGED = _loss(
    "metricsd_segments_damaged_total",
    "Segments of the journal of which a part could not be read at the start.",
)
RECORDS_SET_ASIDE = _loss(
    "metricsd_records_set_aside_total",
    "Frames that killed several starts, and are left out; the log names their files.",
)
OUTBOX_BYTES = _gauge(
    "metricsd_outbox_bytes", "Bytes of the windows that are stored, which outbox_max_bytes bounds.", "bytes"
)
OUTBOX_FAILING = _gauge("metricsd_outbox_failing", "1 while the outbox cannot be written, otherwise 0.")
OUTBOX_FAILED = OwnMetric(
    "metricsd_outbox_transactions_failed_total", "Transactions of the outbox that failed."
)
OUTBOX_SET_ASIDE = _loss(
    "metricsd_outbox_set_aside_total",
    "Outboxes that could not be read at the start, and what waited in them; the log names the file.",
)
WINDOWS_UNSTORED = OwnMetric(
    "metricsd_windows_unstored_total",
    "Windows, one for each sink, that waited in memory as the outbox could not be written.",
)

HTTP_SERVED = OwnMetric("metricsd_requests_served_total", "HTTP requests answered, by path and status.")
HTTP_REFUSED = OwnMetric("metricsd_connections_declined_total", "HTTP connections closed for want of room.")

MEMORY = _gauge("metricsd_process_resident_memory_bytes", "Resident memory of the process.", "bytes")
CPU = OwnMetric("metricsd_process_used_cpu_seconds_total", "Processor time of the process.", unit="s")
STARTED = _gauge(
    "metricsd_process_start_timestamp_seconds", "Epoch seconds when the process began to count.", "s"
)

ALL: tuple[OwnMetric, ...] = (
    *INGEST.values(),
    *SINK.values(),
    SINK_QUEUE,
    SCRAPED_REFUSED,
    SCRAPED_SERIES,
    EVENTS_OPEN,
    WINDOWS_OPEN,
    SERIES,
    LANES_OPEN,
    PRODUCERS,
    JOURNAL_BYTES,
    JOURNAL_FAILING,
    SEGMENTS_DAMAGED,
    RECORDS_SET_ASIDE,
    OUTBOX_BYTES,
    OUTBOX_FAILING,
    OUTBOX_FAILED,
    OUTBOX_SET_ASIDE,
    WINDOWS_UNSTORED,
    HTTP_SERVED,
    HTTP_REFUSED,
    MEMORY,
    CPU,
    STARTED,
)

# What a state directory keeps: these counters go on where those of the last daemon ended.
KEPT = frozenset({*INGEST.values(), *SINK.values()})


def collect_columns(
    metrics: Mapping[str, OwnMetric],
    columns: Mapping[str, object],
    labels: Labels = (),
    *,
    reasons: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> Iterator[Sample]:
    """Return the samples of a ledger's columns; a column by reason is one sample for each.

    Of a column of words, which begin with a kind and a colon, the kind is a label: there are few.

    Args:
        metrics: by column.
        columns: the ledger's.
        labels: of all samples.
        reasons: by column, the reasons that are shown from the start, so that an increase from zero is seen.
    """
    for column, metric in metrics.items():
        value = columns.get(column, 0)
        if isinstance(value, dict):
            counts = {**dict.fromkeys(reasons.get(column, ()), 0), **cast("dict[str, int]", value)}
            for reason, count in counts.items():
                yield Sample(metric, float(count), (*labels, ("reason", reason)))
        elif isinstance(value, (int, float)):
            yield Sample(metric, float(value), labels)
        elif isinstance(value, str) and value:
            yield Sample(metric, 1.0, (*labels, ("error", value.partition(":")[0])))


def collect_process(started: float) -> Iterator[Sample]:
    """Return what the process uses. `started` is in epoch seconds."""
    times = os.times()
    yield Sample(CPU, times.user + times.system)
    yield Sample(STARTED, started)
    memory_bytes = _read_memory_bytes()
    if memory_bytes is not None:
        yield Sample(MEMORY, float(memory_bytes))


def _read_memory_bytes() -> int | None:
    """Return the resident memory, or None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib costs memory
            # Linux proc_pid_statm(5), read 2026-11: size, resident, shared, … in pages.
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def encode_samples(
    form: Form, samples: Sequence[Sample], created: float, *, kept: Collection[OwnMetric] = ()
) -> str:
    """Return the samples as a part of the page, grouped by metric.

    Args:
        form: of the page.
        samples: in any order.
        created: epoch seconds from which the counters count.
        kept: counters that are older than that; the page does not say since when they count, as a backend
            would take what they have counted so far as new.
    """
    by_metric: dict[OwnMetric, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    lines: list[str] = []
    for metric, group in by_metric.items():
        is_counter = metric.kind is MetricKind.COUNTER
        base = metric.name.removesuffix("_total") if is_counter else metric.name
        unit = find_unit(base, metric.unit)
        lines.append(encode_head(form, base, metric.kind, metric.help_text, unit))
        for sample in group:
            labels = f"{{{encode_labels(sample.labels)}}}" if sample.labels else ""
            lines.append(f"{metric.name}{labels} {format_number(sample.value)}\n")
            if is_counter and form is Form.OPENMETRICS and metric not in kept:
                lines.append(f"{base}_created{labels} {format_number(created)}\n")
    return "".join(lines)


class Differences:
    """Counters -> ordinary snapshots that add up to them, for the sinks.

    Args:
        collect: reads the counters.
        dimensions: of every series of the daemon.
    """

    def __init__(self, collect: Callable[[], Sequence[Sample]], dimensions: Mapping[str, str]) -> None:
        """Begin at zero."""
        self._collect = collect
        self._dimensions = dict(dimensions)
        self._told: dict[tuple[str, Labels], float] = {}

    def skip_kept(self) -> None:
        """Take what an earlier daemon has counted as told: it was, by that one."""
        self._told |= {
            (sample.metric.name, sample.labels): sample.value
            for sample in self._collect()
            if sample.metric in KEPT
        }

    def build_snapshots(self, window_id: str, start: float, end: float) -> list[MetricSnapshot]:
        """Return what counters have risen by since the last call, as snapshots of one window."""
        snapshots: list[MetricSnapshot] = []
        for sample in self._collect():
            metric = sample.metric
            if metric.kind is not MetricKind.COUNTER:
                continue
            key = (metric.name, sample.labels)
            rise = sample.value - self._told.get(key, 0.0)
            if rise <= 0.0:
                continue
            self._told[key] = sample.value
            dimensions = tuple(sorted({**self._dimensions, **dict(sample.labels)}.items()))
            snapshots.append(
                MetricSnapshot(
                    metric.name, 1, rise, rise, rise, dimensions, start, end,
                    metric.kind, metric.unit, rise, None, window_id,
                )
            )  # fmt: skip
        return snapshots


__all__ = [
    "ALL",
    "EVENTS_OPEN",
    "HTTP_REFUSED",
    "HTTP_SERVED",
    "INGEST",
    "INGEST_REASONS",
    "JOURNAL_BYTES",
    "JOURNAL_FAILING",
    "KEPT",
    "LANES_OPEN",
    "NO_METRIC",
    "OUTBOX_BYTES",
    "OUTBOX_FAILED",
    "OUTBOX_FAILING",
    "OUTBOX_SET_ASIDE",
    "PRODUCERS",
    "RECORDS_SET_ASIDE",
    "SCRAPED_REFUSED",
    "SCRAPED_SERIES",
    "SEGMENTS_DAMAGED",
    "SERIES",
    "SINK",
    "SINK_QUEUE",
    "SINK_REASONS",
    "WINDOWS_OPEN",
    "WINDOWS_UNSTORED",
    "Differences",
    "OwnMetric",
    "Sample",
    "collect_columns",
    "collect_process",
    "encode_samples",
]
