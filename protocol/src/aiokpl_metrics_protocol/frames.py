"""What one datagram carries: a msgpack array whose first item is the frame's integer tag.

Tags 1 to 5 belong to wire version 1. Arrays grow only at their end: what a decoder does not know there it
skips, what is missing there has its default. `docs/protocol.md` gives every frame byte by byte.
"""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from aiokpl_metrics_protocol.events import MetricEvent

# 63 bits, so that a signed 64-bit integer of any language holds it.
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class EventsFrame(Struct, frozen=True, array_like=True, tag=1):
    """Rows, from a producer in any language. No handshake, no numbers: at most once."""

    events: list[MetricEvent]


class Row(Struct, frozen=True, array_like=True, gc=False):
    """A `MetricEvent` with its dimensions still encoded: who knows the bytes already need not decode them."""

    name: str
    value: float
    timestamp: float
    dimensions: Raw = Raw(b"\x90")
    kind: str | None = None
    unit: str | None = None


class RowsFrame(Struct, frozen=True, array_like=True, tag=1):
    """An `EventsFrame` of `Row`s."""

    events: list[Row]


class Totals(Struct, frozen=True, array_like=True, gc=False):
    """What a producer has done before this frame, cumulative, so a lost or repeated report changes nothing.

    Attributes:
        sent: events in the frames with lower sequence numbers.
        dropped: events that the producer dropped, by reason.
    """

    sent: Number = 0
    dropped: dict[str, Number] = {}


class Column(Struct, frozen=True, array_like=True, gc=False):
    """The events of one series in one second.

    Attributes:
        series: what `encode_series` returned; any other encoding of the same series is the same series.
        second: epoch seconds, whole.
        values: the values in order, or the one value that `count` events share; true and false are 1 and 0.
        count: how many events share the one value, 1 to 2^32; 1 where `values` is a list.
    """

    series: bytes
    second: int
    values: float | bool | list[float | bool]
    count: int = 1


class ColumnsFrame(Struct, frozen=True, array_like=True, tag=2):
    """Columns, from our client.

    Attributes:
        producer_id: random, of one process; drawn again after fork.
        sequence: 1 for the producer's first frame, one more for each that follows.
        totals: what the producer has done before this frame.
        columns: at most one a series and second, by custom; more are added up.
    """

    producer_id: Number
    sequence: Number
    totals: Totals
    columns: list[Column]


class Buckets(Struct, frozen=True, array_like=True, gc=False):
    """Base-2 exponential buckets: the distribution of a histogram's values.

    Bucket `i` counts the values in `(base**i, base**(i + 1)]` with `base = 2**(2**-scale)`; of negative
    values the absolute one counts. Merged exactly: `i >> 1` is the bucket at `scale - 1`.

    Attributes:
        scale: 20 to -10.
        zero_count: values equal to zero.
        positive_offset: index of the first of `positive_counts`.
        positive_counts: one count a bucket, without gaps; at most 160.
        negative_offset: index of the first of `negative_counts`.
        negative_counts: one count a bucket, without gaps; at most 160.
    """

    scale: int
    zero_count: Number = 0
    positive_offset: int = 0
    positive_counts: tuple[Number, ...] = ()
    negative_offset: int = 0
    negative_counts: tuple[Number, ...] = ()


class Folded(Struct, frozen=True, array_like=True, gc=False):
    """The statistic set of one series, in place of its events.

    Attributes:
        series: what `encode_series` returned.
        second: epoch seconds of the first event; says which window the set belongs to.
        count: events folded, at least 1.
        sum: of the values.
        min: the least value.
        max: the greatest value.
        last: the value with the greatest second.
        last_second: that second.
        buckets: of a histogram, the distribution of the values; None otherwise.
    """

    series: bytes
    second: int
    count: Number
    sum: float
    min: float
    max: float
    last: float
    last_second: int
    buckets: Buckets | None = None


class FoldedFrame(Struct, frozen=True, array_like=True, tag=3):
    """Statistic sets, from a producer that was held back. Numbers and totals as in `ColumnsFrame`."""

    producer_id: Number
    sequence: Number
    totals: Totals
    sets: list[Folded]


class HelloFrame(Struct, frozen=True, array_like=True, tag=4):
    """The first message on a lane.

    Attributes:
        producer_id: whose lane this is.
        sequence: the lowest frame that is not yet acknowledged, which comes next.
        software: name and version of the producer's library, for people.
    """

    producer_id: Number
    sequence: Number
    software: str = ""


class AckFrame(Struct, frozen=True, array_like=True, tag=5):
    """What the daemon answers on a lane: to the hello, and cumulatively to frames.

    Attributes:
        sequence: every frame up to this number is counted or refused; it need not be kept.
        refused: how many of this producer's frames were refused since the lane began.
        journaled: the frames are on disk and survive the daemon's death.
        interval_s: the length of the daemon's windows in seconds.
        daemon_id: random, of one daemon, or of its state directory.
    """

    sequence: Number
    refused: Number = 0
    journaled: bool = False
    interval_s: float = 0.0
    daemon_id: Number = 0


DeferredFrame = RowsFrame | ColumnsFrame | FoldedFrame | HelloFrame | AckFrame
Frame = EventsFrame | ColumnsFrame | FoldedFrame | HelloFrame | AckFrame

__all__ = [
    "AckFrame",
    "Buckets",
    "Column",
    "ColumnsFrame",
    "DeferredFrame",
    "EventsFrame",
    "Folded",
    "FoldedFrame",
    "Frame",
    "HelloFrame",
    "Number",
    "Row",
    "RowsFrame",
    "Totals",
]
