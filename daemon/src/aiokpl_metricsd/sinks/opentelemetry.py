"""Snapshots -> the instruments of an OpenTelemetry Meter, for programs that have the SDK set up already.

A counter is a Counter, a gauge an UpDownCounter whose value equals the gauge's latest one, a histogram a
Histogram. Instruments take single values, and a snapshot has none: a histogram's are placed into its buckets
so that their number, their sum, the least and the greatest are the snapshot's. That is done for at most 1,000
values per series and window. A series that once had more is recorded as 1,000 values in such windows, and its
exact count and sum go to the counters NAME.count and NAME.sum from then on.

SDK instruments refuse negative values in counters and histograms, so such snapshots are set aside and
counted. Writing to instruments does not fail. An export that is cancelled goes on where it was when the
window comes again.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from math import inf, isfinite, nextafter
from time import monotonic
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from anyio.lowlevel import checkpoint

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.errors import ConfigurationError, PartialExportError
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.sinks.opentelemetry_terms import (
    MAX_NAME_CHARS,
    ORIGINAL_NAME,
    encode_attributes,
    encode_name,
    encode_unit,
)
from aiokpl_metricsd.snapshot import MetricSnapshot

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

# The specification of this sink: `record` takes 6 to 8 us (opentelemetry-sdk 1.45, measured 2026-11).
MAX_RECORDS = 1_000

# Ours: after so long others may run. One histogram takes up to 10 ms by itself.
_SLICE_S = 0.005

# Ours: gauges whose value is known, which is what an UpDownCounter's next step is counted from. More are
# refused.
MAX_GAUGES = 100_000

# Ours: series that once had more values than are recorded; of more, the counters carry such windows only.
_MAX_COUNTED = 100_000

# Ours: the rounding error of a sum is a few steps of the last place, which one or two values take up.
_MOVED_VALUES = 8

# The sum of a double and its rounded correction is exact after two steps at most; one to spare.
_CORRECTIONS = 3

SCOPE_NAME = "aiokpl_metricsd"

_Foreign: TypeAlias = Any
_Identity: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def encode_values(snapshot: MetricSnapshot, count: int) -> list[float]:
    """Return so many values that are distributed as the snapshot's.

    Each lies in its bucket and between min and max; the first is min and the last is max. With the snapshot's
    own count their sum is the snapshot's: such values exist, since the events were such values.

    Args:
        snapshot: of a histogram, not negative.
        count: 1 to the snapshot's.
    """
    ranges = list(_spread(snapshot, count))
    if count == snapshot.count:
        ranges[0] = (snapshot.min, snapshot.min)
        ranges[-1] = (snapshot.max, snapshot.max) if count > 1 else (snapshot.sum, snapshot.sum)
    lowest = sum(low for low, _ in ranges)
    room = sum(high - low for low, high in ranges)
    wanted = snapshot.sum * (count / snapshot.count)
    share = min(1.0, max(0.0, (wanted - lowest) / room)) if room > 0.0 else 0.0
    values = [low + (high - low) * share for low, high in ranges]
    return _correct(values, ranges, wanted)


def _correct(values: list[float], ranges: Sequence[tuple[float, float]], wanted: float) -> list[float]:
    """Move single values within their ranges until the sum, added up in this order, is the wanted one."""
    movable = (place for place in range(len(values) - 1, -1, -1) if ranges[place][0] < ranges[place][1])
    for place in islice(movable, _MOVED_VALUES):
        missing = wanted - sum(values)
        if missing == 0.0:
            break
        low, high = ranges[place]
        values[place] = min(high, max(low, values[place] + missing))
    return values


def _spread(snapshot: MetricSnapshot, count: int) -> Iterator[tuple[float, float]]:
    """Yield for each of so many values the range that it lies in, ascending."""
    low, high = snapshot.min, snapshot.max
    buckets = snapshot.histogram
    if buckets is None or _count(buckets) != snapshot.count:
        yield from [(low, high)] * count
        return
    before = done = 0
    for bucket_low, bucket_high, bucket_count in _walk(buckets):
        before += bucket_count
        # As many of them as keep the share of all values up to here.
        until = before * count // snapshot.count
        yield from [(min(high, max(low, bucket_low)), max(low, min(high, bucket_high)))] * (until - done)
        done = until


def _walk(buckets: Buckets) -> Iterator[tuple[float, float, int]]:
    """Yield lower bound, upper bound and count of zero and of the positive buckets."""
    yield 0.0, 0.0, buckets.zero_count
    factor = 2.0**-buckets.scale
    for place, count in enumerate(buckets.positive_counts, buckets.positive_offset):
        # A bucket has its upper bound, and not its lower one.
        yield nextafter(_power(place * factor), inf), _power((place + 1) * factor), count


def _power(exponent: float) -> float:
    try:
        return float(2.0**exponent)
    except OverflowError:
        return inf


def _count(buckets: Buckets) -> int:
    return buckets.zero_count + sum(buckets.positive_counts)


class OpenTelemetrySink:
    """Writes every window to the instruments of a Meter.

    Args:
        meter: where the instruments are made; None takes the global provider's.
        instrument_prefix: goes before every metric's name. The SDK lower-cases the whole name.
    """

    repeat_rule = RepeatRule.ADDS
    ordered = True

    def __init__(self, *, meter: "Meter | None" = None, instrument_prefix: str = "aiokpl.") -> None:
        """Keep the options; nothing is imported before entering."""
        self._given: _Foreign = meter
        self._prefix = instrument_prefix
        self._meter: _Foreign = None
        self._instruments: dict[tuple[str, str], _Foreign] = {}
        self._gauges: dict[_Identity, tuple[float, float]] = {}
        self._counted: set[_Identity] = set()
        self._refused: dict[str, int] = {}
        self._interrupted: tuple[object, set[_Identity]] | None = None

    @property
    def refused(self) -> Mapping[str, int]:
        """Snapshots set aside so far, by reason: negative, not_finite, malformed, too_many_gauges."""
        return MappingProxyType(self._refused)

    async def export(self, snapshots: Sequence[MetricSnapshot]) -> None:
        """Write the snapshots of one window to their instruments.

        Raises:
            PartialExportError: some snapshots cannot be written; the rest is.
        """
        if self._meter is None or not snapshots:
            return
        window = snapshots[0].window_id or (snapshots[0].window_start, snapshots[0].window_end)
        written: set[_Identity] = set()
        if self._interrupted is not None and self._interrupted[0] == window:
            written = self._interrupted[1]
        refused: list[tuple[MetricSnapshot, str]] = []
        self._interrupted = (window, written)
        until = monotonic() + _SLICE_S
        for snapshot in snapshots:
            reason = self._write(snapshot, written)
            if reason is not None:
                refused.append((snapshot, reason))
            if monotonic() >= until:
                await checkpoint()
                until = monotonic() + _SLICE_S
        self._interrupted = None
        for _, reason in refused:
            self._refused[reason] = self._refused.get(reason, 0) + 1
        if refused:
            reasons = ", ".join(sorted({reason for _, reason in refused}))
            rejected = [snapshot for snapshot, _ in refused]
            raise PartialExportError(
                f"no instrument takes {len(refused)} snapshots: {reasons}", rejected=rejected
            )

    async def __aenter__(self) -> Self:
        """Take the Meter.

        Raises:
            ConfigurationError: the extra is not installed.
        """
        self._meter = self._given
        if self._meter is None:
            try:
                self._meter = import_module("opentelemetry.metrics").get_meter(SCOPE_NAME)
            except ModuleNotFoundError as error:
                text = f"opentelemetry: there is no module {error.name}; pip install 'aiokpl-metricsd[otel]'"
                raise ConfigurationError(text) from error
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Let go of the Meter. What was written is the SDK's to export."""
        self._meter = None
        self._instruments.clear()

    def _write(self, snapshot: MetricSnapshot, written: set[_Identity]) -> str | None:
        """Write one snapshot, unless it is written already; return why it cannot be, or None."""
        try:
            identity = (snapshot.name, snapshot.dimensions)
            if identity in written:
                return None
            reason = self._check(snapshot)
            if reason is not None:
                return reason
            name, is_mended = encode_name(self._prefix, snapshot.name)
            attributes = encode_attributes(snapshot.dimensions)
            if is_mended:
                attributes[ORIGINAL_NAME] = snapshot.name.encode("utf-8", "replace").decode("utf-8")
        except (AttributeError, OverflowError, TypeError, ValueError):
            return "malformed"
        # Before, not after: an error in the middle must not write the first half twice.
        written.add(identity)
        unit = encode_unit(snapshot.unit)
        if snapshot.kind is MetricKind.GAUGE:
            self._write_gauge(identity, self._find("up_down_counter", name, unit), snapshot, attributes)
        elif snapshot.kind is MetricKind.HISTOGRAM:
            self._write_histogram(identity, name, unit, snapshot, attributes)
        else:
            self._find("counter", name, unit).add(float(snapshot.sum), attributes)
        return None

    def _check(self, snapshot: MetricSnapshot) -> str | None:
        """Return why no instrument takes a snapshot, or None."""
        if snapshot.kind is MetricKind.GAUGE:
            if not isfinite(snapshot.last):
                return "not_finite"
            is_known = (snapshot.name, snapshot.dimensions) in self._gauges
            return None if is_known or len(self._gauges) < MAX_GAUGES else "too_many_gauges"
        if not (isfinite(snapshot.sum) and isfinite(snapshot.min) and isfinite(snapshot.max)):
            return "not_finite"
        if snapshot.min < 0.0 or snapshot.sum < 0.0:
            return "negative"
        return None if snapshot.count >= 1 else "malformed"

    def _write_gauge(
        self, identity: _Identity, instrument: _Foreign, snapshot: MetricSnapshot, attributes: dict[str, str]
    ) -> None:
        end, value = self._gauges.get(identity, (0.0, 0.0))
        if snapshot.window_end >= end:
            end = snapshot.window_end
            # The SDK adds up in doubles, so what is added is corrected until its sum is the gauge's value.
            for _ in range(_CORRECTIONS):
                step = snapshot.last - value
                if step == 0.0:
                    break
                instrument.add(step, attributes)
                value += step
        self._gauges[identity] = (end, value)

    def _write_histogram(
        self, identity: _Identity, name: str, unit: str, snapshot: MetricSnapshot, attributes: dict[str, str]
    ) -> None:
        record = self._find("histogram", name, unit).record
        for value in encode_values(snapshot, min(snapshot.count, MAX_RECORDS)):
            record(value, attributes)
        is_beyond = snapshot.count > MAX_RECORDS
        if is_beyond and len(self._counted) < _MAX_COUNTED:
            self._counted.add(identity)
        if is_beyond or identity in self._counted:
            name = name[: MAX_NAME_CHARS - len(".count")]
            self._find("counter", f"{name}.count", "{count}").add(snapshot.count, attributes)
            self._find("counter", f"{name}.sum", unit).add(float(snapshot.sum), attributes)

    def _find(self, kind: str, name: str, unit: str) -> _Foreign:
        """Return the instrument of that name, made at its first use."""
        instrument = self._instruments.get((kind, name))
        if instrument is None:
            instrument = getattr(self._meter, f"create_{kind}")(name, unit=unit)
            self._instruments[kind, name] = instrument
        return instrument


__all__ = ["MAX_GAUGES", "MAX_RECORDS", "OpenTelemetrySink", "encode_values"]
