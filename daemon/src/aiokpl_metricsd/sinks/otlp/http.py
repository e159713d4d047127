"""OTLP requests -> HTTP, one attempt each. Blocking, for threads, so that it runs under asyncio and trio.

It is built on the standard library, since the SDK's exporter brings 13 MiB for a POST. A connection serves
the requests of one export and is closed after it: one that idled for a minute may break with a request on
its way. Redirects are not followed, and proxies are not used.
"""

import gzip
import socket
import ssl
import zlib
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from importlib import import_module
from threading import Lock
from typing import Any, TypeAlias

from aiokpl_metricsd.errors import RetryableExportError
from aiokpl_metricsd.sinks.otlp.answer import Accepted, judge_status, parse_retry_after
from aiokpl_metricsd.sinks.otlp.settings import Settings
from aiokpl_metricsd.sinks.otlp.transport import USER_AGENT, load_tls

_CONTENT_TYPE = "application/x-protobuf"

# Ours: an answer is a number and a few words; more of one is not read.
_MAX_ANSWER_BYTES = 64 * 1024

# Ours: metrics are text that repeats; higher levels take twice the time for a tenth.
_COMPRESSION_LEVEL = 5

_Foreign: TypeAlias = Any


class HttpTransport:
    """An URL to which requests are posted.

    Args:
        settings: `protocol` is `HTTP`.

    Raises:
        ConfigurationError: a certificate cannot be used.
        ModuleNotFoundError: the protocol's package is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        """Import the protocol's messages and load the certificates."""
        service: _Foreign = import_module("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
        self._settings = settings
        self._response: _Foreign = service.ExportMetricsServiceResponse
        self._tls = load_tls(settings) if settings.is_secure else None

    def begin(self) -> "HttpCall":
        """Return a call for the requests of one export."""
        return HttpCall(self._settings, self._tls, self._response)

    def close(self) -> None:
        """Do nothing: each call closes its connection."""


class HttpCall:
    """The requests of one export, over one connection as long as the backend keeps it."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext | None, response: _Foreign) -> None:
        """Connect with the first request."""
        self._settings = settings
        self._tls = tls
        self._response = response
        self._lock = Lock()
        self._socket: socket.socket | None = None
        self._connection: HTTPConnection | None = None
        self._is_aborted = False
        self._is_sending = False
        self._headers = {
            "user-agent": USER_AGENT,
            **dict(settings.headers),
            "content-type": _CONTENT_TYPE,
        }
        if settings.compression != "none":
            self._headers["content-encoding"] = settings.compression

    def send(self, message: _Foreign) -> Accepted:
        """Make one attempt.

        Raises:
            RetryableExportError: nothing was taken.
            PermanentExportError: the same will be refused again.
            TimeoutError: the backend may have taken it.
            ConnectionError: the same.
        """
        body = compress(message.SerializeToString(), self._settings.compression)
        self._is_sending = True
        try:
            return self._send(body)
        finally:
            self._is_sending = False
            if self._is_aborted:
                self._disconnect()

    def _send(self, body: bytes) -> Accepted:
        try:
            connection = self._connect()
        except OSError as error:
            self._disconnect()
            raise RetryableExportError(f"cannot connect to {self._settings.endpoint}: {error}") from error
        try:
            response = self._post(connection, body)
        except TimeoutError:
            self._disconnect()
            raise TimeoutError(f"no answer within {self._settings.timeout_s:g} s") from None
        except (OSError, HTTPException) as error:
            self._disconnect()
            reason = f"{type(error).__name__}: {error}"
            raise ConnectionError(
                f"the connection broke, the request may have been taken: {reason}"
            ) from error
        answer = _read_answer(response)
        if not response.isclosed() or response.will_close:
            self._disconnect()
        return self._judge(response, answer)

    def abort(self) -> None:
        """End `send` at once: what waits for the socket wakes with an error."""
        with self._lock:
            self._is_aborted = True
            if self._socket is not None:
                # It may not be connected, or not any more. Not the TLS socket's own method: that one takes
                # the TLS away from under the thread that reads.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; a `send` still at work, which `abort` told to end, does so itself."""
        if not self._is_sending:
            self._disconnect()

    def _connect(self) -> HTTPConnection:
        """Return the open connection, or a new one.

        Raises:
            OSError: there is none; nothing was sent.
        """
        if self._connection is not None:
            return self._connection
        settings = self._settings
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        ):
            try:
                plain = self._keep(socket.socket(family, kind, protocol))
                plain.settimeout(settings.timeout_s)
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made: socket.socket = plain
                if self._tls is not None:
                    wrapped = self._tls.wrap_socket(
                        plain, server_hostname=settings.host, do_handshake_on_connect=False
                    )
                    made = self._keep(wrapped)
                    wrapped.do_handshake()
            except OSError as error:
                failure = error
                self._disconnect()
                if self._is_aborted:
                    break
            else:
                connection = HTTPConnection(settings.host, settings.port)
                connection.auto_open = 0
                connection.sock = made
                self._connection = connection
                return connection
        raise failure or OSError("the host has no address")

    def _keep(self, made: socket.socket) -> socket.socket:
        """Keep a socket where `abort` finds it.

        Raises:
            ConnectionAbortedError: `abort` was called before.
        """
        with self._lock:
            self._socket = made
            if self._is_aborted:
                raise ConnectionAbortedError("given up")
        return made

    def _post(self, connection: HTTPConnection, body: bytes) -> HTTPResponse:
        try:
            connection.request("POST", self._settings.path, body, self._headers)
        except (BrokenPipeError, ConnectionResetError):
            # A backend may answer before it has read everything, as 413, and close.
            return connection.getresponse()
        return connection.getresponse()

    def _disconnect(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _judge(self, response: HTTPResponse, answer: bytes) -> Accepted:
        is_protobuf = response.headers.get_content_type() == _CONTENT_TYPE
        error = judge_status(
            response.status,
            _read_words(answer, is_protobuf=is_protobuf) or response.reason,
            parse_retry_after(response.headers.get("Retry-After")),
            response.headers.get("Location"),
        )
        if error is not None:
            raise error
        decode_error: _Foreign = import_module("google.protobuf.message").DecodeError
        try:
            partial = self._response.FromString(answer).partial_success
        except decode_error:
            # The status says that it was taken.
            return Accepted()
        return Accepted(max(0, partial.rejected_data_points), partial.error_message)


def _read_answer(response: HTTPResponse) -> bytes:
    """Return the body. The status has decided already, so a body that breaks off has nothing to say."""
    try:
        return response.read(_MAX_ANSWER_BYTES)
    except (OSError, HTTPException):
        return b""


def compress(body: bytes, compression: str) -> bytes:
    """Return the body as a Content-Encoding wants it.

    Args:
        body: the serialised request.
        compression: "none", "gzip" or "deflate".
    """
    if compression == "gzip":
        return gzip.compress(body, _COMPRESSION_LEVEL, mtime=0)
    return zlib.compress(body, _COMPRESSION_LEVEL) if compression == "deflate" else body


def _read_words(answer: bytes, *, is_protobuf: bool) -> str:
    """Return the words of an error's body: a google.rpc.Status, or text."""
    if is_protobuf:
        status: _Foreign = import_module("google.rpc.status_pb2")
        decode_error: _Foreign = import_module("google.protobuf.message").DecodeError
        try:
            return str(status.Status.FromString(answer).message)
        except decode_error:
            return ""
    return answer.decode("utf-8", "replace")


__all__ = ["HttpCall", "HttpTransport", "compress"]
