"""Snapshots -> points -> requests, sent one after the other, and what came of them: one export, in a thread.

Requests that are refused as they are do not keep the others from being sent; after any other failure
nothing more is, as the next request would fail as well. Acceptance is noted at once, in memory that
outlives the attempt: an attempt that nobody waits for any more, as its deadline has passed, still notes
what its last request ended with.
"""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from threading import Event, Lock
from typing import Protocol

from msgspec import Struct

from aiokpl_metricsd.errors import (
    ExportError,
    PartialExportError,
    PermanentExportError,
    RetryableExportError,
)
from aiokpl_metricsd.sinks.datadog.answer import Answer, Fate, decode_error
from aiokpl_metricsd.sinks.datadog.builder import Builder, Plan
from aiokpl_metricsd.sinks.datadog.memory import Memory, Settlement
from aiokpl_metricsd.sinks.datadog.point import Unfit
from aiokpl_metricsd.sinks.datadog.request import Request, cut_requests
from aiokpl_metricsd.snapshot import MetricSnapshot


class Transport(Protocol):
    """Sends one request; blocks. One thread at a time."""

    def send(self, request: Request) -> list[str]:
        """Send and return the errors that the accepting answer lists.

        Raises:
            Exception: it was not accepted, or nobody knows.
        """
        ...


class Shared(Struct):
    """What the attempts of a sink share.

    Attributes:
        memory: what must not be forgotten between attempts.
        lock: held while an attempt runs.
        said: what the log was told already.
    """

    memory: Memory
    lock: Lock
    said: set[str]


class Attempt:
    """One export.

    Args:
        snapshots: to be sent.
        plan: the sink's.
        shared: the sink's.
        transport: where to.
        wait_s: how long an earlier attempt, left behind, may still hold this one up.
        limit_s: after so long no further request begins.

    Attributes:
        abandoned: set when nobody waits for the attempt any more: it sends no further request.
        error: what the export ends with; None when all was accepted.
    """

    def __init__(
        self,
        snapshots: Sequence[MetricSnapshot],
        plan: Plan,
        shared: Shared,
        transport: Transport,
        *,
        wait_s: float,
        limit_s: float,
    ) -> None:
        """Start with nothing sent."""
        self.abandoned = Event()
        self.error: BaseException | None = None
        self._snapshots = snapshots
        self._plan = plan
        self._shared = shared
        self._transport = transport
        self._wait_s = wait_s
        self._until = time.monotonic() + limit_s
        self._refusal: Answer | None = None
        self._failure: Answer | None = None
        self._uncertain: set[int] = set()
        self._settlement: Settlement | None = None

    def settle(self) -> None:
        """Forget what was kept for snapshots that are done with: call it when the answer reaches its caller.

        A caller that gave up before believes that all of it failed, and will send all of it again. So this is
        one step that nothing can cancel in the middle, and a short one.
        """
        if self._settlement is None:
            return
        # Not waited for: an attempt that was left behind may hold it for as long as a request takes.
        is_alone = self._shared.lock.acquire(blocking=False)
        try:
            self._shared.memory.settle(self._settlement, is_alone=is_alone)
        finally:
            if is_alone:
                self._shared.lock.release()

    def discard(self) -> None:
        """Free what `settle` has put away, which takes longer than a turn of the event loop may."""
        self._settlement = None

    def run(self) -> None:
        """Do it all; never raises. Blocks for as long as the requests take."""
        try:
            if not self._shared.lock.acquire(timeout=self._wait_s):
                self.error = RetryableExportError("an earlier request still waits for its answer")
                return
            try:
                builder = Builder(
                    self._snapshots, self._plan, self._shared.memory, self._shared.said, time.time()
                )
                self._send_all(builder)
                self.error = self._conclude(builder)
            finally:
                self._shared.lock.release()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self.error = error

    def _send_all(self, builder: Builder) -> None:
        host, max_bytes = self._plan.host, self._plan.max_request_bytes
        # Series first: what is cut off by a deadline can then mostly be repeated without harm.
        requests = chain(
            cut_requests(builder.walk_series(), host, max_bytes),
            cut_requests(builder.walk_distributions(), host, max_bytes),
        )
        for request in requests:
            if not self._send(request, builder):
                return

    def _send(self, request: Request, builder: Builder) -> bool:
        """Send a request, in smaller ones if need be; return whether to go on."""
        waiting = [request]
        while waiting:
            if self.abandoned.is_set():
                self._failure = Answer(Fate.AGAIN, "abandoned")
                return False
            if time.monotonic() >= self._until:
                self._failure = Answer(Fate.AGAIN, "no time for more in this export")
                return False
            part = waiting.pop()
            answer = self._try(part, builder)
            if answer is None:
                self._accept(part, builder)
            elif answer.fate is Fate.SMALLER and len(part.points) > 1:
                waiting.extend(part.halve())
            elif answer.fate is Fate.AGAIN:
                self._failure = answer
                if answer.is_ambiguous and part.is_distribution:
                    # Series would be replaced.
                    self._uncertain.update(index for point in part.points for index in point.owners)
                return False
            else:
                self._refusal = answer
        return True

    def _try(self, request: Request, builder: Builder) -> Answer | None:
        try:
            errors = self._transport.send(request)
        except Exception as error:  # noqa: BLE001 - whatever the client raises, it is read by shape
            return decode_error(error, time.time())
        if not errors:
            return None
        text = f"accepted with errors ({'; '.join(errors)})"
        if request.is_distribution:
            # What was accepted would be added again.
            builder.say("errors", f"distribution points were {text}")
            return None
        return Answer(Fate.REFUSED, text)

    def _accept(self, request: Request, builder: Builder) -> None:
        for point in request.points:
            if request.is_distribution:
                point.window.accepted.add(point.key)
            for index in point.owners:
                builder.open[index] -= 1

    def _conclude(self, builder: Builder) -> ExportError | None:
        snapshots = self._snapshots
        rejected = [snapshots[index] for index in builder.unfit]
        remaining = [
            snapshot
            for index, snapshot in enumerate(snapshots)
            if builder.open[index] and index not in builder.unfit
        ]
        left = {id(snapshot) for snapshot in remaining}
        # Of what is malformed nothing was accepted, and it may not even be looked up.
        self._settlement = self._shared.memory.prepare_settlement(
            snapshot
            for index, snapshot in enumerate(snapshots)
            if id(snapshot) not in left and builder.unfit.get(index) is not Unfit.MALFORMED
        )
        words = [
            f"set aside: {reason.value} {count}" for reason, count in Counter(builder.unfit.values()).items()
        ]
        words += [answer.message for answer in (self._failure, self._refusal) if answer is not None]
        message = "; ".join(words)
        if not remaining and not rejected:
            return None
        retry_after_s = None if self._failure is None else self._failure.retry_after_s
        uncertain = [snapshots[index] for index in sorted(self._uncertain) if id(snapshots[index]) in left]
        is_whole = len(uncertain) in {0, len(remaining)}
        if len(remaining) == len(snapshots) and (is_whole or self._failure is None):
            if self._failure is not None:
                return RetryableExportError(
                    message, retry_after_s=retry_after_s, is_ambiguous=bool(uncertain)
                )
            # Some of it may have been taken, but of every snapshot something is refused: halves say which.
            return PermanentExportError(message)
        return PartialExportError(
            message,
            remaining=remaining,
            rejected=rejected,
            uncertain=uncertain,
            retry_after_s=retry_after_s,
        )


__all__ = ["Attempt", "Shared", "Transport"]
