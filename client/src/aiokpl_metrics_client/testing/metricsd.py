"""What a test asks: hands out clients, captures those of the application, and tells what they recorded.

Every question first takes what is in the clients' buffers, in the asking thread. So an event counts as soon
as `put` or `record` has returned, and no test needs to wait.
"""

import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import TracebackType

from aiokpl_metrics_client.client import DISABLED_VARIABLE, MetricsClient
from aiokpl_metrics_client.sender import Sender
from aiokpl_metrics_client.testing.counting import Counting, OwnCounting, RecordedSeries
from aiokpl_metrics_client.testing.explaining import format_listing, format_miss, format_repr, name_series
from aiokpl_metrics_client.testing.recording import RecordingTransport, decode_columns
from aiokpl_metrics_protocol import MetricEvent, MetricsLevel

# How long a question waits for a thread that is at a client's buffers.
_FLUSH_TIMEOUT_S = 5.0


class NotRecordedError(AssertionError):
    """There is no event of which to tell the least, greatest or last value."""


class AmbiguousSeriesError(AssertionError):
    """Several series fit where the answer is that of one."""


class Metricsd:
    """Counts what clients record, with neither socket nor process.

    Names and dimensions select series: those of the name that have all the dimensions given, whatever others
    they have. As with `put`, None is not to give a dimension, `shard_id` is `shard`, and values that are no
    strings are written as `str` writes them; "" selects the series that do not have it. The client's own
    `dimensions` belong to its series.

    Args:
        counting: what counts. None is the aggregator of aiokpl-metricsd, where that is installed in this
            client's version, else `OwnCounting`, which counts the same.

    Attributes:
        client: a client for the code under test.
        transport: what the clients send to.
    """

    def __init__(self, counting: Counting | None = None) -> None:
        """Record what `client` records."""
        self.transport = RecordingTransport()
        self._counting = build_counting() if counting is None else counting
        # Re-entrant, since a log handler or a finalizer may ask in the midst of an answer.
        self._lock = threading.RLock()
        self._frames_read = 0
        self._dropped_by_producer: dict[int, dict[str, int]] = {}
        self._dropped_before: dict[str, int] = {}
        self._misses: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}
        self._clients: list[MetricsClient] = []
        self._captured: list[Sender] = []
        self._captures = False
        self._disabled: str | None = None
        self.client = self.build_client()

    def build_client(
        self,
        *,
        level: MetricsLevel = MetricsLevel.DETAILED,
        dimensions: Mapping[str, object] | None = None,
        max_series: int = 10_000,
    ) -> MetricsClient:
        """Return another client that records here, whatever `AIOKPL_METRICSD_DISABLED` says.

        Raises:
            ValueError: as of `MetricsClient`.
        """
        with _without_variable():
            client = MetricsClient(level=level, dimensions=dimensions, max_series=max_series)
        self.transport.attach(client)
        self._clients.append(client)
        return client

    def capture(self) -> None:
        """Have every client of this process record here, until the end: those there are, and new ones.

        Instruments that were made before record here too. Clients that were made while
        `AIOKPL_METRICSD_DISABLED` was set do nothing at all and are not captured; new ones are.

        Raises:
            RuntimeError: another one captures them already.
        """
        if self._captures:
            return
        if Sender.observer is not None:
            raise RuntimeError("another Metricsd captures the clients of this process already")
        self._captures = True
        self._disabled = os.environ.pop(DISABLED_VARIABLE, None)
        Sender.observer = self._adopt
        for sender in Sender.read_registered():
            self._adopt(sender)

    def total(self, name: str, /, **dimensions: object) -> float:
        """Return the sum of the values recorded, 0 if there is none."""
        return sum([each.sum for each in self._select(name, dimensions)], 0.0)

    def count(self, name: str, /, **dimensions: object) -> int:
        """Return how many events were recorded."""
        return sum([each.count for each in self._select(name, dimensions)])

    def min(self, name: str, /, **dimensions: object) -> float:
        """Return the least value.

        Raises:
            NotRecordedError: there is none.
        """
        return min([each.min for each in self._select_some(name, dimensions)])

    def max(self, name: str, /, **dimensions: object) -> float:
        """Return the greatest value.

        Raises:
            NotRecordedError: there is none.
        """
        return max([each.max for each in self._select_some(name, dimensions)])

    def last(self, name: str, /, **dimensions: object) -> float:
        """Return the value of one series that was recorded last: what holds for a gauge.

        Raises:
            NotRecordedError: there is none.
            AmbiguousSeriesError: several series fit, and which of them was last is not known.
        """
        found = self._select_some(name, dimensions)
        if len(found) > 1:
            names = ", ".join([name_series(each.name, each.dimensions) for each in found])
            message = f"{len(found)} series fit, and the last value is that of one: {names}"
            raise AmbiguousSeriesError(message)
        return found[0].last

    def values(self, name: str, /, **dimensions: object) -> list[float]:
        """Return the values, those of one series in the order in which they were recorded."""
        self._select(name, dimensions)
        return [event.value for event in self.events(name, **dimensions)]

    def series(self, name: str | None = None, /, **dimensions: object) -> list[RecordedSeries]:
        """Return the series that have an event, of one name or of all, by name and dimensions."""
        wanted = _to_wanted(dimensions)
        return [each for each in self._read() if _fits(each, name, wanted)]

    def events(self, name: str | None = None, /, **dimensions: object) -> list[MetricEvent]:
        """Return the events, of one name or of all, those of one series in the order of their recording.

        The time of an event is the second in which it was taken from the buffers.
        """
        wanted = _to_wanted(dimensions)
        with self._lock:
            self._read()
            return [each for each in self.transport.events() if _fits(each, name, wanted)]

    def dropped(self) -> dict[str, int]:
        """Return the events that the clients have dropped, by `DropReason`'s word: none, as a rule."""
        with self._lock:
            self._read()
            dropped = self._add_up_dropped()
        before = self._dropped_before
        return {reason: left for reason in dropped if (left := dropped[reason] - before.get(reason, 0))}

    def reset(self) -> None:
        """Forget what was recorded until now."""
        with self._lock:
            self._read()
            del self.transport.frames[: self._frames_read]
            self._frames_read = 0
            self._dropped_before = self._add_up_dropped()
            self._misses.clear()
            self._counting.reset()

    def explain(self) -> str:
        """Return what was recorded, and what was asked for in vain with what may have been meant."""
        with self._lock:
            series = self._read()
            lines = format_listing(series, self.dropped(), self._counting.origin)
            for name, dimensions in self._misses:
                wanted = dict(dimensions)
                if not any(_fits(each, name, wanted) for each in series):
                    lines.append(format_miss(name, wanted, series))
        return "\n".join(lines)

    def close(self) -> None:
        """Close the clients that were handed out, and let go of those that were captured.

        What was recorded can still be asked for.
        """
        if self._captures:
            self._captures = False
            Sender.observer = None
            if self._disabled is not None:
                os.environ.setdefault(DISABLED_VARIABLE, self._disabled)
        for client in self._clients:
            client.close()
        for sender in self._captured:
            sender.redirect(None)
        self._read_frames()
        self._clients.clear()
        self._captured.clear()

    def __repr__(self) -> str:
        return format_repr(self._read())

    def __enter__(self) -> "Metricsd":  # noqa: PYI034 - typing has no Self before 3.11
        """Return the kit itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _adopt(self, sender: Sender) -> None:
        sender.redirect(self.transport.build_outbound)
        self._captured.append(sender)

    def _select(self, name: str, dimensions: Mapping[str, object]) -> list[RecordedSeries]:
        found = self.series(name, **dimensions)
        if not found:
            self._misses[name, tuple(_to_wanted(dimensions).items())] = None
        return found

    def _select_some(self, name: str, dimensions: Mapping[str, object]) -> list[RecordedSeries]:
        found = self._select(name, dimensions)
        if not found:
            raise NotRecordedError(self.explain())
        return found

    def _read(self) -> list[RecordedSeries]:
        """Take what is in the buffers, and return what was counted, by name and dimensions."""
        with self._lock:
            for client in list(self._clients):
                client.flush(_FLUSH_TIMEOUT_S)
            for sender in list(self._captured):
                sender.flush(_FLUSH_TIMEOUT_S)
            self._read_frames()
            return sorted(self._counting.read(), key=lambda each: (each.name, each.dimensions))

    def _read_frames(self) -> None:
        with self._lock:
            # Another thread may send meanwhile.
            for datagram in self.transport.frames[self._frames_read :]:
                self._frames_read += 1
                frame = decode_columns(datagram)
                self._dropped_by_producer[frame.producer_id] = frame.totals.dropped
                self._counting.add(datagram)

    def _add_up_dropped(self) -> dict[str, int]:
        added: dict[str, int] = {}
        for dropped in self._dropped_by_producer.values():
            for reason, count in dropped.items():
                added[reason] = added.get(reason, 0) + count
        return added


def build_counting() -> Counting:
    """Return the daemon's aggregator, where it is installed in this client's version, else our own count."""
    from aiokpl_metrics_client import __version__

    try:
        import aiokpl_metricsd

        if aiokpl_metricsd.__version__ == __version__:
            from aiokpl_metrics_client.testing.aggregating import AggregatorCounting

            return AggregatorCounting()
    except ImportError:
        # It is not installed, or this Python is too old for it.
        pass
    return OwnCounting()


def _to_wanted(dimensions: Mapping[str, object]) -> dict[str, str]:
    """Return dimensions as series have them."""
    return {
        "shard" if key == "shard_id" else key: str(value)
        for key, value in dimensions.items()
        if value is not None
    }


def _fits(each: RecordedSeries | MetricEvent, name: str | None, wanted: Mapping[str, str]) -> bool:
    if name is not None and each.name != name:
        return False
    if not wanted:
        return True
    dimensions = dict(each.dimensions)
    return all(dimensions.get(key, "") == value for key, value in wanted.items())


@contextmanager
def _without_variable() -> Generator[None, None, None]:
    disabled = os.environ.pop(DISABLED_VARIABLE, None)
    try:
        yield
    finally:
        if disabled is not None:
            os.environ[DISABLED_VARIABLE] = disabled


__all__ = ["AmbiguousSeriesError", "Metricsd", "NotRecordedError", "build_counting"]
