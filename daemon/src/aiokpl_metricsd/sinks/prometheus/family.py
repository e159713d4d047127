"""Series -> lines of the page: totals that only rise, under names that no other family has.

A series' total is what its closed windows held and what its open ones were last seen to hold. A window is
seen any number of times while it is open and taken once, when it has closed: taking it puts what was seen
of it away. So no event is counted twice, and between closing and taking the total stays where it was.
"""

from collections.abc import Iterator, Sequence
from math import copysign, inf
from sys import float_info

from msgspec import Struct

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.open_windows import SeriesKey
from aiokpl_metricsd.rendering.exposition import Form, encode_head, escape_name, find_unit, format_number
from aiokpl_metricsd.sinks.prometheus.bounds import Bounds

# Series rendered, read or taken between two pauses: half a millisecond of counters, 5 ms of histograms with
# 20 bounds (CPython 3.11, two busy cores).
SLICE_SERIES = 500

# The names that a family's samples have, beside its own.
_SUFFIXES = {
    MetricKind.COUNTER: ("_total", "_created"),
    MetricKind.GAUGE: (),
    MetricKind.HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
}


class Seen(Struct, gc=False):
    """What one open window was last seen to hold of one source: a series before the sink's selection.

    It is a link of two chains, neither of which leads back to it.

    Attributes:
        window_id: the window's.
        start: its start, in epoch seconds.
        next: of the same series.
        older: of the same source.
        count: events.
        sum: of their values.
        last: the newest value.
        counts: by bound, of a histogram.
        is_taken: the window has closed, and its snapshot is in the totals.
    """

    window_id: str
    start: float
    next: "Seen | None" = None
    older: "Seen | None" = None
    count: int = 0
    sum: float = 0.0
    last: float = 0.0
    counts: tuple[int, ...] | None = None
    is_taken: bool = False


class Series(Struct, gc=False):
    """One line of the page, or one histogram. It has no cycle, so the garbage collector need not look at it.

    Attributes:
        key: its name and dimensions before escaping.
        labels: as they are written; a histogram's without braces, since `le` comes with them.
        kind: what it measures.
        created: epoch seconds from which its totals count, as they are written.
        active: epoch seconds when it was last seen to have an event.
        count: events in closed windows.
        sum: of their values.
        last: the newest of them.
        shown: the greatest sum that was rendered.
        is_signed: a histogram that has held a value below zero, whose sum may fall.
        counts: by bound, of a histogram; not cumulative.
        seen: what open windows hold, a chain.
        taken: the newest closed window that is in the totals.
        taken_end: its end, in epoch seconds.
        is_summed: a gauge of whose sources in one window the sum holds.
    """

    key: SeriesKey
    labels: str
    kind: MetricKind
    created: str
    active: float
    count: int = 0
    sum: float = 0.0
    last: float = 0.0
    shown: float = -inf
    is_signed: bool = False
    counts: tuple[int, ...] | None = None
    seen: Seen | None = None
    taken: str = ""
    taken_end: float = 0.0
    is_summed: bool = False

    def take_seen(self, window_id: str, *, keep: bool = False) -> None:
        """Put away what was seen of a window that has closed.

        Args:
            window_id: the window's.
            keep: add it to the totals, since the window's snapshot will not be.
        """
        seen, remaining = self.seen, None
        while seen is not None:
            following = seen.next
            if seen.window_id == window_id:
                seen.is_taken = True
                seen.next = None
                if keep and seen.count:
                    self.add(seen.count, seen.sum, seen.last, seen.counts)
            else:
                seen.next, remaining = remaining, seen
            seen = following
        self.seen = remaining

    def add(self, count: int, total: float, last: float, counts: Sequence[int] | None) -> None:
        """Add what a closed window held."""
        self.count += count
        self.sum += total
        if self.sum - self.sum != 0.0:
            self.sum = copysign(float_info.max, total)
        self.last = last
        if counts is not None:
            self.counts = add_counts(self.counts, counts)

    def read_sum(self) -> float:
        """Return the sum of all values; unless it may fall, never less than before, however it is added."""
        total = self.sum
        seen = self.seen
        while seen is not None:
            total += seen.sum
            seen = seen.next
        if total < self.shown and not self.is_signed:
            return self.shown
        self.shown = total
        return total

    def read_last(self) -> float:
        """Return the value of the newest window."""
        newest = seen = self.seen
        while seen is not None and newest is not None:
            if seen.start > newest.start:
                newest = seen
            seen = seen.next
        if newest is None or not self.is_summed:
            return self.last if newest is None else newest.last
        total, seen = 0.0, self.seen
        while seen is not None:
            if seen.start == newest.start:
                total += seen.last
            seen = seen.next
        return total

    def read_counts(self) -> tuple[int, Sequence[int]]:
        """Return how many values there are, and how many by bound."""
        count, counts = self.count, self.counts
        seen = self.seen
        while seen is not None:
            count += seen.count
            if seen.counts is not None:
                counts = add_counts(counts, seen.counts)
            seen = seen.next
        return count, counts or ()


