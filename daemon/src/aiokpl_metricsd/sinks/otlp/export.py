"""One export: its snapshots -> requests -> answers, one after the other, and what became of each."""

import logging
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple, TypeVar

from anyio import move_on_after, to_thread

from aiokpl_metricsd.errors import ExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.sinks.otlp.answer import Accepted, TooLargeError
from aiokpl_metricsd.sinks.otlp.data import MAX_REQUEST_POINTS, Encoder, Refusal, Request
from aiokpl_metricsd.sinks.otlp.settings import Settings
from aiokpl_metricsd.sinks.otlp.transport import Call, Transport
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: below it, "too large" is not about the size any more.
MIN_REQUEST_BYTES = 64 * 1024

# Ours: an export begins no further request after so many times what one request may take. The rest of the
# window is then a new export, so that a slow backend never makes delivery's limit cancel what was taken
# already: with ten seconds a request, an export ends within 25 of delivery's 30.
_EXPORT_SHARE = 1.5

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)


class Session(NamedTuple):
    """What an entered sink holds."""

    settings: Settings
    encoder: Encoder
    transport: Transport


class Shipment:
    """One export: its requests, one after the other, and what became of them.

    Attributes:
        call: what sends them.
        max_bytes: of a request; smaller at the end where the backend takes smaller ones only.
        error: what ended it early, or None.
        accepted_count: snapshots that the backend took.
        remaining: snapshots that are not sent yet, or were not taken.
        uncertain: those of them that the backend may have taken all the same.
        refused: never to be sent again, with the reasons.
        partials: words, rejected points and points of requests that were taken in part.
        warnings: what the backend said though it took everything.
    """

    def __init__(self, session: Session, snapshots: Sequence[MetricSnapshot], max_bytes: int) -> None:
        """Begin with nothing sent."""
        self.call: Call = session.transport.begin()
        self.max_bytes = max_bytes
        self.error: Exception | None = None
        self.accepted_count = 0
        self.remaining: Sequence[MetricSnapshot] = snapshots
        self.uncertain: Sequence[MetricSnapshot] = ()
        self.refused: list[tuple[MetricSnapshot, Refusal]] = []
        self.partials: list[tuple[str, int, int]] = []
        self.warnings: list[str] = []
        self._words: list[str] = []
        self._session = session
        self._snapshots = snapshots

    async def run(self) -> None:
        """Send until all is sent, a request fails, or the time is used up."""
        timeout_s = self._session.settings.timeout_s
        until = monotonic() + timeout_s * _EXPORT_SHARE
        begin, limit = 0, self.max_bytes
        while begin < len(self._snapshots):
            if begin and monotonic() >= until:
                break
            request = await self._encode(begin, limit)
            try:
                accepted = await self._send(request) if request.taken else Accepted()
            except TooLargeError as error:
                smaller = min(limit, request.size_bytes) // 2
                if len(request.taken) > 1 and smaller >= MIN_REQUEST_BYTES:
                    limit = smaller
                    continue
                self.error = _judge_smallest(error, request)
                break
            except Exception as error:  # noqa: BLE001 - translated already; what is left is raised as it is
                self.error = error
                if not isinstance(error, ExportError):
                    self.uncertain = request.taken
                break
            if request.taken and limit < self.max_bytes:
                _logger.warning("the backend takes smaller requests", extra={"fields": {"bytes": limit}})
                self.max_bytes = limit
            self._note(request, accepted)
            begin = request.end
        self.remaining = self._snapshots[begin:]

    def describe(self) -> str:
        """Return what happened, in words."""
        words = [*self._words] if self.error is None else [str(self.error), *self._words]
        words += [
            f"the backend rejected {rejected} of {points} points, which ones it does not say: {said}"
            for said, rejected, points in self.partials
        ]
        reasons = sorted({str(reason) for _, reason in self.refused})
        if self.refused:
            words.append(f"{len(self.refused)} snapshots refused for good: {', '.join(reasons)}")
        if self.remaining:
            words.append(f"{len(self.remaining)} snapshots not sent yet")
        return "; ".join(words)

    async def _encode(self, begin: int, limit: int) -> Request:
        encoder = self._session.encoder
        return await _run(lambda: encoder.encode(self._snapshots, begin, limit, MAX_REQUEST_POINTS))

    async def _send(self, request: Request) -> Accepted:
        timeout_s = self._session.settings.timeout_s
        # Around the transport's own limits: an answer that comes byte by byte is within each of those.
        with move_on_after(timeout_s):
            return await _run(lambda: self.call.send(request.message))
        self.call.abort()
        raise TimeoutError(f"no answer within {timeout_s:g} s; the backend may have taken the request")

    def _note(self, request: Request, accepted: Accepted) -> None:
        points = len(request.taken)
        self.refused += request.refused
        if accepted.rejected_points >= points > 0:
            # All of them, so it is known which.
            self.refused += [(snapshot, Refusal.REJECTED) for snapshot in request.taken]
            self._words.append(f"the backend rejected all of {points} points: {accepted.message}")
            return
        self.accepted_count += points
        if accepted.rejected_points:
            self.partials.append((accepted.message, accepted.rejected_points, points))
        elif accepted.message:
            self.warnings.append(accepted.message)


async def _run(work: Callable[[], _T]) -> _T:
    """Run in a thread, which a cancellation leaves behind: it is told to end, and changes nothing after."""
    return await to_thread.run_sync(work, abandon_on_cancel=True)


def _judge_smallest(error: TooLargeError, request: Request) -> Exception:
    """Return what "too large" means for a request that is not divided any more."""
    if error.is_certain or (len(request.taken) == 1 and request.size_bytes > MIN_REQUEST_BYTES):
        return PermanentExportError(str(error))
    return RetryableExportError(f"{error}; it is small, so this is a quota")


__all__ = ["MIN_REQUEST_BYTES", "Session", "Shipment"]
