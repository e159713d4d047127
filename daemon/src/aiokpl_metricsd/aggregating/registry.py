"""Every series the daemon knows: found by the bytes or the row that name it, bounded, forgotten when idle."""

from collections.abc import Mapping
from hashlib import blake2b

from msgspec import Struct

from aiokpl_metrics_protocol import (
    CATALOG,
    SUMMED_GAUGE,
    Description,
    MetricKind,
    MetricsLevel,
    ProtocolError,
    Reason,
    Series,
    check_series,
    decode_dimensions,
    decode_series,
    encode_series,
)
from aiokpl_metricsd.aggregating.live import Live
from aiokpl_metricsd.aggregating.statistics import Statistics
from aiokpl_metricsd.ledger import Ledger

# A row's name, its dimensions as they were encoded, its kind and its unit.
RowAlias = tuple[str, bytes, str | None, str | None]
Alias = bytes | RowAlias

# What names a series on the wire is remembered, to be decoded once. A producer of our own has one spelling a
# series; whoever has endless many pays for decoding each time, not with our memory.
_MAX_ALIASES = 8

# Longer ones are decoded each time: a producer can make any series' bytes as long as a datagram, by what it
# puts after the dimensions. A name and ten dimensions of ordinary length have some 500 bytes.
_MAX_ALIAS_BYTES = 4_096

# Names that may have an overflow series of their own; past it the names are the flood, and share one.
_MAX_OVERFLOW_NAMES = 1_000
_OVERFLOW_DIMENSIONS = (("overflow", "true"),)
_OVERFLOW_NAME = "overflow"

# Of the names whose series overflow, or whose declarations differ, how many are counted apart.
_MAX_OFFENDERS = 100

# Names, keys and pairs that many series have in common are kept once: 200 bytes less a series. So many are
# known.
_MAX_SHARED = 4_096

_DETAILS = frozenset({"shard", "error_code"})

# What an entry has when it is in no open window. Nothing is ever added to these statistics.
NO_WINDOW_KEY = -1
NO_STATISTICS = Statistics()


class Entry(Struct, gc=False, eq=False):
    """One series, and its statistics in the window that it was last seen in.

    It refers to no window, so that there is no cycle and the garbage collector need not look at a hundred
    thousand of them.

    Attributes:
        name: the metric's name.
        dimensions: `(key, value)` pairs, sorted.
        kind: what it measures.
        unit: of its values, or None.
        statistics: in the window whose key is `window_key`.
        overflow: it holds the events of other series of its name.
        aliases: what names it on the wire, as far as it is remembered.
        window_key: of the window it was last seen in; `NO_WINDOW_KEY` when that has closed.
        active_until: the end of the last window it was in, in epoch seconds.
        live: its last 60 seconds, where there is room for them.
        is_summed: it is a gauge of which the sum of all producers' last values holds.
    """

    name: str
    dimensions: tuple[tuple[str, str], ...]
    kind: MetricKind
    unit: str | None
    statistics: Statistics
    overflow: bool = False
    aliases: tuple[Alias, ...] = ()
    window_key: int = NO_WINDOW_KEY
    active_until: int = 0
    live: Live | None = None
    is_summed: bool = False


