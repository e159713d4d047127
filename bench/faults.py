"""The longest time that the daemon's loop serves nobody while a backend hangs, breaks off, or fails.

Each case is a daemon with one sink that meets a fault, beside one that writes a file and has to have
everything. `bench.stall` is that daemon: its heartbeat says what is measured,
from the close of the first window on. The faults are in another process.

Run as `python -m bench.faults` it is these: three ports, printed as JSON.
"""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from bench.daemon import Sender
from bench.load import Load
from bench.process import ROOT, build_environment, print_json, stop
from bench.samples import MeasurementError, Plan, Samples
from bench.service import Service, check_totals

PREFIX = "faults."

HANG, RESET, FAIL = "hang", "reset", "fail"
_FAULTS = (HANG, RESET, FAIL)

_SERIES = 10_000
_INTERVAL_S = 2
_GRACE_S = 0.5
# Several attempts, the longest of which takes a second.
_FAILING_S = 2.0
# Encoding the load, and coming up.
_BEGIN_S = 1.0
_TIMEOUT_S = 20.0

_CONFIGURATION = """\
interval_s = {interval_s}
grace_s = {grace_s}
shutdown_timeout_s = 0.5
[ingest]
socket = "{directory}/m.sock"
[sinks.out]
type = "jsonl"
path = "{directory}/windows.jsonl"
[sinks.failing]
{sink}
"""

_SINKS: dict[str, str] = {
    "cloudwatch": (
        'endpoint_url = "{url}"\ntype = "cloudwatch"\nregion = "eu-west-1"\nrequest_timeout_s = 1.0\n'
        'aws_access_key_id = "${{KEY:-bench}}"\naws_secret_access_key = "${{KEY:-bench}}"\n'
    ),
    "datadog": (
        'endpoint_url = "{url}"\ntype = "datadog"\napi_key = "${{KEY:-bench}}"\nrequest_timeout_s = 1.0\n'
    ),
    "grpc": 'endpoint = "{url}"\ntype = "opentelemetry"\n',
    "http": 'endpoint = "{url}"\ntype = "opentelemetry"\nprotocol = "http/protobuf"\n',
}

# Each kind of backend once, each fault at least once; all pairs would take minutes.
CASES: dict[str, tuple[str, str]] = {
    "cloudwatch_fail": ("cloudwatch", FAIL),
    "datadog_hang": ("datadog", HANG),
    "grpc_reset": ("grpc", RESET),
    "http_fail": ("http", FAIL),
}
_QUICK = "http_fail"

# Seconds, of OTLP's requests.
_ENVIRON = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "AWS_EC2_METADATA_DISABLED": "true"}


class _Gap(msgspec.Struct):
    """A late heartbeat of `bench.stall`."""

    at_s: float
    wall_ms: float
    cpu_ms: float


def collect(plan: Plan, samples: Samples) -> None:
    """Run every wanted case once, the one with the most work where it is to be quick."""
    wanted = [
        case
        for case in ((_QUICK,) if plan.quick else CASES)
        if plan.wants_any((f"{PREFIX}{case}.wall_ms", f"{PREFIX}{case}.cpu_ms"))
    ]
    if not wanted:
        return
    with _serve_faults() as ports:
        for case in wanted:
            kind, fault = CASES[case]
            try:
                gaps = _run(_SINKS[kind].format(url=f"http://127.0.0.1:{ports[fault]}"))
            except MeasurementError as error:
                samples.errors.append(f"{PREFIX}{case}: {error}")
                continue
            samples.add(f"{PREFIX}{case}.wall_ms", max((gap.wall_ms for gap in gaps), default=0.0))
            samples.add(f"{PREFIX}{case}.cpu_ms", max((gap.cpu_ms for gap in gaps), default=0.0))


def _run(sink: str) -> list[_Gap]:
    """Let one window close, watch its exports fail, and return the gaps of that time."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with _start(directory, sink) as child:
            window_s = (int(time.time() + _BEGIN_S) // _INTERVAL_S + 1) * _INTERVAL_S
            load = Load(_SERIES, 2, kind="histogram", first_second=window_s)
            with Sender(str(directory / "m.sock"), load, directory / "expected") as sender:
                sender.send()
                sender.send()
                closing_s = window_s + _INTERVAL_S
                if time.time() > closing_s:
                    raise MeasurementError("the load took longer than a window")
                ended_s = closing_s + _GRACE_S + _FAILING_S
                time.sleep(ended_s - time.time())
                child.send_signal(signal.SIGTERM)
                if child.wait(_TIMEOUT_S) != 0:
                    raise MeasurementError(f"the daemon ended with {child.returncode}")
                check_totals(sender.read_expected(), Service(directory).read_windows())
        log = (directory / "log").read_text(encoding="utf-8")
        if "export failed sink=failing" not in log:
            raise MeasurementError("the sink did not meet the fault")
        gaps = msgspec.json.decode((directory / "gaps").read_bytes(), type=list[_Gap])
    return [gap for gap in gaps if closing_s < gap.at_s < ended_s]


@contextlib.contextmanager
def _start(directory: Path, sink: str) -> Generator["subprocess.Popen[str]"]:
    """Run the watched daemon; it accepts when this returns."""
    path = directory / "faults.toml"
    text = _CONFIGURATION.format(interval_s=_INTERVAL_S, grace_s=_GRACE_S, directory=directory, sink=sink)
    path.write_text(text, encoding="utf-8")
    with (directory / "log").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.stall", str(directory / "gaps"), "--config", str(path)],
            cwd=ROOT,
            env=build_environment(**_ENVIRON),
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
        )
    try:
        deadline_s = time.monotonic() + _TIMEOUT_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            while probe.connect_ex(str(directory / "m.sock")) != 0:
                if child.poll() is not None or time.monotonic() > deadline_s:
                    log_text = (directory / "log").read_text(encoding="utf-8")
                    raise MeasurementError(f"the daemon does not accept: {log_text[-500:]}")
                time.sleep(0.01)
        yield child
    finally:
        stop(child)


@contextlib.contextmanager
def _serve_faults() -> Generator[dict[str, int]]:
    """Serve until the end; the ports are by the fault's name."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.faults"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield msgspec.json.decode(child.stdout.readline(), type=dict[str, int])
    finally:
        stop(child)


class _Fault(asyncio.Protocol):
    """A connection that is never answered, broken off, or answered with 500."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._request = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._fault == RESET:
            self._transport.abort()
        elif self._fault == FAIL:
            self._request += data
            head, _, body = bytes(self._request).partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            # gRPC speaks HTTP/2, whose first bytes name no length: it gets an answer that it cannot read.
            if len(body) >= int(length or 0):
                self._transport.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self._transport.close()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    ports: dict[str, float | str] = {}
    servers: list[asyncio.Server] = []
    for fault in _FAULTS:
        server = await loop.create_server(partial(_Fault, fault), "127.0.0.1", 0)
        servers.append(server)
        ports[fault] = server.sockets[0].getsockname()[1]
    print_json(ports)
    await asyncio.gather(*(server.serve_forever() for server in servers))


__all__ = ["CASES", "PREFIX", "collect"]

if __name__ == "__main__":
    asyncio.run(_serve())
