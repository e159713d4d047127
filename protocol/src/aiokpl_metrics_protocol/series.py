"""What identifies a stream of events: its name and sorted dimensions, with the kind and unit declared."""

from msgspec import Struct

from aiokpl_metrics_protocol.events import SUMMED_GAUGE, MetricKind
from aiokpl_metrics_protocol.limits import (
    MAX_DIMENSION_KEY_CHARS,
    MAX_DIMENSION_VALUE_CHARS,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    MAX_UNIT_CHARS,
)
from aiokpl_metrics_protocol.reasons import Reason

_KINDS = frozenset([*[kind.value for kind in MetricKind], SUMMED_GAUGE])


class Series(Struct, frozen=True, array_like=True, gc=False):
    """A series as a producer declares it. Two are the same series when name and sorted dimensions are equal.

    Attributes:
        name: 1 to 255 characters.
        kind: a `MetricKind`'s word, `SUMMED_GAUGE`, or None.
        unit: at most 63 characters, or None.
        dimensions: `(key, value)` pairs; keys differ, neither is empty; at most 30.
    """

    name: str
    kind: str | None = None
    unit: str | None = None
    dimensions: tuple[tuple[str, str], ...] = ()


def check_series(
    name: str,
    kind: str | None,
    unit: str | None,
    dimensions: tuple[tuple[str, str], ...],
) -> Reason | None:
    """Return the first limit that a series breaks, or None when it breaks none."""
    if not name:
        return Reason.NAME_EMPTY
    if len(name) > MAX_NAME_CHARS:
        return Reason.NAME_TOO_LONG
    if kind is not None and kind not in _KINDS:
        return Reason.KIND_UNKNOWN
    if unit is not None and len(unit) > MAX_UNIT_CHARS:
        return Reason.UNIT_TOO_LONG
    return _check_dimensions(dimensions) if dimensions else None


def _check_dimensions(dimensions: tuple[tuple[str, str], ...]) -> Reason | None:
    if len(dimensions) > MAX_DIMENSIONS:
        return Reason.TOO_MANY_DIMENSIONS
    for key, value in dimensions:
        if not key or not value:
            return Reason.DIMENSION_EMPTY
        if len(key) > MAX_DIMENSION_KEY_CHARS or len(value) > MAX_DIMENSION_VALUE_CHARS:
            return Reason.DIMENSION_TOO_LONG
    if len(dimensions) > 1 and len({key for key, _ in dimensions}) != len(dimensions):
        return Reason.DIMENSION_DUPLICATE
    return None


__all__ = ["Series", "check_series"]
