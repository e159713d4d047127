"""Windows -> a page that is scraped: `sink` keeps the totals, the other modules are what it is made of."""

from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink

__all__ = ["PrometheusSink"]
