"""Snapshots -> points, as they are needed: those that fit, named, merged where Datadog would overwrite.

The snapshots are walked three times: once to find what is set aside and which series become equal, once for
counts and gauges, once for distributions. So no more than a request of them is in memory at a time, and
whoever stops in between knows of every snapshot whether something of it is left.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.sinks.datadog.memory import Memory, SeriesKey, WindowMemory
from aiokpl_metricsd.sinks.datadog.point import (
    EXACT_SUFFIXES,
    MAX_MAGNITUDE,
    Role,
    Unfit,
    encode_interval,
    encode_numbers,
    encode_points,
    encode_unit,
    find_unfit,
)
from aiokpl_metricsd.sinks.datadog.request import MAX_REQUEST_BYTES, Point
from aiokpl_metricsd.sinks.datadog.text import cut_name, encode_name, encode_tags
from aiokpl_metricsd.snapshot import MetricSnapshot

# Ours: a hundred tags of 200 characters, each twelve bytes in JSON at worst, are half of a request. No
# document says how many tags a series may have.
MAX_TAGS: Final = 100

# Ours: what the log is told once is remembered up to so many times.
_MAX_SAID = 1000

_LOGGER = logging.getLogger(__name__)

# In-process a snapshot may hold anything; this is what comes of it.
_MALFORMED: Final = (ArithmeticError, AttributeError, TypeError, ValueError)


class Plan(Struct, frozen=True):
    """What holds for every export of a sink.

    Attributes:
        prefix: of every metric name.
        tags: of every series, encoded.
        host: the host resource.
        exact_statistics: histograms have `.count`, `.sum`, `.min` and `.max`.
        max_points: of a distribution.
        max_request_bytes: of one body, uncompressed.
    """

    prefix: str
    tags: tuple[str, ...]
    host: str
    exact_statistics: bool
    max_points: int
    max_request_bytes: int = MAX_REQUEST_BYTES


class Place(Struct, frozen=True, gc=False):
    """Where a snapshot's values go."""

    key: SeriesKey
    name: str
    tags: tuple[str, ...]
    window: WindowMemory

    @property
    def identity(self) -> int:
        """Equal for places that are one series to Datadog; seldom for others."""
        return hash((self.window.second, self.name, self.tags))


