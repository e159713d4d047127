"""Values -> requests, each below the payload limits. Pure.

The bytes counted are those of the body before compression, as the client writes it: a body that is below
the compressed limit uncompressed is below both limits, whatever its content, and no body has to be
compressed to learn that. Bodies of half a megabyte also keep the interpreter no longer than some
milliseconds each, which is what other threads wait for.
"""

import json
from collections.abc import Generator, Iterable
from typing import Any, Final

from msgspec import Struct

from aiokpl_metricsd.sinks.datadog.memory import SeriesKey, WindowMemory
from aiokpl_metricsd.sinks.datadog.point import TYPES, Role, Runs

# "Submit metrics", v2 (docs.datadoghq.com/api/latest/metrics, read 2026-11). No limit is documented for
# distribution points; they are held to the same.
MAX_COMPRESSED_BYTES: Final = 512_000
MAX_UNCOMPRESSED_BYTES: Final = 5_242_880

# Ours: what deflate cannot compress grows by 5 bytes in 16 KB (RFC 1951, 3.2.4); the rest is for good
# measure.
MAX_REQUEST_BYTES: Final = 500_000

# `{"series": []}`, and the comma and space after an entry.
_FRAME_BYTES = 14
_SEPARATOR_BYTES = 2


class Point(Struct, gc=False):
    """One value, and whose it is.

    Attributes:
        role: what it is.
        name: the metric name.
        tags: in order.
        number: the value; 0 for a distribution.
        window: where its second is, and what was accepted.
        owners: the snapshots that it is made of, by their place in the export.
        key: of the first of them.
        runs: of a distribution.
        interval_s: of a count.
        unit: in Datadog's words.
    """

    role: Role
    name: str
    tags: tuple[str, ...]
    number: float
    window: WindowMemory
    owners: tuple[int, ...]
    key: SeriesKey
    runs: Runs = ()
    interval_s: int | None = None
    unit: str | None = None

    @property
    def share(self) -> tuple[str, tuple[str, ...]]:
        """Name and tags: what is one series to Datadog."""
        return self.name, self.tags


class Request(Struct):
    """What is sent at once.

    Attributes:
        is_distribution: which of the two endpoints takes it.
        points: what it carries.
        entries: the same as the client takes it.
        size_bytes: of the body, uncompressed.
    """

    is_distribution: bool
    points: list[Point]
    entries: list[dict[str, Any]]
    size_bytes: int

    def halve(self) -> "tuple[Request, Request]":
        """Return two requests of half the points each."""
        middle = len(self.points) // 2
        first, second = slice(middle), slice(middle, None)
        return (
            Request(self.is_distribution, self.points[first], self.entries[first], self.size_bytes // 2),
            Request(self.is_distribution, self.points[second], self.entries[second], self.size_bytes // 2),
        )


def encode_series(point: Point, host: str) -> tuple[dict[str, Any], int]:
    """Return a count's or gauge's entry, and its bytes."""
    entry: dict[str, Any] = {
        "metric": point.name,
        "type": TYPES[point.role],
        "points": ({"timestamp": point.window.second, "value": point.number},),
        "resources": ({"type": "host", "name": host},),
        "tags": point.tags,
    }
    if point.interval_s is not None and TYPES[point.role] == TYPES[Role.COUNT]:
        entry["interval"] = point.interval_s
    if point.unit is not None and point.role is not Role.EXACT_COUNT:
        entry["unit"] = point.unit
    return entry, len(json.dumps(entry))


def encode_distribution_points(point: Point, host: str) -> tuple[dict[str, Any], int]:
    """Return a distribution's entry, and its bytes."""
    values: list[float] = []
    entry: dict[str, Any] = {
        "metric": point.name,
        "type": "distribution",
        "points": ((point.window.second, values),),
        "host": host,
        "tags": point.tags,
    }
    # Measured without the values, which are many and mostly equal.
    size_bytes = len(json.dumps(entry)) - _SEPARATOR_BYTES
    for value, count in point.runs:
        values += [value] * count
        size_bytes += (len(repr(value)) + _SEPARATOR_BYTES) * count
    return entry, size_bytes


def cut_requests(points: Iterable[Point], host: str, max_bytes: int) -> Generator[Request, None, None]:
    """Yield requests of the points in order; a single entry may exceed the limit.

    Args:
        points: all counts and gauges, or all distributions.
        host: the host resource.
        max_bytes: of one request.
    """
    request: Request | None = None
    for point in points:
        is_distribution = point.role is Role.DISTRIBUTION
        encode = encode_distribution_points if is_distribution else encode_series
        entry, entry_bytes = encode(point, host)
        entry_bytes += _SEPARATOR_BYTES
        if request is not None and request.size_bytes + entry_bytes > max_bytes:
            yield request
            request = None
        if request is None:
            request = Request(is_distribution, [], [], _FRAME_BYTES)
        request.points.append(point)
        request.entries.append(entry)
        request.size_bytes += entry_bytes
    if request is not None:
        yield request


__all__ = [
    "MAX_COMPRESSED_BYTES",
    "MAX_REQUEST_BYTES",
    "MAX_UNCOMPRESSED_BYTES",
    "Point",
    "Request",
    "cut_requests",
    "encode_distribution_points",
    "encode_series",
]
