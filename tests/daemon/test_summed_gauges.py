"""A summed gauge is the sum of its live producers' last values, whatever the order, crashes and folding."""

import math
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import (
    SUMMED_GAUGE,
    Column,
    Description,
    Folded,
    MetricEvent,
    MetricKind,
    MetricsLevel,
    Reason,
)
from aiokpl_metricsd.aggregating.sealing import SealedWindow, encode_sealed
from aiokpl_metricsd.aggregating.statistics import ALIVE_S
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.aggregation import BEGIN, Bench, Dimensions, build_column, build_rows, name_series

NAME = "open"

Told = tuple[int, int, float]
"""Producer, second, value."""


def tell(bench: Bench, producer: int, value: float, second: int = BEGIN, dimensions: Dimensions = ()) -> None:
    column = build_column([value], second, name=NAME, dimensions=dimensions, kind=SUMMED_GAUGE)
    bench.aggregator.add_columns([column], float(second), producer)


def fold(producer_values: list[tuple[int, float]], name: str = NAME) -> Folded:
    """Fold the values of one producer, as `(second, value)`, oldest first."""
    values = [value for _, value in producer_values]
    low, high = min(values), max(values)
    first, last = producer_values[0][0], producer_values[-1][0]
    series = name_series(name, kind=SUMMED_GAUGE)
    return Folded(series, first, len(values), sum(values), low, high, values[-1], last)


def test_the_snapshot_is_one_value_the_sum_of_the_last_ones() -> None:
    bench = Bench()
    for producer, value in ((1, 4.0), (2, 10.0), (1, 5.0), (3, 0.5)):
        tell(bench, producer, value)
    snapshot = bench.close_one()
    total = 15.5
    assert (snapshot.count, snapshot.sum, snapshot.min, snapshot.max, snapshot.last) == (1, *[total] * 4)
    assert (snapshot.kind, snapshot.is_summed) == (MetricKind.GAUGE, True)
    assert bench.ledger.events_closed == 4


def test_a_producer_that_said_nothing_for_ten_seconds_does_not_count_any_more() -> None:
    bench = Bench()
    tell(bench, 1, 100.0, BEGIN)
    tell(bench, 2, 20.0, BEGIN + 1)
    tell(bench, 3, 3.0, BEGIN + ALIVE_S)
    assert bench.close_one(BEGIN + 20).last == 23.0


def test_a_window_in_which_every_producer_ended_has_what_they_had() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN + 1)
    tell(bench, 2, 4.0, BEGIN + 2)
    assert bench.close_one(BEGIN + 59).last == 7.0


def test_of_one_producer_the_greatest_second_holds_and_of_equal_ones_the_last_to_arrive() -> None:
    bench = Bench()
    for second, value in ((5, 1.0), (7, 2.0), (7, 3.0), (6, 9.0)):
        tell(bench, 1, value, BEGIN + second)
    assert bench.close_one(BEGIN + 20).last == 3.0


def test_a_late_value_counts_as_an_event_and_changes_no_sum() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN + 30)
    bench.freeze(bench.aggregator.close_due(BEGIN + 62, 2.0))
    tell(bench, 2, 5.0, BEGIN + 61)
    column = build_column([50.0], BEGIN + 31, name=NAME, kind=SUMMED_GAUGE)
    bench.aggregator.add_columns([column], BEGIN + 62.0, 1)
    bench.aggregator.add_columns([column], BEGIN + 62.0, 7)
    assert bench.ledger.events_late == 2
    assert bench.close_one(BEGIN + 63).last == 5.0
    assert bench.ledger.events_closed == 4


def test_what_was_folded_over_the_end_of_a_window_makes_nobody_dead() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN + 55)
    folded = fold([(BEGIN + 50, 4.0), (BEGIN + 90, 5.0)])
    bench.aggregator.add_sets([folded], BEGIN + 56.0, 2)
    assert bench.close_one(BEGIN + 59).last == 8.0


def test_where_all_that_came_was_late_there_is_no_snapshot_and_the_ledger_balances() -> None:
    bench = Bench()
    column = build_column([50.0], BEGIN - 31, name=NAME, kind=SUMMED_GAUGE)
    bench.aggregator.add_columns([column], float(BEGIN), 1)
    assert bench.view(BEGIN) == {}
    (window,) = bench.aggregator.read_open()
    assert [window.statistics.get(entry) for entry in window.statistics] == [None]
    assert bench.close() == []
    assert bench.ledger.events_closed == 1


def test_rows_are_of_one_producer_and_a_producer_that_declares_no_kind_has_a_share() -> None:
    bench = Bench()
    tell(bench, 1, 3.0)
    rows = [
        MetricEvent(NAME, value, float(BEGIN), (), kind) for value, kind in ((5.0, SUMMED_GAUGE), (6.0, None))
    ]
    bench.aggregator.add_rows(build_rows(*rows).events, BEGIN)
    bench.aggregator.add_columns([build_column([10.0], name=NAME)], BEGIN, 2)
    assert bench.close_one().last == 19.0
    assert bench.ledger.series_conflicts == 0


