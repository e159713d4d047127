"""A CloudWatch that enforces every documented limit of PutMetricData, which emulators do not.

As the service does, it refuses a whole request for one bad datum. The limits are those of the service
model 2010-08-01 (botocore 1.43.117) and its text, read 2026-11, written down here a second time so that a
mistake in the sink's own constants shows. It speaks AWS JSON 1.0 on the loopback, checks the signature, and
answers by script where it is told to.
"""

import asyncio
import gzip
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from aiohttp import web

ACCESS_KEY_ID = "AKIDEXAMPLE"
SECRET_ACCESS_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "eu-west-1"

MAX_BODY_BYTES = 1_000_000
MAX_DATUMS = 1000
MAX_DIMENSIONS = 30
MAX_VALUES = 150
LIMIT = 2.0**360
TINY = 8.515920e-109
_UNIT_TABLE = """
    Seconds Microseconds Milliseconds Bytes Kilobytes Megabytes Gigabytes Terabytes Bits Kilobits Megabits
    Gigabits Terabits Percent Count Bytes/Second Kilobytes/Second Megabytes/Second Gigabytes/Second
    Terabytes/Second Bits/Second Kilobits/Second Megabits/Second Gigabits/Second Terabits/Second Count/Second
    None
"""
UNITS = frozenset(_UNIT_TABLE.split())

Payload = dict[str, Any]


class Violation(Exception):  # noqa: N818 - it is one
    """What is wrong with a request."""


class SignatureViolation(Violation):
    """It is not signed by who it says."""


def check_payload(payload: Payload, now: float) -> None:
    """Raise `Violation` where the service would refuse the request."""
    _only(payload, {"Namespace", "MetricData"})
    namespace = payload.get("Namespace", "")
    _check_text(namespace, 255, "Namespace")
    if namespace.startswith((":", "AWS/")):
        raise Violation("Namespace is reserved")
    data = payload.get("MetricData")
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_DATUMS:
        raise Violation("MetricData holds 1 to 1000 datums")
    for datum in data:
        check_datum(datum, now)


def check_datum(datum: Payload, now: float) -> None:
    """Raise `Violation` where one datum would fail its request."""
    _only(
        datum,
        {
            *("MetricName", "Dimensions", "Timestamp", "Value", "Values", "Counts"),
            *("StatisticValues", "Unit", "StorageResolution"),
        },
    )
    _check_text(datum.get("MetricName"), 255, "MetricName")
    _check_dimensions(datum.get("Dimensions", []))
    timestamp = datum.get("Timestamp", now)
    if not isinstance(timestamp, (int, float)) or not now - 14 * 86_400 <= timestamp <= now + 2 * 3600:
        raise Violation(f"Timestamp {timestamp!r} is not within two weeks and two hours")
    if datum.get("Unit", "None") not in UNITS:
        raise Violation("Unit is none of the 27")
    if datum.get("StorageResolution", 60) not in {1, 60}:
        raise Violation("StorageResolution is 1 or 60")
    if not {"Value", "Values", "StatisticValues"} & datum.keys():
        raise Violation("a datum without a value")
    if "Value" in datum:
        _check_number(datum["Value"])
    if "StatisticValues" in datum:
        _check_statistics(datum["StatisticValues"])
    _check_values(datum)


def _check_dimensions(dimensions: Any) -> None:  # noqa: ANN401 - out of JSON
    if not isinstance(dimensions, list) or len(dimensions) > MAX_DIMENSIONS:
        raise Violation("at most 30 dimensions")
    names: set[str] = set()
    for dimension in dimensions:
        _only(dimension, {"Name", "Value"})
        _check_text(dimension.get("Name"), 255, "dimension name")
        _check_text(dimension.get("Value"), 1024, "dimension value")
        if dimension["Name"].startswith(":") or dimension["Name"] in names:
            raise Violation("a dimension name begins with a colon, or comes twice")
        names.add(dimension["Name"])


