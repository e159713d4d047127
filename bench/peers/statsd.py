"""The classic statsd client over a drained loopback socket. It knows no dimensions."""

from statsd import StatsClient

from bench.receiver import Address
from bench.workload import SLOW_ROUND_CALLS, Build, Workload, build_values

_NAME = "app.requests"


def build_incr(address: Address) -> Workload:
    """`incr(name)`: one datagram a call, as it comes. It knows no dimensions."""
    client = StatsClient("127.0.0.1", address.udp_port)
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = client
        for _ in numbers:
            measured.incr(_NAME)

    return Workload(SLOW_ROUND_CALLS, run)


def build_pipeline(address: Address) -> Workload:
    """`pipeline.incr(name)`, sent by hand after each 50 calls."""
    pipeline = StatsClient("127.0.0.1", address.udp_port).pipeline()
    numbers = range(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = pipeline
        for number in numbers:
            measured.incr(_NAME)
            if not number % 50:
                measured.send()

    return Workload(SLOW_ROUND_CALLS, run, pipeline.send)


def build_timing(address: Address) -> Workload:
    """`pipeline.timing(name, value)`, sent by hand after each 50 calls."""
    pipeline = StatsClient("127.0.0.1", address.udp_port).pipeline()
    values = build_values(SLOW_ROUND_CALLS)

    def run() -> None:
        measured = pipeline
        for number, value in enumerate(values):
            measured.timing(_NAME, value)
            if not number % 50:
                measured.send()

    return Workload(SLOW_ROUND_CALLS, run, pipeline.send)


CASES: dict[str, Build] = {
    "statsd.incr": build_incr,
    "statsd.pipeline": build_pipeline,
    "statsd.timing": build_timing,
}

__all__ = ["CASES"]
