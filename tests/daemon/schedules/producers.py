"""Producers that keep their own account, on lanes and on the front door, well-behaved and not."""

import math
import socket
from collections import Counter
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from aiokpl_metrics_protocol import (
    AckFrame,
    Buckets,
    Column,
    ColumnsFrame,
    EventsFrame,
    Folded,
    FoldedFrame,
    HelloFrame,
    MetricEvent,
    Totals,
    decode,
    encode,
)
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.listener import LANE_SUFFIX
from tests.daemon.aggregation import name_series

_GARBAGE = b"\xc1 not a frame"
_MAX_MESSAGE_BYTES = 1_024


class Shape(StrEnum):
    """What a frame carries."""

    COLUMNS = "columns"
    SAME = "same"
    FOLDED = "folded"
    REFUSED = "refused"
    ROWS = "rows"


class Mischief(StrEnum):
    """What goes wrong with it."""

    NONE = "none"
    REPEATED = "repeated"
    GAP = "gap"
    GARBAGE = "garbage"


class Fate(StrEnum):
    """What must become of a frame's events."""

    CERTAIN = "in each sink exactly once"
    MAYBE = "in each sink once, or in none"
    NEVER = "in none"


class Frame(Struct, eq=False):
    """One frame.

    Attributes:
        tag: the name of a series that no other frame has, with one event.
        data: its bytes.
        sequence: 0 where it has none.
        counts: events that may count, by name.
        sums: their sums.
        fate: as far as is known.
    """

    tag: str
    data: bytes
    sequence: int
    counts: Counter[str]
    sums: Counter[str]
    fate: Fate = Fate.CERTAIN


class Content(NamedTuple):
    """The events of a frame, before it has a form."""

    tag: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    second: int
    values: list[float]


class Producer:
    """One producer.

    Attributes:
        sent: events in its frames so far.
        unacknowledged: frames on a lane that must be sent again.
    """

    def __init__(self, number: int) -> None:
        self.producer_id = 1_000 + number
        self.sequence = 0
        self.sent = 0
        self.unacknowledged: list[Frame] = []
        self._unsent = 0
        self._lane: socket.socket | None = None

    def build(self, shape: Shape, content: Content) -> Frame:
        """Return the next frame."""
        if shape is Shape.SAME:
            content = content._replace(values=[content.values[0]] * len(content.values))
        counts, sums = Counter({content.tag: 1}), Counter({content.tag: 1})
        if shape is not Shape.REFUSED:
            counts[content.name] += len(content.values)
            sums[content.name] += int(sum(content.values))
        if shape is Shape.ROWS:
            return Frame(content.tag, _encode_rows(content), 0, counts, sums)
        self.sequence += 1
        totals = Totals(self.sent, {"queue_full": self.sequence // 2})
        self.sent += 1 + len(content.values)
        if shape is Shape.FOLDED:
            data = encode(FoldedFrame(self.producer_id, self.sequence, totals, _fold(content)))
        else:
            columns = _build_columns(content, shape)
            data = encode(ColumnsFrame(self.producer_id, self.sequence, totals, columns))
        return Frame(content.tag, data, self.sequence, counts, sums)

    def connect(self, path: str) -> None:
        """Open a lane, and begin with what is not acknowledged."""
        lane = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lane.setblocking(False)
        lane.connect(path + LANE_SUFFIX)
        first = self.unacknowledged[0].sequence if self.unacknowledged else self.sequence + 1
        lane.send(encode(HelloFrame(self.producer_id, first, "schedule/1")))
        self._lane = lane
        self._unsent = 0

    def send(self, frame: Frame) -> None:
        """Send a frame on the lane until it is acknowledged; at once, where there is a lane."""
        self.unacknowledged.append(frame)
        self.flush()

    def repeat(self) -> None:
        """Send once more what was sent last and not acknowledged."""
        if self._lane is not None and self._unsent:
            self._lane.send(self.unacknowledged[self._unsent - 1].data)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._lane is not None and self._unsent < len(self.unacknowledged):
            try:
                self._lane.send(self.unacknowledged[self._unsent].data)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                return
            self._unsent += 1

    def read_answers(self) -> list[tuple[Frame, bool]]:
        """Return the frames that were acknowledged, and whether they are on disk."""
        found: list[tuple[Frame, bool]] = []
        while self._lane is not None:
            try:
                message = self._lane.recv(_MAX_MESSAGE_BYTES)
            except (BlockingIOError, ConnectionResetError):
                break
            if not message:
                break
            answer = decode(message)
            assert isinstance(answer, AckFrame)
            while self.unacknowledged and self.unacknowledged[0].sequence <= answer.sequence:
                found.append((self.unacknowledged.pop(0), answer.journaled))
                self._unsent = max(self._unsent - 1, 0)
        return found

    def disconnect(self) -> None:
        """Let the lane go; what it had not read of it is lost."""
        if self._lane is not None:
            self._lane.close()
            self._lane = None


def spoil(frame: Frame) -> Frame:
    """Make garbage of a frame: its number and its events are spent."""
    frame.data = _GARBAGE
    frame.fate = Fate.NEVER
    return frame


def _build_columns(content: Content, shape: Shape) -> list[Column]:
    series = name_series(content.name, content.dimensions, kind_of(content.name))
    if shape is Shape.SAME:
        column = Column(series, content.second, content.values[0], len(content.values))
    elif shape is Shape.REFUSED:
        column = Column(series, content.second, [math.nan] * len(content.values))
    else:
        column = Column(series, content.second, content.values)
    return [Column(name_series(content.tag), content.second, 1.0), column]


def _fold(content: Content) -> list[Folded]:
    sets: list[Folded] = []
    for name, dimensions, values in (
        (content.tag, (), [1.0]),
        (content.name, content.dimensions, content.values),
    ):
        kind = kind_of(name)
        sets.append(
            Folded(
                name_series(name, dimensions, kind),
                content.second,
                len(values),
                sum(values),
                min(values),
                max(values),
                values[-1],
                content.second,
                _build_buckets(values) if kind == "histogram" else None,
            )
        )
    return sets


def _build_buckets(values: list[float]) -> Buckets:
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return histogram.freeze()


def _encode_rows(content: Content) -> bytes:
    kind, second = kind_of(content.name), float(content.second)
    rows = [MetricEvent(content.name, each, second, content.dimensions, kind) for each in content.values]
    return encode(EventsFrame([MetricEvent(content.tag, 1.0, second), *rows]))


def kind_of(name: str) -> str | None:
    """Return the kind that events of a name are declared with."""
    return {"g": "gauge", "h": "histogram"}.get(name)


__all__ = ["Content", "Fate", "Frame", "Mischief", "Producer", "Shape", "spoil"]
