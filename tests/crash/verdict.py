"""What the sinks were given, against what the producers recorded -> what is wrong, in words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from tests.crash.producer import Notes
from tests.crash.tally import Tally
from tests.support.rows import Ledger, Row, Series, check_balance, read_rows

# Of one kind of fault, how many are told.
_TOLD = 5


def read_all_rows(path: Path) -> list[Row]:
    """Return the rows of a file and of the older ones beside it."""
    # `PATH.cut` is what came again.
    files = [path, *path.parent.glob(f"{path.name}.[0-9]*")]
    return [row for file in files for row in read_rows(file)]


def find_faults(rows: Sequence[Row], expected: Mapping[Series, Tally], skip: Iterable[int] = ()) -> list[str]:
    """Return what is wrong with one sink's rows.

    Args:
        rows: all of them.
        expected: what must be found in the series of all producers but those to skip.
        skip: producers whose own series are not looked at.
    """
    skipped = {str(number) for number in skip}
    faults = _find_doubles(rows) + _find_overlaps(rows)
    by_series: defaultdict[Series, list[Row]] = defaultdict(list)
    for row in rows:
        if row.dimensions.get("producer") not in skipped:
            by_series[row.series].append(row)
    strange = by_series.keys() - expected.keys()
    if strange:
        faults.append(f"{len(strange)} series that nobody recorded, as {min(strange)}")
    wrong = [
        fault
        for series, tally in expected.items()
        if (fault := _compare(series, by_series.get(series, []), tally))
    ]
    return faults + _shorten(wrong)


def find_bound_faults(rows: Iterable[Row], notes: Mapping[int, Notes]) -> list[str]:
    """Return which producers have fewer events than the kernel took from them, or more than they made.

    Args:
        rows: of one sink.
        notes: by the number of a producer that has no series with others.
    """
    counts = count_by_producer(rows)
    return _shorten(
        [
            f"producer {number}: {counts[number]} events counted, of {each.after} to {each.before} sent"
            for number, each in notes.items()
            if not each.after <= counts[number] <= each.before
        ]
    )


def find_stale_gauges(rows: Iterable[Row]) -> list[str]:
    """Return which gauges do not end with their newest value, which is the greatest, as they only grow.

    A late event may count in a later window than a newer one; but in no window it is last then.
    """
    return _shorten(
        [
            f"{_name(row.series)}: last {row.last} in window {row.window_id}, not {row.max}"
            for row in rows
            if row.kind == "gauge" and row.last != row.max
        ]
    )


def count_by_producer(rows: Iterable[Row]) -> Counter[int]:
    """Return the events in the series that a producer has for itself, by its number."""
    counts: Counter[int] = Counter()
    for row in rows:
        if "producer" in row.dimensions:
            counts[int(row.dimensions["producer"])] += row.count
    return counts


def find_ledger_faults(ledger: Ledger, events: int) -> list[str]:
    """Return what is wrong with the account in the last daemon's last line; it goes over all daemons."""
    faults: list[str] = []
    try:
        check_balance(ledger)
    except AssertionError:
        faults.append(f"the ledger does not balance: {ledger}")
    if ledger.events_decoded != events:
        faults.append(f"the ledger has {ledger.events_decoded} events decoded; it should be {events}")
    if ledger.events_missing:
        faults.append(f"the ledger has {ledger.events_missing} events missing")
    if ledger.events_dropped_by_clients:
        faults.append(f"clients report drops: {ledger.events_dropped_by_clients}")
    if ledger.datagrams_rejected:
        faults.append(f"datagrams rejected: {ledger.datagrams_rejected}")
    for name, sink in ledger.sinks.items():
        lost = {fate: sink[fate] for fate in ("dropped", "expired", "quarantined", "uncertain") if sink[fate]}
        if lost:
            faults.append(f"sink {name} lost snapshots: {lost}")
    return faults


def _find_doubles(rows: Iterable[Row]) -> list[str]:
    seen = Counter((row.window_id, row.series) for row in rows)
    doubles = [key for key, count in seen.items() if count > 1]
    return [f"{len(doubles)} times a series is twice in a window, as {min(doubles)}"] if doubles else []


def _find_overlaps(rows: Iterable[Row]) -> list[str]:
    bounds = {(row.window_start, row.window_end, row.window_id) for row in rows}
    faults = [
        f"window {each[2]} has the bounds {each[0]:.0f} to {each[1]:.0f}"
        for each in sorted(bounds)
        if each[0] >= each[1]
    ]
    if len(bounds) > len({window_id for _, _, window_id in bounds}):
        faults.append("two windows of different bounds have one id")
    for earlier, later in pairwise(sorted(bounds)):
        if earlier[1] > later[0]:
            faults.append(
                f"windows overlap: {earlier[2]} from {earlier[0]:.0f} to {earlier[1]:.0f}, "
                f"{later[2]} from {later[0]:.0f} to {later[1]:.0f}"
            )
    return _shorten(faults)


def _compare(series: Series, rows: Sequence[Row], tally: Tally) -> str:
    """Return what is wrong with the rows of one series, or ""."""
    if not rows:
        return f"{_name(series)}: nothing, of {tally.count} events"
    wrong: list[str] = []
    count = sum(row.count for row in rows)
    if count != tally.count:
        wrong.append(f"count {count} ({count - tally.count:+d})")
    total = sum(row.sum for row in rows)
    if total != tally.sum:
        wrong.append(f"sum {total!r} ({total - tally.sum:+g})")
    if (least := min(row.min for row in rows)) != tally.min:
        wrong.append(f"min {least}, not {tally.min}")
    if (greatest := max(row.max for row in rows)) != tally.max:
        wrong.append(f"max {greatest}, not {tally.max}")
    if tally.buckets and (buckets := _add_buckets(rows)) != tally.buckets:
        wrong.append(f"buckets {buckets}, not {tally.buckets}")
    return f"{_name(series)}: {', '.join(wrong)}" if wrong else ""


def _add_buckets(rows: Iterable[Row]) -> dict[int, int]:
    """Return the counts of the finest buckets, which all values fit in."""
    counts: Counter[int] = Counter()
    for row in rows:
        histogram = row.histogram
        if histogram is None or histogram.scale != 3 or histogram.zero_count or histogram.negative_counts:
            return {}
        for index, count in enumerate(histogram.positive_counts, start=histogram.positive_offset):
            if count:
                counts[index] += count
    return dict(counts)


def _name(series: Series) -> str:
    name, dimensions = series
    return f"{name}{dict(dimensions)}"


def _shorten(faults: list[str]) -> list[str]:
    more = len(faults) - _TOLD
    return [*faults[:_TOLD], f"and {more} more of this kind"] if more > 0 else faults


__all__ = [
    "count_by_producer",
    "find_bound_faults",
    "find_faults",
    "find_ledger_faults",
    "find_stale_gauges",
    "read_all_rows",
]
