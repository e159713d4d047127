"""Snapshots -> totals that Prometheus scrapes.

Nothing is sent: the sink keeps, per series, a total since it first saw it, and `render` writes the page.
In the daemon the page is `/metrics`, and the totals include the windows that are still open, so that
`rate()` is as smooth as the scrapes are frequent. A total never counts an event twice and never goes
back; where the daemon has a state directory it goes on after a restart, else it begins anew, at zero and with
a new created time.

What a page cannot hold is refused, once per window, and so quarantined and named by the delivery: a
second metric whose name becomes the first one's when it is escaped, or whose samples would; a second
series whose labels do; a name under a second kind; a counter's window with a value below zero, of which
what was shown while it was open stays; and series past `max_series`.
"""

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Annotated, Self

from anyio.lowlevel import checkpoint
from msgspec import Meta

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.open_windows import OpenWindow, OpenWindows, SeriesKey
from aiokpl_metricsd.aggregating.registry import Entry
from aiokpl_metricsd.aggregating.statistics import Statistics
from aiokpl_metricsd.errors import PartialExportError
from aiokpl_metricsd.rendering.exposition import EOF_LINE, Form, encode_labels
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.sinks.prometheus.bounds import Bounds
from aiokpl_metricsd.sinks.prometheus.family import SLICE_SERIES, Family, Seen, Series, Source
from aiokpl_metricsd.sinks.prometheus.totals import decode_totals, encode_totals
from aiokpl_metricsd.snapshot import MetricSnapshot

_log = logging.getLogger("aiokpl_metricsd.sinks.prometheus")

# Three a decade, so that durations in seconds and in milliseconds both find bounds.
DEFAULT_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0),
)

# Windows whose export has begun; the daemon has at most 64 open at a time.
_MAX_TAKEN = 256

# Metrics that are named in the log when they are refused, once each.
_MAX_NAMED = 1_000

# Where `max_series` is reached, those go that were silent for this part of `idle_s`, then for half of it, …
_FIRST_SHARE = 0.5
_LAST_SHARE = 1 / 64

_PREFIX = re.compile(r"(?:[a-zA-Z_:][a-zA-Z0-9_:]*)?")


class RefusalReason(StrEnum):
    """Why a snapshot is not on the page. The value is the word that is counted and logged."""

    NAME_COLLIDES = "name_collides"
    LABELS_COLLIDE = "labels_collide"
    KIND_DIFFERS = "kind_differs"
    NEGATIVE_COUNTER = "negative_counter"
    TOO_MANY_SERIES = "too_many_series"


