"""OTLP receivers over gRPC and HTTP that take metrics and give every answer that one can give, by script.

Both are built on the official protobuf services. What they accepted is kept as requests, in order; a refused
request leaves no trace but its attempt.
"""

# ruff: noqa: ANN401 - protobuf's messages have no types that say more

import gzip
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as pb_grpc

# No answer is waited for longer, whatever a test does wrong.
PATIENCE_S = 20.0

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class Answer(NamedTuple):
    """What a receiver does with one request; the default takes it.

    Attributes:
        code: a gRPC status' name, or None.
        status: an HTTP status.
        words: the status' message.
        retry_after_s: RetryInfo's delay, whole or not; over HTTP the header's text.
        rejected: points of a partial success.
        location: of a redirect.
        body: over HTTP, in place of what the status would have.
        event: "hang", "reset", "close" or "drip" in place of an answer.
        takes: whether the request counts as accepted all the same.
    """

    code: str | None = None
    status: int = 200
    words: str = ""
    retry_after_s: float | str | None = None
    rejected: int = 0
    location: str | None = None
    body: bytes | None = None
    event: str = ""
    takes: bool = False

    @property
    def accepts(self) -> bool:
        """Whether the request is kept."""
        return self.takes or (self.code is None and self.status < 300 and not self.event)


class Receiver:
    """What both receivers have in common.

    Attributes:
        endpoint: for the sink.
        script: the answers to come; when there are none left, everything is taken.
        accepted: the requests taken, in order.
        attempts: how many requests came.
        headers: of each request that came.
        sizes: of each request that came, in bytes, uncompressed.
        encodings: of each request that came, over HTTP.
        paths: of each request that came, over HTTP.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.script: list[Answer] = []
        self.choose: Callable[[Any], Answer] | None = None
        self.accepted: list[Any] = []
        self.attempts = 0
        self.headers: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.encodings: list[str] = []
        self.paths: list[str] = []
        self.arrived = threading.Event()
        self.released = threading.Event()
        self._lock = threading.Lock()

    @property
    def points(self) -> list[tuple[str, str, Any]]:
        """Name, kind of data, and point, of all accepted requests, in order."""
        return [each for request in self.accepted for each in read_points(request)]

    @property
    def metrics(self) -> dict[str, Any]:
        """The accepted metrics by name; the last one of each."""
        return {
            metric.name: metric
            for request in self.accepted
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def resource(self) -> dict[str, str]:
        """The attributes of the last accepted resource."""
        attributes = self.accepted[-1].resource_metrics[0].resource.attributes
        return {each.key: each.value.string_value for each in attributes}

    def receive(self, request: Any, headers: Mapping[str, str], size: int) -> Answer:
        """Note a request and return the next answer."""
        with self._lock:
            self.attempts += 1
            self.headers.append(dict(headers))
            self.sizes.append(size)
            if self.choose is not None:
                answer = self.choose(request)
            else:
                answer = self.script.pop(0) if self.script else Answer()
            if answer.accepts:
                self.accepted.append(request)
        self.arrived.set()
        return answer

    def hang(self) -> None:
        """Wait until the test is over."""
        self.released.wait(PATIENCE_S)


def read_points(request: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield name, kind of data, and point."""
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    yield metric.name, kind, point


def build_response(answer: Answer) -> Any:
    """Return the response of an accepted request."""
    response = pb.ExportMetricsServiceResponse()
    if answer.rejected or answer.words:
        response.partial_success.rejected_data_points = answer.rejected
        response.partial_success.error_message = answer.words
    return response


class _Servicer(pb_grpc.MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        answer = self._receiver.receive(request, headers, request.ByteSize())
        if answer.event:
            self._receiver.hang()
        if answer.code is None:
            return build_response(answer)
        code = grpc.StatusCode[answer.code]
        if answer.retry_after_s is not None:
            status = Status(code=code.value[0], message=answer.words)
            seconds = float(answer.retry_after_s)
            delay = Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))
            detail = AnyMessage()
            detail.Pack(RetryInfo(retry_delay=delay))
            status.details.append(detail)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        return context.abort(code, answer.words)


class Certificates(NamedTuple):
    """Paths of a self-made certificate, which is its own authority, and its key."""

    certificate: Path
    key: Path


@contextmanager
def serve_grpc(
    tls: Certificates | None = None, address: str = "127.0.0.1:0", *, max_bytes: int = MAX_MESSAGE_BYTES
) -> Generator[Receiver]:
    """Serve OTLP over gRPC; with TLS, clients must show the same certificate."""
    receiver = Receiver()
    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, options=[("grpc.max_receive_message_length", max_bytes)])
    register: Any = pb_grpc.add_MetricsServiceServicer_to_server
    register(_Servicer(receiver), server)
    if tls is None:
        port = server.add_insecure_port(address)
    else:
        certificate, key = tls.certificate.read_bytes(), tls.key.read_bytes()
        credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
        port = server.add_secure_port(address, credentials)
    scheme = "https" if tls else "http"
    receiver.endpoint = address if address.startswith("unix:") else f"{scheme}://127.0.0.1:{port}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.stop(0).wait()
        pool.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # The server that made it, by the name it has here.
    _owner: "_Server"

    def do_POST(self) -> None:
        self._owner = cast("_Server", self.server)
        receiver = self._owner.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers.get("Content-Encoding", "")
        if encoding:
            body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
        receiver.encodings.append(encoding)
        receiver.paths.append(self.path)
        request = pb.ExportMetricsServiceRequest.FromString(body)
        headers = {key.lower(): value for key, value in self.headers.items()}
        if len(body) > self._owner.max_bytes:
            self._answer(Answer(status=413, words="too large"))
            receiver.sizes.append(len(body))
            receiver.attempts += 1
            return
        self._answer(receiver.receive(request, headers, len(body)))

    def _answer(self, answer: Answer) -> None:
        if answer.event == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if answer.event == "hang":
            self._owner.receiver.hang()
        if answer.event == "drip":
            self._drip()
        if answer.event:
            self.close_connection = True
            return
        if answer.body is not None:
            body = answer.body
        elif answer.status < 300:
            body = build_response(answer).SerializeToString()
        else:
            body = Status(message=answer.words).SerializeToString()
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain" if answer.body else "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", str(answer.retry_after_s))
        if answer.location is not None:
            self.send_header("Location", answer.location)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        """Answer a byte at a time, so that no single read takes long."""
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Endless: ")
            while not self._owner.receiver.released.wait(0.02):
                self.wfile.write(b".")
        except OSError:
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver
    max_bytes: int

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that break off are what the tests are about."""


@contextmanager
def serve_http(tls: Certificates | None = None, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Generator[Receiver]:
    """Serve OTLP over HTTP; with TLS, clients must show the same certificate."""
    receiver = Receiver()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.receiver, server.max_bytes = receiver, max_bytes
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


__all__ = [
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Certificates",
    "Receiver",
    "build_response",
    "read_points",
    "serve_grpc",
    "serve_http",
]
