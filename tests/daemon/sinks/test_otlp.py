"""OtlpSink against real receivers: what arrives, and what follows from each answer."""

# ruff: noqa: ANN401 - protobuf's messages have no types that say more

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.errors import (
    ConfigurationError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.contract import MetricsSink, RepeatRule
from aiokpl_metricsd.sinks.loading import BUILTIN, build_options, load_factory
from aiokpl_metricsd.sinks.otlp.sink import OtlpSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.support.certificates import make_certificate
from tests.support.otlp_receiver import Answer, Certificates, Receiver, serve_grpc, serve_http

START, END = 1_700_000_000.0, 1_700_000_060.0
SECOND_NS = 1_000_000_000


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(protocol: str, tls: Certificates | None = None, **options: Any) -> AbstractContextManager[Receiver]:
    return serve_grpc(tls, **options) if protocol == "grpc" else serve_http(tls, **options)


@pytest.fixture
def receiver(protocol: str) -> Iterator[Receiver]:
    with serve(protocol) as receiver:
        yield receiver


@pytest.fixture
def http() -> Iterator[Receiver]:
    with serve_http() as receiver:
        yield receiver


@pytest.fixture
def grpc_receiver() -> Iterator[Receiver]:
    with serve_grpc() as receiver:
        yield receiver


def counter(name: str = "Requests", value: float = 2.0, **fields: Any) -> MetricSnapshot:
    defaults: dict[str, Any] = {
        "window_start": START,
        "window_end": END,
        "unit": "count",
        "last": value,
        "window_id": "w1",
    }
    return MetricSnapshot(name, 1, value, value, value, **{**defaults, **fields})


def gauge(value: float = -3.5, **fields: Any) -> MetricSnapshot:
    return counter("Pending", value, kind=MetricKind.GAUGE, **fields)


def histogram(**fields: Any) -> MetricSnapshot:
    buckets = Buckets(3, 1, 7, (1, 0, 2))
    statistics: dict[str, Any] = {
        "window_start": START,
        "window_end": END,
        "unit": "ms",
        "kind": MetricKind.HISTOGRAM,
        "histogram": buckets,
        "window_id": "w1",
    }
    return MetricSnapshot("RequestTime", 4, 6.5, 0.0, 2.3, (("stream", "a"),), **{**statistics, **fields})


def window(size: int, **fields: Any) -> list[MetricSnapshot]:
    return [counter(f"m{number}", float(number), **fields) for number in range(size)]


def sink_for(receiver: Receiver, protocol: str, **options: Any) -> OtlpSink:
    return OtlpSink(endpoint=receiver.endpoint, protocol=protocol, **options)


def names_of(receiver: Receiver) -> list[str]:
    return [name.removeprefix("aiokpl.") for name, _, _ in receiver.points]


# ---- what it is


def test_it_is_a_sink_that_wants_its_windows_in_order() -> None:
    assert isinstance(OtlpSink(), MetricsSink)
    assert OtlpSink.ordered is True
    assert OtlpSink.repeat_rule is OtlpSink().repeat_rule is RepeatRule.ADDS
    assert OtlpSink(temporality="cumulative").repeat_rule is RepeatRule.CUMULATIVE


def test_the_daemon_builds_it_by_its_type_and_refuses_unknown_options() -> None:
    factory = load_factory("opentelemetry")
    table = {"endpoint": "http://collector:4317", "resource": {"service.name": "a"}, "headers": {"k": "v"}}
    options, _ = build_options(factory, table)
    assert BUILTIN["opentelemetry"].endswith(":OtlpSink")
    assert isinstance(factory(**options), OtlpSink)
    with pytest.raises(ConfigurationError, match="endpont"):
        build_options(factory, {"endpont": "x"})


@pytest.mark.parametrize("options", [{"protocol": "http/json"}, {"temporality": "never"}])
def test_unknown_words_are_refused_when_it_is_built(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        OtlpSink(**options)


# ---- what arrives


@pytest.mark.anyio
async def test_each_kind_arrives_exactly_with_times_units_and_resource(
    receiver: Receiver, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=lost,team=a%20b")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
    sink = sink_for(receiver, protocol, resource={"service.instance.id": "pod-1"})
    async with sink:
        await sink.export([counter(dimensions=(("stream", "ü"),)), gauge(), histogram()])
    assert receiver.resource == {"service.name": "orders", "team": "a b", "service.instance.id": "pod-1"}
    requests = receiver.metrics["aiokpl.Requests"]
    point = requests.sum.data_points[0]
    assert (requests.unit, requests.sum.is_monotonic, requests.sum.aggregation_temporality) == (
        "{count}",
        True,
        1,
    )
    assert (point.start_time_unix_nano, point.time_unix_nano) == (
        int(START) * SECOND_NS,
        int(END) * SECOND_NS,
    )
    assert (point.as_double, point.attributes[0].key, point.attributes[0].value.string_value) == (
        2.0,
        "stream",
        "ü",
    )
    pending = receiver.metrics["aiokpl.Pending"].gauge.data_points[0]
    assert (pending.as_double, pending.time_unix_nano) == (-3.5, int(END) * SECOND_NS)
    times = receiver.metrics["aiokpl.RequestTime"]
    point = times.exponential_histogram.data_points[0]
    assert times.unit == "ms"
    assert (point.count, point.sum, point.min, point.max) == (4, 6.5, 0.0, 2.3)
    assert (point.scale, point.zero_count) == (3, 1)
    assert (point.positive.offset, list(point.positive.bucket_counts)) == (7, [1, 0, 2])
    assert receiver.accepted[0].resource_metrics[0].scope_metrics[0].scope.name == "aiokpl_metricsd"


@pytest.mark.anyio
async def test_cumulative_totals_grow_and_survive_leaving_and_a_restart(
    receiver: Receiver, protocol: str
) -> None:
    sink = sink_for(receiver, protocol, temporality="cumulative")
    async with sink:
        await sink.export([counter(), histogram()])
    async with sink:
        later: dict[str, Any] = {"window_start": END, "window_end": END + 60, "window_id": "w2"}
        await sink.export([counter(**later), histogram(**later)])
        await sink.export([counter(**later), histogram(**later)])  # a retry
    heir = sink_for(receiver, protocol, temporality="cumulative")
    heir.load_state(sink.dump_state())
    before = receiver.resource["service.instance.id"]
    async with heir:
        await heir.export([counter(window_start=END + 60, window_end=END + 120, window_id="w3")])
    assert receiver.resource["service.instance.id"] == before
    sums = [point for _, kind, point in receiver.points if kind == "sum"]
    assert [point.as_double for point in sums] == [2.0, 4.0, 4.0, 6.0]
    assert {point.start_time_unix_nano for point in sums} == {int(START) * SECOND_NS}
    assert sums[1] == sums[2]
    last = [point for _, kind, point in receiver.points if kind == "exponential_histogram"][-1]
    assert (last.count, last.sum, list(last.positive.bucket_counts)) == (8, 13.0, [2, 0, 4])
    assert receiver.metrics["aiokpl.Requests"].sum.aggregation_temporality == 2


@pytest.mark.anyio
async def test_variables_say_where_how_and_with_what(
    receiver: Receiver, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%20b")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "CUMULATIVE")
    sink = OtlpSink()
    assert sink.repeat_rule is RepeatRule.CUMULATIVE
    async with sink:
        await sink.export([counter()])
    assert names_of(receiver) == ["Requests"]
    assert receiver.headers[0]["api-key"] == "a b"
    assert "aiokpl-metricsd/" in receiver.headers[0]["user-agent"]
    assert receiver.metrics["aiokpl.Requests"].sum.aggregation_temporality == 2
    if protocol != "grpc":
        assert (receiver.encodings, receiver.paths) == (["gzip"], ["/v1/metrics"])


@pytest.mark.anyio
async def test_http_deflates_when_told(http: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")
    sink = sink_for(http, "http")
    async with sink:
        await sink.export(window(100))
    assert (http.encodings, len(http.points)) == (["deflate"], 100)


@pytest.mark.anyio
async def test_tls_with_a_certificate_of_either_side(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = make_certificate(tmp_path)
    with serve(protocol, certificates) as receiver:
        sink = sink_for(receiver, protocol)
        async with sink:
            with pytest.raises(RetryableExportError):
                await sink.export([counter()])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificates.certificate))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificates.certificate))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(certificates.key))
        async with sink:
            await sink.export([counter()])
        assert names_of(receiver) == ["Requests"]


@pytest.mark.anyio
async def test_grpc_over_a_unix_socket(tmp_path: Path) -> None:
    with serve_grpc(address=f"unix:{tmp_path}/otlp.sock") as receiver:
        sink = sink_for(receiver, "grpc")
        async with sink:
            await sink.export([counter()])
        assert names_of(receiver) == ["Requests"]


# ---- the life of a sink


@pytest.mark.anyio
async def test_export_before_entering_of_nothing_and_after_leaving_does_nothing(
    receiver: Receiver, protocol: str
) -> None:
    sink = sink_for(receiver, protocol)
    await sink.export([counter()])
    async with sink:
        await sink.export([])
    await sink.export([counter()])
    assert receiver.attempts == 0


@pytest.mark.anyio
async def test_without_its_packages_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.metrics.export", None)
    sink = OtlpSink(protocol=protocol)
    for attempt in (sink.__aenter__, sink.check):
        with pytest.raises(ConfigurationError, match=r"pip install 'aiokpl-metricsd\[otel\]'"):
            await attempt()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://x"}, "endpoint"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}, "ca.pem"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": __file__}, "test_otlp.py"),
        ({"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": __file__}, "test_otlp.py"),
        ({"OTEL_EXPORTER_OTLP_CLIENT_KEY": "k.pem"}, "CLIENT_CERTIFICATE"),
    ],
)
async def test_check_and_entering_say_what_cannot_be_used(
    protocol: str, environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sink = OtlpSink(protocol=protocol)
    for attempt in (sink.__aenter__, sink.check):
        with pytest.raises(ConfigurationError, match=message):
            await attempt()


@pytest.mark.anyio
async def test_check_of_good_options_connects_to_nobody(protocol: str) -> None:
    await OtlpSink(endpoint="http://127.0.0.1:1", protocol=protocol).check()


# ---- what is refused before it is sent


@pytest.mark.anyio
async def test_a_poison_datum_is_named_and_the_rest_is_taken(receiver: Receiver, protocol: str) -> None:
    poison = [
        counter("a", -1.0),
        counter("b", float("nan")),
        counter("c", float("inf")),
        counter(""),
        counter("d", dimensions=(("k", "1"), ("k", "2"))),
        counter("e", dimensions=(("k", 5),)),
        MetricSnapshot("f", 2**63, 1.0, 1.0, 1.0),
        MetricSnapshot("g", 1.5, 1.0, 1.0, 1.0),  # type: ignore[arg-type]
    ]
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError, match="negative_counter") as caught:
            await sink.export(
                [counter("good"), *poison, counter("surrogate\ud800", dimensions=(("k", "\ud800"),))]
            )
    assert caught.value.rejected == tuple(poison)
    assert caught.value.remaining == ()
    assert names_of(receiver) == ["good", "surrogate_"]
    assert sink.refused == {"negative_counter": 1, "not_finite": 2, "malformed": 5}


