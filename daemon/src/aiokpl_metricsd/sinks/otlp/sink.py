"""Snapshots -> OTLP over gRPC or HTTP: one attempt each, and every answer that a backend can give is heard.

The way of an export, which is `export`: `data` encodes as many snapshots as fit into a request, in
a thread; `grpc` or `http` sends it, in a thread; `answer` says what the answer means; the
next request follows. The SDK's exporters are not used: they retry by themselves, report a redirect and a
partial success as success, and keep the reason of a failure to themselves (opentelemetry-exporter-otlp 1.45,
read 2026-11).

Delta figures add: after a deadline or a broken connection nobody knows whether the backend took them, and the
retry may count them twice. Cumulative ones do not.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self
from uuid import uuid4

import msgspec
from anyio import CancelScope, to_thread

from aiokpl_metricsd.errors import (
    ConfigurationError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.log import Throttle
from aiokpl_metricsd.sinks.contract import Endpoint, RepeatRule
from aiokpl_metricsd.sinks.importing import import_alone
from aiokpl_metricsd.sinks.otlp.data import MAX_REQUEST_BYTES, Encoder
from aiokpl_metricsd.sinks.otlp.export import Session, Shipment
from aiokpl_metricsd.sinks.otlp.probe import locate_receiver, probe_receiver
from aiokpl_metricsd.sinks.otlp.settings import (
    CUMULATIVE,
    GRPC,
    Options,
    Settings,
    build_resource,
    parse_protocol,
    parse_temporality,
    read_settings,
    read_temporality,
)
from aiokpl_metricsd.sinks.otlp.totals import Totals
from aiokpl_metricsd.sinks.otlp.transport import Transport
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: after a failure in the middle of a window, the rest of it waits so long where the backend does not
# say.
_RESUME_AFTER_S = 1.0

_logger = logging.getLogger(__name__)


class _Default(str):
    """A default that can be told from the same word given."""

    __slots__ = ()


class OtlpSink:
    """Sends every window by the OpenTelemetry protocol. Documented in docs/sinks/opentelemetry.md.

    Nothing is imported, read or opened before entering. Options that are not given are read from the
    OTEL_EXPORTER_OTLP_* variables then.

    Args:
        endpoint: where to, as `"http://host:port"` or `"https://host:port"`; without it
            `"http://localhost:4317"`, over HTTP `"http://localhost:4318"`. Over HTTP a path is kept, and
            `/v1/metrics` appended where there is none; over gRPC, `unix:///path` is a Unix socket.
        protocol: `"grpc"`, or `"http/protobuf"`, which `"http"` means as well.
        temporality: `"delta"` sends each window's own figures, `"cumulative"` totals since the first window.
        metric_prefix: goes before every metric's name.
        resource: attributes of the resource; they win over `OTEL_RESOURCE_ATTRIBUTES` and
            `OTEL_SERVICE_NAME`.
        headers: sent with every request, in place of `OTEL_EXPORTER_OTLP_HEADERS`; a place for keys.

    Raises:
        ValueError: protocol or temporality is none of these words.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = True
    spread = True
    # Some requests of about 4 MiB: what may be counted twice where a crash comes between. Totals, which a
    # repeat does not change, go as a whole window, with one state to be stored.
    max_batch: int | None = 10_000

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        protocol: str = _Default("grpc"),
        temporality: str = _Default("delta"),
        metric_prefix: str = "aiokpl.",
        resource: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the options."""
        try:
            checked = parse_protocol(protocol)
            parse_temporality(temporality)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        # Read here already: delivery asks for the repeat rule before it enters the sink.
        word = read_temporality(os.environ) if isinstance(temporality, _Default) else temporality
        if word.lower() == CUMULATIVE:
            self.repeat_rule = RepeatRule.CUMULATIVE
            self.max_batch = None
        self._options = Options(
            endpoint=endpoint,
            protocol=None if isinstance(protocol, _Default) else checked,
            temporality=word,
            headers=None if headers is None else dict(headers),
        )
        self._prefix = metric_prefix
        self._resource = dict(resource or {})
        self._instance_id = str(uuid4())
        self._totals = Totals()
        self._max_bytes = MAX_REQUEST_BYTES
        self._session: Session | None = None
        self._throttle = Throttle()
        self._refused: dict[str, int] = {}
        self._points_rejected = 0

    @property
    def refused(self) -> Mapping[str, int]:
        """Snapshots set aside before sending, by the word of a `Refusal`."""
        return MappingProxyType(self._refused)

    @property
    def points_rejected(self) -> int:
        """Points that backends rejected out of accepted requests without saying which: DATA LOSS."""
        return self._points_rejected

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Make one attempt to deliver the snapshots of one window, in as many requests as it takes.

        Raises:
            RetryableExportError: nothing was taken.
            PermanentExportError: nothing was taken, and the same will be refused again.
            PartialExportError: some were taken, or set aside for good.
            TimeoutError: nothing is known to have been taken, and the first request may have been.
            ConnectionError: the same.
        """
        session = self._session
        if session is None or not snapshots:
            return
        shipment = Shipment(session, snapshots, self._max_bytes)
        try:
            await shipment.run()
        except BaseException:
            shipment.call.abort()
            raise
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(shipment.call.close)
        self._max_bytes = shipment.max_bytes
        self._conclude(shipment)

    async def check(self) -> None:
        """Look at options, variables and files without connecting.

        Raises:
            ConfigurationError: one of them cannot be used, or the extra is not installed.
        """
        session = await to_thread.run_sync(self._open)
        await to_thread.run_sync(session.transport.close)

    async def locate(self) -> Endpoint | None:
        """Return where the receiver is; None of one on a Unix socket.

        Raises:
            ConfigurationError: an option, a variable or a file cannot be used.
        """
        return locate_receiver(read_settings(os.environ, self._options))

    async def probe(self, timeout_s: float) -> str:
        """Send a request without a point, which every receiver is to take.

        Raises:
            ConfigurationError: an option, a variable or a file cannot be used, or the extra is not installed.
            RetryableExportError: the receiver does not take it now, or does not answer.
            PermanentExportError: it refuses it.
        """
        session = await to_thread.run_sync(self._open)
        try:
            await probe_receiver(session.transport, timeout_s)
        finally:
            await to_thread.run_sync(session.transport.close)
        return "an empty request is accepted"

    async def __aenter__(self) -> Self:
        """Import the SDK, read the environment, and prepare to connect.

        Raises:
            ConfigurationError: an option, a variable or a file cannot be used, or the extra is not installed.
        """
        await self._leave()
        # In a thread: the SDK takes longer to import than the event loop may stand still.
        self._session = await to_thread.run_sync(self._open)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close the connection. The totals of cumulative temporality are kept."""
        await self._leave()

    def dump_state(self) -> bytes:
        """Return what cumulative temporality needs to go on after a restart: totals and instance id."""
        return msgspec.msgpack.encode((self._instance_id, self._totals.dump()))

    def load_state(self, state: bytes) -> None:
        """Go on from what `dump_state` returned. To be called before entering.

        Raises:
            msgspec.MsgspecError: this is no such state.
        """
        instance_id, totals = msgspec.msgpack.decode(state, type=tuple[str, bytes])
        self._totals.load(totals)
        self._instance_id = instance_id

    def _open(self) -> Session:
        settings = read_settings(os.environ, self._options)
        resource = build_resource(os.environ, self._resource, self._instance_id)
        try:
            return import_alone(lambda: self._build_session(settings, resource))
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"opentelemetry: there is no module {error.name}; pip install 'aiokpl-metricsd[otel]'"
            ) from error

    def _build_session(self, settings: Settings, resource: dict[str, str]) -> Session:
        encoder = Encoder(self._prefix, resource, self._totals if settings.is_cumulative else None)
        return Session(settings, encoder, _build_transport(settings))

    async def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with CancelScope(shield=True):
                await to_thread.run_sync(session.transport.close)

    def _conclude(self, shipment: Shipment) -> None:
        """Count and say what was refused; raise what is left of the export."""
        for words in shipment.warnings:
            self._say(logging.WARNING, "the backend warns", {"error": words})
        for words, rejected, points in shipment.partials:
            self._points_rejected += rejected
            fields = {"rejected_points": rejected, "points": points, "error": words}
            self._say(logging.ERROR, "points lost, rejected by the backend, which does not say which", fields)
        error = shipment.error
        if error is not None and not shipment.accepted_count:
            raise error
        for _, reason in shipment.refused:
            self._refused[reason.value] = self._refused.get(reason.value, 0) + 1
        if error or shipment.remaining or shipment.refused or shipment.partials:
            raise PartialExportError(
                shipment.describe(),
                remaining=shipment.remaining,
                rejected=[snapshot for snapshot, _ in shipment.refused],
                uncertain=shipment.uncertain,
                retry_after_s=_find_retry_after(error),
            ) from error

    def _say(self, level: int, message: str, fields: Mapping[str, object]) -> None:
        times = self._throttle.admit(message)
        if times:
            said = {**fields, **({"times": times} if times > 1 else {})}
            _logger.log(level, message, extra={"fields": said})


def _build_transport(settings: Settings) -> Transport:
    if settings.protocol == GRPC:
        from aiokpl_metricsd.sinks.otlp.grpc import GrpcTransport

        return GrpcTransport(settings)
    from aiokpl_metricsd.sinks.otlp.http import HttpTransport

    return HttpTransport(settings)


def _find_retry_after(error: Exception | None) -> float | None:
    """Return how long what remains waits: not at all where it is to be bisected, or only was not sent yet."""
    if error is None or isinstance(error, PermanentExportError):
        return None
    given = error.retry_after_s if isinstance(error, RetryableExportError) else None
    return _RESUME_AFTER_S if given is None else given


__all__ = ["OtlpSink"]
