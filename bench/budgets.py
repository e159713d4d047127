"""The budgets, one literal table: what the design promises for each figure.

Figures of daemons in other languages are not measured here, since they do not come from a package registry;
`OTHERS` names them as they were recorded.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit, at most.

    Attributes:
        limit: in the unit of the row that is held to it.
        peer_ratio: at most this part of what the best peer of the same run needs; None where none is named.
    """

    limit: float
    peer_ratio: float | None = None


BUDGETS: dict[str, Budget] = {
    "instrument.record(value)": Budget(30, peer_ratio=0.1),
    "client.put(name, value, stream=…, shard_id=…)": Budget(180),
    # Less than aiokpl's own sink in memory and this.
    "MetricsdSink, over aiokpl's in memory": Budget(300),
    "client import": Budget(12),
    "client import, other modules": Budget(0),
    "daemon, 1,000 series, counters and gauges": Budget(0.08),
    "daemon, 1,000 series, histograms": Budget(0.20),
    "daemon, counters of value 1": Budget(0.01),
    "daemon, four events per series and frame": Budget(0.4),
    "daemon, every event another of 100,000 series": Budget(1.4),
    "daemon, rows": Budget(1.0),
    "daemon, the journal adds": Budget(0.02),
    "events lost while 100,000 series are flushed": Budget(0),
    "longest stall of the event loop": Budget(50),
    # 0.2 s for the page.
    "a page of 100,000 counters": Budget(2.0),
    "memory, idle": Budget(32),
    "memory, 100,000 series": Budget(150),
    "from exec to accepting": Budget(200),
}

# Recorded 2026-11-20 on two cores of an AMD EPYC, Linux 6.18, with the load of the row (bench/README.md).
OTHERS: dict[str, str] = {
    "daemon, 1,000 series, counters and gauges": "brubeck 0.06, spectatord 0.58",
    "daemon, 1,000 series, histograms": "brubeck 0.125, spectatord 0.62",
    "daemon, counters of value 1": "brubeck 0.06, spectatord 0.58",
    "events lost while 100,000 series are flushed": "collectd 2.5 %, statsd 5.5 %",
    "memory, idle": "spectatord 21, veneur 25",
    "memory, 100,000 series": "spectatord 71, veneur 86",
    "from exec to accepting": "spectatord 19, statsd 75",
}

__all__ = ["BUDGETS", "OTHERS", "Budget"]
