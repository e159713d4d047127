"""Who talks to the service: the SDK, imported late or found missing, or a client of the application's."""

import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from anyio import Event, create_task_group, move_on_after
from anyio.lowlevel import checkpoint

from aiokpl_metricsd import sinks
from aiokpl_metricsd.errors import (
    ConfigurationError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.cloudwatch_stub import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, CloudWatchStub, isolate

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)


@pytest.fixture(
    params=[("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


class ServiceError(Exception):
    """What an SDK raises, by shape."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.response = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
        }


class FakeClient:
    """Takes what it is given, or raises by script."""

    def __init__(self, script: Sequence[Exception | None] = ()) -> None:
        self.script = list(script)
        self.calls: list[dict[str, Any]] = []
        self.gate: Event | None = None
        self.entered = 0
        self.left = 0

    async def put_metric_data(self, **arguments: Any) -> None:  # noqa: ANN401 - as the SDK's
        self.calls.append(arguments)
        await checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["FakeClient"]:
        self.entered += 1
        try:
            yield self
        finally:
            self.left += 1


def build_window(size: int) -> list[MetricSnapshot]:
    end = time.time() // 60 * 60
    return [
        MetricSnapshot(f"m{i}", 1, 1.0, 1.0, 1.0, (("shard", "1"),), end - 60.0, end, unit="ms")
        for i in range(size)
    ]


def build_sink(client: FakeClient, **options: Any) -> CloudWatchSink:  # noqa: ANN401 - a sink's
    return CloudWatchSink(region=REGION, client_factory=client.open, **options)


async def test_a_client_of_the_applications_gets_the_datums_as_the_sdk_takes_them() -> None:
    client = FakeClient()
    window = build_window(1)
    async with build_sink(client, namespace="orders") as sink:
        await sink.export(window)
    assert client.calls == [
        {
            "Namespace": "orders",
            "MetricData": [
                {
                    "MetricName": "m0",
                    "Timestamp": datetime.fromtimestamp(window[0].window_start, UTC),
                    "Unit": "Milliseconds",
                    "StatisticValues": {"SampleCount": 1.0, "Sum": 1.0, "Minimum": 1.0, "Maximum": 1.0},
                    "Dimensions": [{"Name": "ShardId", "Value": "1"}],
                }
            ],
        }
    ]
    assert (client.entered, client.left) == (1, 1)


async def test_it_gets_requests_of_at_most_a_thousand_datums_in_order() -> None:
    client = FakeClient()
    async with build_sink(client) as sink:
        await sink.export(build_window(2_100))
    sent = [datum["MetricName"] for call in client.calls for datum in call["MetricData"]]
    assert [len(call["MetricData"]) for call in client.calls] == [1000, 1000, 100]
    assert sent == [f"m{i}" for i in range(2_100)]


async def test_its_errors_are_told_apart_by_their_answer() -> None:
    throttled, refused = ServiceError(400, "Throttling"), ServiceError(400, "ValidationError")
    client = FakeClient([throttled, refused, OSError("gone"), None, refused])
    async with build_sink(client, max_datums=1, concurrency=1) as sink:
        for expected in (RetryableExportError, PermanentExportError, RetryableExportError):
            with pytest.raises(expected):
                await sink.export(build_window(1))
        with pytest.raises(PartialExportError) as caught:
            await sink.export(build_window(2))
    assert [each.name for each in caught.value.remaining] == ["m1"]


async def test_its_silence_ends_an_export_all_the_same() -> None:
    client = FakeClient()
    client.gate = Event()
    async with build_sink(client, request_timeout_s=0.01) as sink:
        with pytest.raises(RetryableExportError, match="no answer"):
            await sink.export(build_window(1))


async def test_an_export_may_be_cancelled() -> None:
    client = FakeClient()
    client.gate = Event()
    async with build_sink(client) as sink, create_task_group() as group:
        with move_on_after(0) as scope:
            await sink.export(build_window(1))
        assert scope.cancelled_caught
        client.gate.set()
        group.start_soon(sink.export, build_window(1))
    assert client.left == 1


async def test_it_is_left_when_the_body_fails() -> None:
    client = FakeClient()
    with pytest.raises(KeyError):
        async with build_sink(client):
            raise KeyError("ours")
    assert client.left == 1


async def test_without_a_factory_only_asyncio_will_do(anyio_backend_name: str) -> None:
    sink = CloudWatchSink(region=REGION, aws_access_key_id="a", aws_secret_access_key="b")
    if anyio_backend_name == "trio":
        with pytest.raises(ConfigurationError, match=r"asyncio only.*client_factory"):
            await sink.__aenter__()
        await sink.__aexit__(None, None, None)
    else:
        async with sink as entered:
            assert entered is sink


async def test_a_missing_package_is_answered_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("the SDK does not run there")
    for name in ("aiobotocore", "aiobotocore.config", "aiobotocore.session"):
        monkeypatch.setitem(sys.modules, name, None)
    sink = CloudWatchSink(region=REGION, aws_access_key_id="a", aws_secret_access_key="b")
    for look in (sink.check, sink.__aenter__):
        with pytest.raises(ConfigurationError, match=r"pip install 'aiokpl-metricsd\[cloudwatch\]'"):
            await look()


async def test_a_client_of_the_sdks_may_be_brought_along(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("the SDK does not run there")
    import aiobotocore.session

    async with CloudWatchStub() as stub:

        def open_client() -> AbstractAsyncContextManager[Any]:
            client: AbstractAsyncContextManager[Any] = aiobotocore.session.get_session().create_client(
                "cloudwatch",
                region_name=REGION,
                endpoint_url=stub.url,
                aws_access_key_id=ACCESS_KEY_ID,
                aws_secret_access_key=SECRET_ACCESS_KEY,
            )
            return client

        async with CloudWatchSink(region=REGION, client_factory=open_client) as sink:
            await sink.export(build_window(300))
        assert [datum["MetricName"] for datum in stub.accepted] == [f"m{i}" for i in range(300)]


LATE = """
import sys
import aiokpl_metricsd.sinks
assert "aiokpl_metricsd.sinks.cloudwatch" not in sys.modules
from aiokpl_metricsd.sinks import CloudWatchSink
import trio
from contextlib import asynccontextmanager
from aiokpl_metricsd.snapshot import MetricSnapshot

calls = []

class Client:
    async def put_metric_data(self, **arguments):
        calls.append(arguments)

@asynccontextmanager
async def factory():
    yield Client()

async def main():
    async with CloudWatchSink(region="eu-west-1", client_factory=factory) as sink:
        await sink.export([MetricSnapshot("m", 1, 1.0, 1.0, 1.0)])

CloudWatchSink(region="eu-west-1")
trio.run(main)
assert len(calls) == 1
assert not {"aiobotocore", "aiohttp", "botocore"} & set(sys.modules)
print("late")
"""


def test_nothing_is_imported_before_it_is_needed_and_no_sdk_where_a_client_is_brought() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("late\n", "")


def test_the_sink_is_a_name_of_the_package_and_others_are_not() -> None:
    assert sinks.CloudWatchSink is CloudWatchSink
    assert "CloudWatchSink" in sinks.__all__
    with pytest.raises(AttributeError, match="CloudWitchSink"):
        _ = sinks.CloudWitchSink
