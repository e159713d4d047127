"""Snapshots -> a table for people: one block a window, columns aligned, sorted by name and dimensions.

`render_table` is a generator that stops after every few hundred rows, so that its caller can let others run:
a window may hold 100,000 series. It keeps no text but what it just yielded; columns are measured in a first
pass, and every row is formatted twice rather than held. Sorting is sliced as well: short runs are sorted,
then merged row by row.

Text comes from producers, so whatever a terminal might obey (escape sequences, line ends) is shown escaped.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import attrgetter
from time import gmtime, strftime

from aiokpl_metricsd.rendering.quantile import quantiles
from aiokpl_metricsd.rendering.rows import PERCENTILES
from aiokpl_metricsd.snapshot import MetricSnapshot

HEADINGS = (
    "NAME",
    "DIMENSIONS",
    "KIND",
    "UNIT",
    "COUNT",
    "SUM",
    "MIN",
    "MAX",
    "LAST",
    "P50",
    "P90",
    "P99",
)

# About a millisecond of work, or three with histograms of many buckets.
SLICE_ROWS = 200

_DIMENSIONS = HEADINGS.index("DIMENSIONS")
_FIRST_NUMBER = HEADINGS.index("COUNT")
_GAP = "  "
# Narrower than this the dimensions say nothing: then the terminal wraps the line.
_MIN_DIMENSIONS_CHARS = 12
_ELLIPSIS = "..."
# Above it a float no longer holds every whole number.
_MAX_WHOLE = 2.0**53

_order = attrgetter("name", "dimensions")


def render_table(snapshots: Sequence[MetricSnapshot], *, max_chars: int | None = None) -> Iterator[str]:
    """Render the snapshots of one window.

    Args:
        snapshots: at least one.
        max_chars: the terminal's width; dimensions are shortened to keep to it. None shortens nothing.

    Yields:
        Whole lines; "" after a slice of the first pass.
    """
    widths = [0] * len(HEADINGS)
    runs: list[list[MetricSnapshot]] = []
    for start in range(0, len(snapshots), SLICE_ROWS):
        run = sorted(snapshots[start : start + SLICE_ROWS], key=_order)
        for snapshot in run:
            widths = list(map(max, widths, map(len, _format_cells(snapshot))))
        runs.append(run)
        yield ""
    template, dimensions_chars = _lay_out(widths, max_chars)
    yield format_heading(snapshots) + (template % HEADINGS).rstrip() + "\n"
    rows = merge(*runs, key=_order)
    while part := list(islice(rows, SLICE_ROWS)):
        yield "".join([_format_line(snapshot, template, dimensions_chars) for snapshot in part])
    yield "\n"


def format_heading(snapshots: Sequence[MetricSnapshot]) -> str:
    """Say which window this is: its times, its id, and how many series it holds; ends the line."""
    first = snapshots[0]
    parts = [f"window {_format_times(first.window_start, first.window_end)}"]
    if first.window_id:
        parts.append(f"id {escape_text(first.window_id)}")
    parts.append(f"{len(snapshots)} series")
    return _GAP.join(parts) + "\n"


def format_number(value: float) -> str:
    """Show whole numbers as they are and others with six significant digits."""
    if value % 1 == 0 and -_MAX_WHOLE <= value <= _MAX_WHOLE:
        return f"{value:.0f}"
    return f"{value:.6g}"


def escape_text(text: str) -> str:
    """Show what is not printable as Python would write it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _format_cells(snapshot: MetricSnapshot) -> tuple[str, ...]:
    dimensions = ",".join([f"{key}={value}" for key, value in snapshot.dimensions])
    p50 = p90 = p99 = ""
    if snapshot.histogram is not None:
        estimates = quantiles(snapshot.histogram, PERCENTILES, low=snapshot.min, high=snapshot.max)
        p50, p90, p99 = map(format_number, estimates)
    return (
        escape_text(snapshot.name),
        escape_text(dimensions),
        snapshot.kind.value,
        escape_text(snapshot.unit or ""),
        str(snapshot.count),
        format_number(snapshot.sum),
        format_number(snapshot.min),
        format_number(snapshot.max),
        format_number(snapshot.last) if snapshot.kind.value == "gauge" else "",
        p50,
        p90,
        p99,
    )


def _lay_out(widths: Sequence[int], max_chars: int | None) -> tuple[str, int]:
    """Build the line's %-template, and say how many characters of dimensions it has room for."""
    # A column in which no row says anything is left out.
    room = [max(width, len(heading)) if width else 0 for width, heading in zip(widths, HEADINGS, strict=True)]
    if max_chars is not None and room[_DIMENSIONS]:
        others = sum(width + len(_GAP) for width in room if width) - room[_DIMENSIONS] - len(_GAP)
        room[_DIMENSIONS] = min(room[_DIMENSIONS], max(max_chars - others, _MIN_DIMENSIONS_CHARS))
    template = ""
    for column, width in enumerate(room):
        if not width:
            # It takes its argument and prints nothing.
            template += "%.0s"
        else:
            template += f"%{'' if column >= _FIRST_NUMBER else '-'}{width}s{_GAP}"
    return template, room[_DIMENSIONS]


def _format_line(snapshot: MetricSnapshot, template: str, dimensions_chars: int) -> str:
    cells = _format_cells(snapshot)
    if len(cells[_DIMENSIONS]) > dimensions_chars:
        kept = cells[_DIMENSIONS][: dimensions_chars - len(_ELLIPSIS)]
        cells = (*cells[:_DIMENSIONS], kept + _ELLIPSIS, *cells[_DIMENSIONS + 1 :])
    return (template % cells).rstrip() + "\n"


def _format_times(start: float, end: float) -> str:
    if not end:
        return "without a time"
    try:
        first, last = gmtime(start), gmtime(end)
    except (OverflowError, ValueError, OSError):
        return f"{start} to {end}"
    same_day = first[:3] == last[:3]
    until = strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", last)
    return f"{strftime('%Y-%m-%d %H:%M:%S', first)} to {until} UTC"


__all__ = ["HEADINGS", "SLICE_ROWS", "escape_text", "format_heading", "format_number", "render_table"]
