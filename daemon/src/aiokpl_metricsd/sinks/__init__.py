"""Snapshots -> backend. One module or package a backend.

`contract` says what a sink is, `loading` finds one by its type.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from aiokpl_metrics_protocol import MetricEvent
from aiokpl_metricsd.sinks.contract import EventfulMetricsSink, MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.memory import InMemorySink
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.snapshot import MetricSnapshot

if TYPE_CHECKING:
    from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink

__all__ = [
    "CloudWatchSink",
    "EventfulMetricsSink",
    "InMemorySink",
    "MetricEvent",
    "MetricSnapshot",
    "MetricsSink",
    "NullSink",
    "RepeatRule",
]

# Imported when they are asked for: what they need costs time.
_LAZY: Final = {
    "CloudWatchSink": "aiokpl_metricsd.sinks.cloudwatch",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
