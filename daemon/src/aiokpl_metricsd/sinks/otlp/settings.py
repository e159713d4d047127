"""Options and OTEL_* variables -> where OTLP goes, and as whom. Pure: the environment is an argument.

An option that is given wins over OTEL_EXPORTER_OTLP_METRICS_X, and that over OTEL_EXPORTER_OTLP_X. An empty
variable is none.
"""

import re
from collections.abc import Mapping
from logging import getLogger
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from aiokpl_metricsd.errors import ConfigurationError

GRPC = "grpc"
HTTP = "http/protobuf"
DELTA = "delta"
CUMULATIVE = "cumulative"

# OpenTelemetry protocol exporter specification, "Configuration options", read 2026-11.
DEFAULT_GRPC_ENDPOINT = "http://localhost:4317"
DEFAULT_HTTP_ENDPOINT = "http://localhost:4318"
METRICS_PATH = "/v1/metrics"
DEFAULT_TIMEOUT_S = 10.0
_GRPC_PORT = 4317
_HTTP_PORT = 80
_HTTPS_PORT = 443

# Whose metrics these are, where nobody says.
DEFAULT_SERVICE_NAME = "aiokpl-metricsd"

# The names that gRPC takes, which HTTP takes as well (gRPC over HTTP/2, "Custom-Metadata", read 2026-11).
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")

_logger = getLogger(__name__)


class Settings(Struct, frozen=True, kw_only=True):
    """Where OTLP goes, and how.

    Attributes:
        protocol: `GRPC` or `HTTP`.
        endpoint: as it was given, for messages.
        target: what gRPC connects to; "" over HTTP.
        host: over HTTP.
        port: over HTTP.
        path: over HTTP, with its query.
        is_secure: whether TLS is used.
        headers: lower-case names and values; they may be secret.
        timeout_s: seconds that one request may take.
        compression: "none", "gzip" or "deflate".
        certificate: path of the authorities to trust; None trusts the usual ones.
        client_certificate: path of our certificate chain, or None.
        client_key: path of its key, or None.
        is_cumulative: totals since the start, instead of the window's own.
    """

    protocol: str
    endpoint: str
    target: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    is_secure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    compression: str = "none"
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    is_cumulative: bool = False

    def __repr__(self) -> str:
        """Return protocol and endpoint: the headers may be secret."""
        return f"Settings(protocol={self.protocol!r}, endpoint={self.endpoint!r})"


class Options(Struct, frozen=True, kw_only=True):
    """What the sink was given; None where it was not."""

    endpoint: str | None = None
    protocol: str | None = None
    temporality: str | None = None
    headers: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        """Return the endpoint alone: the headers may be secret."""
        return f"Options(endpoint={self.endpoint!r})"


def read_settings(environ: Mapping[str, str], options: Options) -> Settings:
    """Return the settings out of options and environment.

    Raises:
        ConfigurationError: one of them cannot be used; says which, and what is expected.
    """
    protocol = options.protocol or parse_protocol(_read(environ, "PROTOCOL", GRPC))
    endpoint, is_base = _find_endpoint(environ, options, protocol)
    settings = Settings(
        protocol=protocol,
        endpoint=endpoint,
        headers=_read_headers(environ, options),
        timeout_s=_read_timeout_s(environ),
        compression=_read_compression(environ, protocol),
        certificate=_read(environ, "CERTIFICATE") or None,
        client_certificate=_read(environ, "CLIENT_CERTIFICATE") or None,
        client_key=_read(environ, "CLIENT_KEY") or None,
        is_cumulative=parse_temporality(options.temporality or read_temporality(environ)),
    )
    if settings.client_key and not settings.client_certificate:
        raise ConfigurationError("OTEL_EXPORTER_OTLP_CLIENT_KEY is of no use without _CLIENT_CERTIFICATE")
    return _aim_grpc(settings, environ) if protocol == GRPC else _aim_http(settings, append_path=is_base)


def parse_protocol(word: str) -> str:
    """Return `GRPC` or `HTTP`.

    Raises:
        ConfigurationError: it is another one, as "http/json".
    """
    known = {"grpc": GRPC, "http/protobuf": HTTP, "http": HTTP}.get(word)
    if known is None:
        raise ConfigurationError(f'protocol: expected "grpc" or "http/protobuf", found "{word}"')
    return known


def parse_temporality(word: str) -> bool:
    """Return whether the temporality is cumulative. "lowmemory" is delta for all that we send.

    Raises:
        ConfigurationError: it is another one.
    """
    known = {"delta": False, "lowmemory": False, "cumulative": True}.get(word.lower())
    if known is None:
        raise ConfigurationError(f'temporality: expected "delta" or "cumulative", found "{word}"')
    return known


def build_resource(
    environ: Mapping[str, str], given: Mapping[str, str] | None, instance_id: str
) -> dict[str, str]:
    """Return the attributes of the resource; what comes later wins.

    The defaults, then OTEL_RESOURCE_ATTRIBUTES, then OTEL_SERVICE_NAME, then what the sink was given. An item
    of the variable that cannot be read is left out and logged, as the SDK does.
    """
    resource = {"service.name": DEFAULT_SERVICE_NAME, "service.instance.id": instance_id}
    for item in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, separator, value = item.partition("=")
        key = unquote(key.strip())
        if separator and key:
            resource[key] = unquote(value.strip())
        elif item.strip():
            _logger.warning("OTEL_RESOURCE_ATTRIBUTES: expected key=value, found %r, left out", item)
    service_name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if service_name:
        resource["service.name"] = service_name
    resource.update(given or {})
    # A lone surrogate, out of a variable that is no UTF-8, has no place in protobuf.
    return {_clean(key): _clean(value) for key, value in resource.items() if key}


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(environ: Mapping[str, str], name: str, default: str = "") -> str:
    specific = environ.get(f"OTEL_EXPORTER_OTLP_METRICS_{name}", "").strip()
    return specific or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip() or default