class PrometheusSink:
    """Keeps cumulative totals and renders them in the text format and in OpenMetrics.

    Args:
        prefix: put before every metric's name; letters, digits, `_` and `:`, and no digit at first.
        buckets: the upper bounds of histograms, ascending; `+Inf` is always there.
        idle_s: how long a series without events stays; longer than a window.
        max_series: series kept; past it those silent for longest go, and where none is, new ones are refused.
        clock: epoch seconds.

    Raises:
        ValueError: an option is out of its range.
    """

    repeat_rule = RepeatRule.CUMULATIVE
    ordered = True

    def __init__(
        self,
        *,
        prefix: str = "",
        buckets: tuple[float, ...] = DEFAULT_BUCKETS,
        idle_s: Annotated[float, Meta(gt=0)] = 3_600.0,
        max_series: Annotated[int, Meta(ge=1)] = 200_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep no series yet."""
        if not _PREFIX.fullmatch(prefix):
            raise ValueError("prefix has letters, digits, _ and : alone, and begins with no digit")
        if not idle_s > 0.0:
            raise ValueError(f"idle_s is above 0, not {idle_s}")
        if max_series < 1:
            raise ValueError(f"max_series is at least 1, not {max_series}")
        self._prefix = prefix
        self._bounds = Bounds(buckets)
        self._idle_s = idle_s
        self._max_series = max_series
        self._clock = clock
        self._entered = False
        self._open: OpenWindows | None = None
        self._beside: frozenset[str] = frozenset()
        self._series: dict[SeriesKey, Series] = {}
        self._families: dict[str, Family] = {}
        # The names of the page's samples.
        self._claims: set[str] = set()
        self._refused = dict.fromkeys((reason.value for reason in RefusalReason), 0)
        self._named: set[tuple[str, str]] = set()
        self._taken: dict[str, None] = {}
        self._sources: dict[Entry, Source] = {}
        self._is_full_since = 0.0
        # Once it is, a series' created time no longer moves.
        self._is_shown = False

    @property
    def refused(self) -> Mapping[str, int]:
        """Snapshots that are not shown, by reason; live."""
        return MappingProxyType(self._refused)

    @property
    def series_count(self) -> int:
        """Series that are shown."""
        return len(self._series)

    def join_page(self, windows: OpenWindows | None, beside: Collection[str]) -> None:
        """Count open windows as well from now on, and leave out what stands beside it on the page."""
        self._open = windows
        self._beside = frozenset(beside)
        for name in beside:
            base = name.removesuffix("_total")
            self._claims |= {base, name, f"{base}_created"}

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Add the snapshots of one closed window to the totals. What is in them already is not added again.

        Raises:
            PartialExportError: some cannot be shown; the rest is.
        """
        if not self._entered or not snapshots:
            return
        self._note_taken(snapshots[0].window_id)
        now = self._clock()
        refused: list[MetricSnapshot] = []
        reasons: set[str] = set()
        for start in range(0, len(snapshots), SLICE_SERIES):
            for snapshot in snapshots[start : start + SLICE_SERIES]:
                reason = self._take(snapshot, now)
                if reason is not None:
                    self._refuse(snapshot, reason)
                    refused.append(snapshot)
                    reasons.add(reason.value)
            await checkpoint()
        for _ in self._forget_idle(now - self._idle_s):
            await checkpoint()
        if refused:
            raise PartialExportError(f"not to be shown: {', '.join(sorted(reasons))}", rejected=refused)

    def render(self, form: Form = Form.TEXT) -> Iterator[str]:
        """Return the lines of every series, in slices of some milliseconds; other work may run between two.

        Each series is as it was at one moment. OpenMetrics wants `# EOF` after it, which the page adds.
        """
        self._is_shown = True
        yield from self.see_open()
        for _ in self._forget_idle(self._clock() - self._idle_s):
            yield ""
        for family in list(self._families.values()):
            series = list(family.series.values())
            yield family.encode_head(form)
            for start in range(0, len(series), SLICE_SERIES):
                yield family.render(form, series[start : start + SLICE_SERIES], self._bounds)

    def encode_page(self, form: Form = Form.TEXT) -> str:
        """Return a whole page at once, for a server of one's own."""
        return "".join(self.render(form)) + (EOF_LINE if form is Form.OPENMETRICS else "")

    async def __aenter__(self) -> Self:
        """Take windows from now on."""
        self._entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Take no more; the totals stay."""
        self._entered = False

    def dump_state(self) -> bytes:
        """Return the totals of closed windows, for `load_state`. Any thread may ask, between two exports."""
        families = self._families
        series = [
            (each, family.unit)
            for each in list(self._series.values())
            if (family := families.get(each.key[0])) is not None
        ]
        return encode_totals(series, self._bounds.labels)

    def load_state(self, state: bytes) -> None:
        """Go on from the totals that `dump_state` returned.

        Raises:
            ValueError: these are no totals.
        """
        for stored in decode_totals(state, self._bounds.labels):
            found = self._build_series(stored.key, stored.kind, stored.unit, stored.created, stored.active)
            if isinstance(found, RefusalReason):
                continue
            found.count, found.sum, found.last = stored.count, stored.sum, stored.last
            found.is_signed, found.counts = stored.is_signed, stored.counts
            found.taken, found.taken_end = stored.taken, stored.taken_end

    # ---- closed windows

    def _note_taken(self, window_id: str) -> None:
        """Remember that a window is being taken: whatever is read of it while it empties no longer counts."""
        self._taken[window_id] = None
        if len(self._taken) > _MAX_TAKEN:
            del self._taken[next(iter(self._taken))]

    def _take(self, snapshot: MetricSnapshot, now: float) -> RefusalReason | None:
        key = (snapshot.name, snapshot.dimensions)
        series = self._series.get(key)
        if series is None:
            if snapshot.name in self._beside:
                return None
            found = self._build_series(key, snapshot.kind, snapshot.unit, snapshot.window_start, now)
            if isinstance(found, RefusalReason):
                return found
            series = found
        elif series.kind is not snapshot.kind:
            return RefusalReason.KIND_DIFFERS
        elif not self._is_shown and 0.0 < snapshot.window_start < float(series.created):
            # It waited for this daemon, and a window that is still open was seen before.
            series.created = repr(snapshot.window_start)
        # A snapshot without an id is of no daemon; the in-process manager exports each window once.
        if snapshot.window_id:
            if series.taken == snapshot.window_id and series.taken_end == snapshot.window_end:
                return None
            series.taken, series.taken_end = snapshot.window_id, snapshot.window_end
        series.active = now
        if series.kind is MetricKind.COUNTER and snapshot.min < 0.0:
            series.take_seen(snapshot.window_id, keep=True)
            return RefusalReason.NEGATIVE_COUNTER
        counts = None
        if series.kind is MetricKind.HISTOGRAM:
            series.is_signed = series.is_signed or snapshot.min < 0.0
            counts = self._count(snapshot)
        series.is_summed = snapshot.is_summed
        series.take_seen(snapshot.window_id)
        series.add(snapshot.count, snapshot.sum, snapshot.last, counts)
        return None

    def _count(self, snapshot: MetricSnapshot) -> tuple[int, ...]:
        """Return a histogram's counts by bound; a snapshot without buckets counts at its mean."""
        if snapshot.histogram is not None:
            return self._bounds.count_buckets(snapshot.histogram)
        return self._bounds.count_value(snapshot.sum / snapshot.count, snapshot.count)

    def _refuse(self, snapshot: MetricSnapshot, reason: RefusalReason) -> None:
        self._refused[reason.value] += 1
        said = (snapshot.name, reason.value)
        if said not in self._named and len(self._named) < _MAX_NAMED:
            self._named.add(said)
            fields = {
                "metric": snapshot.name,
                "dimensions": dict(snapshot.dimensions),
                "reason": reason.value,
            }
            _log.warning("not on the metrics page", extra={"fields": fields})

    # ---- open windows

    def see_open(self) -> Iterator[str]:
        """See what the open windows hold now, in slices; an item after each."""
        if self._open is None:
            return
        now = self._clock()
        read = 0
        for window in self._open.read():
            entries = list(window.statistics)
            read += len(entries)
            for start in range(0, len(entries), SLICE_SERIES):
                if window.window_id in self._taken:
                    break
                self._see(window, entries[start : start + SLICE_SERIES], now)
                yield ""
        if len(self._sources) > 2 * read + SLICE_SERIES:
            # Most of them are of series that have gone.
            self._sources.clear()

    def _see(self, window: OpenWindow, entries: Sequence[Entry], now: float) -> None:
        """See what a window holds of some series. One that it no longer holds is being closed: it waits."""
        get = window.statistics.get
        find = self._sources.get
        window_id = window.window_id
        for entry in entries:
            statistics = get(entry)
            if statistics is None:
                continue
            source = find(entry) or self._find_source(entry, window, now)
            series = source.series
            if series is None:
                continue
            seen = source.newest
            if seen is None or seen.window_id != window_id or seen.is_taken:
                seen = source.find_seen(series, window_id, window.start)
            if seen.count != statistics.count:
                self._update(series, seen, statistics)
                series.active = now

    def _find_source(self, entry: Entry, window: OpenWindow, now: float) -> Source:
        """Return the series that an entry counts into; none where the page does not show it."""
        found: Series | RefusalReason | None = None
        key = None if self._open is None else self._open.select(entry)
        if key is not None and entry.name not in self._beside:
            found = self._series.get(key)
            if found is None:
                found = self._build_series(key, entry.kind, entry.unit, window.start, now)
            elif found.kind is not entry.kind:
                found = RefusalReason.KIND_DIFFERS
        if isinstance(found, Series):
            found.is_summed = entry.is_summed
        # What is refused is counted and named when its window closes.
        source = Source(found if isinstance(found, Series) else None)
        if found is not RefusalReason.TOO_MANY_SERIES:
            self._sources[entry] = source
        return source

    def _update(self, series: Series, seen: Seen, statistics: Statistics) -> None:
        if series.kind is MetricKind.COUNTER and statistics.min < 0.0:
            # The window will be refused; what was seen of it before stays.
            return
        if series.kind is MetricKind.HISTOGRAM:
            series.is_signed = series.is_signed or statistics.min < 0.0
            if statistics.histogram is not None:
                seen.counts = self._bounds.count_histogram(statistics.histogram)
        seen.count = statistics.count
        seen.sum = statistics.sum
        seen.last = statistics.last + 0.0

    # ---- which series there are

    def _build_series(
        self, key: SeriesKey, kind: MetricKind, unit: str | None, start: float, now: float
    ) -> Series | RefusalReason:
        """Return a new series on the page, or why it cannot be there."""
        if len(self._series) >= self._max_series and not self._make_room(now):
            return RefusalReason.TOO_MANY_SERIES
        name, dimensions = key
        family = self._families.get(name)
        if family is None:
            family = Family(name, self._prefix, kind)
            if not self._claims.isdisjoint(family.claims):
                return RefusalReason.NAME_COLLIDES
        elif family.kind is not kind:
            return RefusalReason.KIND_DIFFERS
        labels = encode_labels(dimensions, is_histogram=kind is MetricKind.HISTOGRAM)
        if labels and kind is not MetricKind.HISTOGRAM:
            labels = f"{{{labels}}}"
        if labels in family.series:
            return RefusalReason.LABELS_COLLIDE
        if not family.series:
            self._families[name] = family
            self._claims.update(family.claims)
        family.unit = family.unit or unit
        created = repr(start if start > 0.0 else now)
        series = Series(key, labels, kind, created, now)
        family.series[labels] = self._series[key] = series
        return series

    def _make_room(self, now: float) -> bool:
        """Forget the series that were silent for longest. At most once a second: it looks at all of them."""
        if abs(now - self._is_full_since) < 1.0:
            return False
        self._is_full_since = now
        share = _FIRST_SHARE
        while share >= _LAST_SHARE and len(self._series) >= self._max_series:
            for _ in self._forget_idle(now - share * self._idle_s):
                pass
            share /= 2
        return len(self._series) < self._max_series

    def _forget_idle(self, before: float) -> Iterator[None]:
        """Forget the series that had no event since, in slices."""
        series = list(self._series.values())
        for start in range(0, len(series), 10 * SLICE_SERIES):
            for each in series[start : start + 10 * SLICE_SERIES]:
                if each.active < before and each.seen is None and self._series.get(each.key) is each:
                    self._forget(each)
            yield

    def _forget(self, series: Series) -> None:
        del self._series[series.key]
        name = series.key[0]
        family = self._families[name]
        del family.series[series.labels]
        if not family.series:
            del self._families[name]
            self._claims.difference_update(family.claims)
        # They may lead to it, and would count into what is no longer shown.
        self._sources.clear()


__all__ = ["DEFAULT_BUCKETS", "PrometheusSink", "RefusalReason"]
