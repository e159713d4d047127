"""Where each sink says its backend is, and what it hears when it asks whether anything would be taken."""

import asyncio
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metricsd.errors import ConfigurationError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks import InMemorySink, NullSink
from aiokpl_metricsd.sinks.cloudwatch.sink import CloudWatchSink
from aiokpl_metricsd.sinks.contract import Endpoint, LocatedSink, ProbingSink
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from aiokpl_metricsd.sinks.jsonl import JsonlSink
from aiokpl_metricsd.sinks.otlp.sink import OtlpSink
from tests.support.cloudwatch_stub import EXPIRED, HANG, THROTTLED, CloudWatchStub, isolate
from tests.support.datadog_intake import DatadogIntake
from tests.support.otlp_receiver import Answer, Receiver, serve_grpc, serve_http

PROTOCOLS = ["grpc", "http/protobuf"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)
    for name in [*os.environ]:
        if name.startswith(("OTEL_", "DD_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def serve_otlp(protocol: str) -> AbstractContextManager[Receiver]:
    return serve_grpc() if protocol == "grpc" else serve_http()


def locate(sink: LocatedSink) -> Endpoint | None:
    return asyncio.run(sink.locate())


def probe(sink: ProbingSink, timeout_s: float = 20.0) -> str:
    return asyncio.run(sink.probe(timeout_s))


def test_a_sink_without_a_backend_offers_neither() -> None:
    for sink in (InMemorySink(), NullSink()):
        assert not isinstance(sink, LocatedSink)
        assert not isinstance(sink, ProbingSink)


# ---- CloudWatch


def test_cloudwatch_is_where_the_sdk_says() -> None:
    keys: dict[str, Any] = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    found = locate(CloudWatchSink(region="eu-west-1", **keys))
    assert found is not None
    assert (found.host, found.port, found.speaks_http) == ("monitoring.eu-west-1.amazonaws.com", 443, True)
    assert found.tls is not None
    assert found.tls.check_hostname
    lenient = locate(CloudWatchSink(region="eu-west-1", verify_ssl=False, **keys))
    assert lenient is not None
    assert lenient.tls is not None
    assert not lenient.tls.check_hostname


def test_behind_a_proxy_cloudwatch_is_where_the_proxy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    keys: dict[str, Any] = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    assert locate(CloudWatchSink(region="eu-west-1", **keys)) == Endpoint(
        "proxy.example", 3128, speaks_http=True
    )
    monkeypatch.setenv("no_proxy", ".amazonaws.com")
    found = locate(CloudWatchSink(region="eu-west-1", **keys))
    assert found is not None
    assert found.port == 443


@pytest.mark.asyncio
async def test_cloudwatch_refuses_a_request_without_a_datum_and_that_says_the_credentials_are_good() -> None:
    async with CloudWatchStub() as stub:
        sink = CloudWatchSink(**stub.options)
        assert await sink.probe(20.0) == "the credentials are accepted"
        assert [received.data for received in stub.requests] == [[]]
        assert stub.accepted == []


@pytest.mark.asyncio
async def test_cloudwatch_s_own_words_say_what_is_wrong() -> None:
    async with CloudWatchStub([EXPIRED, THROTTLED]) as stub:
        sink = CloudWatchSink(**stub.options)
        with pytest.raises(RetryableExportError, match=r"not accepted \(ExpiredToken"):
            await sink.probe(20.0)
        with pytest.raises(RetryableExportError, match="throttled"):
            await sink.probe(20.0)
    async with CloudWatchStub([HANG]) as stub:
        with pytest.raises(RetryableExportError, match="no answer"):
            await CloudWatchSink(**stub.options).probe(0.2)


@pytest.mark.asyncio
async def test_without_credentials_cloudwatch_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no credentials"):
        await CloudWatchSink(region="eu-west-1").probe(20.0)


# ---- Datadog


def test_datadog_is_at_its_site_or_where_it_is_told() -> None:
    found = locate(DatadogSink(api_key="KEY", site="datadoghq.eu"))
    assert found is not None
    assert (found.host, found.port, found.tls is not None) == ("api.datadoghq.eu", 443, True)
    relay = locate(DatadogSink(api_key="KEY", endpoint_url="http://127.0.0.1:8126"))
    assert relay == Endpoint("127.0.0.1", 8126, speaks_http=True)
    proxy = locate(DatadogSink(api_key="KEY", proxy="http://proxy.example:3128"))
    assert proxy == Endpoint("proxy.example", 3128, speaks_http=True)


def test_datadog_says_whether_the_key_is_valid() -> None:
    with DatadogIntake() as intake:
        assert probe(DatadogSink(api_key="KEY", endpoint_url=intake.url)) == "the key is accepted"
        with pytest.raises(RetryableExportError, match=r"the API key is not accepted \(403: Forbidden"):
            probe(DatadogSink(api_key="ANOTHER", endpoint_url=intake.url))
        # A relay has no such route, and may need no key.
        relay = DatadogSink(api_key="KEY", endpoint_url=f"{intake.url}/relay")
        assert probe(relay) == "whoever answers there does not check keys"
        assert intake.requests == []
    with pytest.raises(RetryableExportError, match="no answer"):
        probe(DatadogSink(api_key="KEY", endpoint_url=intake.url), 1.0)


# ---- OTLP


@pytest.mark.parametrize(
    ("endpoint", "protocol", "expected"),
    [
        ("http://collector:4317", "grpc", ("collector", 4317, False, False)),
        ("https://[::1]:4317", "grpc", ("::1", 4317, True, False)),
        ("http://collector:4318/v1/metrics", "http/protobuf", ("collector", 4318, False, True)),
        ("https://otlp.example", "http/protobuf", ("otlp.example", 443, True, True)),
    ],
)
def test_a_receiver_is_where_the_endpoint_says(
    endpoint: str, protocol: str, expected: tuple[str, int, bool, bool]
) -> None:
    found = locate(OtlpSink(endpoint=endpoint, protocol=protocol))
    assert found is not None
    assert (found.host, found.port, found.tls is not None, found.speaks_http) == expected


def test_a_receiver_on_a_unix_socket_is_nowhere_on_the_network() -> None:
    assert locate(OtlpSink(endpoint="unix:///run/otlp.sock")) is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_takes_an_empty_request_or_says_why_not(protocol: str) -> None:
    with serve_otlp(protocol) as receiver:
        sink = OtlpSink(endpoint=receiver.endpoint, protocol=protocol)
        assert probe(sink) == "an empty request is accepted"
        assert receiver.points == []
        receiver.script = [Answer(code="PERMISSION_DENIED", status=401, words="who are you")]
        with pytest.raises(PermanentExportError, match="who are you"):
            probe(sink)
        receiver.script = [Answer(code="UNAVAILABLE", status=503, words="later")]
        with pytest.raises(RetryableExportError, match="later"):
            probe(sink)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_hangs_is_left_after_the_time(protocol: str) -> None:
    with serve_otlp(protocol) as receiver:
        receiver.script = [Answer(event="hang")]
        with pytest.raises(RetryableExportError, match=r"no answer within 0\.2 s"):
            probe(OtlpSink(endpoint=receiver.endpoint, protocol=protocol), 0.2)
        receiver.released.set()


# ---- jsonl


def test_a_file_is_looked_at_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    assert probe(JsonlSink(path=str(path))) == f"{path} can be appended to"
    assert [*tmp_path.glob("windows*")] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere/windows.jsonl", "there is no directory"), ("directory", "is no file")],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(ConfigurationError, match=said):
        probe(JsonlSink(path=str(tmp_path / name)))
