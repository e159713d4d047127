"""A local Datadog intake: refuses what the documents and the client's own models do not allow.

Counts and gauges are kept as Datadog keeps them, the last value of a series and second; distribution points
add up. What it is to answer can be scripted, for both endpoints or for one.
"""

import gzip
import json
import re
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, NamedTuple, Self

from datadog_api_client import Configuration
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.v1.model.distribution_points_payload import DistributionPointsPayload
from datadog_api_client.v2.model.metric_payload import MetricPayload

# "Submit metrics", v2, and "Submit distribution points", v1 (docs.datadoghq.com/api/latest/metrics, read
# 2026-11). The second page has no limits; the first one's are asked of it as well.
MAX_COMPRESSED_BYTES = 512_000
MAX_DECOMPRESSED_BYTES = 5_242_880
MAX_AGE_S = 3_600
MAX_LEAD_S = 600
# DataDog/documentation, metrics/custom_metrics and getting_started/tagging (read 2026-11).
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}")
MAX_TAG_CHARS = 200
MAX_VALUE = 3.4028234663852886e38

SERIES = "/api/v2/series"
VALIDATE = "/api/v1/validate"
DISTRIBUTIONS = "/api/v1/distribution_points"
COUNT, GAUGE = 1, 3

_ENCODINGS = {SERIES: {"deflate", "gzip"}, DISTRIBUTIONS: {"deflate"}}
_MODELS = {SERIES: (MetricPayload,), DISTRIBUTIONS: (DistributionPointsPayload,)}


class Key(NamedTuple):
    """One series and second."""

    host: str
    metric: str
    tags: tuple[str, ...]
    timestamp: int


class Answer(NamedTuple):
    """What to do with one request.

    Attributes:
        status: what to answer; 0 to close the connection without an answer, -1 to say nothing.
        body: of the answer.
        headers: of the answer.
        takes: keep what the request carries, whatever the answer.
        path: answer so only on this path; requests to the other one are not affected.
    """

    status: int
    body: str = '{"errors": ["scripted"]}'
    headers: tuple[tuple[str, str], ...] = ()
    takes: bool = False
    path: str = ""


RESET = Answer(0)
HANG = Answer(-1)


