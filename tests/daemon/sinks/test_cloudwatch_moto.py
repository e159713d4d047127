"""Windows -> an emulator of CloudWatch and back: totals, units and times as the service would tell them."""

import logging
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiobotocore.session
import botocore.model
import pytest
from moto.server import ThreadedMotoServer

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.cloudwatch_stub import isolate

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


def build_options(url: str) -> dict[str, Any]:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return {"region": "eu-west-1", "endpoint_url": url, "namespace": "orders", **keys}


@asynccontextmanager
async def open_reader(url: str) -> AsyncGenerator[Any]:
    options = build_options(url)
    del options["namespace"]
    region = options.pop("region")
    creating = aiobotocore.session.get_session().create_client("cloudwatch", region_name=region, **options)
    async with creating as client:
        yield client


async def read(url: str, name: str, minute: float, **dimensions: str) -> list[dict[str, Any]]:
    """Return the statistics of each minute around the one that begins at `minute`."""
    async with open_reader(url) as client:
        answer = await client.get_metric_statistics(
            Namespace="orders",
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=datetime.fromtimestamp(minute, UTC) - timedelta(minutes=5),
            EndTime=datetime.fromtimestamp(minute, UTC) + timedelta(minutes=5),
            Period=60,
            Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
        )
    found: list[dict[str, Any]] = answer["Datapoints"]
    return found


async def test_what_was_sent_can_be_read_back_in_its_own_minute(url: str) -> None:
    minute = time.time() // 60 * 60 - 60
    dimensions = (("stream", "s"), ("shard", "shard-1"))
    snapshot = MetricSnapshot(
        "RequestTime", 3, 60.5, 10.0, 30.25, dimensions, minute, minute + 60.0, unit="ms"
    )
    async with CloudWatchSink(**build_options(url)) as sink:
        await sink.export([snapshot])
    (found,) = await read(url, "RequestTime", minute, StreamName="s", ShardId="shard-1")
    assert (found["SampleCount"], found["Sum"], found["Minimum"], found["Maximum"]) == (
        3.0,
        60.5,
        10.0,
        30.25,
    )
    assert found["Unit"] == "Milliseconds"
    assert found["Timestamp"] == datetime.fromtimestamp(minute, UTC)


async def test_many_series_arrive_whole_in_compressed_requests(url: str) -> None:
    minute = time.time() // 60 * 60 - 60
    window = [
        MetricSnapshot("Many", 2, float(i), 0.0, float(i), (("shard", f"shard-{i}"),), minute, minute + 60.0)
        for i in range(1_500)
    ]
    async with CloudWatchSink(**build_options(url)) as sink:
        await sink.export(window)
    async with open_reader(url) as client:
        answer = await client.list_metrics(Namespace="orders", MetricName="Many")
        found = {each["Dimensions"][0]["Value"] for each in answer["Metrics"]}
        while "NextToken" in answer:
            answer = await client.list_metrics(
                Namespace="orders", MetricName="Many", NextToken=answer["NextToken"]
            )
            found |= {each["Dimensions"][0]["Value"] for each in answer["Metrics"]}
    assert found == {f"shard-{i}" for i in range(1_500)}


async def test_windows_of_seconds_add_up_in_their_minute(url: str) -> None:
    minute = time.time() // 60 * 60 - 120
    async with CloudWatchSink(**build_options(url)) as sink:
        for start in range(0, 120, 10):
            window_start = minute + start
            await sink.export(
                [
                    MetricSnapshot(
                        "Seconds", 1, 1.0, 1.0, 1.0, (), window_start, window_start + 10.0, unit="count"
                    )
                ]
            )
    found = {each["Timestamp"].timestamp(): each["Sum"] for each in await read(url, "Seconds", minute)}
    assert found == {minute: 6.0, minute + 60.0: 6.0}


async def test_a_distribution_arrives_as_values_and_counts(url: str) -> None:
    minute = time.time() // 60 * 60 - 60
    values = [1.0] * 90 + [100.0] * 10
    histogram = Histogram()
    histogram.add_values(values, 1.0, 100.0)
    snapshot = MetricSnapshot(
        *("Shape", 100, 1090.0, 1.0, 100.0, (), minute, minute + 60.0),
        kind=MetricKind.HISTOGRAM,
        unit="ms",
        histogram=histogram.freeze(),
    )
    async with CloudWatchSink(**build_options(url), percentiles=True) as sink:
        await sink.export([snapshot])
    (found,) = await read(url, "Shape", minute)
    # The emulator reads the values and passes over the statistics beside them.
    assert (found["SampleCount"], found["Minimum"]) == (100.0, 1.0)
    assert found["Sum"] == pytest.approx(1090.0, rel=0.045)


async def test_an_sdk_of_another_protocol_is_called_the_ordinary_way(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(botocore.model, "PRIORITY_ORDERED_SUPPORTED_PROTOCOLS", ("query",))
    minute = time.time() // 60 * 60 - 60
    window = [
        MetricSnapshot("Query", 1, 5.0, 5.0, 5.0, (("n", str(i)),), minute, minute + 60.0) for i in range(250)
    ]
    async with CloudWatchSink(**build_options(url)) as sink:
        await sink.export(window)
    monkeypatch.undo()
    (found,) = await read(url, "Query", minute, n="249")
    assert found["Sum"] == 5.0
