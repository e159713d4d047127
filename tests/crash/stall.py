"""Forty paced producers against a daemon that is stopped for 2 s out of every 5: what `put` and memory cost.

`python -m tests.crash stall` prints it, with a state directory (lanes) and without (the front door alone).
Each producer makes 10 puts every 10 ms. Beside each put an empty function is timed in the same way: on a
machine with two cores forty processes wait for each other, and what that costs is not `put`'s.
"""

import signal
import sys
import tempfile
import time
from array import array
from itertools import chain
from pathlib import Path

import msgspec

from tests.crash.stalled_producer import Report
from tests.support.child import Child, Nursery
from tests.support.daemon import DaemonProcess

_PRODUCERS = 40
_STOPPED_S = 2.0
_PERIOD_S = 5.0

_TIMEOUT_S = 120.0

# A producer grows by no more than this, whatever waits: its bound is 8 MiB of frames and folded events, and
# what holds them. At 1,000 events a second it is far from it.
_MOST_GROWTH_BYTES = 4 * 1024 * 1024


def measure(seconds: float) -> int:
    """Measure both, print the figures, and return 1 if an event was lost or memory grew past its bound."""
    faults: list[str] = []
    for has_state in (True, False):
        with tempfile.TemporaryDirectory(prefix="stall-") as name:
            nursery = Nursery(Path(name))
            try:
                faults += _measure(nursery, seconds, has_state=has_state)
            finally:
                nursery.end()
    for fault in faults:
        _say(f"WRONG: {fault}")
    return 1 if faults else 0


def _measure(nursery: Nursery, seconds: float, *, has_state: bool) -> list[str]:
    top = f'state_dir = "{nursery.directory}/state"\n' if has_state else ""
    daemon = DaemonProcess(nursery, top=f"{top}shutdown_timeout_s = 30").wait_until_listening()
    producers = [
        nursery.start_python(
            "-m",
            "tests.crash.stalled_producer",
            str(daemon.socket_path),
            str(nursery.directory / f"timings-{number}"),
            str(seconds),
        )
        for number in range(_PRODUCERS)
    ]
    _stop_and_go(daemon, producers)
    reports = [_read_report(producer) for producer in producers]
    status = daemon.stop()
    faults = [f"the daemon ended with {status}"] if status else []
    recorded, counted = sum(report.puts for report in reports), daemon.count_events()
    if recorded != counted:
        faults.append(f"{recorded} events recorded, {counted} counted")
    dropped = [report.statistics["dropped"] for report in reports if report.statistics["dropped"]]
    if dropped:
        faults.append(f"clients dropped events: {dropped}")
    growth = max(report.growth_bytes for report in reports)
    if growth > _MOST_GROWTH_BYTES:
        faults.append(f"a producer grew by {growth} bytes")
    ways = sorted({str(report.statistics["transport"]) for report in reports})
    folded = sum(int(str(report.statistics["events_folded"])) for report in reports)
    _say(
        f"{'with' if has_state else 'without'} state_dir, by {' and '.join(ways)}: "
        f"{recorded:,} puts of {_PRODUCERS} producers, {recorded - counted} lost, {folded:,} folded"
    )
    _say(f"  put             {_describe(nursery.directory, 'puts')}")
    _say(f"  empty function  {_describe(nursery.directory, 'controls')}")
    _say(f"  a producer's memory grew by {growth / 1024:,.0f} KiB at most")
    return faults


def _stop_and_go(daemon: Child, producers: list[Child]) -> None:
    """Stop the daemon for a part of every period, until all producers have ended."""
    deadline = time.monotonic() + _TIMEOUT_S
    while any(producer.is_running() for producer in producers):
        assert time.monotonic() < deadline, "the producers do not end"
        time.sleep(_PERIOD_S - _STOPPED_S)
        daemon.send_signal(signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        daemon.send_signal(signal.SIGCONT)


def _read_report(producer: Child) -> Report:
    assert producer.wait() == 0, producer.stderr
    return msgspec.json.decode(producer.stdout, type=Report)


def _describe(directory: Path, what: str) -> str:
    parts: list[array[int]] = []
    for path in directory.glob(f"timings-*.{what}"):
        part: array[int] = array("q")
        part.frombytes(path.read_bytes())
        parts.append(part)
    times = sorted(chain.from_iterable(parts))
    shares = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999, "99.99 %": 0.9999}
    named = [f"{name} {times[int(share * len(times))] / 1e6:.4f} ms" for name, share in shares.items()]
    return ", ".join([*named, f"slowest {times[-1] / 1e6:.3f} ms"])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


__all__ = ["measure"]
