"""What was recorded, and what was asked for in vain, in words."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from aiokpl_metrics_client.testing.counting import RecordedSeries

# More are not listed: nobody reads them in the report of a failed test.
_MAX_LISTED = 50
_MAX_IN_REPR = 5
_MAX_SUGGESTED = 3


def name_series(name: str, dimensions: Iterable[tuple[str, object]]) -> str:
    """Return a series in one word: `orders{status=paid}`."""
    pairs = ", ".join([f"{key}={value}" for key, value in dimensions])
    return f"{name}{{{pairs}}}" if pairs else name


def format_repr(series: Sequence[RecordedSeries]) -> str:
    """Return what was recorded in one line, shortened."""
    if not series:
        return "<Metricsd: nothing recorded>"
    shown = ", ".join(
        [f"{name_series(each.name, each.dimensions)}: {each.count}" for each in series[:_MAX_IN_REPR]]
    )
    more = f", and {len(series) - _MAX_IN_REPR} series more" if len(series) > _MAX_IN_REPR else ""
    return f"<Metricsd: {_format_events(series)}: {shown}{more}>"


def format_listing(series: Sequence[RecordedSeries], dropped: Mapping[str, int], origin: str) -> list[str]:
    """Return what was recorded, a line for each series, and what was dropped."""
    lines = ["nothing was recorded"]
    if series:
        lines = [f"recorded, by the count of {origin}: {_format_events(series)} in {len(series)} series"]
    lines += [f"  {_format_series(each)}" for each in series[:_MAX_LISTED]]
    if len(series) > _MAX_LISTED:
        lines.append(f"  and {len(series) - _MAX_LISTED} series more")
    if dropped:
        reasons = ", ".join([f"{count} as {reason}" for reason, count in dropped.items()])
        lines.append(f"dropped by the client: {reasons}")
    return lines


def format_miss(name: str, dimensions: Mapping[str, object], series: Sequence[RecordedSeries]) -> str:
    """Return what was asked for in vain, and what may have been meant."""
    wanted = name_series(name, dimensions.items())
    names = sorted({each.name for each in series})
    if name in names:
        return f"{wanted} was not recorded; {name} was, with other dimensions"
    by_lower = {each.lower(): each for each in reversed(names)}
    near = difflib.get_close_matches(name.lower(), list(by_lower), _MAX_SUGGESTED)
    meant = " or ".join([by_lower[each] for each in near])
    return f"{wanted} was not recorded" + (f"; did you mean {meant}?" if meant else "")


def _format_events(series: Sequence[RecordedSeries]) -> str:
    events = sum([each.count for each in series])
    return f"{events} event{'' if events == 1 else 's'}"


def _format_series(each: RecordedSeries) -> str:
    unit = "" if each.unit is None else f" in {each.unit}"
    figures = f"count {each.count}, sum {each.sum:.15g}, min {each.min:.15g}, max {each.max:.15g}"
    return f"{name_series(each.name, each.dimensions)}: {each.kind}{unit}, {figures}, last {each.last:.15g}"


__all__ = ["format_listing", "format_miss", "format_repr", "name_series"]
