"""Requests -> PutMetricData, through the SDK or through a client that the application brings.

Serialising and compressing 1,000 datums costs botocore 40 ms, all of it on the event loop (`docs/sinks/
cloudwatch.md` has the figures). So `DirectSender` hands the SDK a body that is ready: the same AWS JSON 1.0,
encoded by msgspec and compressed in a thread, for 7 ms in short pieces. It takes the place of the empty one
in the event `before-call`, after which the SDK signs and sends it as its own. Where the SDK speaks another
protocol, and with a client of the application's, `PlainSender` calls `put_metric_data` with dictionaries.
"""

import asyncio
import json
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Final, Protocol, TypeVar

from anyio import to_thread
from msgspec import Struct, to_builtins
from msgspec.json import Encoder

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.cloudwatch.datum import Datum
from aiokpl_metricsd.sinks.importing import import_alone

# botocore compresses from here (botocore 1.43.117, its default of request_min_compression_size_bytes, read
# 2026-11).
MIN_COMPRESSED_BYTES: Final = 10_240

# Ours: 332 KB become 51 KB in 1.3 ms at level 1, 41 KB in 3.0 ms at 6, 40 KB in 5.5 ms at 9 (measured
# 2026-11); bytes sent to CloudWatch cost nothing.
_GZIP_LEVEL = 1
# zlib: 15 bits of window and 16 for a gzip header.
_GZIP_WBITS = 31

# Ours: where the SDK serialises on the loop, so many datums keep the loop for less than 10 ms.
_PLAIN_DATUMS = 200

_HEAD = '{{"Namespace":{},"MetricData":['
_TAIL = b"]}"

_ENCODER = Encoder()

# What takes the place of the SDK's body, in the task that makes the call.
_body: ContextVar[tuple[bytes, bool] | None] = ContextVar("_body", default=None)

ClientFactory = Callable[[], AbstractAsyncContextManager[Any]]
Part = TypeVar("Part")


class ClientOptions(Struct, frozen=True, kw_only=True):
    """What the SDK's client is made of; as the sink's arguments.

    Attributes:
        connect_timeout_s: seconds.
        read_timeout_s: seconds.
        max_connections: at once.
    """

    region: str
    endpoint_url: str | None
    verify_ssl: bool
    aws_access_key_id: str | None
    aws_secret_access_key: str | None
    aws_session_token: str | None
    connect_timeout_s: float
    read_timeout_s: float
    max_connections: int

    def __repr__(self) -> str:
        """Return the region: the keys are secret."""
        return f"ClientOptions(region={self.region!r})"


class Sender(Protocol[Part]):
    """Sends requests.

    Attributes:
        frame_bytes: what a body holds beside its datums.
        max_datums: that one request should hold so that the event loop is not kept.
    """

    frame_bytes: int
    max_datums: int | None

    def encode(self, datum: Datum) -> tuple[Part, int]:
        """Return the datum in the client's form, and at least the bytes that it takes in a body."""
        ...

    async def send(self, parts: Sequence[Part]) -> None:
        """Make one attempt. Raises whatever the client does."""
        ...


class DirectSender:
    """Hands the SDK's client a body that is ready."""

    max_datums: int | None = None

    def __init__(self, client: Any, namespace: str, *, compress: bool) -> None:  # noqa: ANN401 - it has no types
        """Register with the client, which is ours alone."""
        self._client = client
        self._namespace = namespace
        self._compress = compress
        self._head = _HEAD.format(json.dumps(namespace)).encode()
        self.frame_bytes = len(self._head) + len(_TAIL)
        client.meta.events.register("before-call.cloudwatch.PutMetricData", _replace_body)

    def encode(self, datum: Datum) -> tuple[bytes, int]:
        """Return the datum as JSON, and its length with a comma."""
        return encode_json(datum)

    async def send(self, parts: Sequence[bytes]) -> None:
        """Make one attempt."""
        body = b"".join((self._head, b",".join(parts), _TAIL))
        compressed = self._compress and len(body) >= MIN_COMPRESSED_BYTES
        if compressed:
            body = await to_thread.run_sync(zlib.compress, body, _GZIP_LEVEL, _GZIP_WBITS)
        token = _body.set((body, compressed))
        try:
            await self._client.put_metric_data(Namespace=self._namespace)
        finally:
            _body.reset(token)


class PlainSender:
    """Calls `put_metric_data` with the datums as dictionaries."""

    def __init__(self, client: Any, namespace: str, *, max_datums: int | None = None) -> None:  # noqa: ANN401 - any client
        """Keep the client."""
        self._client = client
        self._namespace = namespace
        self.max_datums = max_datums
        self.frame_bytes = len(json.dumps({"Namespace": namespace, "MetricData": []}))

    def encode(self, datum: Datum) -> tuple[dict[str, Any], int]:
        """Return the datum as a dictionary, and its length as json writes it, wider than any SDK does."""
        part: dict[str, Any] = to_builtins(datum)
        size_bytes = len(json.dumps(part)) + len(", ")
        part["Dimensions"] = list(part.get("Dimensions", ()))
        part["Timestamp"] = datetime.fromtimestamp(datum.timestamp, UTC)
        return part, size_bytes

    async def send(self, parts: Sequence[dict[str, Any]]) -> None:
        """Make one attempt."""
        await self._client.put_metric_data(Namespace=self._namespace, MetricData=list(parts))


def encode_json(datum: Datum) -> tuple[bytes, int]:
    """Return a datum as AWS JSON 1.0, and its length with a comma."""
    part = _ENCODER.encode(datum)
    return part, len(part) + 1