def _find_endpoint(environ: Mapping[str, str], options: Options, protocol: str) -> tuple[str, bool]:
    """Return the endpoint, and whether it is one for all signals, to which HTTP appends a path."""
    if options.endpoint:
        # Its own path is kept; without one the usual path is meant.
        return options.endpoint, "/" not in options.endpoint.partition("://")[2].rstrip("/")
    specific = environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "").strip()
    if specific:
        return specific, False
    default = DEFAULT_GRPC_ENDPOINT if protocol == GRPC else DEFAULT_HTTP_ENDPOINT
    return environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or default, True


def _read_headers(environ: Mapping[str, str], options: Options) -> tuple[tuple[str, str], ...]:
    if options.headers is not None:
        return tuple(_check_header(name, value) for name, value in options.headers.items())
    headers: dict[str, str] = {}
    for item in _read(environ, "HEADERS").split(","):
        name, separator, value = item.partition("=")
        if not item.strip():
            continue
        if not separator:
            # Without its text, which may be a secret.
            raise ConfigurationError("OTEL_EXPORTER_OTLP_HEADERS: expected name=value,name=value")
        name, value = _check_header(unquote(name.strip()), unquote(value.strip()))
        headers[name] = value
    return tuple(headers.items())


def _check_header(name: str, value: str) -> tuple[str, str]:
    name = name.lower()
    if not _HEADER_NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise ConfigurationError(f'headers: "{name}" cannot be the name of one')
    if not _HEADER_VALUE.fullmatch(value):
        raise ConfigurationError(f'headers: the value of "{name}" is not printable ASCII')
    return name, value


def _read_timeout_s(environ: Mapping[str, str]) -> float:
    text = _read(environ, "TIMEOUT")
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0.0 < timeout_s < float("inf"):
        raise ConfigurationError(f'OTEL_EXPORTER_OTLP_TIMEOUT: expected seconds above 0, found "{text}"')
    return timeout_s


def _read_compression(environ: Mapping[str, str], protocol: str) -> str:
    word = _read(environ, "COMPRESSION", "none").lower()
    known = ("none", "gzip") if protocol == GRPC else ("none", "gzip", "deflate")
    if word not in known:
        expected = " or ".join(f'"{each}"' for each in known)
        raise ConfigurationError(f'OTEL_EXPORTER_OTLP_COMPRESSION: expected {expected}, found "{word}"')
    return word


def read_temporality(environ: Mapping[str, str]) -> str:
    """Return what OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE says, unchecked; else `DELTA`."""
    word = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
    return word or DELTA


def _aim_grpc(settings: Settings, environ: Mapping[str, str]) -> Settings:
    endpoint = settings.endpoint
    if endpoint.startswith("unix:"):
        return _replace(settings, target=endpoint, is_secure=False)
    if "://" in endpoint:
        url = _split(endpoint)
        is_secure = url.scheme == "https"
        port = _port(url, endpoint) or (_HTTPS_PORT if is_secure else _GRPC_PORT)
        host = url.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return _replace(settings, target=f"{host}:{port}", is_secure=is_secure)
    # The specification: without a scheme the variable decides, and TLS is its default (read 2026-11).
    insecure = _read(environ, "INSECURE", "false").lower()
    if insecure not in {"true", "false"}:
        raise ConfigurationError(f'OTEL_EXPORTER_OTLP_INSECURE: expected true or false, found "{insecure}"')
    if not re.fullmatch(r"[^/\s@]+", endpoint):
        raise _bad_endpoint(endpoint)
    return _replace(settings, target=endpoint, is_secure=insecure == "false")


def _aim_http(settings: Settings, *, append_path: bool) -> Settings:
    url = _split(settings.endpoint)
    path = url.path
    if append_path:
        path = path.rstrip("/") + METRICS_PATH
    is_secure = url.scheme == "https"
    return _replace(
        settings,
        host=url.hostname or "",
        port=_port(url, settings.endpoint) or (_HTTPS_PORT if is_secure else _HTTP_PORT),
        path=(path or "/") + (f"?{url.query}" if url.query else ""),
        is_secure=is_secure,
    )


def _split(endpoint: str) -> SplitResult:
    try:
        url = urlsplit(endpoint)
    except ValueError:
        raise _bad_endpoint(endpoint) from None
    if url.username is not None or url.password is not None:
        # Without the endpoint: it has a password in it.
        raise ConfigurationError("endpoint: it must not carry a password; use headers")
    if url.scheme not in {"http", "https"} or not url.hostname or not endpoint.isascii() or " " in endpoint:
        raise _bad_endpoint(endpoint)
    return url


def _port(url: SplitResult, endpoint: str) -> int | None:
    try:
        return url.port
    except ValueError:
        raise _bad_endpoint(endpoint) from None


def _bad_endpoint(endpoint: str) -> ConfigurationError:
    return ConfigurationError(f'endpoint: expected "http://host:port" or "https://…", found "{endpoint}"')


def _replace(settings: Settings, **changes: str | int | bool) -> Settings:
    from msgspec.structs import replace

    return replace(settings, **changes)


__all__ = [
    "CUMULATIVE",
    "DEFAULT_SERVICE_NAME",
    "DELTA",
    "GRPC",
    "HTTP",
    "Options",
    "Settings",
    "build_resource",
    "parse_protocol",
    "parse_temporality",
    "read_settings",
    "read_temporality",
]