@pytest.mark.anyio
async def test_a_window_of_nothing_but_poison_is_refused_without_a_request(
    receiver: Receiver, protocol: str
) -> None:
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export([counter(value=-1.0)])
    assert (len(caught.value.rejected), receiver.attempts) == (1, 0)


# ---- answers

RETRYABLE = ["CANCELLED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]
AMBIGUOUS = ["DEADLINE_EXCEEDED"]
TOO_LARGE = ["RESOURCE_EXHAUSTED"]


@pytest.mark.anyio
@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode if code.name != "OK"])
async def test_every_grpc_status_has_its_meaning_and_is_one_attempt(
    grpc_receiver: Receiver, code: str
) -> None:
    grpc_receiver.script = [Answer(code=code, words="for a reason")]
    expected: type[Exception] = PermanentExportError
    if code in RETRYABLE + TOO_LARGE:
        expected = RetryableExportError
    elif code in AMBIGUOUS:
        expected = TimeoutError
    sink = sink_for(grpc_receiver, "grpc")
    async with sink:
        with pytest.raises(expected, match=f"{code}: for a reason") as caught:
            await sink.export([counter()])
    assert type(caught.value) is expected
    assert getattr(caught.value, "retry_after_s", None) is None
    assert grpc_receiver.attempts == 1


