"""Snapshots -> one OTLP request, with what it takes of them and what it refuses. Blocking and pure.

A counter is a monotonic Sum, a gauge a Gauge, a histogram an ExponentialHistogram; one whose buckets do not
account for every value is a Histogram without bounds, so that count, sum, min and max stay exact. One
snapshot is one point.

The encoder raises for a whole batch if one point is out of its type's range, and silently drops a resource
that occurs twice (opentelemetry-exporter-otlp-proto-common 1.45, read 2026-11). So every snapshot is checked
alone, and a request has one resource.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib import import_module
from math import isfinite
from operator import index
from time import time_ns
from typing import Any, NamedTuple, TypeAlias

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd import __version__
from aiokpl_metricsd.sinks.opentelemetry_terms import (
    ORIGINAL_NAME,
    encode_attributes,
    encode_name,
    encode_time_ns,
    encode_unit,
)
from aiokpl_metricsd.sinks.otlp.totals import MAX_COUNT, Figures, Totals
from aiokpl_metricsd.snapshot import MetricSnapshot

# gRPC servers take messages of at most 4 MiB unless told otherwise (grpc 1.85,
# GRPC_DEFAULT_MAX_RECV_MESSAGE_LENGTH, and the OpenTelemetry Collector's max_recv_msg_size_mib, read
# 2026-11). Below it, since proxies add something.
MAX_REQUEST_BYTES = 4 * 1024 * 1024 - 64 * 1024

# Ours: 40 ms of encoding, and few objects for the garbage collector to walk through while the event loop
# waits.
MAX_REQUEST_POINTS = 2_000

# Scale and offset of exponential buckets (opentelemetry-proto 1.7, sint32, and the data model's scales, read
# 2026-11).
_MAX_SINT32 = 2**31 - 1

SCOPE_NAME = "aiokpl_metricsd"

# What the SDK's packages offer; they are imported when a sink is entered, and their types are not.
_Foreign: TypeAlias = Any
_Metrics: TypeAlias = "dict[tuple[str, str, str], list[_Foreign]]"


class Refusal(StrEnum):
    """Why a snapshot is set aside; the value is what is counted. `REJECTED` is the backend's decision."""

    NEGATIVE_COUNTER = "negative_counter"
    NOT_FINITE = "not_finite"
    MALFORMED = "malformed"
    REJECTED = "rejected"


class Request(NamedTuple):
    """One request.

    Attributes:
        message: an ExportMetricsServiceRequest.
        size_bytes: of the message, serialised, before compression.
        end: index behind the last snapshot that it took or refused.
        taken: a point each.
        refused: never to be sent, with the reasons.
    """

    message: _Foreign
    size_bytes: int
    end: int
    taken: list[MetricSnapshot]
    refused: list[tuple[MetricSnapshot, Refusal]]