def _replace_body(params: dict[str, Any], **_: object) -> None:
    """Let the call that is being made carry our body."""
    ready = _body.get()
    if ready is not None:
        params["body"], compressed = ready
        if compressed:
            params["headers"]["Content-Encoding"] = "gzip"


class RedirectedError(Exception):
    """The answer is of another place than was asked, so it says nothing of what was sent.

    Attributes:
        response: what the place that was asked said, as the SDK's own errors have it.
    """

    def __init__(self, status: int, location: str) -> None:
        """Keep where it led to."""
        message = f"{status} to {location}, whose answer does not count; set endpoint_url"
        super().__init__(message)
        self.response = {
            "Error": {"Code": "Redirected", "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }


def _refuse_redirect(response: tuple[Any, Any] | None = None, **_: object) -> None:
    """Raise where the SDK's HTTP client was redirected.

    It follows without a word, mostly as a GET without a body, and cannot be told not to (aiobotocore 3.10,
    read 2026-11). So a page that answers 200, as a proxy's, would pass for metrics taken.

    Raises:
        RedirectedError: it was.
    """
    history = () if response is None else getattr(response[0].raw, "history", ())
    if history:
        first = history[0]
        raise RedirectedError(first.status, first.headers.get("Location", "nowhere"))


async def check_client(options: ClientOptions) -> None:
    """See that the SDK is there and finds credentials.

    Raises:
        ConfigurationError: it is not, or does not.
    """
    try:
        await _check_credentials(await _open_session(), options)
    except ConfigurationError:
        raise
    except Exception as error:  # a profile that is not there, a file in disorder
        raise ConfigurationError(f"cloudwatch: credentials: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def open_sender(
    options: ClientOptions, namespace: str, *, compress: bool
) -> AsyncGenerator[Sender[Any], None]:
    """Open the SDK's client.

    Raises:
        ConfigurationError: the event loop is not asyncio's, the SDK is missing, or there are no credentials.
    """
    async with open_client(options) as client:
        # Not in order to retry: it is the one event that has the HTTP client's own answer.
        client.meta.events.register("needs-retry.cloudwatch.PutMetricData", _refuse_redirect)
        if getattr(client.meta.service_model, "resolved_protocol", "") == "json":
            yield DirectSender(client, namespace, compress=compress)
        else:
            yield PlainSender(client, namespace, max_datums=_PLAIN_DATUMS)


async def locate_service(options: ClientOptions) -> str:
    """Return the URL that the SDK would send to, or that of the proxy on the way there.

    Raises:
        ConfigurationError: as `open_client`.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    async with open_client(options) as client:
        url: str = client.meta.endpoint_url
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return url
    return getproxies().get(parts.scheme, url)


async def probe_service(options: ClientOptions, namespace: str) -> None:
    """Send a request without a datum: who may not send is told so, and nobody's metrics change.

    Raises:
        Exception: the SDK's, with the service's answer; or the connection's own.
    """
    async with open_client(options) as client:
        client.meta.events.register("needs-retry.cloudwatch.PutMetricData", _refuse_redirect)
        await client.put_metric_data(Namespace=namespace, MetricData=[])


@asynccontextmanager
async def open_client(options: ClientOptions) -> AsyncGenerator[Any, None]:
    """Open the SDK's client, which connects to nobody yet.

    Raises:
        ConfigurationError: the event loop is not asyncio's, the SDK is missing, or there are no credentials.
    """
    session = await _open_session()
    await _check_credentials(session, options)
    config = import_module("aiobotocore.config").AioConfig(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.max_connections,
        # One attempt: delivery owns the only loop. What is sent is validated, and compressed, before.
        retries={"total_max_attempts": 1, "mode": "standard"},
        parameter_validation=False,
        disable_request_compression=True,
    )
    creating = session.create_client(
        "cloudwatch",
        region_name=options.region,
        endpoint_url=options.endpoint_url,
        verify=options.verify_ssl,
        aws_access_key_id=options.aws_access_key_id,
        aws_secret_access_key=options.aws_secret_access_key,
        aws_session_token=options.aws_session_token,
        config=config,
    )
    async with creating as client:
        yield client


async def _open_session() -> Any:  # noqa: ANN401 - it has no types
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "cloudwatch: the SDK runs under asyncio only; under another event loop give a client_factory"
        ) from None
    try:
        # Importing takes 0.2 s, and the service model 20 ms more: in a thread, as events arrive meanwhile.
        return await to_thread.run_sync(import_alone, _import_session)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"cloudwatch: there is no module {error.name}; pip install 'aiokpl-metricsd[cloudwatch]'"
        ) from error


def _import_session() -> Any:  # noqa: ANN401 - it has no types
    import_module("aiobotocore.config")
    session = import_module("aiobotocore.session").get_session()
    loader = session.get_component("data_loader")
    # It keeps what it has loaded, so that creating the client finds it.
    loader.load_service_model("cloudwatch", "service-2")
    loader.load_service_model("cloudwatch", "endpoint-rule-set-1")
    loader.load_data("endpoints")
    return session


async def _check_credentials(session: Any, options: ClientOptions) -> None:  # noqa: ANN401 - it has no types
    if options.aws_access_key_id is None and await session.get_credentials() is None:
        raise ConfigurationError(
            "cloudwatch: no credentials; set aws_access_key_id and aws_secret_access_key, or let the SDK "
            "find them in the environment, a profile or the role of the container or instance"
        )


__all__ = [
    "MIN_COMPRESSED_BYTES",
    "ClientFactory",
    "ClientOptions",
    "DirectSender",
    "PlainSender",
    "RedirectedError",
    "Sender",
    "check_client",
    "encode_json",
    "locate_service",
    "open_client",
    "open_sender",
    "probe_service",
]