class Builder:
    """The points of one export.

    Args:
        snapshots: of the export.
        plan: the sink's.
        memory: the sink's.
        said: what the log was told already; the sink's.
        now: epoch seconds.

    Attributes: unfit: the snapshots set aside, by their place in the export, and why. open: by snapshot,
    how much of it is not accepted; more than 0 until it was looked at for both endpoints.
    """

    def __init__(
        self, snapshots: Sequence[MetricSnapshot], plan: Plan, memory: Memory, said: set[str], now: float
    ) -> None:
        """Find what is set aside and which series become equal."""
        self.unfit: dict[int, Unfit] = {}
        self.open = [2] * len(snapshots)
        self._snapshots = snapshots
        self._plan = plan
        self._memory = memory
        self._said = said
        self._now = now
        self._timeless = memory.begin()
        self._equal = self._scan()

    def walk_series(self) -> Iterator[Point]:
        """Yield counts and gauges."""
        merged: dict[tuple[int, str, tuple[str, ...]], Point] = {}
        for index, snapshot in self._walk():
            values = encode_numbers(snapshot, exact_statistics=self._plan.exact_statistics)
            self.open[index] += len(values) - 1
            place = self._place(snapshot) if values else None
            if not isinstance(place, Place):
                continue
            for role, number in values:
                point = self._build(index, role, place, number)
                if place.identity in self._equal or point.share in place.window.merged:
                    self._merge(point, merged)
                else:
                    yield point
        for point in merged.values():
            # The sum may have left the range.
            if abs(point.number) <= MAX_MAGNITUDE:
                yield point
            else:
                self.unfit.update(dict.fromkeys(point.owners, Unfit.NUMBER_OUT_OF_RANGE))

    def walk_distributions(self) -> Iterator[Point]:
        """Yield the distributions that were not accepted before; equal ones add up by themselves."""
        for index, snapshot in self._walk():
            self.open[index] -= 1
            place = self._place(snapshot) if snapshot.kind is MetricKind.HISTOGRAM else None
            if not isinstance(place, Place) or place.key in place.window.accepted:
                continue
            try:
                runs = encode_points(snapshot, self._plan.max_points)
            except _MALFORMED:
                self.unfit[index] = Unfit.MALFORMED
                continue
            if runs:
                self.open[index] += 1
                point = self._build(index, Role.DISTRIBUTION, place, 0.0)
                point.runs = runs
                yield point

    def say(self, subject: str, text: str) -> None:
        """Log once."""
        if subject not in self._said and len(self._said) < _MAX_SAID:
            self._said.add(subject)
            _LOGGER.warning(text)

    def _scan(self) -> set[int]:
        """Return the identities that several snapshots have."""
        seen: set[int] = set()
        equal: set[int] = set()
        for index, snapshot in enumerate(self._snapshots):
            try:
                found = find_unfit(
                    snapshot, self._now, exact_statistics=self._plan.exact_statistics
                ) or self._place(snapshot)
            except _MALFORMED:
                found = Unfit.MALFORMED
            if isinstance(found, Unfit):
                self.unfit[index] = found
            elif found.identity in seen:
                equal.add(found.identity)
            else:
                seen.add(found.identity)
        return equal

    def _walk(self) -> Iterator[tuple[int, MetricSnapshot]]:
        for index, snapshot in enumerate(self._snapshots):
            if index not in self.unfit:
                yield index, snapshot

    def _place(self, snapshot: MetricSnapshot) -> Place | Unfit:
        name = encode_name(self._plan.prefix, snapshot.name)
        if not name:
            return Unfit.NAME_BLANK
        tags = encode_tags(snapshot.dimensions, self._plan.tags)
        if len(tags) > MAX_TAGS:
            return Unfit.TOO_MANY_TAGS
        key = (snapshot.name, snapshot.dimensions)
        # Asked for its hash, which not everything has.
        hash(key)
        return Place(key, name, tags, self._memory.find(snapshot, self._now, self._timeless))

    def _build(self, index: int, role: Role, place: Place, number: float) -> Point:
        wanted = place.name
        if role in EXACT_SUFFIXES:
            wanted = cut_name(place.name + EXACT_SUFFIXES[role], place.name + role.value)
        name = self._memory.claim_name(wanted, role)
        if name != wanted:
            self.say(wanted, f"metric name {wanted} is in use for another type; sent as {name}")
        snapshot = self._snapshots[index]
        return Point(
            role,
            name,
            place.tags,
            number,
            place.window,
            (index,),
            place.key,
            (),
            encode_interval(snapshot),
            encode_unit(snapshot.unit),
        )

    def _merge(self, point: Point, merged: dict[tuple[int, str, tuple[str, ...]], Point]) -> None:
        """Put together what Datadog would take for one series, of which it would keep the last value only."""
        identity = (point.window.second, *point.share)
        other = merged.get(identity)
        shares = point.window.merged.get(point.share)
        if shares is None and other is not None:
            self.say(point.name, f"several series become {point.name} with tags {point.tags}: merged")
            shares = point.window.merged[point.share] = {other.key: other.number}
        if shares is not None:
            # Last, as it is the latest.
            shares.pop(point.key, None)
            shares[point.key] = point.number
            point.number = _combine(point.role, list(shares.values()))
        if other is not None:
            point.owners = (*other.owners, *point.owners)
        merged[identity] = point


def _combine(role: Role, values: list[float]) -> float:
    if role is Role.EXACT_MIN:
        return min(values)
    if role is Role.EXACT_MAX:
        return max(values)
    return values[-1] if role is Role.GAUGE else sum(values)


__all__ = ["MAX_TAGS", "Builder", "Plan"]
