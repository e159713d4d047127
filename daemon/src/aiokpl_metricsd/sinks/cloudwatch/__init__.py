"""Windows -> CloudWatch: `sink` makes the attempts, the other modules are what it is made of."""

from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink

__all__ = ["CloudWatchSink"]
