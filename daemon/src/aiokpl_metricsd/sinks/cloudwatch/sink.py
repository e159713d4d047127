"""Snapshots -> CloudWatch custom metrics, by PutMetricData.

A snapshot becomes one datum (`datum`, which has the rules of what is mended or set aside), datums
become requests (`request`), and a few of these are under way at once, begun in order
(`client`). Each is tried once. What follows from the answers (`answer`):

* taken: never sent again;
* throttled, failed, timed out, connection lost, credentials not accepted: no further request is begun, and
  what was not taken is to be tried again;
* too large (413): the same, in requests of half the size from then on;
* refused: that request's snapshots are tried again by themselves, or, where nothing at all was taken, are
  refused, so that delivery bisects them until the poison datum is alone.

CloudWatch adds up what has the same series and time: a repeat after an ambiguous failure may double, and a
partial window of the same minute is added to the other.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from anyio import Semaphore, create_task_group, current_time, fail_after
from anyio.lowlevel import checkpoint
from msgspec import Meta
from msgspec.structs import replace

from aiokpl_metricsd.errors import (
    ConfigurationError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.cloudwatch.answer import Answer, Fate, decode_error
from aiokpl_metricsd.sinks.cloudwatch.client import (
    ClientFactory,
    ClientOptions,
    PlainSender,
    Sender,
    check_client,
    encode_json,
    locate_service,
    open_sender,
    probe_service,
)
from aiokpl_metricsd.sinks.cloudwatch.cost import describe_cost
from aiokpl_metricsd.sinks.cloudwatch.datum import MAX_AGE_S, MAX_NAME_CHARS, DatumOptions, Unfit
from aiokpl_metricsd.sinks.cloudwatch.request import MAX_REQUEST_BYTES, MAX_REQUEST_DATUMS, Cutter, Request
from aiokpl_metricsd.sinks.contract import Endpoint, RepeatRule
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: a request has this long, and none is begun in the last part of delivery's usual 30 s for one export,
# so that an export ends by itself and says what was taken.
REQUEST_TIMEOUT_S = 10.0
EXPORT_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0

# Ours: four requests of 20 to 100 ms each are 40,000 datums a second and more, far below the service's 500
# requests a second and region (CloudWatch user guide, "service quotas", read 2026-11).
CONCURRENCY = 4

# Ours: how long to wait before what was throttled goes again, where the service does not say.
_PAUSE_S = 1.0

# A message names so many series that were set aside, and counts the rest.
_NAMED_SERIES = 3


class CloudWatchSink:
    """Sends every snapshot as a statistic set; with `percentiles`, histograms also as values and counts.

    Args:
        region: the region of the service.
        namespace: the namespace of the metrics, 1 to 255 printable ASCII characters; it begins neither with
            `:` nor with `AWS/`.
        endpoint_url: another address, such as a VPC endpoint or an emulator; without it the region's own.
        verify_ssl: whether the endpoint's certificate is checked.
        aws_access_key_id: secret; without it the SDK looks in the environment, the profile, and the role of
            the container or instance.
        aws_secret_access_key: secret; goes with `aws_access_key_id`.
        aws_session_token: secret; goes with temporary credentials.
        client_factory: returns a context manager of a client with `put_metric_data`, in place of the SDK's.
        percentiles: histograms carry their distribution as well, so that the service knows percentiles.
        storage_resolution: 1 lets CloudWatch keep seconds apart, for three hours.
        max_datums: datums of one request.
        concurrency: requests under way at once.
        compress: requests from 10 KiB on are compressed with gzip.
        request_timeout_s: how long one request may take.
        export_timeout_s: after so long an export begins no further request, and what is left follows in the
            next one. Together with `request_timeout_s` it stays below the sink's `timeout_s`.
        clock: epoch seconds.

    Raises:
        ValueError: an option is out of its range.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = False
    spread = True
    max_age_s = float(MAX_AGE_S)
    # One round of four requests of 1,000 datums: what is stored, sent, and marked together.
    max_batch = 4_000

    def __init__(  # noqa: PLR0913 - the options of a sink are its arguments
        self,
        *,
        region: str,
        namespace: str = "aiokpl",
        endpoint_url: str | None = None,
        verify_ssl: bool = True,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        client_factory: ClientFactory | None = None,
        percentiles: bool = False,
        storage_resolution: Annotated[Literal[1, 60], Meta(extra={"unit": "s"})] = 60,
        max_datums: Annotated[int, Meta(ge=1, le=MAX_REQUEST_DATUMS)] = MAX_REQUEST_DATUMS,
        concurrency: Annotated[int, Meta(ge=1, extra={"unit": "requests"})] = CONCURRENCY,
        compress: bool = True,
        request_timeout_s: Annotated[float, Meta(gt=0)] = REQUEST_TIMEOUT_S,
        export_timeout_s: Annotated[float, Meta(gt=0)] = EXPORT_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep the options; nothing is imported or opened before entering."""
        _check_namespace(namespace)
        if not region:
            raise ValueError("region is empty")
        if (aws_access_key_id is None) != (aws_secret_access_key is None):
            raise ValueError("aws_access_key_id and aws_secret_access_key are given together")
        if storage_resolution not in {1, 60}:
            raise ValueError(f"storage_resolution is 1 or 60, not {storage_resolution}")
        if not 1 <= max_datums <= MAX_REQUEST_DATUMS:
            raise ValueError(f"max_datums is 1 to {MAX_REQUEST_DATUMS}, not {max_datums}")
        if concurrency < 1:
            raise ValueError(f"concurrency is at least 1, not {concurrency}")
        if request_timeout_s <= 0 or export_timeout_s <= 0:
            raise ValueError("request_timeout_s and export_timeout_s are above 0")
        self._namespace = namespace
        self._client_factory = client_factory
        self._client_options = ClientOptions(
            region=region,
            endpoint_url=endpoint_url,
            verify_ssl=verify_ssl,
            aws_access_key_id=aws_access_key_id,
            aws_secret_access_key=aws_secret_access_key,
            aws_session_token=aws_session_token,
            connect_timeout_s=min(CONNECT_TIMEOUT_S, request_timeout_s),
            read_timeout_s=request_timeout_s,
            max_connections=concurrency,
        )
        self._datum_options = DatumOptions(percentiles, storage_resolution)
        self._max_datums = max_datums
        self._max_bytes = MAX_REQUEST_BYTES
        self._concurrency = concurrency
        self._compress = compress
        self._request_timeout_s = request_timeout_s
        self._export_timeout_s = export_timeout_s
        self._clock = clock
        self._opened: AbstractAsyncContextManager[Sender[Any]] | None = None
        self._sender: Sender[Any] | None = None

    @property
    def namespace(self) -> str:
        """The namespace of the metrics."""
        return self._namespace

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Send the snapshots of one window, each at most once.

        Raises:
            RetryableExportError: nothing is known to have been taken.
            PermanentExportError: all that was sent is refused as it is.
            PartialExportError: some snapshots were taken; others are to be tried again, or cannot be sent.
        """
        sender = self._sender
        if sender is None or not snapshots:
            return
        attempt = _Attempt(snapshots)
        cutter = Cutter(
            snapshots,
            self._datum_options,
            sender.encode,
            now=self._clock(),
            max_datums=min(self._max_datums, sender.max_datums or self._max_datums),
            max_bytes=self._max_bytes,
            frame_bytes=sender.frame_bytes,
        )
        begin_until = current_time() + self._export_timeout_s
        slots = Semaphore(self._concurrency)
        async with create_task_group() as group:
            for request in cutter.cut():
                if request is None:
                    await checkpoint()
                    continue
                await slots.acquire()
                if attempt.held or current_time() >= begin_until:
                    attempt.unsent = [*request.snapshots, *snapshots[cutter.position :]]
                    break
                group.start_soon(self._send, sender, request, attempt, slots)
        attempt.unfit = cutter.unfit
        attempt.conclude()

    async def check(self) -> None:
        """See that the SDK is there and finds credentials, without a request to the service.

        Raises:
            ConfigurationError: it is not, or does not.
        """
        if self._client_factory is None:
            await check_client(self._client_options)

    async def locate(self) -> Endpoint | None:
        """Return where the service is.

        Raises:
            ConfigurationError: the SDK is missing, or there are no credentials.
        """
        if self._client_factory is not None:
            return None
        from ssl import CERT_NONE, create_default_context
        from urllib.parse import urlsplit

        url = urlsplit(await locate_service(self._client_options))
        tls = create_default_context() if url.scheme == "https" else None
        if tls is not None and not self._client_options.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = CERT_NONE
        return Endpoint(url.hostname or "", url.port or (443 if tls else 80), tls, speaks_http=True)

    async def probe(self, timeout_s: float) -> str:
        """Have the service look at the credentials, with a request that holds no datum.

        Raises:
            ConfigurationError: the SDK is missing, or there are no credentials.
            RetryableExportError: they are not accepted, or the service does not answer.
        """
        if self._client_factory is not None:
            return "a client of the application's is not asked"
        options = replace(
            self._client_options,
            connect_timeout_s=min(self._client_options.connect_timeout_s, timeout_s),
            read_timeout_s=min(self._client_options.read_timeout_s, timeout_s),
        )
        try:
            await probe_service(options, self._namespace)
        except ConfigurationError:
            raise
        except Exception as error:
            answer = decode_error(error, self._clock())
            # That nothing is in it is looked at after who sends it.
            if answer.fate is not Fate.REFUSED:
                raise RetryableExportError(answer.message) from error
        return "the credentials are accepted"

    def estimate(self, snapshots: Sequence[MetricSnapshot], interval_s: float) -> list[str]:
        """Say in a few lines what one such window after the other costs a month.

        Args:
            snapshots: a window, as the sink would see it, with every series once.
            interval_s: the length of the sink's windows in seconds.
        """
        cutter = Cutter(
            # They may be of any age.
            [replace(snapshot, window_start=0.0, window_end=0.0) for snapshot in snapshots],
            self._datum_options,
            encode_json,
            now=self._clock(),
            max_datums=self._max_datums,
        )
        requests = sum(request is not None for request in cutter.cut())
        return describe_cost(len(snapshots) - len(cutter.unfit), requests, interval_s)

    async def __aenter__(self) -> Self:
        """Open the client.

        Raises:
            ConfigurationError: the SDK is not installed or does not run under this event loop, or there are
                no credentials. Not with a `client_factory`, which raises what it likes.
        """
        if self._sender is None:
            if self._client_factory is None:
                opened = open_sender(self._client_options, self._namespace, compress=self._compress)
            else:
                opened = _open_own(self._client_factory, self._namespace)
            self._sender = await opened.__aenter__()
            self._opened = opened
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close the client."""
        opened, self._opened, self._sender = self._opened, None, None
        if opened is not None:
            await opened.__aexit__(exc_type, exc, tb)

    async def _send(
        self, sender: Sender[Any], request: Request[Any], attempt: "_Attempt", slots: Semaphore
    ) -> None:
        """Make one attempt at one request and note how it ended."""
        try:
            with fail_after(self._request_timeout_s):
                await sender.send(request.parts)
        except Exception as error:  # noqa: BLE001 - a client may raise anything
            answer = decode_error(error, self._clock())
            if answer.fate is Fate.SMALLER:
                # Other requests of the same size, already under way, halve it once together.
                self._max_bytes = max(1, min(self._max_bytes, request.size_bytes // 2))
            attempt.fail(request.snapshots, answer)
        else:
            attempt.accepted_count += len(request.snapshots)
        finally:
            slots.release()


class _Attempt:
    """How the requests of one export ended."""

    def __init__(self, snapshots: Sequence[MetricSnapshot]) -> None:
        self.accepted_count = 0
        self.held: list[MetricSnapshot] = []
        self.unsent: Sequence[MetricSnapshot] = ()
        self.unfit: Sequence[tuple[MetricSnapshot, Unfit]] = ()
        self._snapshots = snapshots
        self._refused: list[MetricSnapshot] = []
        self._uncertain: list[MetricSnapshot] = []
        self._messages: list[str] = []
        self._retry_after_s: float | None = None

    def fail(self, snapshots: Sequence[MetricSnapshot], answer: Answer) -> None:
        """Note a request that was not taken."""
        # Too large by one datum is no size: it is that datum.
        is_refused = answer.fate is Fate.REFUSED or (answer.fate is Fate.SMALLER and len(snapshots) == 1)
        (self._refused if is_refused else self.held).extend(snapshots)
        if answer.is_ambiguous:
            self._uncertain.extend(snapshots)
        if answer.message not in self._messages:
            self._messages.append(answer.message)
        if answer.retry_after_s is not None:
            self._retry_after_s = max(self._retry_after_s or 0.0, answer.retry_after_s)

    def conclude(self) -> None:
        """Raise what `export` is to raise, if anything."""
        remaining = [*self._refused, *self.held, *self.unsent]
        messages = [*self._messages, *_describe_unfit(self.unfit)]
        if self.unsent and not self.held:
            messages.append(f"{len(self.unsent)} snapshots not sent in the time for one export")
        message = "; ".join(messages)
        if not self.accepted_count and self.held:
            if 0 < len(self._uncertain) < len(remaining):
                # Said one by one, where not all of them may have been taken.
                raise PartialExportError(
                    message,
                    remaining=remaining,
                    rejected=[snapshot for snapshot, _ in self.unfit],
                    uncertain=self._uncertain,
                    retry_after_s=self._choose_pause(),
                )
            is_ambiguous = bool(self._uncertain)
            raise RetryableExportError(message, retry_after_s=self._retry_after_s, is_ambiguous=is_ambiguous)
        if not self.accepted_count and self._refused:
            raise PermanentExportError(message)
        if remaining or self.unfit:
            raise PartialExportError(
                message,
                remaining=remaining,
                rejected=[snapshot for snapshot, _ in self.unfit],
                uncertain=self._uncertain,
                retry_after_s=self._choose_pause() if self.held else None,
            )

    def _choose_pause(self) -> float:
        # Without a time delivery would not wait at all, since something was taken.
        return _PAUSE_S if self._retry_after_s is None else self._retry_after_s


@asynccontextmanager
async def _open_own(factory: ClientFactory, namespace: str) -> AsyncGenerator[Sender[Any], None]:
    async with factory() as client:
        yield PlainSender(client, namespace)


def _check_namespace(namespace: str) -> None:
    is_valid = namespace.isascii() and namespace.isprintable() and namespace.strip()
    if not is_valid or len(namespace) > MAX_NAME_CHARS or namespace.startswith((":", "AWS/")):
        raise ValueError(
            f"namespace is 1 to {MAX_NAME_CHARS} printable ASCII characters, beginning neither with ':' nor "
            f"'AWS/', not {namespace!r}"
        )


def _describe_unfit(unfit: Sequence[tuple[MetricSnapshot, Unfit]]) -> list[str]:
    words = [f"{snapshot.name} {snapshot.dimensions}: {why.value}" for snapshot, why in unfit[:_NAMED_SERIES]]
    if len(unfit) > _NAMED_SERIES:
        words.append(f"{len(unfit) - _NAMED_SERIES} more")
    return [f"cannot be sent: {', '.join(words)}"] if words else []


__all__ = ["CloudWatchSink"]
