"""Snapshots -> Datadog: counts, gauges and distributions over its HTTP API.

`point` says what a snapshot becomes, `text` how it is named, `builder` and
`request` how points are put together, `memory` what is remembered so that nothing is
overwritten or added twice, `attempt` how one export goes, `answer` what follows from each
answer, `client` how it is sent.

Everything runs in a thread, encoding included, because the client blocks; so the sink works under asyncio
and trio. The thread is a daemon thread of the export's own: one that hangs is left behind, ends with its
socket's timeout, and keeps no process alive.
"""

import os
import re
import socket
import time
from collections.abc import Sequence
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Annotated, Final, Self

from anyio import to_thread
from msgspec import Meta
from msgspec.structs import replace

from aiokpl_metricsd.errors import ConfigurationError, RetryableExportError
from aiokpl_metricsd.sinks.contract import Endpoint, RepeatRule
from aiokpl_metricsd.sinks.datadog.answer import decode_error
from aiokpl_metricsd.sinks.datadog.attempt import Attempt, Shared
from aiokpl_metricsd.sinks.datadog.builder import Plan
from aiokpl_metricsd.sinks.datadog.client import Access, Client, import_client
from aiokpl_metricsd.sinks.datadog.memory import Memory
from aiokpl_metricsd.sinks.datadog.point import (
    MAX_AGE_S,
    MAX_DISTRIBUTION_POINTS,
    MIN_DISTRIBUTION_POINTS,
    TIME_MARGIN_S,
)
from aiokpl_metricsd.sinks.datadog.text import encode_tag, split_tag
from aiokpl_metricsd.snapshot import MetricSnapshot

# RFC 1123, 2.1: the length of a host name that software should handle.
MAX_HOST_CHARS: Final = 255

_HOST = re.compile(r"[^\s\x00-\x1f\x7f]+")
_SITE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?")
_KEY = re.compile(r"[!-~]+")

# Kubernetes sets it in every container, as for every service.
_KUBERNETES = "KUBERNETES_SERVICE_HOST"
_POD_NAMES = ("DD_POD_NAME", "POD_NAME")


class _DefaultSite(str):
    """Tells a site that nobody named from the same one named by the operator, who overrules DD_SITE."""

    __slots__ = ()


_DEFAULT_SITE: Final = _DefaultSite("datadoghq.com")


