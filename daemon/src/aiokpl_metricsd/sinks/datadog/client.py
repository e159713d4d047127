"""Request -> one POST by datadog-api-client's synchronous client, which is imported when one is built.

The bodies are JSON already, and the client hands them on: its models cost eight times as much and are
checked in the tests, and it walks through plain dictionaries for as long as all the rest takes. `v2.models`,
which imports everything (82 MiB, most of a second), is never imported. Nothing is retried and no redirect
followed, so that neither a repeat nor the key goes where nobody sent it.
"""

import zlib
from collections.abc import Mapping
from importlib import import_module
from io import BytesIO
from typing import Any, Final

from msgspec import Struct

from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.datadog.answer import decode_errors
from aiokpl_metricsd.sinks.datadog.request import Request
from aiokpl_metricsd.sinks.importing import import_alone

# The one encoding that both endpoints take (MetricContentEncoding and DistributionPointsContentEncoding of
# datadog-api-client 2.62.0, read 2026-11), and the one that needs no package.
CONTENT_ENCODING: Final = "deflate"

# Ours: an answer is read up to here.
_MAX_ANSWER_BYTES = 64 * 1024

# The hundreds of a status that says so.
_ACCEPTED = 2
_NOT_FOUND = 404

# "Validate API key" (docs.datadoghq.com/api/latest/authentication, read 2026-11): 200, or 403.
_VALIDATE_PATH: Final = "/api/v1/validate"

# Ours: connecting within a region takes milliseconds.
_MAX_CONNECT_S = 5.0


class Access(Struct, frozen=True):
    """Where to, as whom.

    Attributes:
        url: of the intake, without a path.
        api_key: secret.
        app_key: secret; submitting needs none.
        proxy: URL of an HTTP proxy, or None.
        timeout_s: how long one answer may take.
    """

    url: str
    api_key: str
    app_key: str | None = None
    proxy: str | None = None
    timeout_s: float = 10.0

    def __repr__(self) -> str:
        """Return the URL alone: keys are secret."""
        return f"Access(url={self.url!r})"


# The package's modules that are needed, and no others.
_MODULES: Final = (
    "datadog_api_client",
    "datadog_api_client.exceptions",
    "datadog_api_client.v1.api.metrics_api",
    "datadog_api_client.v2.api.metrics_api",
)


def import_client() -> list[Any]:
    """Import what is needed of the client's package, and return it. Takes a tenth of a second.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return import_alone(lambda: [import_module(name) for name in _MODULES])
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"datadog: the package {error.name} is missing; pip install 'aiokpl-metricsd[datadog]'"
        ) from error


class _Poster:
    """Stands in for the part of the package that writes JSON: posts bodies that are JSON already.

    Attributes:
        pool_manager: the package's, with its certificates, proxy and retries.
    """

    def __init__(self, pool_manager: Any, error: type[Any], timeout: type[Any]) -> None:  # noqa: ANN401
        """Keep the package's parts."""
        self.pool_manager = pool_manager
        self._error = error
        self._timeout = timeout

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        preload_content: bool,
        request_timeout: tuple[float, float],
        **_empty: object,
    ) -> Any:  # noqa: ANN401 - the package's
        """Send and return the answer of whoever accepts.

        Raises:
            Exception: the package's, with the answer; or the connection's own.
        """
        connect_s, read_s = request_timeout
        answer = self.pool_manager.request(
            method,
            url,
            body=zlib.compress(body),
            headers=headers,
            preload_content=preload_content,
            timeout=self._timeout(connect=connect_s, read=read_s),
        )
        if answer.status // 100 != _ACCEPTED:
            raise self._error(http_resp=answer)
        return answer

    def validate(self, url: str, access: Access) -> Any:  # noqa: ANN401 - the package's
        """Ask about the key.

        Raises:
            Exception: the package's, with the answer; or the connection's own.
        """
        answer = self.pool_manager.request(
            "GET",
            url,
            headers={"DD-API-KEY": access.api_key, "Accept": "application/json"},
            preload_content=False,
            redirect=False,
            timeout=self._timeout(connect=min(access.timeout_s, _MAX_CONNECT_S), read=access.timeout_s),
        )
        if answer.status // 100 != _ACCEPTED and answer.status != _NOT_FOUND:
            raise self._error(http_resp=answer)
        return answer


class Client:
    """Sends requests. Every method may block, so a thread calls them, one at a time.

    Args:
        access: where to, as whom.

    Raises:
        ConfigurationError: the package is not installed.
    """

    def __init__(self, access: Access) -> None:
        """Build the package's client; nothing is connected yet."""
        package, exceptions, distribution_api, series_api = import_client()
        # Comes with the package.
        from urllib3 import Retry, Timeout

        self._access = access
        keys = {"apiKeyAuth": access.api_key}
        if access.app_key:
            keys["appKeyAuth"] = access.app_key
        configuration = package.Configuration(
            host=access.url,
            api_key=keys,
            compress=False,
            check_input_type=False,
            # The status says whether the body was taken, even where the rest of the answer cannot be read.
            preload_content=False,
            request_timeout=(min(access.timeout_s, _MAX_CONNECT_S), access.timeout_s),
        )
        # False, not 0: errors and redirects then come as they are. A client too old to know it connects
        # thrice.
        configuration.retry_policy = Retry(total=False)
        configuration.proxy = access.proxy
        self._client = package.ApiClient(configuration)
        pool_manager = self._client.rest_client.pool_manager
        self._client.rest_client = _Poster(pool_manager, exceptions.ApiException, Timeout)
        self._series = series_api.MetricsApi(self._client)
        self._distributions = distribution_api.MetricsApi(self._client)

    def send(self, request: Request) -> list[str]:
        """Send and return the errors that the accepting answer lists.

        Raises:
            Exception: it was not accepted, or nobody knows; `answer.decode_error` reads it.
        """
        # A file: of all that the client takes, the only thing that it takes as bytes.
        body = BytesIO(request.encode_body())
        if request.is_distribution:
            answer = self._distributions.submit_distribution_points(body, content_encoding=CONTENT_ENCODING)
        else:
            answer = self._series.submit_metrics(body, content_encoding=CONTENT_ENCODING)
        return decode_errors(_read(answer))

    def validate(self) -> bool:
        """Ask whether the key is valid. Return False where whoever answers cannot tell, as a relay.

        Raises:
            Exception: it is not, or nobody knows; `answer.decode_error` reads it.
        """
        answer = self._client.rest_client.validate(f"{self._access.url}{_VALIDATE_PATH}", self._access)
        _read(answer)
        return bool(answer.status != _NOT_FOUND)

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()


def _read(answer: Any) -> bytes:  # noqa: ANN401 - the client's
    try:
        body: bytes = answer.read(_MAX_ANSWER_BYTES)
    except Exception:  # noqa: BLE001 - the status was read, and it said that the body was taken
        body = b""
    if len(body) < _MAX_ANSWER_BYTES:
        answer.release_conn()
    else:
        answer.close()
    return body


__all__ = ["CONTENT_ENCODING", "Access", "Client", "import_client"]