def _check_text(text: Any, max_chars: int, what: str) -> None:  # noqa: ANN401 - out of JSON
    if not isinstance(text, str) or not 1 <= len(text) <= max_chars:
        raise Violation(f"{what} has 1 to {max_chars} characters")
    if not text.strip() or re.search(r"[^\x20-\x7e]", text):
        raise Violation(f"{what} is blank, or not printable ASCII")


def _check_number(number: Any) -> None:  # noqa: ANN401 - out of JSON
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not -LIMIT <= number <= LIMIT:
        raise Violation(f"{number!r} is outside of -2^360 to 2^360")
    if number and abs(number) < TINY:
        raise Violation(f"{number!r} is too small")


def _check_statistics(statistics: Any) -> None:  # noqa: ANN401 - out of JSON
    _only(statistics, {"SampleCount", "Sum", "Minimum", "Maximum"})
    if len(statistics) != 4:
        raise Violation("StatisticValues are incomplete")
    for number in statistics.values():
        _check_number(number)
    if statistics["SampleCount"] <= 0 or statistics["Minimum"] > statistics["Maximum"]:
        raise Violation("StatisticValues contradict each other")


def _check_values(datum: Payload) -> None:
    if "Values" not in datum:
        if "Counts" in datum:
            raise Violation("Counts without Values")
        return
    values, counts = datum["Values"], datum.get("Counts", [1] * len(datum["Values"]))
    if not 1 <= len(values) <= MAX_VALUES or len(values) != len(counts) or len(set(values)) != len(values):
        raise Violation("Values are 1 to 150, each once, with as many Counts")
    for number in (*values, *counts):
        _check_number(number)
    if min(counts) <= 0:
        raise Violation("a count is above zero")
    statistics = datum.get("StatisticValues")
    if statistics is not None:
        if sum(counts) != statistics["SampleCount"] and float(sum(counts)) != statistics["SampleCount"]:
            raise Violation("Counts and SampleCount differ")
        if min(values) < statistics["Minimum"] or max(values) > statistics["Maximum"]:
            raise Violation("Values are outside of Minimum and Maximum")


def _only(table: Any, known: Iterable[str]) -> None:  # noqa: ANN401 - out of JSON
    if not isinstance(table, dict) or set(table) - set(known):
        raise Violation(f"unknown members in {table!r}")


def load_strictly(body: bytes) -> Payload:
    """Return the JSON of a body; NaN and infinity are no JSON."""

    def refuse(word: str) -> float:
        raise Violation(f"{word} is no JSON")

    payload: Payload = json.loads(body, parse_constant=refuse)
    return payload


@dataclass(frozen=True)
class Answer:
    """What the service says to one request, instead of looking at it.

    `hang` keeps the request until the client gives up; `reset` closes the connection; `gate` is waited for.
    """

    status: int = 200
    code: str = ""
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    gate: asyncio.Event | None = None


THROTTLED = Answer(400, "ThrottlingException", "Rate exceeded")
FAILED = Answer(500, "InternalServiceFault", "try again")
EXPIRED = Answer(403, "ExpiredToken", "The security token included in the request is expired")
TOO_LARGE = Answer(413, "RequestEntityTooLarge", "Request Entity Too Large")
HANG = Answer(hang=True)
RESET = Answer(reset=True)


@dataclass(frozen=True)
class Received:
    """One request."""

    data: list[Payload]
    size_bytes: int
    is_compressed: bool
    headers: dict[str, str]


