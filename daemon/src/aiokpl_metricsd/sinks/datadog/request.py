"""Values -> requests, each below the payload limits. Pure.

An entry is written as JSON here and once: the client would walk through every value, twice, at more than all
the rest costs. So its bytes are known exactly. Those counted are the ones before compression: a body that is
below the compressed limit uncompressed is below both limits, whatever its content, and no body has to be
compressed to learn that. Bodies of half a megabyte also keep the interpreter no longer than some
milliseconds each, which is what other threads wait for.
"""

from collections.abc import Generator, Iterable
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final

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

_SEPARATOR = ", "
_SEPARATOR_BYTES = len(_SEPARATOR)
_FRAME_BYTES = len('{"series": []}')

# What `json.dumps` writes a text as: ASCII alone, so that characters are bytes.
_quote = encode_basestring_ascii
_quote_often = lru_cache(maxsize=1024)(_quote)


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
        entries: the same as JSON.
        size_bytes: of the body, uncompressed.
    """

    is_distribution: bool
    points: list[Point]
    entries: list[str]
    size_bytes: int

    def encode_body(self) -> bytes:
        """Return the body, uncompressed."""
        return f'{{"series": [{_SEPARATOR.join(self.entries)}]}}'.encode("ascii")

    def halve(self) -> "tuple[Request, Request]":
        """Return two requests of half the points each."""
        middle = len(self.points) // 2
        first, second = slice(middle), slice(middle, None)
        return (
            Request(self.is_distribution, self.points[first], self.entries[first], self.size_bytes // 2),
            Request(self.is_distribution, self.points[second], self.entries[second], self.size_bytes // 2),
        )


def encode_series(point: Point, host: str) -> str:
    """Return a count's or gauge's entry, as JSON.

    Raises:
        TypeError: the value is no float.
    """
    kind = TYPES[point.role]
    interval = unit = ""
    if point.interval_s is not None and kind == TYPES[Role.COUNT]:
        interval = f', "interval": {point.interval_s}'
    if point.unit is not None and point.role is not Role.EXACT_COUNT:
        unit = f', "unit": {_quote_often(point.unit)}'
    return (
        f'{{"metric": {_quote_often(point.name)}, "type": {kind}, '
        f'"points": [{{"timestamp": {point.window.second}, "value": {float.__repr__(point.number)}}}], '
        f'"resources": [{{"type": "host", "name": {_quote_often(host)}}}], '
        f'"tags": [{_SEPARATOR.join(map(_quote, point.tags))}]{interval}{unit}}}'
    )


def encode_distribution_points(point: Point, host: str) -> str:
    """Return a distribution's entry, as JSON.

    Raises:
        TypeError: a value is no float.
    """
    # A run is written once and repeated: the values are many and mostly equal.
    runs = [f"{float.__repr__(value)}{_SEPARATOR}" * count for value, count in point.runs]
    return (
        f'{{"metric": {_quote_often(point.name)}, "type": "distribution", '
        f'"points": [[{point.window.second}, [{"".join(runs)[:-_SEPARATOR_BYTES]}]]], '
        f'"host": {_quote_often(host)}, "tags": [{_SEPARATOR.join(map(_quote, point.tags))}]}}'
    )


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
        entry = encode(point, host)
        entry_bytes = len(entry) + _SEPARATOR_BYTES
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
