"""Events lost while windows of 100,000 series close: our client into the real daemon, through several closes.

Run as `python -m bench.loss SOCKET EXPECTED ROUNDS` it is the producer: 50,000 events a second, each of
another series, through the client as an application uses it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.load import Expected, build_key
from bench.process import ROOT, build_environment, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service

PREFIX = "loss."

_SERIES = 100_000
_INTERVAL_S = 2
_GRACE_S = 0.5
_TURNS = 20
_TURN_S = 0.1
_TIMEOUT_S = 60.0


def collect(plan: Plan, samples: Samples) -> None:
    """Run a producer through two closes, or four, and compare what arrived with what it recorded."""
    case = f"{PREFIX}closing_100000"
    if not plan.wants_any((f"{case}.events", f"{case}.unaccounted_events")):
        return
    rounds = 2 if plan.quick else 4
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            directory = Path(name)
            with Service(directory, interval_s=_INTERVAL_S, grace_s=_GRACE_S) as service:
                dropped = _produce(service, directory / "expected", rounds)
                service.finish()
                found = service.read_windows()
            recorded = msgspec.msgpack.decode((directory / "expected").read_bytes(), type=Expected)
        lost = _count_lost(recorded, found)
    except MeasurementError as error:
        samples.errors.append(f"{case}: {error}")
        return
    samples.add(f"{case}.events", lost)
    samples.add(f"{case}.unaccounted_events", lost - sum(dropped.values()))
    for reason, count in dropped.items():
        samples.note(f"the client dropped {count:,} events while windows closed: {reason}")


def _produce(service: Service, expected_path: Path, rounds: int) -> dict[str, int]:
    """Run the producer, and return what its client says it dropped, by reason."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.loss", service.socket_path, str(expected_path), str(rounds)],
        cwd=ROOT,
        env=build_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        output, _ = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"the producer did not end within {_TIMEOUT_S:.0f} s") from error
    finally:
        stop(child)
    if child.returncode != 0:
        raise MeasurementError("the producer failed")
    return msgspec.json.decode(output, type=dict[str, int])


def _count_lost(recorded: Expected, found: Expected) -> int:
    """Return how many events did not arrive; what the client dropped did not."""
    lost = 0
    for key in recorded.keys() | found.keys():
        missing = recorded.get(key, (0, 0.0))[0] - found.get(key, (0, 0.0))[0]
        if missing < 0:
            raise MeasurementError(f"more events of {key} arrived than were recorded")
        lost += missing
    if not lost and recorded != found:
        raise MeasurementError("every event arrived, but sums differ")
    return lost


def main() -> None:
    """Record, at an even rate, and write down what was recorded."""
    from aiokpl_metrics_client import MetricsClient

    socket_path, expected_path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    client = MetricsClient(socket_path, max_series=2 * _SERIES)
    shards = [f"shardId-{number:012d}" for number in range(_SERIES)]
    counters = [client.counter("bench.loss", shard_id=shard) for shard in shards]
    slices = [counters[start::_TURNS] for start in range(_TURNS)]
    start_s = time.monotonic()
    for turn in range(rounds * _TURNS):
        time.sleep(max(0.0, start_s + turn * _TURN_S - time.monotonic()))
        value = float(1 + turn // _TURNS)
        for counter in slices[turn % _TURNS]:
            counter.record(value)
    client.close(20.0)
    total = float(sum(range(1, rounds + 1)))
    expected = {build_key("bench.loss", {"shard": shard}): (rounds, total) for shard in shards}
    Path(expected_path).write_bytes(msgspec.msgpack.encode(expected))
    print(msgspec.json.encode(client.statistics().dropped).decode())


__all__ = ["PREFIX", "collect"]

if __name__ == "__main__":
    main()