class Encoder:
    """Encodes snapshots for one resource. Imports the SDK when built.

    Args:
        prefix: goes before every metric's name.
        resource: its attributes.
        totals: of cumulative temporality; None sends each window's own figures.
        clock_ns: epoch nanoseconds, for snapshots that have no time.

    Raises:
        ModuleNotFoundError: the SDK is not installed.
    """

    def __init__(
        self,
        prefix: str,
        resource: dict[str, str],
        totals: Totals | None = None,
        clock_ns: Callable[[], int] = time_ns,
    ) -> None:
        """Import the SDK's data model and encoder."""
        self._prefix = prefix
        self._totals = totals
        self._clock_ns = clock_ns
        self._sdk: _Foreign = import_module("opentelemetry.sdk.metrics.export")
        self._encode: _Foreign = import_module(
            "opentelemetry.exporter.otlp.proto.common.metrics_encoder"
        ).encode_metrics
        self._resource: _Foreign = import_module("opentelemetry.sdk.resources").Resource(resource)
        scope = import_module("opentelemetry.sdk.util.instrumentation").InstrumentationScope
        self._scope: _Foreign = scope(SCOPE_NAME, __version__)
        temporality = self._sdk.AggregationTemporality
        self._temporality = temporality.DELTA if totals is None else temporality.CUMULATIVE

    def encode(
        self, snapshots: Sequence[MetricSnapshot], begin: int, max_bytes: int, max_points: int
    ) -> Request:
        """Return a request of as many snapshots as fit, in their order, at least one.

        Args:
            snapshots: of one window.
            begin: index of the first one.
            max_bytes: a single snapshot that is larger is not divided.
            max_points: at least 1.
        """
        points = max_points
        while True:
            request = self._encode_slice(snapshots, begin, min(begin + points, len(snapshots)))
            taken = request.end - begin
            if request.size_bytes <= max_bytes or taken <= 1:
                return request
            points = max(1, min(taken // 2, taken * max_bytes // request.size_bytes * 9 // 10))

    def _encode_slice(self, snapshots: Sequence[MetricSnapshot], begin: int, end: int) -> Request:
        metrics: _Metrics = {}
        taken: list[MetricSnapshot] = []
        refused: list[tuple[MetricSnapshot, Refusal]] = []
        for snapshot in snapshots[begin:end]:
            reason = self._append(metrics, snapshot)
            if reason is None:
                taken.append(snapshot)
            else:
                refused.append((snapshot, reason))
        message = self._encode_metrics(metrics)
        return Request(message, message.ByteSize(), end, taken, refused)

    def _append(self, metrics: _Metrics, snapshot: MetricSnapshot) -> Refusal | None:
        """Append the snapshot's point to its metric, or return why it has none."""
        try:
            reason = check_snapshot(snapshot)
            if reason is None:
                metric, point = self._build_point(snapshot)
                metrics.setdefault(metric, []).append(point)
        except (AttributeError, OverflowError, TypeError, ValueError):
            # Only what no daemon makes gets here: a name that is no text, a count that is no integer.
            return Refusal.MALFORMED
        return reason

    def _build_point(self, snapshot: MetricSnapshot) -> tuple[tuple[str, str, str], _Foreign]:
        sdk = self._sdk
        name, is_mended = encode_name(self._prefix, snapshot.name)
        attributes = encode_attributes(snapshot.dimensions)
        if is_mended:
            attributes[ORIGINAL_NAME] = snapshot.name.encode("utf-8", "replace").decode("utf-8")
        unit = encode_unit(snapshot.unit)
        if snapshot.kind is MetricKind.GAUGE:
            time = encode_time_ns(snapshot.window_end) or self._clock_ns()
            return (name, unit, "gauge"), sdk.NumberDataPoint(attributes, 0, time, float(snapshot.last))
        figures = self._read_figures(snapshot)
        start, time = figures.start_ns, figures.time_ns
        if snapshot.kind is MetricKind.COUNTER:
            return (name, unit, "sum"), sdk.NumberDataPoint(attributes, start, time, figures.sum)
        buckets = figures.buckets
        if buckets is None or not fits(buckets, figures.count):
            point = sdk.HistogramDataPoint(
                attributes=attributes,
                start_time_unix_nano=start,
                time_unix_nano=time,
                count=figures.count,
                sum=figures.sum,
                bucket_counts=[figures.count],
                explicit_bounds=[],
                min=figures.min,
                max=figures.max,
            )
            return (name, unit, "histogram"), point
        point = sdk.ExponentialHistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=start,
            time_unix_nano=time,
            count=figures.count,
            sum=figures.sum,
            scale=buckets.scale,
            zero_count=buckets.zero_count,
            positive=sdk.Buckets(buckets.positive_offset, buckets.positive_counts),
            negative=sdk.Buckets(buckets.negative_offset, buckets.negative_counts),
            flags=0,
            min=figures.min,
            max=figures.max,
        )
        return (name, unit, "exponential"), point

    def _read_figures(self, snapshot: MetricSnapshot) -> Figures:
        end_ns = encode_time_ns(snapshot.window_end)
        # Without an end there is no window, and a start after it is none.
        start_ns = encode_time_ns(snapshot.window_start) if end_ns else 0
        time_ns = end_ns or self._clock_ns()
        start_ns = start_ns if start_ns <= time_ns else 0
        if self._totals is not None:
            return self._totals.add(snapshot, start_ns, time_ns)
        return Figures(
            start_ns,
            time_ns,
            index(snapshot.count),
            float(snapshot.sum),
            float(snapshot.min),
            float(snapshot.max),
            snapshot.histogram,
        )

    def _encode_metrics(self, metrics: _Metrics) -> _Foreign:
        sdk = self._sdk
        made: list[_Foreign] = []
        for (name, unit, kind), points in metrics.items():
            if kind == "sum":
                data = sdk.Sum(points, self._temporality, is_monotonic=True)
            elif kind == "gauge":
                data = sdk.Gauge(points)
            elif kind == "histogram":
                data = sdk.Histogram(points, self._temporality)
            else:
                data = sdk.ExponentialHistogram(points, self._temporality)
            made.append(sdk.Metric(name=name, description="", unit=unit, data=data))
        scope = sdk.ScopeMetrics(scope=self._scope, metrics=made, schema_url="")
        resource = sdk.ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")
        return self._encode(sdk.MetricsData(resource_metrics=[resource]))


def check_snapshot(snapshot: MetricSnapshot) -> Refusal | None:
    """Return why a snapshot cannot be sent, or None when it can.

    Raises:
        TypeError: what should be a number is none.
    """
    if snapshot.kind is MetricKind.GAUGE:
        return None if isfinite(snapshot.last) else Refusal.NOT_FINITE
    if not (isfinite(snapshot.sum) and isfinite(snapshot.min) and isfinite(snapshot.max)):
        return Refusal.NOT_FINITE
    if not 1 <= index(snapshot.count) <= MAX_COUNT:
        return Refusal.MALFORMED
    if snapshot.kind is MetricKind.COUNTER and (snapshot.min < 0.0 or snapshot.sum < 0.0):
        return Refusal.NEGATIVE_COUNTER
    return None


def fits(buckets: Buckets, count: int) -> bool:
    """Tell whether the buckets account for every value, and are such as OTLP can carry."""
    total = buckets.zero_count
    for offset, counts in (
        (buckets.positive_offset, buckets.positive_counts),
        (buckets.negative_offset, buckets.negative_counts),
    ):
        if counts:
            total += sum(counts)
            if min(counts) < 0 or not -_MAX_SINT32 <= offset <= _MAX_SINT32 - len(counts):
                return False
    return total == count and buckets.zero_count >= 0 and -_MAX_SINT32 <= buckets.scale <= _MAX_SINT32


__all__ = [
    "MAX_REQUEST_BYTES",
    "MAX_REQUEST_POINTS",
    "SCOPE_NAME",
    "Encoder",
    "Refusal",
    "Request",
    "check_snapshot",
    "fits",
]
