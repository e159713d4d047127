"""Sealed, encoded, unsealed or restored: the windows are those of a daemon that never did."""

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiokpl_metrics_protocol import Description, MetricKind, MetricsLevel
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.aggregating.sealing import SealedWindow, decode_sealed, encode_sealed
from aiokpl_metricsd.aggregating.windows import Windows
from aiokpl_metricsd.aggregator import Aggregator
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.aggregation import BEGIN, Bench, build_column
from tests.daemon.test_aggregator_conservation import PART, feed

Stored = tuple[int, int, int, int, list[bytes]]
Key = tuple[str, tuple[tuple[str, str], ...], str]

STEP = st.one_of(
    PART,
    PART,
    st.tuples(st.just("seal"), st.none()),
    # How many slices of which size.
    st.tuples(st.just("unseal"), st.tuples(st.integers(1, 3), st.integers(1, 3))),
    st.tuples(st.just("crash"), st.none()),
)


class Rig:
    """A daemon's aggregator that seals, and comes back from its last checkpoint after a crash."""

    def __init__(self) -> None:
        self.bench = Bench(live_series=1)
        self._unsealing: Iterator[None] | None = None
        self._stored: list[Stored] = []
        # What a journal would replay.
        self._since: list[tuple[tuple[str, Any], float]] = []
        self._bounds = (BEGIN, 0)
        self._slice_series = 2

    @property
    def aggregator(self) -> Aggregator:
        return self.bench.aggregator

    def feed(self, part: tuple[str, Any], now: float) -> None:
        self._since.append((part, now))
        feed(self.bench, part, now)

    def seal(self) -> None:
        self.settle()
        sealed = self.aggregator.seal()
        self._since = []
        self._bounds = (self.bench.windows.closed_until, self.bench.windows.last_number)
        # Encoded at the last moment, after all that was fed meanwhile.
        self._unsealing = self._unseal(sealed)

    def _unseal(self, sealed: list[SealedWindow]) -> Iterator[None]:
        yield
        self._stored = [store(each) for each in sealed]
        yield
        yield from self.aggregator.unseal(self._slice_series)

    def step(self, slice_series: int = 2) -> None:
        self._slice_series = slice_series
        if self._unsealing is not None and next(self._unsealing, self) is self:
            self._unsealing = None

    def settle(self) -> None:
        while self._unsealing is not None:
            self.step()

    def close_due(self, now: float) -> list[MetricSnapshot]:
        self.settle()
        closed = self.bench.freeze(self.aggregator.close_due(now, 2.0))
        if closed:
            # No sink sees a window before its checkpoint has committed.
            self.seal()
            self.settle()
        return closed

    def crash(self) -> None:
        """Come back from the last checkpoint, and count again what arrived since."""
        self.settle()
        ledger = self.bench.ledger
        self.bench = Bench(live_series=1)
        self.bench.windows = Windows(60, *self._bounds)
        self.bench.aggregator = Aggregator(
            self.bench.registry, self.bench.windows, self.bench.ledger, live_series=1, daemon_id=0xABC
        )
        for number, start, end, events, blobs in self._stored:
            self.aggregator.restore(number, start, end, events, blobs)
        self.bench.ledger.events_closed = ledger.events_closed
        self.bench.ledger.events_decoded = ledger.events_closed + self.aggregator.events_open
        for part, now in self._since:
            feed(self.bench, part, now)


def store(sealed: SealedWindow, slice_series: int = 2) -> Stored:
    blobs = list(encode_sealed(sealed, slice_series))
    return (sealed.number, sealed.start, sealed.end, sealed.events, blobs)


def describe(snapshots: list[MetricSnapshot]) -> dict[Key, MetricSnapshot]:
    described = {(each.name, each.dimensions, each.window_id): each for each in snapshots}
    assert len(described) == len(snapshots)
    return described


