"""Measured values by key, and the plan that says which of them are wanted.

A key is `group.case.quantity_unit`, as `producer.record_values.ns`. One pass adds one value or a few for
every key; what is reported is the median over all passes, and of events lost the most.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from statistics import median


class MeasurementError(Exception):
    """A measurement did not do what it claims to measure, so its figures would be wrong."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and for how long.

    Attributes:
        quick: less work for each figure, and only the cases that stand in the table's budget rows.
        passes: how often everything is measured.
        patterns: globs or parts of keys; none means everything.
        limit_s: no pass begins that would end later than this.
        started_s: monotonic time of the start.
    """

    quick: bool = False
    passes: int = 3
    patterns: tuple[str, ...] = ()
    limit_s: float = 1_800.0
    started_s: float = field(default_factory=time.monotonic)

    def wants(self, key: str) -> bool:
        """Tell whether a key is asked for; a group's prefix (`daemon.`) is, when any of its keys may be."""
        return not self.patterns or any(
            pattern in key or fnmatchcase(key, pattern) for pattern in self.patterns
        )

    def wants_any(self, keys: Iterable[str]) -> bool:
        """Tell whether one of the keys is asked for."""
        return any(self.wants(key) for key in keys)

    def begin_passes(self) -> "Plan":
        """Return the plan for the passes, which have what is left of the time."""
        now_s = time.monotonic()
        return replace(self, limit_s=self.limit_s - (now_s - self.started_s), started_s=now_s)

    def has_time_for_pass(self, done: int) -> bool:
        """Tell whether one more pass fits, judged by the `done` ones with a tenth to spare."""
        elapsed_s = time.monotonic() - self.started_s
        return done == 0 or elapsed_s + 1.1 * elapsed_s / done <= self.limit_s


@dataclass(slots=True)
class Samples:
    """What has been measured so far.

    Attributes:
        values: the values of each key, in the order of measuring.
        skipped: the cases that could not be measured here, with the reason.
        errors: measurements that failed or whose totals were wrong.
        notes: remarks for the reader.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, value: float) -> None:
        """Keep one value."""
        self.values.setdefault(key, []).append(value)

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def summarise(self) -> dict[str, float]:
        """Return one figure for each key: the median, but of events lost the most."""
        return {
            key: max(values) if key.endswith("events") else median(values)
            for key, values in self.values.items()
        }


__all__ = ["MeasurementError", "Plan", "Samples"]
