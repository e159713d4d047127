"""Whatever the split into frames, windows, producers, orders and folded sets, the totals are the events'."""

from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import Buckets, Folded, MetricEvent
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.aggregation import (
    BEGIN,
    Bench,
    Dimensions,
    add_up,
    build_column,
    build_folded,
    build_rows,
)

# Whole numbers and quarters, whose sums are exact in every order.
VALUES = st.integers(-4_000, 4_000).map(lambda number: number / 4)
# Some are late, some early, some windows ahead.
SECONDS = st.integers(BEGIN - 70, BEGIN + 260)
NAMES = st.sampled_from(["a", "b", "histogram"])

EVENT = st.tuples(NAMES, SECONDS, VALUES)
COLUMN = st.tuples(NAMES, SECONDS, st.lists(VALUES, min_size=1, max_size=5))
SAME = st.tuples(NAMES, SECONDS, VALUES, st.integers(1, 2**20))
PART = st.one_of(
    st.tuples(st.just("rows"), st.lists(EVENT, min_size=1, max_size=4)),
    st.tuples(st.just("columns"), st.lists(COLUMN, min_size=1, max_size=4)),
    st.tuples(st.just("same"), SAME),
    st.tuples(st.just("sets"), COLUMN),
    st.tuples(st.just("wait"), st.integers(-40, 90)),
    st.tuples(st.just("forget"), st.none()),
)


def kind_of(name: str) -> str | None:
    return "histogram" if name == "histogram" else None


def feed(bench: Bench, part: tuple[str, Any], now: float) -> list[tuple[str, float, int]]:
    """Hand one part to the aggregator; return its events as `(name, value, how many)`."""
    kind, content = part
    add = bench.aggregator
    if kind == "rows":
        rows = [MetricEvent(name, value, second, (), kind_of(name)) for name, second, value in content]
        add.add_rows(build_rows(*rows).events, now)
        return [(name, value, 1) for name, _, value in content]
    if kind == "columns":
        add.add_columns([build_column(values, s, name=n, kind=kind_of(n)) for n, s, values in content], now)
        return [(name, value, 1) for name, _, values in content for value in values]
    if kind == "same":
        name, second, value, count = content
        add.add_columns([build_column(value, second, count, name, kind=kind_of(name))], now)
        return [(name, value, count)]
    name, second, values = content
    add.add_sets([fold(values, second, name)], now)
    return [(name, value, 1) for value in values]


def fold(values: list[float], second: int, name: str) -> Folded:
    return build_folded(values, second, name, kind_of(name), build_buckets(values))


def build_buckets(values: list[float]) -> Buckets:
    histogram = Histogram()
    histogram.add_values(values, min(values), max(values))
    return histogram.freeze()


def total(events: list[tuple[str, float, int]]) -> dict[tuple[str, Dimensions], tuple[Any, ...]]:
    found: dict[tuple[str, Dimensions], tuple[Any, ...]] = {}
    for name in {name for name, _, _ in events}:
        mine = [(value, count) for each, value, count in events if each == name]
        found[name, ()] = (
            sum(count for _, count in mine),
            sum(value * count for value, count in mine),
            min(value for value, _ in mine),
            max(value for value, _ in mine),
        )
    return found


def count_buckets(snapshots: list[MetricSnapshot]) -> Counter[int]:
    counted: Counter[int] = Counter()
    for each in snapshots:
        if each.histogram is not None:
            merged = Histogram()
            merged.add_buckets(each.histogram)
            for sign, side in ((1, merged.positive), (-1, merged.negative)):
                for bucket, count in ({} if side is None else side.counts).items():
                    # The octave, which every scale of these values has.
                    counted[sign * (((bucket - 1) >> merged.scale) + 100)] += count
            counted[0] += merged.zero_count
    return counted