class Source(Struct, gc=False):
    """What an entry of the daemon's registry counts into.

    Attributes:
        series: on the page; None where the sink does not show it.
        newest: what was seen of it, a chain.
    """

    series: Series | None
    newest: Seen | None = None

    def find_seen(self, series: Series, window_id: str, start: float) -> Seen:
        """Return what was seen of a window, nothing yet where it is new, and put away what is taken."""
        while self.newest is not None and self.newest.is_taken:
            self.newest = self.newest.older
        seen = self.newest
        while seen is not None:
            if seen.window_id == window_id and not seen.is_taken:
                return seen
            seen = seen.older
        seen = Seen(window_id, start, series.seen, self.newest)
        series.seen = self.newest = seen
        return seen


class Family:
    """All series of one name, under one head.

    Args:
        name: the metric's, before escaping.
        prefix: put before it.
        kind: what it measures.

    Attributes:
        name: as it is written, without `_total`.
        kind: what it measures.
        series: by their labels.
        unit: as a producer declared it, or None.
    """

    def __init__(self, name: str, prefix: str, kind: MetricKind) -> None:
        """Have no series yet."""
        self._source = name
        self.name = escape_name(prefix + name)
        if kind is MetricKind.COUNTER:
            self.name = self.name.removesuffix("_total") or self.name
        self.kind = kind
        self.series: dict[str, Series] = {}
        self.unit: str | None = None

    @property
    def claims(self) -> tuple[str, ...]:
        """Every name that is taken by its samples, in either format."""
        return (self.name, *(self.name + suffix for suffix in _SUFFIXES[self.kind]))

    def encode_head(self, form: Form) -> str:
        """Return the lines before the samples."""
        told = f"{self._source}, in {self.unit}." if self.unit else f"{self._source}."
        return encode_head(form, self.name, self.kind, told, find_unit(self.name, self.unit))

    def render(self, form: Form, series: Sequence[Series], bounds: Bounds) -> str:
        """Return the samples of some series."""
        if self.kind is MetricKind.COUNTER:
            lines = self._render_counters(form, series)
        elif self.kind is MetricKind.GAUGE:
            name = self.name
            lines = [f"{name}{each.labels} {format_number(each.read_last())}\n" for each in series]
        else:
            heads = [f'{self.name}_bucket{{le="{label}"' for label in bounds.labels]
            lines = [line for each in series for line in self._render_histogram(form, each, heads, bounds)]
        return "".join(lines)

    def _render_counters(self, form: Form, series: Sequence[Series]) -> list[str]:
        head, created = f"{self.name}_total", f"{self.name}_created"
        if form is Form.TEXT:
            return [f"{head}{each.labels} {format_number(each.read_sum())}\n" for each in series]
        return [
            f"{head}{labels} {format_number(each.read_sum())}\n{created}{labels} {each.created}\n"
            for each in series
            for labels in (each.labels,)
        ]

    def _render_histogram(
        self, form: Form, series: Series, heads: Sequence[str], bounds: Bounds
    ) -> Iterator[str]:
        count, counts = series.read_counts()
        tail = f",{series.labels}}}" if series.labels else "}"
        below = 0
        for head, between in zip(heads, counts, strict=True):
            below += between
            yield f"{head}{tail} {below}\n"
        labels = f"{{{series.labels}}}" if series.labels else ""
        # OpenMetrics has a sum, and with it a count, only where it can never fall.
        if form is Form.TEXT or not (series.is_signed or bounds.has_negative):
            total = format_number(series.read_sum())
            yield f"{self.name}_sum{labels} {total}\n{self.name}_count{labels} {count}\n"
        if form is Form.OPENMETRICS:
            yield f"{self.name}_created{labels} {series.created}\n"


def add_counts(counts: Sequence[int] | None, more: Sequence[int]) -> tuple[int, ...]:
    """Return the counts by bound, added up."""
    if counts is None:
        return tuple(more)
    return tuple([one + other for one, other in zip(counts, more, strict=True)])


__all__ = ["SLICE_SERIES", "Family", "Seen", "Series", "Source", "add_counts"]
