"""The local backends of a test together: served side by side, and the sinks that send to them."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.support import cloudwatch_stub, otlp_receiver
from tests.support.cloudwatch_stub import CloudWatchStub
from tests.support.datadog_intake import DatadogIntake
from tests.support.otlp_receiver import Receiver

# The sinks read the environment as well: these are no settings of the machine.
ENVIRON = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "DD_HOSTNAME": "tested",
    "DD_TAGS": "",
    "GRPC_ENABLE_FORK_SUPPORT": "false",
}

DATADOG_KEY = "KEY"

NAMES = ("cloudwatch", "grpc", "http", "datadog")

Backend: TypeAlias = CloudWatchStub | Receiver | DatadogIntake


class Backends:
    """One of each, all taking what is sent.

    Attributes:
        cloudwatch: the strict stub.
        grpc: OTLP over gRPC.
        http: OTLP over HTTP.
        datadog: the intake.
    """

    def __init__(
        self, cloudwatch: CloudWatchStub, grpc: Receiver, http: Receiver, datadog: DatadogIntake
    ) -> None:
        self.cloudwatch = cloudwatch
        self.grpc = grpc
        self.http = http
        self.datadog = datadog

    def by_name(self) -> dict[str, Backend]:
        """Return them by the names of `NAMES`."""
        return dict(zip(NAMES, (self.cloudwatch, self.grpc, self.http, self.datadog), strict=True))

    def urls(self) -> dict[str, str]:
        """Return where each one listens, by the names of `NAMES`."""
        return {name: url_of(backend) for name, backend in self.by_name().items()}


class Servers:
    """Serves any number of backends on the loopback while it is entered.

    Args:
        stack: ends them.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.portal: BlockingPortal = stack.enter_context(start_blocking_portal())

    def serve_cloudwatch(self) -> CloudWatchStub:
        """Serve the strict stub."""
        return self._stack.enter_context(self.portal.wrap_async_context_manager(CloudWatchStub()))

    def serve_grpc(self) -> Receiver:
        """Serve OTLP over gRPC."""
        return self._stack.enter_context(otlp_receiver.serve_grpc())

    def serve_http(self) -> Receiver:
        """Serve OTLP over HTTP."""
        return self._stack.enter_context(otlp_receiver.serve_http())

    def serve_datadog(self) -> DatadogIntake:
        """Serve the intake."""
        return self._stack.enter_context(DatadogIntake(api_key=DATADOG_KEY))


@contextmanager
def serve_backends() -> Generator[Backends]:
    """Serve one of each on the loopback."""
    with ExitStack() as stack:
        servers = Servers(stack)
        yield Backends(
            servers.serve_cloudwatch(), servers.serve_grpc(), servers.serve_http(), servers.serve_datadog()
        )


def url_of(backend: Backend) -> str:
    """Return where a backend listens."""
    return backend.endpoint if isinstance(backend, Receiver) else backend.url


def build_options(kind: str, url: str) -> str:
    """Return the lines of a sink's table that make it send to a local backend."""
    if kind == "cloudwatch":
        return (
            f'type = "cloudwatch"\nregion = "{cloudwatch_stub.REGION}"\nendpoint_url = "{url}"\n'
            f'aws_access_key_id = "${{KEY:-{cloudwatch_stub.ACCESS_KEY_ID}}}"\n'
            f'aws_secret_access_key = "${{KEY:-{cloudwatch_stub.SECRET_ACCESS_KEY}}}"\n'
        )
    if kind == "datadog":
        return f'type = "datadog"\napi_key = "${{KEY:-{DATADOG_KEY}}}"\nendpoint_url = "{url}"\n'
    protocol = "grpc" if kind == "grpc" else "http/protobuf"
    return f'type = "opentelemetry"\nprotocol = "{protocol}"\nendpoint = "{url}"\n'


__all__ = [
    "DATADOG_KEY",
    "ENVIRON",
    "NAMES",
    "Backend",
    "Backends",
    "Servers",
    "build_options",
    "serve_backends",
    "url_of",
]
