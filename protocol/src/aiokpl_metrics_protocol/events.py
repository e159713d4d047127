"""One measured value, and how much detail of it is kept."""

from enum import Enum
from typing import Final

from msgspec import Struct


class MetricsLevel(Enum):
    """How much detail is recorded.

    `NONE` records nothing, `SUMMARY` drops the dimensions `shard` and `error_code`, `DETAILED` keeps all.
    """

    NONE = "none"
    SUMMARY = "summary"
    DETAILED = "detailed"


class MetricKind(str, Enum):
    """What a series measures, and so how its values combine.

    A `COUNTER` adds up, of a `GAUGE` the last value holds, a `HISTOGRAM` is a distribution with percentiles.
    """

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"

    def __str__(self) -> str:
        """Return the word itself, the same on every Python."""
        return self.value


# The word by which a producer declares a gauge of which the sum of every live producer's last value holds, in
# place of the last value of all. Not a kind of its own: what a backend gets is a gauge.
SUMMED_GAUGE: Final = "gauge_sum"


class MetricEvent(Struct, frozen=True, array_like=True):
    """One measured value.

    Attributes:
        name: 1 to 255 characters.
        value: finite; in the unit of its series.
        timestamp: seconds since the epoch; 0 means the time of arrival.
        dimensions: `(key, value)` pairs; keys differ, neither is empty; at most 30.
        kind: a `MetricKind`'s word or `SUMMED_GAUGE`, where the producer declares one.
        unit: the value's unit, where the producer declares one, as "ms", "bytes" or "count".
    """

    name: str
    value: float
    timestamp: float
    dimensions: tuple[tuple[str, str], ...] = ()
    kind: str | None = None
    unit: str | None = None


__all__ = ["SUMMED_GAUGE", "MetricEvent", "MetricKind", "MetricsLevel"]
