"""OTLP requests -> gRPC, one attempt each. Blocking, for threads, so that it runs under asyncio and trio.

gRPC does not say whether UNAVAILABLE is the backend's answer or a connection that broke with the request on
its way. It is taken as the former, so that after the latter a delta may be counted twice.
"""

from importlib import import_module
from threading import Lock
from typing import Any, TypeAlias

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.sinks.otlp.answer import Accepted, judge_code
from aiokpl_metricsd.sinks.otlp.settings import Settings
from aiokpl_metricsd.sinks.otlp.transport import USER_AGENT, load_tls, read_bytes

# gRPC's own wait between two attempts to connect grows to two minutes, during which calls fail without one
# (gRPC connection backoff, read 2026-11). Delivery waits already.
_MAX_RECONNECT_MS = 5_000
_MIN_RECONNECT_MS = 1_000

# Where a status carries details (gRPC "richer error model", read 2026-11).
_DETAILS_KEY = "grpc-status-details-bin"

_NS_PER_S = 1_000_000_000

_Foreign: TypeAlias = Any


class GrpcTransport:
    """A channel to the backend. It connects with the first request.

    Args:
        settings: `protocol` is `GRPC`.

    Raises:
        ConfigurationError: a certificate cannot be used.
        ModuleNotFoundError: gRPC or the exporter's package is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        """Import gRPC and build the channel."""
        grpc: _Foreign = import_module("grpc")
        service: _Foreign = import_module("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc")
        compression = (
            grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
        )
        options = (
            # A sink makes one attempt.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", _MIN_RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", _MIN_RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
            ("grpc.primary_user_agent", USER_AGENT),
        )
        if settings.is_secure:
            # gRPC takes bad files without a word and fails later.
            load_tls(settings)
            credentials = grpc.ssl_channel_credentials(
                root_certificates=read_bytes(settings.certificate),
                private_key=read_bytes(settings.client_key or settings.client_certificate),
                certificate_chain=read_bytes(settings.client_certificate),
            )
            self._channel = grpc.secure_channel(settings.target, credentials, options, compression)
        else:
            self._channel = grpc.insecure_channel(settings.target, options, compression)
        self._grpc = grpc
        self._stub: _Foreign = service.MetricsServiceStub(self._channel)
        self._settings = settings

    def begin(self) -> "GrpcCall":
        """Return a call for the requests of one export."""
        return GrpcCall(self._grpc, self._stub, self._settings)

    def close(self) -> None:
        """Close the channel; what is under way fails."""
        self._channel.close()


class GrpcCall:
    """The requests of one export."""

    def __init__(self, grpc: _Foreign, stub: _Foreign, settings: Settings) -> None:
        """Send nothing yet."""
        self._grpc = grpc
        self._stub = stub
        self._settings = settings
        self._lock = Lock()
        self._future: _Foreign = None
        self._is_aborted = False

    def send(self, message: _Foreign) -> Accepted:
        """Make one attempt.

        Raises:
            RetryableExportError: nothing was taken.
            PermanentExportError: the same will be refused again.
            TimeoutError: the backend may have taken it.
            ConnectionError: the same; `abort` was called.
        """
        with self._lock:
            if self._is_aborted:
                raise ConnectionAbortedError("given up")
            self._future = self._stub.Export.future(
                message, timeout=self._settings.timeout_s, metadata=self._settings.headers
            )
        try:
            response = self._future.result()
        except self._grpc.FutureCancelledError:
            raise ConnectionAbortedError("given up") from None
        except self._grpc.RpcError as error:
            raise _judge(error) from None
        except ValueError as error:
            # The channel was closed.
            raise RetryableExportError(str(error)) from error
        partial = response.partial_success
        return Accepted(max(0, partial.rejected_data_points), partial.error_message)

    def abort(self) -> None:
        """End `send` at once."""
        with self._lock:
            self._is_aborted = True
            if self._future is not None:
                self._future.cancel()

    def close(self) -> None:
        """Do nothing: the connection is the channel's."""


def _judge(error: _Foreign) -> Exception:
    details = error.details() or ""
    return judge_code(error.code().name, details, _read_retry_after(error.trailing_metadata() or ()))


def _read_retry_after(metadata: _Foreign) -> float | None:
    """Return the seconds that the status' RetryInfo asks for; 0 where it names no delay."""
    for key, value in metadata:
        if key == _DETAILS_KEY:
            return parse_retry_info(value)
    return None


def parse_retry_info(details: bytes) -> float | None:
    """Return the seconds of the RetryInfo in a serialised google.rpc.Status, or None.

    Args:
        details: what the backend sent; anything.
    """
    status: _Foreign = import_module("google.rpc.status_pb2")
    retry_info: _Foreign = import_module("google.rpc.error_details_pb2").RetryInfo()
    decode_error: _Foreign = import_module("google.protobuf.message").DecodeError
    try:
        for detail in status.Status.FromString(details).details:
            if detail.Is(retry_info.DESCRIPTOR):
                detail.Unpack(retry_info)
                delay = retry_info.retry_delay
                return float(max(0.0, delay.seconds + delay.nanos / _NS_PER_S))
    except decode_error:
        return None
    return None


__all__ = ["GrpcCall", "GrpcTransport", "parse_retry_info"]
