"""Backends that fail, each in its own way, until they recover: one sink's table for each way.

What a backend can say is said by the stub itself; what it cannot, a hang or a broken connection, is met at a
`Gate` in front of it. None keeps anything of what it fails to answer but `PARTIAL`, which says so.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from tests.support import cloudwatch_stub, datadog_intake, gate, otlp_receiver
from tests.support.backends import Backend, Servers, build_options, url_of
from tests.support.cloudwatch_stub import CloudWatchStub
from tests.support.datadog_intake import DatadogIntake
from tests.support.gate import Gate
from tests.support.otlp_receiver import Receiver

FAILED, THROTTLED, REDIRECT, PARTIAL = "failed", "throttled", "redirect", "partial"

# Longer than any test: who is told to wait does not come again before.
RETRY_AFTER_S = 3_000

# Longer than a backend on the loopback needs, shorter than a test's patience.
REQUEST_TIMEOUT_S = 2

ENVIRON = {"OTEL_EXPORTER_OTLP_TIMEOUT": str(REQUEST_TIMEOUT_S)}

_GATES = (gate.HANG, gate.RESET, gate.CLOSE, gate.REFUSE)

# More answers than any sink asks for.
_MANY = 10_000


class Faulty(Struct, frozen=True):
    """A backend that fails.

    Attributes:
        kind: one of `backends.NAMES`.
        fault: a word of this module, or of `gate`.
        backend: what keeps what is taken.
        gate: in front of it, or None.
    """

    kind: str
    fault: str
    backend: Backend
    gate: Gate | None = None

    @property
    def name(self) -> str:
        """The sink's."""
        return f"{self.kind}-{self.fault}"

    @property
    def table(self) -> str:
        """The sink's table of the configuration."""
        url = url_of(self.backend) if self.gate is None else f"http://127.0.0.1:{self.gate.port}"
        options = build_options(self.kind, url)
        if self.kind in {"cloudwatch", "datadog"}:
            options += f"request_timeout_s = {REQUEST_TIMEOUT_S}.0\n"
        return f"[sinks.{self.name}]\n{options}"


class Faults:
    """All faults that a kind of backend can have, a backend for each.

    Args:
        kind: one of `backends.NAMES`.
        servers: serves them.
        elsewhere: where redirects lead.
    """

    def __init__(self, kind: str, servers: Servers, stack: ExitStack, elsewhere: str) -> None:
        self._portal = servers.portal
        serving: dict[str, Callable[[], Backend]] = {
            "cloudwatch": servers.serve_cloudwatch,
            "grpc": servers.serve_grpc,
            "http": servers.serve_http,
            "datadog": servers.serve_datadog,
        }
        serve = serving[kind]
        self.all: list[Faulty] = []
        for fault, answer in _list_answers(kind, elsewhere).items():
            backend = serve()
            self._set(backend, answer)
            self.all.append(Faulty(kind, fault, backend))
        for fault in _GATES:
            backend = serve()
            port = urlsplit(url_of(backend)).port
            assert port is not None
            self.all.append(Faulty(kind, fault, backend, stack.enter_context(Gate(port, fault))))

    def recover(self) -> None:
        """Let all take what comes from now on."""
        for each in self.all:
            if each.gate is None:
                self._set(each.backend, None)
            else:
                each.gate.open()

    def _set(self, backend: Backend, answer: Any) -> None:  # noqa: ANN401 - each stub has its own
        """Let a backend answer so, or, without an answer, as it should."""
        if isinstance(backend, Receiver):
            chosen = otlp_receiver.Answer() if answer is None else answer
            backend.choose = lambda _: chosen
        elif isinstance(backend, DatadogIntake):
            with backend._lock:
                backend.script = [] if answer is None else [answer] * _MANY
        else:
            self._portal.call(_script, backend, [] if answer is None else [answer] * _MANY)


def _script(stub: CloudWatchStub, answers: list[cloudwatch_stub.Answer | None]) -> None:
    stub.script = answers


@contextmanager
def serve_faults(kind: str, elsewhere: str) -> Generator[Faults]:
    """Serve a backend for each fault of a kind, until the context is left."""
    with ExitStack() as stack:
        yield Faults(kind, Servers(stack), stack, elsewhere)


def _list_answers(kind: str, elsewhere: str) -> Mapping[str, Any]:
    """Return what each fault makes a backend say."""
    if kind == "cloudwatch":
        make = cloudwatch_stub.Answer
        return {
            FAILED: cloudwatch_stub.FAILED,
            THROTTLED: make(
                429, "TooManyRequestsException", "slow down", {"Retry-After": str(RETRY_AFTER_S)}
            ),
            REDIRECT: make(307, "TemporaryRedirect", "elsewhere", {"Location": elsewhere}),
        }
    if kind == "datadog":
        return {
            FAILED: datadog_intake.Answer(500),
            THROTTLED: datadog_intake.Answer(429, headers=(("X-Ratelimit-Reset", str(RETRY_AFTER_S)),)),
            REDIRECT: datadog_intake.Answer(307, headers=(("Location", elsewhere),)),
            PARTIAL: datadog_intake.Answer(202, '{"errors": ["one is bad"]}', takes=True),
        }
    partial = otlp_receiver.Answer(rejected=1, words="one is bad")
    if kind == "grpc":
        return {
            FAILED: otlp_receiver.Answer(code="INTERNAL", words="try again"),
            THROTTLED: otlp_receiver.Answer(code="RESOURCE_EXHAUSTED", retry_after_s=RETRY_AFTER_S),
            PARTIAL: partial,
        }
    return {
        FAILED: otlp_receiver.Answer(status=500, words="try again"),
        THROTTLED: otlp_receiver.Answer(status=429, retry_after_s=str(RETRY_AFTER_S)),
        REDIRECT: otlp_receiver.Answer(status=307, location=f"{elsewhere}/v1/metrics"),
        PARTIAL: partial,
    }


__all__ = [
    "ENVIRON",
    "FAILED",
    "PARTIAL",
    "REDIRECT",
    "REQUEST_TIMEOUT_S",
    "RETRY_AFTER_S",
    "THROTTLED",
    "Faults",
    "Faulty",
    "serve_faults",
]