def test_series_that_are_one_here_have_a_share_each() -> None:
    bench = Bench(level=MetricsLevel.SUMMARY)
    for shard, value in (("1", 3.0), ("2", 4.0), ("1", 5.0)):
        tell(bench, 1, value, dimensions=(("shard", shard),))
    assert bench.close_one().last == 9.0


def test_past_max_series_the_sum_is_that_of_all_series() -> None:
    bench = Bench(max_series=2)
    for number in range(6):
        tell(bench, 1, float(number), dimensions=(("k", str(number)),))
        tell(bench, 1, float(number + 1), dimensions=(("k", str(number)),))
    snapshots = bench.close()
    assert sum(each.last for each in snapshots) == sum(range(1, 7))
    assert {each.dimensions: each.last for each in snapshots}[("overflow", "true"),] == 3 + 4 + 5 + 6


@pytest.mark.parametrize("first", [SUMMED_GAUGE, "gauge"])
def test_of_two_declarations_the_first_holds_and_the_other_is_a_conflict(first: str) -> None:
    bench = Bench()
    other = "gauge" if first == SUMMED_GAUGE else SUMMED_GAUGE
    for producer, kind in ((1, first), (2, other)):
        column = build_column([float(producer)], name=NAME, kind=kind)
        bench.aggregator.add_columns([column], BEGIN, producer)
    assert bench.ledger.series_conflicts == 1
    assert bench.registry.conflicts == {NAME: 1}
    assert bench.close_one().last == (3.0 if first == SUMMED_GAUGE else 2.0)


@pytest.mark.parametrize(("kind", "last"), [(MetricKind.GAUGE, 3.0), (MetricKind.COUNTER, 2.0)])
def test_a_kind_that_the_operator_declares_holds_and_a_gauge_is_merged_as_the_producer_says(
    kind: MetricKind, last: float
) -> None:
    bench = Bench(descriptions={NAME: Description(kind, "count")})
    tell(bench, 1, 1.0)
    tell(bench, 2, 2.0)
    snapshot = bench.close_one()
    assert (snapshot.kind, snapshot.unit, snapshot.last) == (kind, "count", last)
    assert bench.ledger.series_conflicts == (kind is not MetricKind.GAUGE)


def test_what_is_no_finite_number_is_refused_and_the_rest_counts() -> None:
    bench = Bench()
    column = build_column([1.0, math.nan, 2.0, math.inf], name=NAME, kind=SUMMED_GAUGE)
    assert bench.aggregator.add_columns([column], BEGIN, 1) == 4
    tell(bench, 2, 5.0)
    assert bench.ledger.events_refused == {Reason.VALUE_NOT_FINITE: 2}
    assert bench.close_one().last == 7.0


def test_a_sum_that_overflows_is_the_largest_number() -> None:
    bench = Bench()
    for producer in range(4):
        tell(bench, producer, 1e308)
    snapshot = bench.close_one()
    assert snapshot.last == snapshot.sum == snapshot.max == 1.7976931348623157e308


def test_shares_are_bounded_and_a_window_that_closes_gives_them_back() -> None:
    bench = Bench(max_shares=3)
    for producer in range(10):
        tell(bench, producer, 1.0)
    tell(bench, 0, 2.0)
    assert bench.ledger.events_refused == {Reason.TOO_MANY_PRODUCERS: 7}
    assert bench.close_one().last == 4.0
    for producer in range(10):
        tell(bench, producer, 1.0, BEGIN + 60)
    assert bench.close_one(BEGIN + 61).last == 3.0
    assert bench.ledger.events_refused == {Reason.TOO_MANY_PRODUCERS: 14}


def test_shares_that_were_sealed_and_told_again_take_one_place() -> None:
    bench = Bench(max_shares=3)
    for _ in range(5):
        tell(bench, 1, 1.0)
        tell(bench, 2, 2.0)
        bench.aggregator.seal()
        tell(bench, 1, 3.0)
        for _ in bench.aggregator.unseal(1):
            pass
    tell(bench, 3, 10.0)
    assert bench.ledger.events_refused == {}
    assert bench.close_one().last == 15.0


def test_the_live_view_shows_the_sum_and_not_the_values() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN + 58)
    tell(bench, 2, 4.0, BEGIN + 59)
    assert bench.view(BEGIN + 59) == {(NAME, ()): (1, 7.0, 7.0, 7.0)}
    # In the first second of a window, who has not told its value yet is not missing.
    tell(bench, 1, 5.0, BEGIN + 60)
    assert bench.view(BEGIN + 60) == {(NAME, ()): (1, 9.0, 9.0, 9.0)}


def test_the_open_window_is_read_with_the_sum_as_its_last_value_sealed_or_not() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN + 59)
    tell(bench, 2, 4.0, BEGIN + 59)
    tell(bench, 1, 5.0, BEGIN + 60)
    bench.aggregator.seal()
    tell(bench, 1, 6.0, BEGIN + 61)
    first, second = bench.aggregator.read_open()
    (entry,) = first.statistics
    assert first.statistics[entry].last == 7.0
    assert (second.statistics[entry].last, second.statistics[entry].count) == (10.0, 2)


