"""Forty full lanes and a flood of rows on the front door: how long do a timer and a lane wait?

The daemon is that of `bench.stall`, with a state directory: its heartbeat says how late timers are, while
windows close every two seconds and each 32 MiB of journal bring a checkpoint. A process keeps the lanes full,
as far as the kernel takes frames and our client would send any; another one floods the front door with
blocking calls.

The three share the machine, so a lane's wait is told three times: inside the daemon, from one acknowledgement
to the next while the lane has something queued, in CPU time of all its threads, and by the wall without the
time for which the loop had no processor (`bench.lane_waits`); and by the wall as the lanes' own process sees
it, from when something is unacknowledged to the next acknowledgement, which has that process' waits in it.

Run as `python -m bench.lanes SOCKET PID SECONDS CASE` it keeps the lanes full, and prints what it noted as
JSON; as `python -m bench.lanes SOCKET` it is the flood, until it is ended.
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
    AckFrame,
    Column,
    EventsFrame,
    HelloFrame,
    MetricEvent,
    Series,
    encode,
    encode_series,
)
from bench.heartbeat import Gap
from bench.lane import WINDOW_BYTES
from bench.lane_waits import Wait
from bench.process import ROOT, build_environment, print_json, read_cpu_ns, run_json, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service

PREFIX = "lanes."

_LANES = 40

# Columns and values of the frames, by turns: 200 bytes, 4 KB and 30 KB, as our client sends them from a quiet
# to a busy process; and the largest there are, of another producer.
CASES: dict[str, tuple[tuple[int, int], ...]] = {
    "full": ((1, 12), (4, 100), (30, 100)),
    "large": ((60, 100),),
}

QUANTITIES = (
    "timer.wall_ms",
    "timer.cpu_ms",
    "ack.seen_ms",
    "ack.running_ms",
    "ack.cpu_ms",
    "cpu_ns_per_byte",
)

# Acknowledgements of a lane that goes on being full: with fewer a second, it was not the lanes that waited.
_LEAST_WAITS_PER_S = 1.0

_SERIES = 1_000
_ROWS = 30

_SECONDS = 10.0
_QUICK_SECONDS = 3.0
_INTERVAL_S = 2
_GRACE_S = 0.5

# What our client asks for (aiokpl_metrics_client.transport).
_LANE_BUFFER_BYTES = 262_144

_POLL_MS = 1_000
_WARM_UP_S = 1.0

# A columns frame with numbers of eight bytes each, so that they can be set in place.
_HEAD = Layout(">2sBQBQ2sQs")
_SEQUENCE = Layout(">Q")
_SEQUENCE_OFFSET = 12
_SENT_OFFSET = 22

_decode_ack = msgspec.msgpack.Decoder(AckFrame).decode


def collect(plan: Plan, samples: Samples) -> None:
    """Keep the lanes full for a while, of each kind."""
    for case in CASES:
        key = f"{PREFIX}{case}"
        if not plan.wants_any(f"{key}.{quantity}" for quantity in QUANTITIES):
            continue
        try:
            figures = _run(case, _QUICK_SECONDS if plan.quick else _SECONDS)
        except MeasurementError as error:
            samples.errors.append(f"{key}: {error}")
            continue
        for quantity, value in figures.items():
            samples.add(f"{key}.{quantity}", value)


def _run(case: str, seconds: float) -> dict[str, float]:
    """Return the longest of each wait, and what a byte costs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        command = ("bench.lane_waits", str(directory / "gaps"), str(directory / "waits"))
        service = Service(
            directory, sink="null", interval_s=_INTERVAL_S, grace_s=_GRACE_S, state=True, command=command
        )
        with service, _flood(service.socket_path):
            answer = run_json(
                ["-m", "bench.lanes", service.socket_path, str(service.pid), str(seconds), case]
            )
            service.finish()
        gaps = msgspec.json.decode((directory / "gaps").read_bytes(), type=list[Gap])
        waits = msgspec.json.decode((directory / "waits").read_bytes(), type=list[Wait])
    told = {key: float(value) for key, value in answer.items()}
    gaps = [gap for gap in gaps if told["began_s"] < gap.at_s < told["ended_s"]]
    waits = [wait for wait in waits if told["began_s"] < wait.at_s < told["ended_s"]]
    if len(waits) < _LANES * _LEAST_WAITS_PER_S * seconds:
        raise MeasurementError(f"the lanes were not full: {len(waits)} times one was acknowledged that was")
    return {
        "timer.wall_ms": max((gap.wall_ms for gap in gaps), default=0.0),
        "timer.cpu_ms": max((gap.cpu_ms for gap in gaps), default=0.0),
        "ack.seen_ms": told["wall_ms"],
        "ack.running_ms": max(wait.running_ms for wait in waits),
        "ack.cpu_ms": max(wait.cpu_ms for wait in waits),
        "cpu_ns_per_byte": told["cpu_ns_per_byte"],
    }


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
    """A lane that always has frames for the daemon: as many as our client leaves unacknowledged."""

    def __init__(self, path: str, number: int, shape: tuple[int, int]) -> None:
        self._producer_id = number + 1
        self._columns, self._values = shape
        self._events = self._columns * self._values
        self._frame = bytearray()
        self._sequence = self._acknowledged = 0
        # When it began to wait for what is unacknowledged now; None where nothing is.
        self._since_ns: int | None = None
        self.longest_ns = 0
        self.taken_bytes = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LANE_BUFFER_BYTES)
        self.socket.connect(f"{path}.lane")
        self.socket.send(encode(HelloFrame(self._producer_id, 1, "bench")))
        self.socket.settimeout(0)

    def set_second(self, second: int) -> None:
        """Send events of that second from now on."""
        self._frame = _build_frame(self._producer_id, self._columns, self._values, second)

    def fill(self, now_ns: int) -> None:
        """Send the next frames, as far as there is room."""
        most = self._acknowledged + WINDOW_BYTES // len(self._frame)
        with contextlib.suppress(BlockingIOError):
            while self._sequence < most:
                _SEQUENCE.pack_into(self._frame, _SEQUENCE_OFFSET, self._sequence + 1)
                _SEQUENCE.pack_into(self._frame, _SENT_OFFSET, self._sequence * self._events)
                self.socket.send(self._frame)
                self._sequence += 1
                if self._since_ns is None:
                    self._since_ns = now_ns

    def read_acks(self, now_ns: int) -> None:
        """Read what there is, and note how long it took to come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self.socket.recv(1_000)
                if not message:
                    raise MeasurementError("the daemon closed a lane")
                sequence = _decode_ack(message).sequence
                self.taken_bytes += (sequence - self._acknowledged) * len(self._frame)
                self._acknowledged = sequence
        self.note_wait(now_ns)
        self._since_ns = now_ns if self._sequence > self._acknowledged else None

    def note_wait(self, now_ns: int) -> None:
        """Note how long it has been waiting."""
        if self._since_ns is not None:
            self.longest_ns = max(self.longest_ns, now_ns - self._since_ns)

    def begin_anew(self, now_ns: int) -> None:
        """Forget what was noted."""
        self.longest_ns = self.taken_bytes = 0
        if self._since_ns is not None:
            self._since_ns = now_ns


def _build_frame(producer_id: int, columns: int, values: int, second: int) -> bytearray:
    """Return a frame whose number and total are 0 as yet."""
    parts: list[Column] = []
    for number in range(columns):
        dimensions = (("lane", f"{producer_id}"), ("shard", f"shardId-{number % _SERIES:012d}"))
        series = encode_series(Series("bench.lane", "counter", None, dimensions))
        parts.append(Column(series, second, [float(value) for value in range(values)]))
    head = _HEAD.pack(b"\x95\x02", 0xCF, producer_id, 0xCF, 0, b"\x92\xcf", 0, b"\x80")
    return bytearray(head + msgspec.msgpack.encode(parts))


def keep_full(path: str, pid: int, seconds: float, case: str) -> dict[str, float | str]:
    """Keep the lanes full; return the longest wait that one saw, and what a byte costs the daemon."""
    shapes = CASES[case]
    made = (_FullLane(path, number, shapes[number % len(shapes)]) for number in range(_LANES))
    lanes = {lane.socket.fileno(): lane for lane in made}
    _exchange(lanes, _WARM_UP_S)
    began_s, now_ns, cpu_ns = time.time(), time.monotonic_ns(), read_cpu_ns(pid)
    for lane in lanes.values():
        lane.begin_anew(now_ns)
    _exchange(lanes, seconds)
    ended_s, now_ns, cpu_ns = time.time(), time.monotonic_ns(), read_cpu_ns(pid) - cpu_ns
    for lane in lanes.values():
        lane.note_wait(now_ns)
    return {
        "wall_ms": max(lane.longest_ns for lane in lanes.values()) / 1e6,
        "cpu_ns_per_byte": cpu_ns / max(1, sum(lane.taken_bytes for lane in lanes.values())),
        "began_s": began_s,
        "ended_s": ended_s,
    }


def _exchange(lanes: dict[int, _FullLane], seconds: float) -> None:
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
        now_ns = time.monotonic_ns()
        for fileno, events in ready:
            if events & select.POLLIN:
                lanes[fileno].read_acks(now_ns)
        for fileno, _ in ready:
            lanes[fileno].fill(now_ns)


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
        pid, seconds, case = rest
        print_json(keep_full(path, int(pid), float(seconds), case))
    else:
        flood(path)


__all__ = ["CASES", "PREFIX", "QUANTITIES", "collect"]

if __name__ == "__main__":
    main()
