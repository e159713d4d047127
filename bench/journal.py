"""What lanes and the journal add to an event: the same columns to two daemons, in turns.

One daemon has no `state_dir` and is sent to through its front door; the other has one and is sent to on a
lane, in frames as our client makes them there, which it acknowledges once they are written down. They get the
parts of one load in turns, so that whatever else the machine does falls on both, and their windows close
every second, each with a checkpoint where there is a state directory.

Run as `python -m bench.journal FRONT_DOOR LANE EXPECTED LOAD` (LOAD in JSON) it encodes, says so, and at a
line on standard input sends the first drain, at another one the rest, each drain when its second has come.
"""

import os
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from aiokpl_metrics_protocol import MAX_DATAGRAM_BYTES
from bench.daemon import Sender, measure_idle
from bench.lane import LaneClient
from bench.load import LANE_FRAME_BYTES, PRODUCER_ID, Load, LoadBuilder, wait_until_read
from bench.process import print_json
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service, check_totals

PREFIX = "journal."

# A second of each is one drain of a second of our client, as in `bench.daemon`: what is in a frame is what a
# million events a second put there, but the drains come faster, and make several journals of 32 MiB.
LOADS: dict[str, Load] = {
    "values_1000": Load(1_000, 75, 100, span_s=3),
    "ones_1000": Load(1_000, 300, 100, ones=True, span_s=3),
    "histograms_1000": Load(1_000, 45, 100, "histogram", span_s=3),
    "short_1000": Load(1_000, 240, 4, span_s=3),
}
_QUICK = "values_1000"

_QUANTITIES = ("without", "with", "added", "floor")

_INTERVAL_S = 1
_GRACE_S = 0.2
_SETTLE_S = 0.1

# A few are encoded to see how long all take; then the idle daemons are measured.
_TRIED_DRAINS = 3
_READY_S = 1.2


def collect(plan: Plan, samples: Samples) -> None:
    """Run every wanted load once; where it is to be quick, one of them, and shorter."""
    for case, load in LOADS.items():
        key = f"{PREFIX}{case}"
        wanted = plan.wants_any(f"{key}.{quantity}_cpu_s_per_million" for quantity in _QUANTITIES)
        if not wanted or (plan.quick and case != _QUICK):
            continue
        shorter = msgspec.structs.replace(load, drains=load.drains // 2) if plan.quick else load
        try:
            _run(key, shorter, samples)
        except MeasurementError as error:
            samples.errors.append(f"{key}: {error}")


def _run(key: str, load: Load, samples: Samples) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        without, kept = (
            _build_service(Path(name) / part, state=part == "with") for part in ("without", "with")
        )
        command = ("bench.journal", without.socket_path)
        with (
            without,
            kept,
            Sender(kept.socket_path, load, Path(name) / "expected", command) as sender,
        ):
            services = (without, kept)
            idle = [measure_idle(service) for service in services]
            sender.send()
            start_s, before = time.perf_counter(), [service.read_cpu_ns() for service in services]
            floor_s = sender.send()["floor_s"]
            # The last window closes, too.
            time.sleep(_INTERVAL_S + _GRACE_S + _SETTLE_S)
            after = [service.read_cpu_ns() for service in services]
            elapsed_s = time.perf_counter() - start_s
            checkpoints = kept.read_journal_position() - 1
            for service in services:
                service.finish()
                check_totals(sender.read_expected(), service.read_windows())
    if checkpoints < load.span_s:
        raise MeasurementError(f"only {checkpoints} checkpoints were taken")
    events = load.drain_events * (load.drains - 1)
    figures = [
        ((now - then) / 1e9 - idle_per_s * elapsed_s) / (events / 1e6)
        for now, then, idle_per_s in zip(after, before, idle, strict=True)
    ]
    samples.add(f"{key}.without_cpu_s_per_million", figures[0])
    samples.add(f"{key}.with_cpu_s_per_million", figures[1])
    samples.add(f"{key}.added_cpu_s_per_million", figures[1] - figures[0])
    samples.add(f"{key}.floor_cpu_s_per_million", float(floor_s) / (events / 1e6))


def _build_service(directory: Path, *, state: bool) -> Service:
    directory.mkdir()
    return Service(directory, interval_s=_INTERVAL_S, grace_s=_GRACE_S, state=state)


def _plan_seconds(load: Load) -> Load:
    """Return a load whose first second begins when it is encoded, and both daemons are ready."""
    start_s = time.perf_counter()
    _build_both(msgspec.structs.replace(load, drains=_TRIED_DRAINS))
    encoding_s = (time.perf_counter() - start_s) / _TRIED_DRAINS * load.drains
    return msgspec.structs.replace(load, first_second=int(time.time() + 1.3 * encoding_s + _READY_S) + 1)


def _build_both(load: Load) -> tuple[LoadBuilder, list[list[bytes]], list[list[bytes]]]:
    """Return the drains for the front door, with who built them, and the same columns in a lane's frames."""
    builder = LoadBuilder(load)
    on_lane = LoadBuilder(msgspec.structs.replace(load, frame_bytes=LANE_FRAME_BYTES))
    return builder, builder.build_drains(), on_lane.build_drains()


def _measure_floor(drains: Sequence[Sequence[bytes]], path: Path) -> float:
    """Return the CPU seconds of what no journal can do without: a checksum, a copy, and a write for each."""
    buffer = memoryview(bytearray(MAX_DATAGRAM_BYTES))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        before_s = time.thread_time()
        for datagrams in drains:
            for datagram in datagrams:
                size = len(datagram)
                buffer[:size] = datagram
                zlib.crc32(buffer[:size])
                os.write(descriptor, buffer[:size])
        return time.thread_time() - before_s
    finally:
        os.close(descriptor)
        path.unlink()


def main() -> None:
    """Encode, wait for the word, and send each drain to both when its time has come."""
    front_door, lane, expected_path, text = sys.argv[1:]
    load = _plan_seconds(msgspec.json.decode(text, type=Load))
    builder, drains, lane_drains = _build_both(load)
    Path(expected_path).write_bytes(msgspec.msgpack.encode(builder.read_expected()))
    print_json({"datagrams": builder.sequence})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, LaneClient(lane, PRODUCER_ID) as client:
        sender.connect(front_door)
        client.read_ack()
        for number, (datagrams, lane_datagrams) in enumerate(zip(drains, lane_drains, strict=True)):
            if number in (0, 1):
                sys.stdin.readline()
            due_s = load.first_second + number * load.span_s / load.drains
            time.sleep(max(0.0, due_s - time.time()))
            for datagram in datagrams:
                sender.send(datagram)
            wait_until_read(sender)
            client.send_all(lane_datagrams)
            if number == 0:
                print_json({})
    print_json({"floor_s": _measure_floor(drains[1:], Path(expected_path).with_name("floor"))})


__all__ = ["LOADS", "PREFIX", "collect"]

if __name__ == "__main__":
    main()