def read_open(bench: Bench) -> list[Any]:
    """Return what a page and the live view's other series would show of the open windows."""
    return [
        (
            window.window_id,
            len(window.statistics),
            sorted(
                (entry.name, *msgspec.structs.astuple(held)[:6]) for entry, held in window.statistics.items()
            ),
        )
        for window in bench.aggregator.read_open()
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_any_interleaving_gives_the_windows_of_a_daemon_that_never_sealed(steps: list[Any]) -> None:
    plain, rig = Bench(live_series=1), Rig()
    expected: list[MetricSnapshot] = []
    found: list[MetricSnapshot] = []
    now = latest = float(BEGIN)
    for step in steps:
        kind, content = step
        if kind == "seal":
            rig.seal()
        elif kind == "unseal":
            for _ in range(content[0]):
                rig.step(content[1])
        elif kind == "crash":
            rig.crash()
        elif kind == "wait":
            now = max(now + content, latest - 60)
            latest = max(latest, now)
            expected += plain.freeze(plain.aggregator.close_due(now, 2.0))
            found += rig.close_due(now)
        elif kind == "forget":
            plain.forget(now)
            rig.bench.forget(now)
        else:
            feed(plain, step, now)
            rig.feed(step, now)
        rig.bench.check()
        assert read_open(rig.bench) == read_open(plain)
        assert rig.aggregator.events_open == plain.aggregator.events_open
    rig.settle()
    expected += plain.close(now)
    found += rig.bench.close(now)
    assert describe(found) == describe(expected)
    assert rig.bench.ledger.events_closed == plain.ledger.events_closed
    # Nothing refers to a window that has closed: a series would never be forgotten.
    assert rig.bench.forget(now + 10_000) >= 0
    assert len(rig.bench.registry) == 0


def test_a_window_goes_on_while_it_is_sealed_and_shows_both_parts() -> None:
    bench = Bench(live_series=0)
    bench.aggregator.add_columns([build_column([3.0], name=name) for name in ("a", "b")], BEGIN)
    (sealed,) = bench.aggregator.seal()
    assert (sealed.number, sealed.start, sealed.end, sealed.events) == (1, BEGIN, BEGIN + 60, 2)
    bench.aggregator.add_columns([build_column([5.0], name=name) for name in ("b", "c")], BEGIN)
    expected = {
        ("a", ()): (1, 3.0, 3.0, 3.0),
        ("b", ()): (2, 8.0, 3.0, 5.0),
        ("c", ()): (1, 5.0, 5.0, 5.0),
    }
    (opened,) = bench.aggregator.read_open()
    entries = {entry.name: entry for entry in opened.statistics}
    for _ in bench.aggregator.unseal(1):
        assert bench.view(BEGIN) == expected
        assert {name: opened.statistics[entry].sum for name, entry in entries.items()} == {
            "a": 3.0,
            "b": 8.0,
            "c": 5.0,
        }
        assert len(opened.statistics) == 3
    assert bench.view(BEGIN) == expected
    assert sealed.events == 2
    assert bench.aggregator.events_open == 4


def test_what_a_window_does_not_hold_is_not_shown() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0)], BEGIN)
    (opened,) = bench.aggregator.read_open()
    (entry,) = opened.statistics
    bench.close()
    assert opened.statistics.get(entry) is None
    assert opened.statistics.get(entry, 0) == 0
    with pytest.raises(KeyError):
        opened.statistics[entry]


@pytest.mark.parametrize("act", ["seal", "close_due", "close_all", "close_for_good"])
def test_nothing_closes_and_nothing_is_sealed_until_what_is_sealed_is_put_back(act: str) -> None:
    bench = Bench()
    acts: dict[str, Callable[[], Any]] = {
        "seal": bench.aggregator.seal,
        "close_due": lambda: bench.aggregator.close_due(BEGIN, 2.0),
        "close_for_good": lambda: bench.aggregator.close_for_good(BEGIN),
        "close_all": lambda: bench.aggregator.close_all(BEGIN),
    }
    assert bench.aggregator.seal() == []
    with pytest.raises(RuntimeError, match="unseal"):
        acts[act]()
    assert list(bench.aggregator.unseal(10)) == []
    assert acts[act]() == []


def test_a_window_that_opens_while_others_are_sealed_is_left_alone() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0)], BEGIN)
    bench.aggregator.seal()
    bench.aggregator.add_columns([build_column(2.0, BEGIN + 60)], BEGIN + 60)
    assert len(list(bench.aggregator.unseal(10))) == 1
    assert [each.sum for each in bench.freeze(bench.aggregator.close_due(BEGIN + 200, 0.0))] == [1.0, 2.0]


