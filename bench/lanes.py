"""Forty full lanes and a flood of rows on the front door: how long do a timer and a lane wait?

The daemon is that of `bench.stall`, with a state directory: its heartbeat says how late timers are, while
windows close every two seconds and each 32 MiB of journal bring a checkpoint. A process keeps the lanes full,
as far as the kernel takes frames, and notes the time between two acknowledgements of each lane; another one
floods the front door with blocking calls.

Run as `python -m bench.lanes SOCKET PID SECONDS` it keeps the lanes full, and prints what it noted as JSON;
as `python -m bench.lanes SOCKET` it is the flood, until it is ended.
"""

import contextlib
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from struct import Struct as Layout

import msgspec

from aiokpl_metrics_protocol import (
    Column,
    EventsFrame,
    HelloFrame,
    MetricEvent,
    Series,
    encode,
    encode_series,
)
from bench.heartbeat import Gap
from bench.process import ROOT, build_environment, print_json, read_cpu_ns, run_json, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service

PREFIX = "lanes."

_QUANTITIES = ("timer.wall_ms", "timer.cpu_ms", "ack.wall_ms", "ack.cpu_ms")

_LANES = 40
# Columns and values a frame: 200 bytes, 4 KB and 60 KB, for which the kernel has room for 167, 26 and 4.
_SHAPES = ((1, 12), (4, 100), (60, 100))
_SERIES = 1_000
_ROWS = 30

_SECONDS = 10.0
_QUICK_SECONDS = 3.0
_INTERVAL_S = 2
_GRACE_S = 0.5

# Frames that a lane gets in a row, so that acknowledgements are read soon after they have come.
_BURST = 4
_POLL_MS = 1_000
_WARM_UP_S = 1.0

# A columns frame with numbers of eight bytes each, so that they can be set in place.
_HEAD = Layout(">2sBQBQ2sQs")
_SEQUENCE = Layout(">Q")
_SEQUENCE_OFFSET = 12
_SENT_OFFSET = 22


def collect(plan: Plan, samples: Samples) -> None:
    """Keep the lanes full for a while."""
    if not plan.wants_any(f"{PREFIX}{quantity}" for quantity in _QUANTITIES):
        return
    try:
        gaps, waits = _run(_QUICK_SECONDS if plan.quick else _SECONDS)
    except MeasurementError as error:
        samples.errors.append(f"{PREFIX}{error}")
        return
    samples.add(f"{PREFIX}timer.wall_ms", max((gap.wall_ms for gap in gaps), default=0.0))
    samples.add(f"{PREFIX}timer.cpu_ms", max((gap.cpu_ms for gap in gaps), default=0.0))
    samples.add(f"{PREFIX}ack.wall_ms", waits["wall_ms"])
    samples.add(f"{PREFIX}ack.cpu_ms", waits["cpu_ms"])