@pytest.mark.anyio
@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
async def test_retry_info_says_how_long_to_wait(grpc_receiver: Receiver, code: str) -> None:
    grpc_receiver.script = [Answer(code=code, retry_after_s=7.25)]
    sink = sink_for(grpc_receiver, "grpc")
    async with sink:
        with pytest.raises(RetryableExportError) as caught:
            await sink.export([counter()])
    assert caught.value.retry_after_s == 7.25


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 418, 429, 500, 501, 502, 503, 504, 505])
async def test_every_http_status_has_its_meaning_and_is_one_attempt(http: Receiver, status: int) -> None:
    http.script = [Answer(status=status, words="for a reason", retry_after_s="3" if status == 429 else None)]
    expected = RetryableExportError if status in {429, 502, 503, 504} else PermanentExportError
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(expected, match=f"{status}: for a reason") as caught:
            await sink.export([counter()])
    assert type(caught.value) is expected
    assert getattr(caught.value, "retry_after_s", None) == (3.0 if status == 429 else None)
    assert http.attempts == 1


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300])
async def test_a_redirect_is_refused_and_says_where_to(http: Receiver, status: int) -> None:
    http.script = [Answer(status=status, location="https://elsewhere/v1/metrics")]
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(PermanentExportError, match="https://elsewhere/v1/metrics is not followed"):
            await sink.export([counter()])
    assert http.accepted == []