def test_the_newest_value_is_that_of_the_greatest_second_then_that_which_arrived_last() -> None:
    for before, after in product((5, 6), repeat=2):
        bench = Bench()
        bench.aggregator.add_columns([build_column([1.0], BEGIN + before, kind="gauge")], BEGIN + 10)
        bench.aggregator.seal()
        bench.aggregator.add_columns([build_column([2.0], BEGIN + after, kind="gauge")], BEGIN + 10)
        for _ in bench.aggregator.unseal(1):
            pass
        assert bench.close_one().last == (1.0 if before > after else 2.0)


def test_blobs_hold_as_many_series_as_asked_and_can_be_made_again() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0, name=f"m{number}") for number in range(7)], BEGIN)
    (sealed,) = bench.aggregator.seal()
    blobs = list(encode_sealed(sealed, 3))
    assert [len(decode_sealed(blob)) for blob in blobs] == [3, 3, 1]
    assert list(encode_sealed(sealed, 3)) == blobs


def test_true_and_infinite_sums_come_back_as_numbers() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([True])], BEGIN)
    for _ in range(2):
        bench.aggregator.add_columns([build_column([1.7e308], name="large")], BEGIN)
    (sealed,) = bench.aggregator.seal()
    fresh = Bench()
    fresh.aggregator.restore(*store(sealed))
    fresh.ledger.events_decoded = 3
    for each in fresh.close():
        assert type(each.min) is type(each.last) is float
        assert each.sum == (1.0 if each.name == "m" else pytest.approx(1.797e308, rel=1e-3))


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\x92\x01", b"\x92\x02\x90", b"\x92\x01\x91\x91\xa1m"])
def test_a_damaged_blob_is_an_error_and_restores_nothing(damage: bytes) -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0)], BEGIN)
    (sealed,) = bench.aggregator.seal()
    fresh = Bench()
    with pytest.raises(ValueError, match="window"):
        fresh.aggregator.restore(1, BEGIN, BEGIN + 60, 1, [*encode_sealed(sealed, 1), damage])
    assert fresh.windows.opened == []
    assert len(fresh.registry) == 0


def checkpoint(bench: Bench) -> list[Stored]:
    stored = [store(each) for each in bench.aggregator.seal()]
    for _ in bench.aggregator.unseal(10):
        pass
    return stored


def restore(bench: Bench, stored: list[Stored]) -> None:
    for each in stored:
        bench.aggregator.restore(*each)
        bench.ledger.events_decoded += each[3]
    bench.check()


def test_a_restored_series_keeps_its_kind_its_unit_and_its_place() -> None:
    bench = Bench(max_series=1)
    columns = [
        build_column([2.0], name="a", dimensions=(("k", "1"),), kind="histogram"),
        build_column([4.0], name="a", dimensions=(("k", "2"),)),
    ]
    bench.aggregator.add_columns(columns, BEGIN)
    fresh = Bench(max_series=1)
    restore(fresh, checkpoint(bench))
    assert len(fresh.registry) == 2
    # Its bytes find it, and count in what was restored.
    fresh.aggregator.add_columns(columns, BEGIN)
    assert len(fresh.registry) == 2
    by_dimensions = {each.dimensions: each for each in fresh.close()}
    own, rest = by_dimensions[("k", "1"),], by_dimensions[("overflow", "true"),]
    assert (own.count, own.sum, own.kind) == (2, 4.0, MetricKind.HISTOGRAM)
    assert own.histogram is not None
    assert (rest.count, rest.sum) == (2, 8.0)


def test_series_that_are_one_under_the_new_configuration_are_added_up() -> None:
    bench = Bench()
    columns = [build_column([2.0], dimensions=(("shard", shard),)) for shard in ("1", "2")]
    bench.aggregator.add_columns(columns, BEGIN)
    fresh = Bench(level=MetricsLevel.SUMMARY, dimensions={"host": "h"})
    restore(fresh, checkpoint(bench))
    fresh.aggregator.add_columns(columns, BEGIN)
    snapshot = fresh.close_one()
    assert (snapshot.count, snapshot.dimensions) == (4, (("host", "h"),))


