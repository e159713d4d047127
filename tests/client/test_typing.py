"""A user's own code is checked strictly by mypy and pyright, with the types that it should have."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiokpl_metrics_client
from tests.support.child import ROOT

SOURCES = [str(ROOT / "protocol" / "src"), str(ROOT / "client" / "src")]

GOOD = '''
"""What a user writes."""

from typing_extensions import assert_type

from aiokpl_metrics_client import ClientStatistics, Counter, Gauge, Histogram, MetricsClient, MetricsdSink
from aiokpl_metrics_client import MetricsLevel, Timer
from aiokpl_metrics_client.testing import Metricsd, RecordedSeries, RecordingTransport

client: MetricsClient = MetricsClient(level=MetricsLevel.SUMMARY, dimensions={"service": "x", "version": 3})
client.put("n", 2, stream="s", shard_id="1", error_code=None, zone="a", status=200)
counter: Counter = client.counter("c", unit="bytes", zone="a")
gauge: Gauge = client.gauge("g", merge="sum")
histogram: Histogram = client.histogram("h")
timer: Timer = client.timer("t", unit="us")
counter = counter.with_dimensions(status=200, shard_id="1", zone="")
gauge = gauge.with_dimensions(zone="a")
histogram = histogram.with_dimensions(zone="a")
timer = timer.with_dimensions(zone="a")
for instrument in (counter, gauge, histogram, timer):
    instrument.record(1)
flushed: bool = client.flush(timeout_s=1.0)
statistics: ClientStatistics = client.statistics()
dropped: dict[str, int] = statistics.dropped
sink: MetricsdSink = MetricsdSink(client=client)
owner: MetricsClient = sink.client


@timer
def measured(left: int, *, right: str) -> float:
    return left + len(right)


@timer
async def measured_too(left: int) -> str:
    return str(left)


result: float = measured(1, right="x")


class Work:
    @timer
    def measured(self, left: int) -> list[int]:
        return [left]

    @classmethod
    @timer
    def measured_too(cls) -> "Work":
        return cls()


assert_type(measured(1, right="x"), float)
assert_type(Work().measured(1), list[int])
assert_type(Work.measured_too(), Work)
assert_type(counter.with_dimensions(zone="b"), Counter)
assert_type(timer.with_dimensions(zone="b"), Timer)
assert_type(client.statistics().dropped, dict[str, int])


def test_something(metricsd: Metricsd) -> None:
    metricsd.capture()
    given: MetricsClient = metricsd.build_client(dimensions={"service": "x"})
    total: float = metricsd.total("n", shard_id="1", status=200)
    count: int = metricsd.count("n")
    series: list[RecordedSeries] = metricsd.series()
    values: list[float] = metricsd.values("n")
    print(given, total, count, series, values)
    transport: RecordingTransport = RecordingTransport()
    transport.attach(given)


async def main() -> None:
    text: str = await measured_too(1)
    assert_type(await measured_too(1), str)
    async with timer as same, sink:
        same.record(len(text))
    with timer, MetricsClient() as other:
        other.put("n")
'''

# Each line is an error.
BAD = '''
"""What a user should not write."""

from aiokpl_metrics_client import Counter, MetricsClient

client = MetricsClient()
timer = client.timer("t")


@timer
def measured(left: int) -> float:
    return left


client.put(5)
client.put("n", "text")
client.put("n", stream=5)
client.counter("n", unit=5)
client.counter("n").record("text")
measured("text")
MetricsClient(level="summary")
counter: Counter = timer.with_dimensions(zone="a")
client.counter("n").with_dimensions(stream=5)
client.counter("n").with_dimensions("a")
client.gauge("g", merge="max")
client.counter("n", merge="sum").record()
'''
BAD_LINES = list(range(15, 27))


def _environment() -> dict[str, str]:
    return {**os.environ, "MYPYPATH": os.pathsep.join(SOURCES)}


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(aiokpl_metrics_client.__file__).parent / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_takes_good_code_and_finds_each_error_in_bad_code(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-incremental",
            "--no-error-summary",
            "good.py",
            "bad.py",
        ],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[0] for line in errors] == ["bad.py"] * len(BAD_LINES), done.stdout
    assert [int(line.split(":")[1]) for line in errors] == BAD_LINES


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed")
def test_pyright_takes_good_code_and_finds_each_error_in_bad_code(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": SOURCES, "pythonVersion": "3.11"})
    )
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found]
    assert sorted(set(errors)) == [("bad.py", line) for line in BAD_LINES], found
