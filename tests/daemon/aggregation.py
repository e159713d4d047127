"""An aggregator with its parts, and frames for it, without socket or clock."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aiokpl_metrics_protocol import (
    Buckets,
    Column,
    Description,
    EventsFrame,
    Folded,
    MetricEvent,
    MetricsLevel,
    RowsFrame,
    Series,
    decode_deferred,
    encode,
    encode_series,
)
from aiokpl_metricsd.aggregating.registry import Registry
from aiokpl_metricsd.aggregating.windows import Window, Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.ledger import Ledger
from aiokpl_metricsd.snapshot import MetricSnapshot

# A second at which a window of a minute begins.
BEGIN = 1_200_000_000

Dimensions = tuple[tuple[str, str], ...]


class Bench:
    """An aggregator and what it is made of. Everything it closes goes through `freeze`."""

    def __init__(
        self,
        *,
        max_series: int = 1_000,
        live_series: int = 100,
        interval_s: int = 60,
        begin: int = BEGIN,
        level: MetricsLevel = MetricsLevel.DETAILED,
        dimensions: Mapping[str, str] | None = None,
        descriptions: Mapping[str, Description] | None = None,
        max_shares: int = 1_000,
    ) -> None:
        self.ledger = Ledger()
        self.windows = Windows(interval_s, begin)
        self.registry = Registry(
            self.ledger,
            max_series=max_series,
            level=level,
            dimensions=dimensions,
            descriptions=descriptions,
        )
        self.aggregator = Aggregator(
            self.registry,
            self.windows,
            self.ledger,
            live_series=live_series,
            daemon_id=0xABC,
            max_shares=max_shares,
        )

    def freeze(self, windows: Iterable[Window], slice_series: int = 3) -> list[MetricSnapshot]:
        return [
            snapshot
            for window in windows
            for part in self.aggregator.freeze(window, slice_series)
            for snapshot in part
        ]

    def close(self, now: float = BEGIN + 1) -> list[MetricSnapshot]:
        """Close all windows and freeze them; the ledger must balance before and after."""
        self.check()
        snapshots = self.freeze(self.aggregator.close_all(now))
        assert self.aggregator.events_open == 0
        assert self.ledger.events_closed >= sum(snapshot.count for snapshot in snapshots)
        self.check()
        return snapshots

    def close_one(self, now: float = BEGIN + 1) -> MetricSnapshot:
        """Close all windows, which must hold one series between them."""
        (snapshot,) = self.close(now)
        return snapshot

    def forget(self, now: float) -> int:
        return sum(self.aggregator.forget_idle(now, 3))

    def view(self, now: float, seconds: int = 60) -> dict[tuple[str, Dimensions], tuple[Any, ...]]:
        """Return `(count, sum, min, max)` of the live view by series."""
        return {
            (each.name, each.dimensions): (each.count, each.sum, each.min, each.max)
            for each in self.aggregator.view_live(now, seconds)
        }

    def check(self) -> None:
        assert self.ledger.balance_events(self.aggregator.events_open) == 0


def name_series(
    name: str = "m", dimensions: Dimensions = (), kind: str | None = None, unit: str | None = None
) -> bytes:
    return encode_series(Series(name, kind, unit, dimensions))


def build_column(
    values: float | list[float],
    second: int = BEGIN,
    count: int = 1,
    name: str = "m",
    dimensions: Dimensions = (),
    kind: str | None = None,
) -> Column:
    return Column(name_series(name, dimensions, kind), second, values, count)


def build_folded(
    values: list[float],
    second: int = BEGIN,
    name: str = "m",
    kind: str | None = None,
    buckets: Buckets | None = None,
) -> Folded:
    return Folded(
        name_series(name, kind=kind),
        second,
        len(values),
        sum(values),
        min(values),
        max(values),
        values[-1],
        second,
        buckets,
    )


def build_rows(*events: MetricEvent) -> RowsFrame:
    """Return rows as the decoder hands them on, their dimensions still encoded."""
    frame = decode_deferred(encode(EventsFrame(list(events))))
    assert isinstance(frame, RowsFrame)
    return frame


Totals = dict[tuple[str, Dimensions], tuple[int, float, float, float]]


def add_up(snapshots: Iterable[MetricSnapshot]) -> Totals:
    """Return count, sum, min and max by series over all windows."""
    by_series: dict[tuple[str, Dimensions], list[MetricSnapshot]] = defaultdict(list)
    for snapshot in snapshots:
        by_series[snapshot.name, snapshot.dimensions].append(snapshot)
    return {
        key: (
            sum(each.count for each in found),
            sum(each.sum for each in found),
            min(each.min for each in found),
            max(each.max for each in found),
        )
        for key, found in by_series.items()
    }


__all__ = [
    "BEGIN",
    "Bench",
    "Dimensions",
    "Totals",
    "add_up",
    "build_column",
    "build_folded",
    "build_rows",
    "name_series",
]
