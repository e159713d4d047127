"""Windows -> OTLP, over gRPC or HTTP: `sink` makes the attempts, the other modules are what it is made of."""

from aiokpl_metricsd.sinks.otlp.sink import OtlpSink

__all__ = ["OtlpSink"]
