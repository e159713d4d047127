"""Options and variables -> settings: which one wins, and what is refused with which words."""

import base64
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.otlp.answer import parse_retry_after
from aiokpl_metricsd.sinks.otlp.grpc import parse_retry_info
from aiokpl_metricsd.sinks.otlp.settings import (
    GRPC,
    HTTP,
    Options,
    Settings,
    build_resource,
    read_settings,
)

BASE = "OTEL_EXPORTER_OTLP_"


def read(options: dict[str, Any] | None = None, /, **environ: str) -> Settings:
    return read_settings({BASE + name: value for name, value in environ.items()}, Options(**options or {}))


@pytest.mark.parametrize(
    ("endpoint", "target", "is_secure"),
    [
        ("http://collector:4317", "collector:4317", False),
        ("https://collector", "collector:443", True),
        ("http://collector/ignored", "collector:4317", False),
        ("http://[::1]:4317", "[::1]:4317", False),
        ("collector:4317", "collector:4317", True),
        ("unix:///run/otlp.sock", "unix:///run/otlp.sock", False),
    ],
)
def test_where_grpc_connects(endpoint: str, target: str, is_secure: bool) -> None:
    settings = read({"endpoint": endpoint})
    assert (settings.target, settings.is_secure) == (target, is_secure)


def test_without_a_scheme_insecure_decides_and_with_one_it_does_not() -> None:
    assert read({"endpoint": "collector:4317"}, INSECURE="TRUE").is_secure is False
    assert read({"endpoint": "collector:4317"}, INSECURE="true", METRICS_INSECURE="false").is_secure is True
    assert read({"endpoint": "https://collector"}, INSECURE="true").is_secure is True


@pytest.mark.parametrize(
    ("options", "environ", "url"),
    [
        ({}, {}, ("localhost", 4318, "/v1/metrics")),
        ({}, {"ENDPOINT": "http://a:1"}, ("a", 1, "/v1/metrics")),
        ({}, {"ENDPOINT": "http://a:1/base/"}, ("a", 1, "/base/v1/metrics")),
        ({}, {"ENDPOINT": "http://a:1", "METRICS_ENDPOINT": "http://b:2/c?d=e"}, ("b", 2, "/c?d=e")),
        ({}, {"METRICS_ENDPOINT": "https://b"}, ("b", 443, "/")),
        ({"endpoint": "http://c"}, {"ENDPOINT": "http://a:1"}, ("c", 80, "/v1/metrics")),
        ({"endpoint": "http://c/otlp"}, {"METRICS_ENDPOINT": "http://a:1"}, ("c", 80, "/otlp")),
    ],
)
def test_where_http_posts(
    options: dict[str, str], environ: dict[str, str], url: tuple[str, int, str]
) -> None:
    settings = read({"protocol": HTTP, **options}, **environ)
    assert (settings.host, settings.port, settings.path) == url