def test_windows_ahead_of_the_clock_are_taken_in_at_the_end() -> None:
    bench = Bench()
    tell(bench, 1, 3.0, BEGIN)
    for producer, value in ((1, 4.0), (2, 5.0)):
        column = build_column([value], BEGIN + 61, name=NAME, kind=SUMMED_GAUGE)
        bench.aggregator.add_columns([column], BEGIN + 5.0, producer)
    (snapshot,) = bench.freeze(bench.aggregator.close_for_good(BEGIN + 5))
    assert snapshot.last == 9.0


class Rig:
    """A daemon that takes checkpoints, is killed, and comes back from the last one and its journal."""

    def __init__(self) -> None:
        self.bench = Bench(begin=BEGIN)
        self.snapshots: list[MetricSnapshot] = []
        self._journal: list[tuple[list[Told], float, bool]] = []
        self._checkpoint: list[tuple[SealedWindow, list[bytes]]] = []
        self._bounds = (BEGIN, 0)

    def take(self, told: list[Told], now: float, *, folded: bool) -> None:
        self._journal.append((told, now, folded))
        self._count(told, now, folded=folded)

    def close_due(self, now: float) -> None:
        closed = self.bench.freeze(self.bench.aggregator.close_due(now, 2.0))
        if closed:
            self.snapshots += closed
            self.checkpoint([], 0.0)

    def checkpoint(self, meanwhile: list[Told], now: float) -> None:
        """Store what is open; some events come while it is being stored."""
        sealed = self.bench.aggregator.seal()
        self._journal = []
        if meanwhile:
            self.take(meanwhile, now, folded=False)
        self._checkpoint = [(each, list(encode_sealed(each, 2))) for each in sealed]
        self._bounds = (self.bench.windows.closed_until, self.bench.windows.last_number)
        for _ in self.bench.aggregator.unseal(1):
            pass

    def crash(self) -> None:
        self.bench = Bench(begin=self._bounds[0])
        for window, blobs in self._checkpoint:
            self.bench.aggregator.restore(window.number, window.start, window.end, window.events, blobs)
        for told, now, folded in self._journal:
            self._count(told, now, folded=folded)

    def _count(self, told: list[Told], now: float, *, folded: bool) -> None:
        producer = told[0][0]
        values = [(second, value) for _, second, value in told]
        if folded:
            self.bench.aggregator.add_sets([fold(values)], now, producer)
            return
        columns: list[Column] = [
            build_column([value for _, value in part], second, name=NAME, kind=SUMMED_GAUGE)
            for second, part in groupby(values, lambda each: each[0])
        ]
        self.bench.aggregator.add_columns(columns, now, producer)


def expect(told: Iterable[Told]) -> dict[int, float]:
    """Return the total of each window by its start, made of every producer's last value in it."""
    last: dict[int, dict[int, tuple[int, float]]] = defaultdict(dict)
    for producer, second, value in told:
        last[second - second % 60][producer] = (second, value)
    return {
        start: sum(
            value
            for second, value in shares.values()
            if second > max(each for each, _ in shares.values()) - ALIVE_S
        )
        for start, shares in last.items()
    }


LIVES = st.lists(
    # Begin, length, and the seconds of its life at which its value changes.
    st.tuples(st.integers(0, 150), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=5)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(LIVES, st.integers(0, 2**32), st.integers(0, 40), st.booleans())
def test_totals_are_right_under_any_interleaving_restart_and_folding(
    lives: list[tuple[int, int, list[int]]], seed: int, crashes: int, folding: bool
) -> None:
    """Each producer tells its value each second of its life, up to a second late, in frames or folded."""
    random = Random(seed)
    frames: list[tuple[float, list[Told]]] = []
    told: list[Told] = []
    for producer, (begin, length, changes) in enumerate(lives, start=1):
        mine: list[Told] = []
        value = 0.0
        for age in range(length + 1):
            value = float(random.randint(0, 1_000)) / 4 if age == 0 or age in changes else value
            mine.append((producer, BEGIN + begin + age, value))
        told += mine
        # A few seconds of one window in one frame, which comes within a second of its last value.
        while mine:
            size = random.randint(1, 4) if folding else 1
            part = [each for each in mine[:size] if each[1] // 60 == mine[0][1] // 60]
            del mine[: len(part)]
            frames.append((part[-1][1] + random.random(), part))
    # Those of one producer come in their order, whatever those of others do.
    frames.sort(key=lambda frame: (frame[0], frame[1][0][0], frame[1][0][1]))
    rig = Rig()
    for now, part in frames:
        rig.close_due(now)
        if random.randint(0, 40) < crashes:
            if random.random() < 0.5:
                rig.crash()
            else:
                rig.checkpoint([], 0.0)
        if random.randint(0, 40) < crashes:
            rig.checkpoint(part, now)
        else:
            rig.take(part, now, folded=folding and len(part) > 1)
    rig.close_due(BEGIN + 600.0)
    found = {int(each.window_start): each.last for each in rig.snapshots}
    assert found == expect(told)
    assert rig.bench.aggregator.events_open == 0
    assert rig.bench.aggregator._shares.taken == 0