class Registry:
    """Finds and makes the entries of series.

    Args:
        ledger: where conflicts and overflows are counted.
        max_series: series with an entry of their own; new ones past it share the overflow series of their
            name.
        level: `SUMMARY` merges series that differ in `shard` or `error_code` alone.
        dimensions: added to every series; a producer's own value wins.
        descriptions: kinds and units by name, which hold against the catalog and the producers.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        max_series: int,
        level: MetricsLevel = MetricsLevel.DETAILED,
        dimensions: Mapping[str, str] | None = None,
        descriptions: Mapping[str, Description] | None = None,
    ) -> None:
        """Know no series yet."""
        self._ledger = ledger
        self._max_series = max_series
        self._summary = level is MetricsLevel.SUMMARY
        self._constant = dict(dimensions or {})
        self._descriptions = {**CATALOG, **(descriptions or {})}
        self._overflow_dimensions = self._dimensions(_OVERFLOW_DIMENSIONS)
        self._by_key: dict[tuple[str, tuple[tuple[str, str], ...]], Entry] = {}
        self._overflow: dict[str, Entry] = {}
        self._shared_texts: dict[str, str] = {}
        self._shared_pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self.by_alias: dict[Alias, Entry] = {}
        # Apart, so that the hot loop finds them nowhere and need not ask what they are.
        self._summed: dict[Alias, tuple[Entry, int]] = {}
        self.offenders: dict[str, int] = {}
        self.conflicts: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of series, overflow series included."""
        return len(self._by_key) + len(self._overflow)

    def entries(self) -> list[Entry]:
        """Return all entries."""
        return [*self._by_key.values(), *self._overflow.values()]

    def resolve(self, alias: Alias) -> Entry | Reason:
        """Return the series that a column or a row names, or why it is refused.

        Raises:
            ProtocolError: the dimensions of a row do not decode.
        """
        known = self.find(alias)
        if known is not None:
            # It was new at the beginning of its frame, and came there before; or it is a summed gauge.
            return known
        if isinstance(alias, tuple):
            name, dimensions, kind, unit = alias
            return self._resolve(alias, Series(name, kind, unit, decode_dimensions(dimensions)))
        try:
            series = decode_series(alias)
        except ProtocolError:
            return Reason.SERIES_UNREADABLE
        return self._resolve(alias, series)

    def find(self, alias: Alias) -> Entry | None:
        """Return the series that is remembered under an alias, or None."""
        entry = self.by_alias.get(alias)
        if entry is None and alias in self._summed:
            return self._summed[alias][0]
        return entry

    def number_source(self, alias: Alias) -> int:
        """Return a number for what a producer names, of 63 bits: the same for each daemon and each spelling.

        Several series of one producer may be one here, at level `SUMMARY` or past `max_series`; each has a
        share of its own in a summed gauge.
        """
        summed = self._summed.get(alias)
        if summed is not None:
            return summed[1]
        if isinstance(alias, tuple):
            return _number(alias[0], decode_dimensions(alias[1]))
        series = decode_series(alias)
        return _number(series.name, series.dimensions)

    def restore(self, series: Series, *, overflow: bool) -> Entry:
        """Return the entry of a series that an earlier daemon had, under this one's configuration.

        Args:
            series: as its entry was.
            overflow: it held the events of other series of its name.
        """
        dimensions = self._dimensions(series.dimensions)
        if overflow or dimensions == self._overflow_dimensions:
            return self._overflow_entry(series)
        entry = self._by_key.get((series.name, dimensions))
        return self._add_entry(series, dimensions) if entry is None else entry

    def forget_idle(self, entries: list[Entry], before_s: float, latest_s: int) -> list[Entry]:
        """Forget those of `entries` that were in no window which ends after `before_s`. Return them.

        None was active after `latest_s`: where that is remembered, the clock has been set back since.
        """
        for entry in entries:
            entry.active_until = min(entry.active_until, latest_s)
        forgotten = [
            entry for entry in entries if entry.window_key == NO_WINDOW_KEY and entry.active_until < before_s
        ]
        if len(self._shared_pairs) >= _MAX_SHARED or len(self._shared_texts) >= _MAX_SHARED:
            # Full, perhaps of what is rare: begin anew, so that what is frequent comes in.
            self._shared_pairs.clear()
            self._shared_texts.clear()
        for entry in forgotten:
            if entry.overflow:
                self._overflow.pop(entry.name, None)
            else:
                self._by_key.pop((entry.name, entry.dimensions), None)
            for alias in entry.aliases:
                self.by_alias.pop(alias, None)
                self._summed.pop(alias, None)
            entry.aliases = ()
        return forgotten

    def _resolve(self, alias: Alias, series: Series) -> Entry | Reason:
        reason = check_series(series.name, series.kind, series.unit, series.dimensions)
        if reason is not None:
            return reason
        dimensions = self._dimensions(series.dimensions)
        if dimensions == self._overflow_dimensions:
            # A producer's own series of these dimensions would be the overflow series a second time.
            return self._overflow_entry(series)
        entry = self._by_key.get((series.name, dimensions))
        if entry is None:
            entry = self._add_entry(series, dimensions)
            if entry.overflow:
                return entry
        else:
            self._note_conflict(entry, series)
        named = alias if isinstance(alias, bytes) else alias[1]
        if len(entry.aliases) < _MAX_ALIASES and len(named) <= _MAX_ALIAS_BYTES:
            entry.aliases = (*entry.aliases, alias)
            if entry.is_summed:
                self._summed[alias] = (entry, _number(series.name, series.dimensions))
            else:
                self.by_alias[alias] = entry
        return entry

    def _add_entry(self, series: Series, dimensions: tuple[tuple[str, str], ...]) -> Entry:
        """Make an entry for a new series, or return the one that it shares where there are too many."""
        if len(self._by_key) >= self._max_series:
            return self._overflow_entry(series)
        entry = self._build_entry(series, self._share(dimensions))
        self._by_key[entry.name, entry.dimensions] = entry
        return entry

    def _dimensions(self, dimensions: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        if self._constant:
            dimensions = tuple({**self._constant, **dict(dimensions)}.items())
        if self._summary:
            dimensions = tuple([pair for pair in dimensions if pair[0] not in _DETAILS])
        return tuple(sorted(dimensions)) if len(dimensions) > 1 else dimensions

    def _share(self, dimensions: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Return the same dimensions, made of the texts and pairs that other series have already."""
        pairs, texts = self._shared_pairs, self._shared_texts
        shared: list[tuple[str, str]] = []
        for pair in dimensions:
            kept = pairs.get(pair)
            if kept is None:
                kept = (texts.get(pair[0], pair[0]), pair[1])
                if len(texts) < _MAX_SHARED:
                    texts[kept[0]] = kept[0]
                if len(pairs) < _MAX_SHARED:
                    pairs[kept] = kept
            shared.append(kept)
        return tuple(shared)

    def _build_entry(self, series: Series, dimensions: tuple[tuple[str, str], ...]) -> Entry:
        name = self._shared_texts.get(series.name, series.name)
        if len(self._shared_texts) < _MAX_SHARED:
            self._shared_texts[name] = name
        is_summed = series.kind == SUMMED_GAUGE
        known = self._descriptions.get(name)
        if known is None:
            kind = MetricKind.GAUGE if is_summed else MetricKind(series.kind or MetricKind.COUNTER)
            return Entry(name, dimensions, kind, series.unit, NO_STATISTICS, is_summed=is_summed)
        unit = series.unit if known.unit is None else known.unit
        entry = Entry(name, dimensions, known.kind, unit, NO_STATISTICS)
        # Who says that it is a gauge does not say how gauges are merged.
        entry.is_summed = is_summed and known.kind is MetricKind.GAUGE
        self._note_conflict(entry, series)
        return entry

    def _note_conflict(self, entry: Entry, series: Series) -> None:
        """Count a declaration that differs from the one that holds; a unit where none held does now."""
        if entry.unit is None:
            entry.unit = series.unit
        holds = SUMMED_GAUGE if entry.is_summed else entry.kind.value
        if (series.kind is None or series.kind == holds) and (
            series.unit is None or series.unit == entry.unit
        ):
            return
        self._ledger.series_conflicts += 1
        if entry.name in self.conflicts or len(self.conflicts) < _MAX_OFFENDERS:
            self.conflicts[entry.name] = self.conflicts.get(entry.name, 0) + 1

    def _overflow_entry(self, series: Series) -> Entry:
        self._note_offender(series.name)
        if series.name not in self._overflow and len(self._overflow) >= _MAX_OVERFLOW_NAMES:
            # What names share has no kind or unit of its own.
            series = Series(_OVERFLOW_NAME)
        entry = self._overflow.get(series.name)
        if entry is None:
            entry = self._build_entry(series, self._overflow_dimensions)
            entry.overflow = True
            self._overflow[series.name] = entry
        return entry

    def _note_offender(self, name: str) -> None:
        """Count a name whose series overflow, so that the most frequent stay: the Misra-Gries summary."""
        offenders = self.offenders
        if name in offenders or len(offenders) < _MAX_OFFENDERS:
            offenders[name] = offenders.get(name, 0) + 1
            return
        for other, count in list(offenders.items()):
            if count == 1:
                del offenders[other]
            else:
                offenders[other] = count - 1


def _number(name: str, dimensions: tuple[tuple[str, str], ...]) -> int:
    named = encode_series(Series(name, None, None, tuple(sorted(dimensions))))
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big") >> 1


__all__ = ["NO_STATISTICS", "NO_WINDOW_KEY", "Alias", "Entry", "Registry", "RowAlias"]
