"""The container's memory limit -> whether what the configuration asks for fits. The figures are measured."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from aiokpl_metricsd.examining.finding import Finding, fail, find_ok, warn

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_MIB: Final = 1 << 20

# `make bench`, memory and sinks (bench/RESULTS.md, 2026-11): an idle daemon with a console has 31 MiB, a
# window of 100,000 counters at its close 139, of as many histograms 213; a sink's packages add what is here.
# HTTP adds 15 at the first request.
_BASE_BYTES: Final = (31 + 15) * _MIB
_COUNTER_BYTES: Final = 1_150
_HISTOGRAM_BYTES: Final = 1_900
_SINK_BYTES: Final[Mapping[str, int]] = {
    "cloudwatch": 40 * _MIB,
    "datadog": 30 * _MIB,
    "opentelemetry": 26 * _MIB,
}
# The page keeps totals of its own.
_PROMETHEUS_SERIES_BYTES: Final = 800

# Above it nobody set a limit: version 1 says so by a number close to 2^63.
_NO_LIMIT_BYTES: Final = 1 << 60


def read_limit(root: Path = _ROOT, own: Path = _OWN) -> int | None:
    """Return the least memory limit of this process's control groups, None where there is none.

    Args:
        root: where they are mounted.
        own: which ones are this process's.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    limits: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        here = base / path.lstrip("/")
        # In a container's own view the path of the group is the root.
        for directory in (here, *here.parents):
            if directory == base.parent:
                break
            limits += _read_number(directory / name)
    return min((each for each in limits if each < _NO_LIMIT_BYTES), default=None)


def _read_number(path: Path) -> list[int]:
    try:
        return [int(path.read_text(encoding="ascii"))]
    except (OSError, ValueError):
        return []


def estimate_need(max_series: int, sinks: Collection[str], series_bytes: int = _COUNTER_BYTES) -> int:
    """Return the bytes that a daemon needs at most, as windows of so many series close.

    Args:
        max_series: of the configuration.
        sinks: their types.
        series_bytes: of one series.
    """
    shown = max_series * _PROMETHEUS_SERIES_BYTES if "prometheus" in sinks else 0
    packages = sum(_SINK_BYTES.get(each, 0) for each in set(sinks))
    return _BASE_BYTES + packages + max_series * series_bytes + shown


def check_limit(limit_bytes: int | None, max_series: int, sinks: Collection[str]) -> Finding:
    """Judge the limit against what `max_series` series need."""
    need = estimate_need(max_series, sinks)
    if limit_bytes is None:
        return find_ok(f"no memory limit; {max_series:,} series need {_show(need)} at most, as counters")
    said = f"the memory limit is {_show(limit_bytes)}, and {max_series:,} series need {_show(need)}"
    most = _show(estimate_need(max_series, sinks, _HISTOGRAM_BYTES))
    if limit_bytes < estimate_need(0, sinks):
        return fail(said, "raise the limit: the daemon and its sinks do not fit without a single series")
    if limit_bytes < need:
        fitting = (limit_bytes - estimate_need(0, sinks)) // ((need - estimate_need(0, sinks)) // max_series)
        return warn(said, f"raise the limit, or lower [limits] max_series to {fitting // 1000 * 1000:,}")
    return find_ok(f"{said} as counters, {most} as histograms")


def _show(size_bytes: int) -> str:
    return f"{size_bytes // _MIB:,} MiB"


__all__ = ["check_limit", "estimate_need", "read_limit"]