def test_past_a_lower_max_series_what_is_restored_overflows_and_keeps_its_sums() -> None:
    bench = Bench()
    for number in range(5):
        bench.aggregator.add_columns([build_column([1.0], dimensions=(("k", str(number)),))], BEGIN)
    fresh = Bench(max_series=2)
    restore(fresh, checkpoint(bench))
    assert sorted(each.count for each in fresh.close()) == [1, 1, 3]


@pytest.mark.parametrize("kind", list(MetricKind))
def test_a_kind_that_the_operator_changed_holds(kind: MetricKind) -> None:
    for before in MetricKind:
        bench = Bench()
        bench.aggregator.add_columns([build_column([1.0, 3.0], kind=before.value)], BEGIN)
        fresh = Bench(descriptions={"m": Description(kind, None)})
        restore(fresh, checkpoint(bench))
        fresh.aggregator.add_columns([build_column([2.0])], BEGIN)
        snapshot = fresh.close_one()
        assert (snapshot.kind, snapshot.count, snapshot.sum) == (kind, 3, 6.0)
        assert (snapshot.histogram is not None) == (kind is MetricKind.HISTOGRAM)
        if snapshot.histogram is not None:
            assert sum(snapshot.histogram.positive_counts) == 3


def test_a_series_without_live_seconds_is_shown_from_the_restored_window() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([2.0])], BEGIN)
    fresh = Bench()
    restore(fresh, checkpoint(bench))
    assert fresh.view(BEGIN) == {("m", ()): (1, 2.0, 2.0, 2.0)}


def test_numbers_and_bounds_go_on_where_the_last_daemon_was() -> None:
    windows = Windows(60, BEGIN + 120, last_number=7)
    assert windows.closed_until == BEGIN + 120
    assert windows.last_number == 7
    windows.restore(9, BEGIN + 130, BEGIN + 180)
    window, late, early = windows.find(BEGIN + 179, BEGIN + 179)
    assert (window.number, late, early) == (9, False, False)
    assert windows.find(BEGIN + 119, BEGIN + 179)[1]
    assert windows.find(BEGIN + 180, BEGIN + 180)[0].number == 10


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 90)), max_size=5),
    st.sampled_from([1, 10, 45, 60, 90, 3_600]),
    st.lists(st.tuples(st.integers(-100, 900), st.integers(0, 400)), max_size=30),
)
def test_windows_of_another_interval_are_restored_and_none_overlaps(
    gaps: list[tuple[int, int]], interval_s: int, seconds: list[tuple[int, int]]
) -> None:
    windows = Windows(interval_s, BEGIN)
    start = BEGIN
    for number, (gap, length) in enumerate(gaps, 1):
        windows.restore(number, start + gap, start + gap + length)
        start += gap + length
    for second, now in seconds:
        windows.find(BEGIN + second, float(BEGIN + now))
    opened = windows.opened
    assert len({window.number for window in opened}) == len(opened) >= len(gaps)
    for window in opened:
        assert windows.find(window.start, float(window.start)) == (window, False, False)
        assert windows.find(window.end - 1, float(window.end)) == (window, False, False)
    assert all(before.end <= after.start for before, after in pairwise(opened))
    assert windows.close_due(BEGIN + 10_000, 0.0) == opened
    assert windows.opened == []


VALUES = st.lists(st.floats(-1e300, 1e300, allow_nan=False, allow_infinity=False), min_size=1, max_size=30)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
def test_histograms_that_are_added_are_those_of_all_values(before: list[Any], after: list[Any]) -> None:
    earlier, later, whole = Histogram(), Histogram(), Histogram()
    for columns, histograms in ((before, (earlier, whole)), (after, (later, whole))):
        for values in columns:
            for histogram in histograms:
                histogram.add_values(values, min(values), max(values))
    kept = earlier.freeze()
    later.add_histogram(earlier)
    assert later.freeze() == whole.freeze()
    assert earlier.freeze() == kept
