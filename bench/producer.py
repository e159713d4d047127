"""Cost of one call in the producer, ours and the peers', each in fresh interpreters.

Run as `python -m bench.producer CASE SECONDS SOCKET PORT` it measures one case and prints it as JSON.
"""

import importlib
import sys
import tempfile
from pathlib import Path

from bench.process import print_json, run_json
from bench.receiver import Address, start_receiver
from bench.samples import MeasurementError, Plan, Samples
from bench.workload import Build, measure

# Cases by the module that builds them; a module imports its library, so it is loaded in the child alone.
CASES: dict[str, tuple[str, ...]] = {
    "bench.ours": (
        "floor.loop",
        "floor.append",
        "producer.record_ones",
        "producer.record_values",
        "producer.record_histogram",
        "producer.record_series",
        "producer.put",
        "producer.put_dimensions",
        "producer.put_extra",
        "producer.put_series",
        "producer.put_none",
        "producer.timer",
        "producer.sink",
    ),
    "bench.peers.aiokpl": (
        "aiokpl.put",
        "aiokpl.put_series",
        "aiokpl.put_none",
        "aiokpl.put_memory",
        "aiokpl.put_metricsd",
    ),
    "bench.peers.datadog": (
        "datadog.increment_default",
        "datadog.increment_buffered",
        "datadog.increment_aggregated",
        "datadog.increment_series",
        "datadog.histogram_buffered",
        "datadog.histogram_aggregated",
        "datadog.timed",
    ),
    "bench.peers.opentelemetry": ("opentelemetry.add", "opentelemetry.add_series", "opentelemetry.record"),
    "bench.peers.prometheus": (
        "prometheus.inc_bound",
        "prometheus.inc_series",
        "prometheus.labels",
        "prometheus.labels_series",
        "prometheus.observe",
        "prometheus.time",
    ),
    "bench.peers.spectator": (
        "spectator.increment_default",
        "spectator.increment_bound",
        "spectator.increment_series",
        "spectator.record_bound",
    ),
    "bench.peers.statsd": ("statsd.incr", "statsd.pipeline", "statsd.timing"),
}

# Figures that are the difference of two: by how much the first case costs a caller more than the second.
DIFFERENCES: dict[str, tuple[str, str]] = {
    "producer.sink_over_memory": ("aiokpl.put_metricsd", "aiokpl.put_memory"),
}


def collect(plan: Plan, samples: Samples) -> None:
    """Measure every wanted case once."""
    derived = [name for name in DIFFERENCES if plan.wants(f"{name}.ns")]
    parts = {case for name in derived for case in DIFFERENCES[name]}
    wanted = [
        (m, c)
        for m, cases in CASES.items()
        for c in cases
        if c in parts or plan.wants_any((f"{c}.ns", f"{c}.caller_ns"))
    ]
    callers: dict[str, float] = {}
    if not wanted:
        return
    seconds = "0.2" if plan.quick else "0.5"
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        start_receiver(Path(directory)) as address,
    ):
        for _, case in wanted:
            arguments = ["-m", "bench.producer", case, seconds, address.socket_path, str(address.udp_port)]
            try:
                answer = run_json(arguments)
            except MeasurementError as error:
                samples.errors.append(f"{case}: {error}")
                continue
            if "skipped" in answer:
                samples.skipped[case] = str(answer["skipped"])
                continue
            samples.add(f"{case}.ns", float(answer["ns"]))
            callers[case] = float(answer["caller_ns"])
            samples.add(f"{case}.caller_ns", callers[case])
    for name in derived:
        more, less = DIFFERENCES[name]
        if more in callers and less in callers:
            samples.add(f"{name}.ns", callers[more] - callers[less])


def main() -> None:
    """Measure the one case that the command line names."""
    case, seconds, socket_path, udp_port = sys.argv[1:]
    module = next(name for name, cases in CASES.items() if case in cases)
    try:
        builders: dict[str, Build] = importlib.import_module(module).CASES
        workload = builders[case](Address(socket_path, int(udp_port)))
    except ImportError as error:
        print_json({"skipped": str(error)})
        return
    print_json(measure(workload, float(seconds)))


__all__ = ["CASES", "DIFFERENCES", "collect"]

if __name__ == "__main__":
    main()