@pytest.mark.anyio
async def test_a_page_in_place_of_a_message_is_quoted_in_part(http: Receiver) -> None:
    http.script = [Answer(status=502, body=b"<html>\n bad  gateway" + b"x" * 100_000), Answer(body=b"ok")]
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(RetryableExportError, match="<html> bad gateway") as caught:
            await sink.export([counter()])
        await sink.export([counter()])
    assert len(str(caught.value)) < 400


@pytest.mark.anyio
async def test_points_rejected_without_a_name_are_counted_said_and_never_sent_again(
    receiver: Receiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.script = [Answer(rejected=2, words="two were bad", takes=True)]
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError, match=r"rejected 2 of 3 points.*two were bad") as caught:
            await sink.export(window(3))
    assert (caught.value.remaining, caught.value.rejected, sink.points_rejected) == ((), (), 2)
    assert receiver.attempts == 1
    assert [record.message for record in caplog.records if "points lost" in record.message]


@pytest.mark.anyio
async def test_a_request_rejected_as_a_whole_is_rejected_by_name(receiver: Receiver, protocol: str) -> None:
    receiver.script = [Answer(rejected=3, words="all were bad", takes=True)]
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError, match="all were bad") as caught:
            await sink.export(window(3))
    assert (len(caught.value.rejected), sink.points_rejected, sink.refused) == (3, 0, {"rejected": 3})


