"""Events lost while windows of 100,000 series close: our client into the real daemon, through several closes.

Run as `python -m bench.loss SOCKET EXPECTED SECONDS` it is the producer: 100,000 events a second, each of
another series, through the client as an application uses it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.load import Expected, build_key
from bench.process import ROOT, build_environment, print_json, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service

PREFIX = "loss."

_SERIES = 100_000
_INTERVAL_S = 2
_GRACE_S = 0.5
_TURNS_PER_SECOND = 10
_TIMEOUT_S = 60.0


def collect(plan: Plan, samples: Samples) -> None:
    """Run a producer through two closes, or four, and compare what arrived with what it recorded."""
    if not plan.wants(f"{PREFIX}closing_100000.events"):
        return
    seconds = 5 if plan.quick else 9
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            directory = Path(name)
            with Service(directory, interval_s=_INTERVAL_S, grace_s=_GRACE_S) as service:
                recorded = _produce(service, directory / "expected", seconds)
                service.finish()
                found = service.read_windows()
        samples.add(f"{PREFIX}closing_100000.events", _count_lost(recorded, found))
    except MeasurementError as error:
        samples.errors.append(f"{PREFIX}closing_100000: {error}")


def _produce(service: Service, expected_path: Path, seconds: int) -> Expected:
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.loss", service.socket_path, str(expected_path), str(seconds)],
        cwd=ROOT,
        env=build_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if child.wait(_TIMEOUT_S) != 0:
            raise MeasurementError("the producer failed")
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the producer did not end within {_TIMEOUT_S:.0f} s") from error
    finally:
        stop(child)
    return msgspec.msgpack.decode(expected_path.read_bytes(), type=Expected)


def _count_lost(recorded: Expected, found: Expected) -> int:
    """Return how many events are missing or in the wrong place; what the client dropped is missing."""
    lost = 0
    for key in recorded.keys() | found.keys():
        lost += abs(recorded.get(key, (0, 0.0))[0] - found.get(key, (0, 0.0))[0])
    if not lost and recorded != found:
        raise MeasurementError("every event arrived, but sums differ")
    return lost


def main() -> None:
    """Record, at an even rate, and write down what was recorded."""
    from aiokpl_metrics_client import MetricsClient

    socket_path, expected_path, seconds = sys.argv[1:]
    client = MetricsClient(socket_path, max_series=2 * _SERIES)
    shards = [f"shardId-{number:012d}" for number in range(_SERIES)]
    counters = [client.counter("bench.loss", shard_id=shard) for shard in shards]
    slices = [counters[start::_TURNS_PER_SECOND] for start in range(_TURNS_PER_SECOND)]
    rounds = int(seconds)
    start_s = time.monotonic()
    for turn in range(rounds * _TURNS_PER_SECOND):
        time.sleep(max(0.0, start_s + turn / _TURNS_PER_SECOND - time.monotonic()))
        value = float(1 + turn // _TURNS_PER_SECOND)
        for counter in slices[turn % _TURNS_PER_SECOND]:
            counter.record(value)
    handed_over = client.close(20.0)
    total = sum(range(1, rounds + 1))
    expected = {build_key("bench.loss", {"shard": shard}): (rounds, float(total)) for shard in shards}
    Path(expected_path).write_bytes(msgspec.msgpack.encode(expected))
    print_json({"dropped": sum(client.statistics().dropped.values()), "handed_over": float(handed_over)})


__all__ = ["PREFIX", "collect"]

if __name__ == "__main__":
    main()
