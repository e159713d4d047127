"""The public contract suite over every built-in sink, each with its real backend or a strict stub of it."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.sinks.cloudwatch import CloudWatchSink
from aiokpl_metricsd.sinks.console import ConsoleSink
from aiokpl_metricsd.sinks.datadog import DatadogSink
from aiokpl_metricsd.sinks.jsonl import JsonlSink
from aiokpl_metricsd.sinks.memory import InMemorySink
from aiokpl_metricsd.sinks.null import NullSink
from aiokpl_metricsd.sinks.opentelemetry import OpenTelemetrySink
from aiokpl_metricsd.sinks.otlp import OtlpSink
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from aiokpl_metricsd.testing import Backend, Key, ScriptedSink
from aiokpl_metricsd.testing.sink_contract import SinkContract
from tests.daemon.sinks.contract_backends import (
    DatadogBackend,
    FileBackend,
    MemoryBackend,
    MeterBackend,
    OtlpBackend,
    PageBackend,
    ScriptedBackend,
    StreamBackend,
)
from tests.daemon.sinks.contract_cloudwatch import ClientBackend, CloudWatchBackend, LosingStub
from tests.support.cloudwatch_stub import isolate
from tests.support.datadog_intake import DatadogIntake
from tests.support.otlp_receiver import serve_grpc, serve_http

BOTH = ("asyncio", "trio")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let nothing of the machine's own settings reach a sink."""
    isolate(monkeypatch, tmp_path)
    for name in list(os.environ):
        if name.startswith(("DD_", "OTEL_")) or name in {"POD_NAME", "KUBERNETES_SERVICE_HOST"}:
            monkeypatch.delenv(name)


def drop_window(expected: Mapping[Key, float], snapshot: MetricSnapshot) -> dict[Key, float]:
    """Return the keys of a backend that only knows totals since the beginning."""
    return {(snapshot.name, tuple(sorted(snapshot.dimensions))): value for value in expected.values()}


class TestNull(SinkContract[Backend]):
    runtimes = BOTH

    def build_sink(self, backend: Backend) -> NullSink:
        return NullSink()


class TestMemory(SinkContract[MemoryBackend]):
    runtimes = BOTH
    waits_for_entering = False

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[MemoryBackend]:
        yield MemoryBackend()

    def build_sink(self, backend: MemoryBackend) -> InMemorySink:
        return backend.sink


class TestScripted(SinkContract[ScriptedBackend]):
    """The public fake keeps to the contract itself, and the suite has every answer to ask for."""

    runtimes = BOTH
    waits_for_entering = False

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[ScriptedBackend]:
        yield ScriptedBackend()

    def build_sink(self, backend: ScriptedBackend) -> ScriptedSink:
        return backend.sink


class TestConsoleLines(SinkContract[StreamBackend]):
    runtimes = BOTH
    format: ClassVar[Literal["json", "table"]] = "json"

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[StreamBackend]:
        yield StreamBackend(holds_lines=self.format == "json")

    def build_sink(self, backend: StreamBackend) -> ConsoleSink:
        return ConsoleSink(format=self.format, stream=backend.stream)


class TestConsoleTable(TestConsoleLines):
    format = "table"


class TestJsonl(SinkContract[FileBackend]):
    runtimes = BOTH

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._monkeypatch = tmp_path / "metrics.jsonl", monkeypatch

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[FileBackend]:
        yield FileBackend(self._path, self._monkeypatch)

    def build_sink(self, backend: FileBackend) -> JsonlSink:
        return JsonlSink(path=str(backend.path))


class TestCloudWatch(SinkContract[CloudWatchBackend]):
    # The SDK is for asyncio only; `TestCloudWatchClient` runs under both.
    percentiles: ClassVar[bool] = False

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[CloudWatchBackend]:
        async with LosingStub() as stub:
            yield CloudWatchBackend(stub)

    def build_sink(self, backend: CloudWatchBackend) -> CloudWatchSink:
        return CloudWatchSink(
            **backend.stub.options, max_datums=5, concurrency=1, percentiles=self.percentiles
        )

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        # A gauge is a statistic set there, like all others.
        return {(snapshot.name, snapshot.dimensions, snapshot.window_end): snapshot.sum}


class TestCloudWatchPercentiles(TestCloudWatch):
    percentiles = True


class TestCloudWatchClient(SinkContract[ClientBackend]):
    runtimes = BOTH

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[ClientBackend]:
        yield ClientBackend()

    def build_sink(self, backend: ClientBackend) -> CloudWatchSink:
        return CloudWatchSink(
            region="eu-west-1", client_factory=backend.open_client, max_datums=5, concurrency=1
        )

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        return {(snapshot.name, snapshot.dimensions, snapshot.window_end): snapshot.sum}


class TestOtlpGrpcDelta(SinkContract[OtlpBackend]):
    runtimes = BOTH
    protocol: ClassVar[str] = "grpc"
    temporality: ClassVar[str] = "delta"

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[OtlpBackend]:
        with serve_grpc() if self.protocol == "grpc" else serve_http() as receiver:
            yield OtlpBackend(receiver, self.protocol, is_cumulative=self.temporality == "cumulative")

    def build_sink(self, backend: OtlpBackend) -> OtlpSink:
        return OtlpSink(
            endpoint=backend.receiver.endpoint, protocol=self.protocol, temporality=self.temporality
        )

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        expected = super().expect(snapshot)
        return drop_window(expected, snapshot) if self.temporality == "cumulative" else expected


class TestOtlpGrpcCumulative(TestOtlpGrpcDelta):
    temporality = "cumulative"


class TestOtlpHttpDelta(TestOtlpGrpcDelta):
    protocol = "http/protobuf"


class TestOtlpHttpCumulative(TestOtlpGrpcDelta):
    protocol = "http/protobuf"
    temporality = "cumulative"


class TestOpenTelemetryMeter(SinkContract[MeterBackend]):
    runtimes = BOTH

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[MeterBackend]:
        yield MeterBackend()

    def build_sink(self, backend: MeterBackend) -> OpenTelemetrySink:
        return OpenTelemetrySink(meter=backend.meter)

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        return drop_window(super().expect(snapshot), snapshot)


class TestDatadog(SinkContract[DatadogBackend]):
    runtimes = BOTH
    exact_statistics: ClassVar[bool] = False

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[DatadogBackend]:
        with DatadogIntake() as intake:
            yield DatadogBackend(intake, is_exact=self.exact_statistics)

    def build_sink(self, backend: DatadogBackend) -> DatadogSink:
        return DatadogSink(
            api_key="KEY",
            host="host",
            endpoint_url=backend.intake.url,
            exact_statistics=self.exact_statistics,
            request_timeout_s=20.0,
        )

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        if snapshot.kind is not MetricKind.HISTOGRAM or snapshot.histogram is None:
            return super().expect(snapshot)
        points: Key = (f"{snapshot.name} points", snapshot.dimensions, snapshot.window_end)
        exact = super().expect(snapshot) if self.exact_statistics else {}
        return {points: float(snapshot.count), **exact}


class TestDatadogExactStatistics(TestDatadog):
    exact_statistics = True


class TestPrometheus(SinkContract[PageBackend]):
    runtimes = BOTH

    @asynccontextmanager
    async def open_backend(self) -> AsyncGenerator[PageBackend]:
        yield PageBackend()

    def build_sink(self, backend: PageBackend) -> PrometheusSink:
        return backend.sink

    def expect(self, snapshot: MetricSnapshot) -> Mapping[Key, float]:
        return drop_window(super().expect(snapshot), snapshot)