@pytest.mark.anyio
async def test_a_warning_is_said_and_everything_is_taken(
    receiver: Receiver, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.script = [Answer(words="old protocol", takes=True)]
    sink = sink_for(receiver, protocol)
    async with sink:
        await sink.export(window(3))
    assert any(getattr(record, "fields", {}).get("error") == "old protocol" for record in caplog.records)


# ---- silence


@pytest.mark.anyio
async def test_nobody_there_is_retryable(protocol: str) -> None:
    sink = OtlpSink(endpoint="http://127.0.0.1:1", protocol=protocol)
    async with sink:
        with pytest.raises(RetryableExportError):
            await sink.export([counter()])


@pytest.mark.anyio
async def test_no_answer_is_ambiguous_after_the_timeout(
    receiver: Receiver, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    receiver.script = [Answer(event="hang")]
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(TimeoutError):
            await sink.export([counter()])
        await sink.export([counter("next")])
    assert names_of(receiver) == ["next"]


@pytest.mark.anyio
async def test_an_answer_byte_by_byte_does_not_outlast_the_timeout(
    http: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    http.script = [Answer(event="drip")]
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(TimeoutError):
            await sink.export([counter()])


@pytest.mark.anyio
@pytest.mark.parametrize("event", ["reset", "close"])
async def test_a_broken_connection_is_ambiguous(http: Receiver, event: str) -> None:
    http.script = [Answer(event=event)]
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(ConnectionError, match="may have been taken"):
            await sink.export([counter()])


@pytest.mark.anyio
async def test_a_cancelled_export_ends_at_once_and_the_sink_goes_on(
    receiver: Receiver, protocol: str
) -> None:
    receiver.script = [Answer(event="hang")]
    sink = sink_for(receiver, protocol)
    began = 0.0
    async with sink:
        async with anyio.create_task_group() as group:
            group.start_soon(sink.export, [counter()])
            await anyio.to_thread.run_sync(receiver.arrived.wait, 10)
            began = anyio.current_time()
            group.cancel_scope.cancel()
        # Far below the timeout of ten seconds, and far above what it takes.
        assert anyio.current_time() - began < 5.0
        await sink.export([counter("next")])
    assert names_of(receiver) == ["next"]


# ---- size


@pytest.mark.anyio
async def test_a_large_window_goes_in_several_requests_in_order_each_below_4_mib(
    receiver: Receiver, protocol: str
) -> None:
    snapshots = window(6_000, dimensions=(("k", "v" * 1_000),))
    sink = sink_for(receiver, protocol)
    async with sink:
        await sink.export(snapshots)
    assert names_of(receiver) == [snapshot.name for snapshot in snapshots]
    assert len(receiver.sizes) > 1
    assert max(receiver.sizes) < 4 * 1024 * 1024


@pytest.mark.anyio
async def test_a_backend_with_a_smaller_limit_gets_smaller_requests_from_then_on(protocol: str) -> None:
    with serve(protocol, max_bytes=150_000) as receiver:
        sink = sink_for(receiver, protocol)
        async with sink:
            await sink.export(window(3_000))
            refused = receiver.attempts - len(receiver.accepted)
            await sink.export(window(3_000))
        assert names_of(receiver) == [f"m{number}" for number in range(3_000)] * 2
        assert receiver.attempts - len(receiver.accepted) == refused


@pytest.mark.anyio
async def test_too_large_by_itself_is_refused_for_good(http: Receiver) -> None:
    http.script = [Answer(status=413, words="too large")]
    sink = sink_for(http, "http")
    async with sink:
        with pytest.raises(PermanentExportError, match="413"):
            await sink.export([counter()])


@pytest.mark.anyio
async def test_a_failure_in_the_middle_leaves_only_what_was_not_taken(
    receiver: Receiver, protocol: str
) -> None:
    failure = (
        Answer(code="UNAVAILABLE", retry_after_s=5)
        if protocol == "grpc"
        else Answer(status=503, retry_after_s=5)
    )
    receiver.script = [Answer(), failure]
    snapshots = [*window(12_000), counter("bad", -1.0)]
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export(snapshots)
        taken = len(receiver.points)
        assert caught.value.remaining == tuple(snapshots[taken:])
        assert caught.value.retry_after_s == 5.0
        with pytest.raises(PartialExportError) as second:
            await sink.export(caught.value.remaining)
    assert names_of(receiver) == [snapshot.name for snapshot in snapshots[:-1]]
    assert second.value.rejected == (snapshots[-1],)


@pytest.mark.anyio
async def test_a_slow_export_ends_between_two_requests_and_the_rest_goes_at_once(
    receiver: Receiver, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiokpl_metricsd.sinks.otlp.export._EXPORT_SHARE", 0.0)
    snapshots = window(3_000)
    sink = sink_for(receiver, protocol)
    async with sink:
        with pytest.raises(PartialExportError, match="1000 snapshots not sent yet") as caught:
            await sink.export(snapshots)
        await sink.export(caught.value.remaining)
    assert (len(caught.value.remaining), caught.value.retry_after_s) == (1_000, None)
    assert names_of(receiver) == [snapshot.name for snapshot in snapshots]