class DatadogSink:
    """Sends counts, gauges and distributions.

    Args:
        api_key: secret; `DD_API_KEY` where it is not given, and without both entering and `check` fail.
        app_key: secret; `DD_APP_KEY` where it is not given. Submitting needs none, and it is not sent.
        site: the region's site; `DD_SITE` where it is not given. An explicit one overrules `DD_SITE`, also
            where it is the default one.
        metric_prefix: begins every metric's name.
        exact_statistics: histograms have `.count`, `.sum`, `.min` and `.max` beside their distribution.
        host: the host of every series; `DD_HOSTNAME`, else the machine's name, where it is not given.
        tags: `"key:value"`, of every series; those of `DD_TAGS` are added.
        endpoint_url: another intake, as a relay of your own; without it that of the site.
        proxy: the URL of an HTTP proxy.
        request_timeout_s: how long one answer may take.
        export_timeout_s: after so long an export begins no further request, and what is left follows in the
            next one. Together with `request_timeout_s` it stays below the sink's `timeout_s`.
        distribution_points: points of one histogram and window at most.

    Raises:
        ValueError: an option is out of its range.
    """

    # Distribution points add; the rest would replace.
    repeat_rule = RepeatRule.ADDS
    ordered = False
    spread = True
    # Older windows are refused by the intake: seconds from their end.
    max_age_s = float(MAX_AGE_S - TIME_MARGIN_S)
    # About a megabyte of points: what is stored, sent, and marked together.
    max_batch = 10_000

    def __init__(  # noqa: PLR0913 - the options
        self,
        *,
        api_key: str | None = None,
        app_key: str | None = None,
        site: str = _DEFAULT_SITE,
        metric_prefix: str = "aiokpl.",
        exact_statistics: bool = False,
        host: str | None = None,
        tags: Sequence[str] = (),
        endpoint_url: str | None = None,
        proxy: str | None = None,
        request_timeout_s: Annotated[float, Meta(gt=0)] = 10.0,
        export_timeout_s: Annotated[float, Meta(gt=0)] = 15.0,
        distribution_points: Annotated[
            int, Meta(ge=MIN_DISTRIBUTION_POINTS, le=MAX_DISTRIBUTION_POINTS)
        ] = MAX_DISTRIBUTION_POINTS,
    ) -> None:
        """Keep the options; nothing is imported, read or connected before entering."""
        if not _SITE.fullmatch(site):
            raise ValueError(f"site is a host name, not {site!r}")
        if endpoint_url is not None and not endpoint_url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint_url begins with http:// or https://, not {endpoint_url!r}")
        if not request_timeout_s > 0:
            raise ValueError(f"request_timeout_s is above 0, not {request_timeout_s}")
        if not export_timeout_s > 0:
            raise ValueError(f"export_timeout_s is above 0, not {export_timeout_s}")
        if not MIN_DISTRIBUTION_POINTS <= distribution_points <= MAX_DISTRIBUTION_POINTS:
            raise ValueError(
                f"distribution_points is {MIN_DISTRIBUTION_POINTS} to {MAX_DISTRIBUTION_POINTS}, "
                f"not {distribution_points}"
            )
        self._api_key = api_key
        self._app_key = app_key
        self._site = site
        self._prefix = metric_prefix
        self._exact_statistics = exact_statistics
        self._host = host
        self._tags = tuple(tags)
        self._endpoint_url = endpoint_url
        self._proxy = proxy
        self._timeout_s = request_timeout_s
        self._limit_s = export_timeout_s
        self._max_points = distribution_points
        self._shared = Shared(Memory(), Lock(), set())
        self._client: Client | None = None
        self._plan: Plan | None = None

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Make one attempt to send the snapshots of one window.

        Raises:
            RetryableExportError: nothing was taken, or nobody knows.
            PermanentExportError: all of it was refused as it is.
            PartialExportError: some was taken, or some can never be.
        """
        client, plan = self._client, self._plan
        if client is None or plan is None or not snapshots:
            return
        attempt = Attempt(
            snapshots, plan, self._shared, client, wait_s=self._timeout_s, limit_s=self._limit_s
        )
        await _run(attempt)
        if attempt.error is not None:
            raise attempt.error

    async def check(self) -> None:
        """Say whether the sink could be entered; nothing is sent.

        Raises:
            ConfigurationError: a key or the package is missing, or the host name cannot be used.
        """
        self._find_access()
        self._find_plan()
        await to_thread.run_sync(import_client)

    async def locate(self) -> Endpoint | None:
        """Return where the intake is, or the proxy on the way there.

        Raises:
            ConfigurationError: a key is missing, or the site cannot be used.
        """
        from ssl import create_default_context
        from urllib.parse import urlsplit

        access = self._find_access()
        url = urlsplit(access.proxy or access.url)
        tls = create_default_context() if url.scheme == "https" else None
        return Endpoint(url.hostname or "", url.port or (443 if tls else 80), tls, speaks_http=True)

    async def probe(self, timeout_s: float) -> str:
        """Have Datadog look at the key.

        Raises:
            ConfigurationError: a key or the package is missing.
            RetryableExportError: the key is not accepted, or nobody answers.
        """
        access = replace(self._find_access(), timeout_s=min(timeout_s, self._timeout_s))
        client = await to_thread.run_sync(Client, access)
        try:
            is_known = await to_thread.run_sync(client.validate, abandon_on_cancel=True)
        except Exception as error:
            raise RetryableExportError(decode_error(error, time.time()).message) from error
        finally:
            client.close()
        return "the key is accepted" if is_known else "whoever answers there does not check keys"

    async def __aenter__(self) -> Self:
        """Find the key and build the client; nothing is connected yet.

        Raises:
            ConfigurationError: a key or the package is missing, or the host name cannot be used.
        """
        access = self._find_access()
        plan = self._find_plan()
        self._client = await to_thread.run_sync(Client, access)
        self._plan = plan
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close the idle connections. What must not be sent twice stays known."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _find_access(self) -> Access:
        api_key = (self._api_key or os.environ.get("DD_API_KEY") or "").strip()
        app_key = (self._app_key or os.environ.get("DD_APP_KEY") or "").strip()
        if not api_key:
            raise ConfigurationError("datadog: no API key; set api_key or DD_API_KEY")
        if not _KEY.fullmatch(api_key) or (app_key and not _KEY.fullmatch(app_key)):
            raise ConfigurationError("datadog: a key holds characters that no key has")
        site = str(self._site)
        if self._site is _DEFAULT_SITE:
            site = os.environ.get("DD_SITE", "").strip() or site
            if not _SITE.fullmatch(site):
                raise ConfigurationError(f"datadog: DD_SITE is no host name: {site!r}")
        url = (self._endpoint_url or f"https://api.{site}").rstrip("/")
        return Access(url, api_key, app_key or None, self._proxy, self._timeout_s)

    def _find_plan(self) -> Plan:
        host = self._host or os.environ.get("DD_HOSTNAME") or socket.gethostname()
        if len(host) > MAX_HOST_CHARS or not _HOST.fullmatch(host):
            raise ConfigurationError(f"datadog: not to be used as host: {host!r}; set host or DD_HOSTNAME")
        written = [*self._tags, *re.split(r"[,\s]+", os.environ.get("DD_TAGS", ""))]
        tags = {encode_tag(*split_tag(tag)) for tag in written if tag.strip()}
        pod = _find_pod()
        if pod and not any(tag.startswith("pod_name:") for tag in tags):
            tags.add(encode_tag("pod_name", pod))
        return Plan(self._prefix, tuple(sorted(tags)), host, self._exact_statistics, self._max_points)


def _find_pod() -> str:
    """Return the pod's name; "" outside of Kubernetes.

    The host may be the node's, where DD_HOSTNAME says so: without the pod, two pods of a node would be one
    series.
    """
    for name in _POD_NAMES:
        if os.environ.get(name):
            return os.environ[name]
    return socket.gethostname() if os.environ.get(_KUBERNETES) else ""


async def _run(attempt: Attempt) -> None:
    """Run the attempt in a thread, which is left behind where the wait is cancelled, and settle it."""
    ended, heard = Event(), Event()

    def work() -> None:
        attempt.run()
        ended.set()
        heard.wait()
        attempt.discard()

    Thread(target=work, name="datadog export", daemon=True).start()
    try:
        # The library's thread only waits: it is let go at once, and would keep the process alive.
        await to_thread.run_sync(ended.wait, abandon_on_cancel=True)
        attempt.settle()
    finally:
        attempt.abandoned.set()
        ended.set()
        heard.set()


__all__ = ["DatadogSink"]