def _run(seconds: float) -> tuple[list[Gap], dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        command = ("bench.stall", str(directory / "gaps"))
        service = Service(
            directory, sink="null", interval_s=_INTERVAL_S, grace_s=_GRACE_S, state=True, command=command
        )
        with service, _flood(service.socket_path):
            answer = run_json(["-m", "bench.lanes", service.socket_path, str(service.pid), str(seconds)])
            service.finish()
        gaps = msgspec.json.decode((directory / "gaps").read_bytes(), type=list[Gap])
    waits = {key: float(value) for key, value in answer.items()}
    return [gap for gap in gaps if waits["began_s"] < gap.at_s < waits["ended_s"]], waits


@contextlib.contextmanager
def _flood(path: str) -> Generator[None]:
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.lanes", path],
        cwd=ROOT,
        env=build_environment(),
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield
    finally:
        stop(child)


class _FullLane:
    """A lane that always has a frame for the daemon."""

    def __init__(self, path: str, number: int) -> None:
        self._producer_id = number + 1
        self._columns, self._values = _SHAPES[number % len(_SHAPES)]
        self._events = self._columns * self._values
        self._frame = bytearray()
        self._sequence = 0
        self.wall_ns = self.cpu_ns = 0
        self.longest_wall_ns = self.longest_cpu_ns = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(f"{path}.lane")
        self.socket.send(encode(HelloFrame(self._producer_id, 1, "bench")))
        self.socket.settimeout(0)

    def set_second(self, second: int) -> None:
        """Send events of that second from now on."""
        self._frame = _build_frame(self._producer_id, self._columns, self._values, second)

    def fill(self) -> None:
        """Send the next frames, as far as there is room."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_BURST):
                _SEQUENCE.pack_into(self._frame, _SEQUENCE_OFFSET, self._sequence + 1)
                _SEQUENCE.pack_into(self._frame, _SENT_OFFSET, self._sequence * self._events)
                self.socket.send(self._frame)
                self._sequence += 1

    def read_acks(self, wall_ns: int, cpu_ns: int) -> None:
        """Read what there is, and note how long it took to come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                if not self.socket.recv(1_000):
                    raise MeasurementError("the daemon closed a lane")
        self.note_wait(wall_ns, cpu_ns)
        self.wall_ns, self.cpu_ns = wall_ns, cpu_ns

    def note_wait(self, wall_ns: int, cpu_ns: int) -> None:
        """Note how long it has been waiting."""
        self.longest_wall_ns = max(self.longest_wall_ns, wall_ns - self.wall_ns)
        self.longest_cpu_ns = max(self.longest_cpu_ns, cpu_ns - self.cpu_ns)

    def begin(self, wall_ns: int, cpu_ns: int) -> None:
        """Forget what was noted."""
        self.wall_ns, self.cpu_ns = wall_ns, cpu_ns
        self.longest_wall_ns = self.longest_cpu_ns = 0


def _build_frame(producer_id: int, columns: int, values: int, second: int) -> bytearray:
    """Return a frame whose number and total are 0 as yet."""
    parts: list[Column] = []
    for number in range(columns):
        dimensions = (("lane", f"{producer_id}"), ("shard", f"shardId-{number % _SERIES:012d}"))
        series = encode_series(Series("bench.lane", "counter", None, dimensions))
        parts.append(Column(series, second, [float(value) for value in range(values)]))
    head = _HEAD.pack(b"\x95\x02", 0xCF, producer_id, 0xCF, 0, b"\x92\xcf", 0, b"\x80")
    return bytearray(head + msgspec.msgpack.encode(parts))


def keep_full(path: str, pid: int, seconds: float) -> dict[str, float | str]:
    """Keep the lanes full; return the longest waits, with the daemon's CPU time beside the wall's."""
    lanes = {lane.socket.fileno(): lane for lane in (_FullLane(path, number) for number in range(_LANES))}
    _exchange(lanes, pid, _WARM_UP_S)
    began_s, wall_ns, cpu_ns = time.time(), time.monotonic_ns(), read_cpu_ns(pid)
    for lane in lanes.values():
        lane.begin(wall_ns, cpu_ns)
    _exchange(lanes, pid, seconds)
    ended_s, wall_ns, cpu_ns = time.time(), time.monotonic_ns(), read_cpu_ns(pid)
    for lane in lanes.values():
        lane.note_wait(wall_ns, cpu_ns)
    return {
        "wall_ms": max(lane.longest_wall_ns for lane in lanes.values()) / 1e6,
        "cpu_ms": max(lane.longest_cpu_ns for lane in lanes.values()) / 1e6,
        "began_s": began_s,
        "ended_s": ended_s,
    }


def _exchange(lanes: dict[int, _FullLane], pid: int, seconds: float) -> None:
    """Send and read for so long. What the daemon said is read first, so that it does not look late."""
    poll = select.poll()
    for fileno in lanes:
        poll.register(fileno, select.POLLIN | select.POLLOUT)
    second, end_s = 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        if second != int(time.time()):
            second = int(time.time())
            for lane in lanes.values():
                lane.set_second(second)
        ready = poll.poll(_POLL_MS)
        wall_ns, cpu_ns = time.monotonic_ns(), read_cpu_ns(pid)
        for fileno, events in ready:
            if events & select.POLLIN:
                lanes[fileno].read_acks(wall_ns, cpu_ns)
        for fileno, events in ready:
            if events & select.POLLOUT:
                lanes[fileno].fill()


def _list_rows() -> Iterator[MetricEvent]:
    for number in range(_ROWS):
        yield MetricEvent("bench.flood", float(number), 0.0, (("shard", f"shardId-{number:012d}"),))


def flood(path: str) -> None:
    """Send rows until the daemon takes no more."""
    datagram = encode(EventsFrame(list(_list_rows())))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.connect(path)
        while True:
            sender.send(datagram)


def main() -> None:
    """Be the one or the other."""
    path, *rest = sys.argv[1:]
    if rest:
        print_json(keep_full(path, int(rest[0]), float(rest[1])))
    else:
        flood(path)


__all__ = ["PREFIX", "collect"]

if __name__ == "__main__":
    main()
