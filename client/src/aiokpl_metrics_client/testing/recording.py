"""Frame -> list: takes every frame at once and keeps it, in place of a socket."""

from aiokpl_metrics_client.buffers import BufferTable
from aiokpl_metrics_client.client import MetricsClient
from aiokpl_metrics_client.encoder import EncodedFrame
from aiokpl_metrics_client.outbound import Outbound
from aiokpl_metrics_client.transport import Outcome, Transport, Way
from aiokpl_metrics_protocol import AckFrame, ColumnsFrame, MetricEvent, decode, decode_series


class RecordingTransport(Transport):
    """Keeps what clients send. Any number of them may share it, in any threads.

    What they have recorded is here after their `flush`. A forked child records into its own copy.

    Attributes:
        frames: the datagrams, in the order in which they came.
    """

    def __init__(self) -> None:
        """Start with no frame."""
        super().__init__(None, lanes=False)
        self.way = Way.FRONT_DOOR
        self.frames: list[bytes] = []

    def attach(self, client: MetricsClient) -> None:
        """Have `client` send its events here from now on. One that is disabled or closed stays so."""
        client.redirect(self.build_outbound)

    def events(self) -> list[MetricEvent]:
        """Return the events of all frames, those of one series in the order of their recording."""
        return [event for frame in list(self.frames) for event in decode_events(frame)]

    def build_outbound(self, table: BufferTable, producer_id: int) -> Outbound:
        """Make a way out that ends here."""
        return _PromptOutbound(table, self, producer_id)

    def send(self, data: bytes) -> Outcome:
        """Keep one frame."""
        self.frames.append(data)
        return Outcome.SENT

    def receive(self) -> list[AckFrame]:
        """Return nothing: nobody answers."""
        return []

    def wait(self, timeout_s: float) -> bool:  # noqa: ARG002 - the signature of `Transport`
        """Return at once: it is never full."""
        return False

    def close(self) -> None:
        """Do nothing: another client may use it still."""


class _PromptOutbound(Outbound):
    """Sends each frame when it is made: none waits, so that no event is ever folded and its value lost.

    What a summed gauge is, is not told again each second, since a test counts what was recorded.
    """

    def _tell_shares(self, second: int) -> None:
        """Do nothing."""

    def _enqueue(self, frame: EncodedFrame, *, folded: bool = False) -> None:
        super()._enqueue(frame, folded=folded)
        self.send()


def decode_columns(datagram: bytes) -> ColumnsFrame:
    """Return the frame in a datagram of a client that folds nothing.

    Raises:
        ValueError: it is another frame.
    """
    frame = decode(datagram)
    if not isinstance(frame, ColumnsFrame):
        message = f"a client sends columns, not {type(frame).__name__}"
        raise ValueError(message)  # noqa: TRY004 - it is the datagram's value that is wrong
    return frame


def decode_events(datagram: bytes) -> list[MetricEvent]:
    """Return the events of a datagram, each with the second in which it was recorded."""
    events: list[MetricEvent] = []
    for column in decode_columns(datagram).columns:
        series = decode_series(column.series)
        values = column.values if isinstance(column.values, list) else [column.values] * column.count
        events.extend(
            MetricEvent(
                series.name, float(value), float(column.second), series.dimensions, series.kind, series.unit
            )
            for value in values
        )
    return events


__all__ = ["RecordingTransport", "decode_columns", "decode_events"]
