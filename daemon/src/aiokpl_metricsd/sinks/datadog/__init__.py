"""Windows -> Datadog: `sink` makes the attempts, the other modules are what it is made of."""

from aiokpl_metricsd.sinks.datadog.sink import DatadogSink

__all__ = ["DatadogSink"]