class CloudWatchStub:
    """The service, while it is entered.

    Attributes:
        script: what to say to each of the next requests; None looks at it. Afterwards every request is
            looked at.
        poison: a datum of these names is refused for reasons of the service's own.
        requests: every request, in order of arrival.
        accepted: the datums taken.
        refused: what each refused request was refused for.
        most_at_once: requests that were under way at the same time.
    """

    def __init__(self, script: Sequence[Answer | None] = (), *, poison: Iterable[str] = ()) -> None:
        self.script = list(script)
        self.poison = frozenset(poison)
        self.max_body_bytes = MAX_BODY_BYTES
        self.clock: Callable[[], float] = time.time
        self.requests: list[Received] = []
        self.accepted: list[Payload] = []
        self.refused: list[str] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._leaving = asyncio.Event()
        self._changed = asyncio.Event()
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/", self._handle)
        self._runner = web.AppRunner(app, auto_decompress=False, handler_cancellation=True)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leaving.set()
        await self._runner.cleanup()

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a sink that talks to this."""
        return {
            "region": REGION,
            "endpoint_url": self.url,
            "aws_access_key_id": ACCESS_KEY_ID,
            "aws_secret_access_key": SECRET_ACCESS_KEY,
        }

    async def wait_at_once(self, count: int) -> None:
        """Wait until so many requests are under way."""
        while self._at_once < count:
            self._changed.clear()
            await self._changed.wait()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self._changed.set()
        try:
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        is_compressed = request.headers.get("Content-Encoding") == "gzip"
        body = gzip.decompress(raw) if is_compressed else raw
        payload = load_strictly(body)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Received(payload.get("MetricData", []), len(body), is_compressed, headers))
        answer = self.script.pop(0) if self.script else None
        if answer is not None and answer.reset:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if answer is not None and answer.hang:
            await self._leaving.wait()
        if answer is not None and answer.gate is not None:
            await answer.gate.wait()
        if answer is not None and answer.status != 200:
            return _refuse(answer)
        try:
            check_protocol(headers, raw)
            if len(body) > self.max_body_bytes:
                self.refused.append("413")
                return _refuse(TOO_LARGE)
            check_payload(payload, self.clock())
            self._check_own(payload["MetricData"])
        except Violation as violation:
            self.refused.append(str(violation))
            if isinstance(violation, SignatureViolation):
                return _refuse(Answer(403, "SignatureDoesNotMatch", str(violation)))
            return _refuse(Answer(400, "InvalidParameterValue", str(violation)))
        self.accepted += payload["MetricData"]
        return web.json_response({}, content_type="application/x-amz-json-1.0")

    def _check_own(self, data: list[Payload]) -> None:
        if any(datum["MetricName"] in self.poison for datum in data):
            raise Violation("reasons of its own")


def isolate(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let the SDK find no credentials of the machine, and ask nothing on the network."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "credentials"))


def _refuse(answer: Answer) -> web.Response:
    body = {"__type": f"com.amazonaws.cloudwatch#{answer.code}", "message": answer.message}
    return web.json_response(
        body, status=answer.status, headers=answer.headers, content_type="application/x-amz-json-1.0"
    )


def check_protocol(headers: dict[str, str], raw: bytes) -> None:
    """Raise `Violation` where a request is no PutMetricData in AWS JSON 1.0, or not signed as it stands."""
    if headers.get("x-amz-target") != "GraniteServiceVersion20100801.PutMetricData":
        raise Violation("another operation")
    if headers.get("content-type") != "application/x-amz-json-1.0":
        raise Violation("another protocol")
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=[^/]+/(?P<scope>(?P<day>\d+)/[^,]+), "
        r"SignedHeaders=(?P<names>[^,]+), Signature=(?P<signature>\w+)",
        headers.get("authorization", ""),
    )
    if found is None:
        raise Violation("no signature")
    canonical = "\n".join(
        [
            *("POST", "/", ""),
            *(f"{name}:{' '.join(headers[name].split())}" for name in found["names"].split(";")),
            *("", found["names"], hashlib.sha256(raw).hexdigest()),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], found["scope"], digest])
    key = f"AWS4{SECRET_ACCESS_KEY}".encode()
    for step in found["scope"].split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    if hmac.digest(key, text.encode(), "sha256").hex() != found["signature"]:
        raise SignatureViolation("the signature is of something else")


__all__ = [
    "ACCESS_KEY_ID",
    "EXPIRED",
    "FAILED",
    "HANG",
    "REGION",
    "RESET",
    "SECRET_ACCESS_KEY",
    "THROTTLED",
    "TOO_LARGE",
    "Answer",
    "CloudWatchStub",
    "Received",
    "Violation",
    "check_datum",
    "check_payload",
    "check_protocol",
    "isolate",
    "load_strictly",
]
