"""What carries OTLP requests: the interface, and the files that TLS needs. Blocking, for threads."""

import ssl
from pathlib import Path
from typing import Any, Protocol

from aiokpl_metricsd import __version__
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.otlp.answer import Accepted
from aiokpl_metricsd.sinks.otlp.settings import Settings

USER_AGENT = f"aiokpl-metricsd/{__version__}"


class Call(Protocol):
    """The requests of one export, one after the other."""

    def send(self, message: Any) -> Accepted:  # noqa: ANN401 - the SDK's message
        """Make one attempt to send an ExportMetricsServiceRequest.

        Raises:
            RetryableExportError: nothing was taken.
            PermanentExportError: the same will be refused again.
            TimeoutError: the backend may have taken it.
            ConnectionError: the same.
        """
        ...

    def abort(self) -> None:
        """End `send` at once, from another thread; no other one follows."""
        ...

    def close(self) -> None:
        """Let go of what the requests needed."""
        ...


class Transport(Protocol):
    """Where the requests go."""

    def begin(self) -> Call:
        """Return a call for the requests of one export."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def load_tls(settings: Settings) -> ssl.SSLContext:
    """Return what HTTP needs for TLS; for gRPC it says whether the files can be used.

    Raises:
        ConfigurationError: a file is missing, unreadable, or holds nothing of use.
    """
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
    except OSError as error:
        raise ConfigurationError(f"no certificates in {settings.certificate}: {error.strerror}") from error
    if settings.client_certificate is not None:
        paths = (settings.client_certificate, settings.client_key)
        try:
            # With a password, though it is none: without one OpenSSL would ask for it on the terminal.
            context.load_cert_chain(*paths, password="")
        except OSError as error:
            shown = " and ".join(path for path in paths if path)
            raise ConfigurationError(f"no certificate and key in {shown}: {error.strerror}") from error
    return context


def read_bytes(path: str | None) -> bytes | None:
    """Return a file's bytes, None without a path.

    Raises:
        ConfigurationError: it cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error


__all__ = ["USER_AGENT", "Call", "Transport", "load_tls", "read_bytes"]