class RefusedError(Exception):
    """The body breaks a rule."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class DatadogIntake:
    """The intake; a context manager.

    Args:
        script: answers to the first requests.
        api_key: the one that is accepted.
        check_models: ask the client's models too; ten seconds for 100,000 series.
        max_points: refuse bodies of more entries with 413.

    Attributes:
        values: the last value by series and second.
        points: the distribution's values by series and second.
        types: COUNT or GAUGE by metric name.
        units: by metric name.
        intervals: by metric name.
        refusals: why requests were refused that no script refused.
        requests: path, encoding and size of every request that came.
        poison: metric names that are refused with 400.
        asked: set at each request that is not to be answered.
        ahead_s: how far its clock is ahead of this machine's.
        validations: for each time that it was asked about a key, whether that was valid.
    """

    def __init__(
        self,
        *script: Answer,
        api_key: str = "KEY",
        check_models: bool = True,
        max_points: int | None = None,
    ) -> None:
        self.values: dict[Key, float] = {}
        self.points: dict[Key, list[float]] = {}
        self.types: dict[str, int | str] = {}
        self.units: dict[str, str] = {}
        self.intervals: dict[str, int] = {}
        self.refusals: list[str] = []
        self.requests: list[tuple[str, str, int]] = []
        self.accepted: Counter[str] = Counter()
        self.poison: set[str] = set()
        self.script = list(script)
        self.asked = Event()
        self.ahead_s = 0.0
        self.validations: list[bool] = []
        self.before_answer: Callable[[], None] | None = None
        self._api_key = api_key
        self.check_models = check_models
        self._max_points = max_points
        self._lock = Lock()
        self._released = Event()
        self._connections: list[socket.socket] = []
        self._server = _Server(("127.0.0.1", 0), self._build_handler())
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def total(self, metric: str) -> float:
        """Return the sum of a metric's values over all series and seconds."""
        return sum(value for key, value in self.values.items() if key.metric == metric)

    def distribution(self, metric: str) -> list[float]:
        """Return all points of a metric."""
        return [value for key, values in self.points.items() if key.metric == metric for value in values]

    def release(self) -> None:
        """Let go of the connections that hang."""
        self._released.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.release()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Judge a request, keep what it carries, and return the answer."""
        with self._lock:
            encoding = headers.get("content-encoding", "")
            self.requests.append((path, encoding, len(body)))
            scripted = self._next(path)
            if scripted is not None and not scripted.takes:
                return scripted
            try:
                entries = self._check(path, headers, body)
            except RefusedError as refusal:
                self.refusals.append(str(refusal))
                return Answer(refusal.status, json.dumps({"errors": [str(refusal)]}))
            names = {entry["metric"] for entry in entries}
            if names & self.poison:
                return Answer(400, '{"errors": ["poison"]}')
            for entry in entries:
                (self._keep_values if path == SERIES else self._keep_points)(entry)
            self.accepted[path] += 1
            return scripted or Answer(202, '{"errors": []}' if path == SERIES else '{"status": "ok"}')

    def _next(self, path: str) -> Answer | None:
        for number, answer in enumerate(self.script):
            if answer.path in {"", path}:
                return self.script.pop(number)
        return None

    def _check(self, path: str, headers: dict[str, str], body: bytes) -> list[dict[str, Any]]:
        if path not in _ENCODINGS:
            raise RefusedError(404, f"there is no {path}")
        if headers.get("dd-api-key") != self._api_key:
            raise RefusedError(403, "wrong key")
        if len(body) > MAX_COMPRESSED_BYTES:
            raise RefusedError(413, f"{len(body)} bytes compressed")
        encoding = headers.get("content-encoding", "")
        if encoding not in _ENCODINGS[path]:
            raise RefusedError(400, f"encoding {encoding!r} on {path}")
        text = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
        if len(text) > MAX_DECOMPRESSED_BYTES:
            raise RefusedError(413, f"{len(text)} bytes decompressed")
        content = json.loads(text, parse_constant=_refuse_constant)
        entries: list[dict[str, Any]] = content["series"]
        if self._max_points is not None and len(entries) > self._max_points:
            return self._refuse_size(len(entries))
        if self.check_models:
            configuration = Configuration()  # type: ignore[no-untyped-call]
            validate_and_convert_types(  # type: ignore[no-untyped-call]
                content, _MODELS[path], ["body"], True, True, configuration=configuration
            )
        for entry in entries:
            _check_entry(entry)
            self._check_name(entry, path)
        return entries

    def _refuse_size(self, count: int) -> list[dict[str, Any]]:
        raise RefusedError(413, f"{count} entries")

    def _check_name(self, entry: dict[str, Any], path: str) -> None:
        """A metric is of one type, and a distribution hides any other of its name."""
        kind = entry["type"]
        known = self.types.setdefault(entry["metric"], kind)
        if known != kind:
            raise RefusedError(400, f"{entry['metric']} is {known} and {kind}")
        if path == SERIES and kind not in {COUNT, GAUGE}:
            raise RefusedError(400, f"type {kind}")

    def _keep_values(self, entry: dict[str, Any]) -> None:
        host = next(each["name"] for each in entry["resources"] if each["type"] == "host")
        for point in entry["points"]:
            key = Key(host, entry["metric"], tuple(sorted(entry["tags"])), point["timestamp"])
            self.values[key] = point["value"]
        if "unit" in entry:
            self.units[entry["metric"]] = entry["unit"]
        if "interval" in entry:
            self.intervals[entry["metric"]] = entry["interval"]

    def _keep_points(self, entry: dict[str, Any]) -> None:
        for timestamp, values in entry["points"]:
            key = Key(entry["host"], entry["metric"], tuple(sorted(entry["tags"])), timestamp)
            self.points.setdefault(key, []).extend(values)

    def _build_handler(self) -> type[BaseHTTPRequestHandler]:
        intake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one segment: the second would wait for the client's delayed acknowledgement.
            wbufsize = 64 * 1024

            def do_GET(self) -> None:
                """Say whether a key is valid, as api/v1/validate does."""
                is_known = self.path == VALIDATE
                is_valid = self.headers.get("dd-api-key") == intake._api_key
                intake.validations.append(is_valid)
                content = b'{"valid": true}' if is_valid else b'{"errors": ["Forbidden"]}'
                self.send_response((200 if is_valid else 403) if is_known else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_HEAD(self) -> None:
                self.send_response(404)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(timestamp or time.time() + intake.ahead_s)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = intake.take(self.path, headers, body)
                if intake.before_answer is not None:
                    intake.before_answer()
                if answer.status == HANG.status:
                    intake.asked.set()
                    intake._released.wait()
                    self.close_connection = True
                    return
                if answer.status == RESET.status:
                    self.close_connection = True
                    return
                content = answer.body.encode()
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that none outlives it."""

    daemon_threads = True
    block_on_close = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - the base's
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base's
        """A client that went away is no news."""

    def close_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _check_entry(entry: dict[str, Any]) -> None:
    if not NAME.fullmatch(entry["metric"]):
        raise RefusedError(400, f"name {entry['metric']!r}")
    for tag in entry["tags"]:
        check_tag(tag)
    if len(set(entry["tags"])) != len(entry["tags"]):
        raise RefusedError(400, f"a tag twice: {entry['tags']}")
    now = time.time()
    for point in entry["points"]:
        timestamp = point["timestamp"] if isinstance(point, dict) else point[0]
        values = [point["value"]] if isinstance(point, dict) else point[1]
        if not isinstance(timestamp, int) or not now - MAX_AGE_S <= timestamp <= now + MAX_LEAD_S:
            raise RefusedError(400, f"timestamp {timestamp}")
        if not values or not all(-MAX_VALUE <= value <= MAX_VALUE for value in values):
            raise RefusedError(400, f"values {values}")
    if entry["type"] == COUNT and entry.get("interval", 1) < 1:
        raise RefusedError(400, f"interval {entry['interval']}")


def check_tag(tag: str) -> None:
    """Raise where the documents do not allow the tag, or change it.

    Raises:
        RefusedError: they do.
    """
    allowed = all(c in "_-:./" or c.isalpha() or c.isdecimal() for c in tag)
    if not tag[:1].isalpha() or not allowed or len(tag) > MAX_TAG_CHARS:
        raise RefusedError(400, f"tag {tag!r}")
    if tag != tag.lower() or tag.endswith(":"):
        raise RefusedError(400, f"tag {tag!r}")


def _refuse_constant(constant: str) -> float:
    raise RefusedError(400, f"{constant} is no JSON")


__all__ = [
    "COUNT",
    "DISTRIBUTIONS",
    "GAUGE",
    "HANG",
    "RESET",
    "SERIES",
    "Answer",
    "DatadogIntake",
    "Key",
    "RefusedError",
    "check_tag",
]
