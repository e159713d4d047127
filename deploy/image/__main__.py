"""Builds the image without a Docker engine, runs the daemon from it, and prints size, start and memory.

    make image
    make image IMAGE_ARGS="--extras cloudwatch"

A producer outside shares the socket. It ends with 1 where its events are not in a window, or where SIGTERM
does not end the daemon in order.
"""

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aiokpl_metrics_client import MetricsClient
from deploy.image.base import make_base
from deploy.image.container import STATE, Container, can_connect
from deploy.image.engine import Engine, Image, find_missing_tools
from deploy.image.sizes import measure_extras

__all__ = ["IMAGE", "build_image", "main"]

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".image"
IMAGE = "localhost/aiokpl-metricsd"

_DESCRIPTION = (
    "Builds the image without a Docker engine, runs the daemon from it, and prints what it measures."
)
_STARTS = 7
_EVENTS = 1_000
_CONFIGURATION = f"""
interval_s = 1
grace_s = 0.5
state_dir = "{STATE}/state"
[ingest]
socket = "/run/aiokpl-metricsd/metrics.sock"
[sinks.terminal]
type = "console"
format = "json"
"""


class Start(NamedTuple):
    """Milliseconds after the interpreter's exec, of the clock and of the CPU, and what it then holds."""

    handling_ms: float
    accepting_ms: float
    accepting_cpu_ms: float
    healthy_ms: float
    healthy_cpu_ms: float
    resident_mib: float


def main(arguments: Sequence[str]) -> int:
    """Build, run, print. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description=_DESCRIPTION)
    parser.add_argument("--extras", default="all", help="cloudwatch, otel, datadog, prometheus; all, or none")
    parser.add_argument("--base", help="an image of a registry, in place of the one that debootstrap makes")
    chosen = parser.parse_args(arguments)
    missing = find_missing_tools()
    if missing:
        sys.stderr.write(f"not installed: {', '.join(missing)}; apt-get install {' '.join(missing)}\n")
        return 1
    engine = Engine(STORE)
    base = chosen.base or make_base(engine)
    began = time.monotonic()
    name = build_image(engine, base, chosen.extras, pull=chosen.base is not None)
    print(f"{name} on {base}, extras: {chosen.extras or 'none'}, built in {time.monotonic() - began:.0f} s")
    above = engine.measure_bytes(name) - engine.measure_bytes(base)
    with engine.mount(name) as image:
        (site,) = image.root.glob("opt/aiokpl-metricsd/lib/python3*/site-packages")
        sizes = measure_extras(site, ROOT)
        starts = [run_daemon(image) for _ in range(_STARTS)]
    median = Start(*(statistics.median(values) for values in zip(*starts, strict=True)))
    parts = ", ".join(f"{part} {size / 1e6:.0f}" for part, size in sizes.items() if size)
    print(f"size above the base   {above / 1e6:6.0f} MB, of these in packages: {parts}")
    print(f"SIGTERM is handled    {median.handling_ms:6.0f} ms after exec, median of {_STARTS} starts")
    accepting_ms, healthy_ms = median.accepting_ms, median.healthy_ms
    print(f"the socket accepts    {accepting_ms:6.0f} ms after exec, {median.accepting_cpu_ms:.0f} of CPU")
    print(f"a health check takes  {healthy_ms:6.0f} ms, {median.healthy_cpu_ms:.0f} of CPU")
    print(f"resident memory       {median.resident_mib:6.1f} MiB, once its window is delivered")
    return 0


def build_image(engine: Engine, base: str, extras: str, *, pull: bool = False) -> str:
    """Build the image on a base. Return its name.

    Raises:
        CalledProcessError: it cannot be built; the reason was printed.
    """
    name = f"{IMAGE}:{extras.replace(',', '-') or 'none'}"
    arguments = {"BASE_IMAGE": base, "EXTRAS": extras, "REVISION": read_revision()}
    engine.build(ROOT, name, file=ROOT / "Dockerfile", arguments=arguments, pull=pull)
    return name


def read_revision() -> str:
    """Return the commit of the checkout, with `-dirty` where files differ from it; nothing without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def run_daemon(image: Image) -> Start:
    """Run the daemon from the image once, with a producer outside.

    Raises:
        RuntimeError: events are missing, or it did not end in order.
    """
    with tempfile.TemporaryDirectory(prefix="metricsd-") as name:
        with Container(image, Path(name), configuration=_CONFIGURATION) as container:
            ingest = container.run / "metrics.sock"
            pid = container.find_pid()
            handling_s = container.wait_until(lambda: container.catches(signal.SIGTERM), "handler of SIGTERM")
            accepting_s = container.wait_until(lambda: can_connect(ingest), "socket")
            accepting_cpu_s = container.read_cpu_s()
            began, began_cpu_s = time.monotonic(), read_children_cpu_s()
            if container.check_health() != 0:
                raise RuntimeError("the daemon accepts, and the health check says that it does not")
            healthy_s, healthy_cpu_s = time.monotonic() - began, read_children_cpu_s() - began_cpu_s
            produce(ingest)
            container.wait_until(lambda: count_events(container.stdout) == _EVENTS, "window of all events")
            resident_kib = int(container.read_status("VmRSS").split()[0])
            if container.read_status("NSpid").split() != [str(pid), "1"]:
                raise RuntimeError("the daemon is not process 1 of its container")
            container.send_signal(signal.SIGTERM)
            status = container.wait()
        if status != 0 or "stopped" not in container.stderr:
            raise RuntimeError(f"SIGTERM did not end it in order: status {status}: {container.stderr}")
    return Start(
        handling_ms=handling_s * 1e3,
        accepting_ms=accepting_s * 1e3,
        accepting_cpu_ms=accepting_cpu_s * 1e3,
        healthy_ms=healthy_s * 1e3,
        healthy_cpu_ms=healthy_cpu_s * 1e3,
        resident_mib=resident_kib / 1024,
    )


def read_children_cpu_s() -> float:
    """Return the CPU time of the processes that were started and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def produce(ingest: Path) -> None:
    """Record events, as a service does that shares the socket's directory with the daemon."""
    with MetricsClient(ingest) as client:
        orders = client.counter("OrdersTaken", stream="orders")
        for _ in range(_EVENTS):
            orders.record(1)


def count_events(output: str) -> int:
    """Return the events in the windows that the console sink has printed as JSON."""
    whole = output.rpartition("\n")[0]
    return sum(json.loads(line)["count"] for line in whole.splitlines() if "OrdersTaken" in line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