@given(st.lists(PART, max_size=30))
def test_totals_are_conserved_under_any_split_and_no_two_windows_overlap(
    parts: list[tuple[str, Any]],
) -> None:
    bench = Bench(live_series=1)
    now, latest = float(BEGIN), float(BEGIN)
    events: list[tuple[str, float, int]] = []
    snapshots: list[MetricSnapshot] = []
    for part in parts:
        if part[0] == "wait":
            # A step back of at most one window in all: a longer one begins windows anew.
            now = max(now + part[1], latest - 60)
            latest = max(latest, now)
            snapshots += bench.freeze(bench.aggregator.close_due(now, 2.0))
        elif part[0] == "forget":
            bench.forget(now)
        else:
            events += feed(bench, part, now)
        bench.check()
        assert len(bench.windows.opened) <= 64
    assert bench.ledger.events_decoded == sum(count for _, _, count in events)
    snapshots += bench.close(now)
    assert add_up(snapshots) == total(events)
    assert bench.ledger.events_closed == bench.ledger.events_decoded

    bounds = {(each.window_start, each.window_end, each.window_id) for each in snapshots}
    assert len(bounds) == len({window_id for *_, window_id in bounds})
    ordered = sorted(bounds)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert all(start < end for start, end, _ in bounds)
    # A series is in a window once.
    assert len({(each.name, each.window_id) for each in snapshots}) == len(snapshots)

    alone = Bench()
    for name, value, count in events:
        alone.aggregator.add_columns([build_column(value, count=count, name=name, kind=kind_of(name))], BEGIN)
    assert count_buckets(snapshots) == count_buckets(alone.close())


@settings(max_examples=50)
@given(st.lists(st.lists(PART, max_size=10), min_size=2, max_size=4))
def test_daemons_in_turn_lose_nothing_and_use_no_time_twice(lives: list[list[tuple[str, Any]]]) -> None:
    now = float(BEGIN)
    events: list[tuple[str, float, int]] = []
    snapshots: list[MetricSnapshot] = []
    for parts in lives:
        bench = Bench(begin=int(now))
        for part in parts:
            if part[0] == "wait":
                now += abs(part[1])
                snapshots += bench.freeze(bench.aggregator.close_due(now, 2.0))
            elif part[0] != "forget":
                events += feed(bench, part, now)
        snapshots += bench.freeze(bench.aggregator.close_for_good(now))
        bench.check()
        assert bench.ledger.events_closed == bench.ledger.events_decoded
        # The next one begins with the next second at the earliest.
        now = int(now) + 1.0
    assert add_up(snapshots) == total(events)
    bounds = sorted({(each.window_start, each.window_end) for each in snapshots})
    assert all(before[1] <= after[0] for before, after in pairwise(bounds))
    assert len({(each.name, each.window_start) for each in snapshots}) == len(snapshots)


@settings(max_examples=50)
@given(st.lists(COLUMN, min_size=1, max_size=20), st.randoms())
def test_the_order_of_columns_in_a_window_does_not_matter(columns: list[Any], random: Random) -> None:
    results = []
    for _ in range(2):
        bench = Bench()
        built = [build_column(v, BEGIN + (s - BEGIN) % 60, name=n, kind=kind_of(n)) for n, s, v in columns]
        bench.aggregator.add_columns(built, BEGIN + 59)
        results.append(
            {each.name: (each.count, each.sum, each.min, each.max, each.histogram) for each in bench.close()}
        )
        random.shuffle(columns)
    assert results[0] == results[1]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), VALUES), min_size=1, max_size=60), st.integers(1, 8))
def test_past_max_series_the_sums_of_a_name_stay_right(events: list[Any], max_series: int) -> None:
    bench = Bench(max_series=max_series)
    for number, value in events:
        bench.aggregator.add_columns([build_column([value], dimensions=(("k", str(number)),))], BEGIN)
    snapshots = bench.close()
    assert sum(each.count for each in snapshots) == len(events)
    assert sum(each.sum for each in snapshots) == sum(value for _, value in events)
    known = list(dict.fromkeys(number for number, _ in events))
    assert len(snapshots) == min(len(known), max_series) + (len(known) > max_series)
    overflowed = [value for number, value in events if number in known[max_series:]]
    assert bench.ledger.events_overflowed == len(overflowed)
    if overflowed:
        (rest,) = [each for each in snapshots if each.dimensions == (("overflow", "true"),)]
        assert (rest.count, rest.sum) == (len(overflowed), sum(overflowed))
