"""What the sink `cloudwatch` costs the daemon: CPU, the loop's longest stall, memory.

    python -m bench.export_cloudwatch [SERIES ...]

A server in a process of its own takes every request unread, so what is measured is the sink and the SDK
alone, under uvloop. A stall is given twice: by wall time, which may be the machine's, and by the CPU time
that the loop's thread used meanwhile, which is the sink's.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import uvloop

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.snapshot import MetricSnapshot

SERIES = (10_000, 100_000)
ROUNDS = 3

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}"
_BEAT_S = 0.001


class _Taker(asyncio.Protocol):
    """Answers every request with success."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are transports by shape alone.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while (end := self._waiting.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._waiting[:end]).lower()
            length = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._waiting) < length:
                return
            del self._waiting[:length]
            self._transport.write(_ANSWER)


async def _take() -> None:
    server = await asyncio.get_running_loop().create_server(_Taker, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _serving() -> Generator[str]:
    command = [sys.executable, "-m", "bench.export_cloudwatch", "--take"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.terminate()


def _build_window(size: int, *, shaped: bool) -> list[MetricSnapshot]:
    chance = random.Random(1)
    end = time.time() // 60 * 60
    window: list[MetricSnapshot] = []
    for i in range(size):
        count = 200 if shaped and i % 2 else 5
        values = [chance.lognormvariate(3, 1) for _ in range(count)]
        dimensions = (
            ("pod", f"worker-{i % 7}"),
            ("shard", f"shardId-{i:012}"),
            ("stream", f"stream-{i % 50}"),
        )
        kind, buckets = MetricKind.COUNTER, None
        if count == 200:
            histogram = Histogram()
            histogram.add_values(values, min(values), max(values))
            kind, buckets = MetricKind.HISTOGRAM, histogram.freeze()
        window.append(
            MetricSnapshot(
                *("RequestTime", count, sum(values), min(values), max(values), dimensions, end - 60.0, end),
                kind=kind,
                unit="ms",
                histogram=buckets,
            )
        )
    return window


async def _beat(gaps: list[tuple[float, float]]) -> None:
    wall, cpu = time.perf_counter(), time.thread_time()
    while True:
        await asyncio.sleep(_BEAT_S)
        now, used = time.perf_counter(), time.thread_time()
        gaps.append((1000 * (now - wall - _BEAT_S), 1000 * (used - cpu)))
        wall, cpu = now, used


def _read_rss_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - between measurements
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _report(what: str, began: tuple[float, float, float], gaps: Sequence[tuple[float, float]]) -> None:
    wall_s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    walls, cpus = zip(*gaps, strict=True)
    print(
        f"{what:<28} wall {wall_s:5.2f} s  CPU {cpu_s:5.2f} s  stall {max(walls):5.1f} ms, of CPU "
        f"{max(cpus):5.1f} ms  memory {began[2]:.0f} -> {_read_rss_mib():.0f} MiB",
        flush=True,
    )


async def _measure(size: int, url: str, *, shaped: bool) -> None:
    window = _build_window(size, shaped=shaped)
    sink = CloudWatchSink(
        region="eu-west-1",
        endpoint_url=url,
        aws_access_key_id="bench",
        aws_secret_access_key="bench",  # noqa: S106 - nobody checks it
        percentiles=shaped,
    )
    gaps: list[tuple[float, float]] = []
    beating = asyncio.create_task(_beat(gaps))
    await asyncio.sleep(0.05)
    gaps.clear()
    began = (time.perf_counter(), time.process_time(), _read_rss_mib())
    async with sink:
        _report("entering", began, gaps)
        for _ in range(ROUNDS):
            gaps.clear()
            began = (time.perf_counter(), time.process_time(), _read_rss_mib())
            await sink.export(window)
            _report(f"{size} {'with percentiles' if shaped else 'counters'}", began, gaps)
    beating.cancel()


def main(arguments: Sequence[str]) -> None:
    """Measure each size, in a process of its own, with and without distributions."""
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    if arguments[:1] == ["--take"]:
        uvloop.run(_take())
    elif arguments[:1] == ["--measure"]:
        uvloop.run(_measure(int(arguments[1]), arguments[2], shaped=arguments[3] == "shaped"))
    else:
        for size in arguments or map(str, SERIES):
            for shape in ("plain", "shaped"):
                with _serving() as url:
                    command = [sys.executable, "-m", "bench.export_cloudwatch", "--measure", size, url, shape]
                    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])

__all__ = ["ROUNDS", "SERIES", "main"]