def test_an_option_wins_over_the_metrics_variable_and_that_over_the_general_one() -> None:
    environ = {"HEADERS": "a=1", "METRICS_HEADERS": "b=2,%43=x%3Dy", "PROTOCOL": "grpc"}
    assert read({}, **environ).headers == (("b", "2"), ("c", "x=y"))
    assert read({"headers": {"D": "3"}}, **environ).headers == (("d", "3"),)
    assert read(PROTOCOL="grpc", METRICS_PROTOCOL="http/protobuf").protocol == HTTP
    assert read({"protocol": GRPC}, METRICS_PROTOCOL="http/protobuf").protocol == GRPC
    assert read(TIMEOUT="3", METRICS_TIMEOUT="0.5").timeout_s == 0.5
    assert read(TIMEOUT="3", METRICS_TIMEOUT=" ").timeout_s == 3.0
    assert read(COMPRESSION="gzip", METRICS_COMPRESSION="none").compression == "none"
    files = read(CERTIFICATE="ca", CLIENT_CERTIFICATE="chain", CLIENT_KEY="key", METRICS_CERTIFICATE="own")
    assert (files.certificate, files.client_certificate, files.client_key) == ("own", "chain", "key")
    assert read(METRICS_TEMPORALITY_PREFERENCE="cumulative").is_cumulative is True
    assert read(METRICS_TEMPORALITY_PREFERENCE="LowMemory").is_cumulative is False
    assert read({"temporality": "delta"}, METRICS_TEMPORALITY_PREFERENCE="cumulative").is_cumulative is False


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    [
        ({"endpoint": "ftp://a"}, {}, "endpoint"),
        ({"endpoint": "http://a:b"}, {}, "endpoint"),
        ({"endpoint": "http://"}, {}, "endpoint"),
        ({"endpoint": "a/b"}, {}, "endpoint"),
        ({"endpoint": "http://[::1"}, {}, "endpoint"),
        ({"protocol": HTTP, "endpoint": "collector:4318"}, {}, "endpoint"),
        ({"headers": {"a b": "c"}}, {}, '"a b"'),
        ({"headers": {"a": "ü"}}, {}, "ASCII"),
        ({}, {"HEADERS": "secret"}, "HEADERS: expected"),
        ({}, {"TIMEOUT": "soon"}, "seconds"),
        ({}, {"TIMEOUT": "0"}, "seconds"),
        ({}, {"COMPRESSION": "deflate"}, "COMPRESSION"),
        ({}, {"PROTOCOL": "http/json"}, "http/json"),
        ({"endpoint": "a:1"}, {"INSECURE": "maybe"}, "INSECURE"),
        ({}, {"METRICS_TEMPORALITY_PREFERENCE": "x"}, "temporality"),
        ({}, {"CLIENT_KEY": "key"}, "CLIENT_CERTIFICATE"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(
    options: dict[str, Any], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(options, **environ)


def test_no_message_and_no_repr_shows_a_secret() -> None:
    for options, environ in (({"endpoint": "http://me:hunter2@a"}, {}), ({}, {"HEADERS": "hunter2"})):
        with pytest.raises(ConfigurationError) as caught:
            read(options, **environ)
        assert "hunter2" not in str(caught.value)
    settings = read({"headers": {"api-key": "hunter2"}})
    assert "hunter2" not in repr(settings) + repr(Options(headers={"api-key": "hunter2"}))


def test_the_resource_is_defaults_then_attributes_then_service_name_then_the_options(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert build_resource({}, None, "i-1") == {
        "service.name": "aiokpl-metricsd",
        "service.instance.id": "i-1",
    }
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a, k = x%2Cy ,odd,,", "OTEL_SERVICE_NAME": "b"}
    assert build_resource(environ, None, "i") == {
        "service.name": "b",
        "service.instance.id": "i",
        "k": "x,y",
    }
    assert "odd" in caplog.text
    assert build_resource(environ, {"service.name": "c"}, "i")["service.name"] == "c"
    assert build_resource({"OTEL_RESOURCE_ATTRIBUTES": "k=\udcff"}, None, "i")["k"] == "?"


@pytest.mark.parametrize(
    ("text", "delay_s"),
    [
        (None, None),
        ("3", 3.0),
        ("-1", 0.0),
        ("nan", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, delay_s: float | None) -> None:
    assert parse_retry_after(text, lambda: 100.0) == delay_s


def test_details_without_retry_info_or_that_are_none_say_nothing() -> None:
    other = AnyMessage()
    other.Pack(Status(message="x"))
    torn = AnyMessage(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff")
    assert parse_retry_info(Status(details=[other]).SerializeToString()) is None
    assert parse_retry_info(Status(details=[torn]).SerializeToString()) is None
    assert parse_retry_info(base64.b64decode("/////w==")) is None
    empty = AnyMessage()
    empty.Pack(RetryInfo())
    assert parse_retry_info(Status(details=[empty]).SerializeToString()) == 0.0
