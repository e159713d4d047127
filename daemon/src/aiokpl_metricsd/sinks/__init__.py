"""Snapshots -> backend. One module a backend, `contract` says what a sink is, `loading` finds one by its type."""

from aiokpl_metrics_protocol import MetricEvent

from aiokpl_metricsd.sinks.contract import EventfulMetricsSink, MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.memory import InMemorySink
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.snapshot import MetricSnapshot

__all__ = [
    "EventfulMetricsSink",
    "InMemorySink",
    "MetricEvent",
    "MetricSnapshot",
    "MetricsSink",
    "NullSink",
    "RepeatRule",
]
