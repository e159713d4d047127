"""Settings -> where the receiver is, and whether it takes a request. Nothing of what it takes is a metric."""

from anyio import move_on_after, to_thread

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.sinks.contract import Endpoint
from aiokpl_metricsd.sinks.otlp.settings import HTTP, Settings
from aiokpl_metricsd.sinks.otlp.transport import Transport, load_tls


def locate_receiver(settings: Settings) -> Endpoint | None:
    """Return where the receiver is; None of one on a Unix socket.

    Raises:
        ConfigurationError: a file that TLS needs cannot be used.
    """
    if settings.protocol == HTTP:
        tls = load_tls(settings) if settings.is_secure else None
        return Endpoint(settings.host, settings.port, tls, speaks_http=True)
    host, _, port = settings.target.rpartition(":")
    if not port.isdecimal() or settings.target.startswith("unix:"):
        return None
    tls = load_tls(settings) if settings.is_secure else None
    if tls is not None:
        # Servers of gRPC end a greeting that does not ask for it.
        tls.set_alpn_protocols(["h2"])
    return Endpoint(host.removeprefix("[").removesuffix("]"), int(port), tls)


async def probe_receiver(transport: Transport, timeout_s: float) -> None:
    """Send a request without a point.

    The protocol asks receivers to answer it with success (opentelemetry.io/docs/specs/otlp, read 2026-11).

    Raises:
        RetryableExportError: it is not taken now, or there is no answer.
        PermanentExportError: it is refused.
    """
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    call = transport.begin()
    try:
        with move_on_after(timeout_s):
            await to_thread.run_sync(call.send, ExportMetricsServiceRequest(), abandon_on_cancel=True)
            return
        raise RetryableExportError(f"no answer within {timeout_s:g} s")
    except (ConnectionError, TimeoutError) as error:
        raise RetryableExportError(f"no answer: {error}") from error
    finally:
        call.abort()
        await to_thread.run_sync(call.close)


__all__ = ["locate_receiver", "probe_receiver"]
