"""What the daemon wrote -> rows, totals by series, and its ledger, as an operator sees them."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.json import Decoder

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


class Histogram(Struct, frozen=True, forbid_unknown_fields=True):
    """The buckets of a row."""

    scale: int
    zero_count: int
    positive_offset: int
    positive_counts: tuple[int, ...]
    negative_offset: int
    negative_counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """The events in all buckets."""
        return self.zero_count + sum(self.positive_counts) + sum(self.negative_counts)


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the `jsonl` sink: one series in one window."""

    window_id: str
    name: str
    kind: str
    unit: str | None
    dimensions: dict[str, str]
    count: int
    sum: float
    min: float
    max: float
    last: float
    window_start: float
    window_end: float
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    histogram: Histogram | None = None

    @property
    def series(self) -> Series:
        """Name and sorted dimensions."""
        return self.name, tuple(sorted(self.dimensions.items()))

    @property
    def identity(self) -> tuple[float, Series]:
        """What tells it from the other rows of one sink, oldest first."""
        return self.window_start, self.series


class Total(Struct, frozen=True):
    """One series over all windows."""

    count: int
    sum: float
    min: float
    max: float


class Ledger(Struct, frozen=True):
    """What the daemon's last line says; what is zero is not said."""

    datagrams_received: int = 0
    datagrams_decoded: int = 0
    datagrams_repeated: int = 0
    datagrams_rejected: dict[str, int] = {}
    events_decoded: int = 0
    events_refused: dict[str, int] = {}
    events_closed: int = 0
    events_late: int = 0
    events_early: int = 0
    events_missing: int = 0
    events_overflowed: int = 0
    events_dropped_by_clients: dict[str, int] = {}
    series_conflicts: int = 0
    sinks: dict[str, dict[str, Any]] = {}


# The columns of a sink's account that add up to `closed`.
_FATES = (
    "delivered",
    "waiting",
    "merging",
    "merged",
    "filtered",
    "expired",
    "quarantined",
    "dropped",
    "uncertain",
)

_decode_row = Decoder(Row).decode


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; a line that is being written is left for the next time."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [_decode_row(line) for line in whole.splitlines()]


def total_rows(rows: Iterable[Row]) -> dict[Series, Total]:
    """Add up the windows of each series."""
    by_series: defaultdict[Series, list[Row]] = defaultdict(list)
    for row in rows:
        by_series[row.series].append(row)
    return {
        series: Total(
            sum(row.count for row in own),
            sum(row.sum for row in own),
            min(row.min for row in own),
            max(row.max for row in own),
        )
        for series, own in by_series.items()
    }


def check_windows(rows: Iterable[Row]) -> None:
    """Assert of one sink's rows that a series is in a window once, and that no two windows overlap."""
    rows = list(rows)
    seen = Counter((row.window_id, row.series) for row in rows)
    assert not [key for key, count in seen.items() if count > 1]
    bounds = {row.window_id: (row.window_start, row.window_end) for row in rows}
    assert len({(row.window_id, row.window_start, row.window_end) for row in rows}) == len(bounds)
    ordered = sorted(bounds.values())
    assert all(start < end for start, end in ordered)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(ordered))


def check_balance(ledger: Ledger) -> None:
    """Assert that every datagram, event and snapshot has exactly one fate."""
    fates = ledger.datagrams_decoded + ledger.datagrams_repeated + sum(ledger.datagrams_rejected.values())
    assert ledger.datagrams_received == fates
    assert ledger.events_decoded == ledger.events_closed + sum(ledger.events_refused.values())
    for sink in ledger.sinks.values():
        assert sink["closed"] == sum(sink[fate] for fate in _FATES)
        assert sink["waiting"] == sink["merging"] == 0


__all__ = [
    "Histogram",
    "Ledger",
    "Row",
    "Series",
    "Total",
    "check_balance",
    "check_windows",
    "read_rows",
    "total_rows",
]
