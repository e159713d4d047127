"""Series: one for every spelling, bounded in number, forgotten when idle, right when they come back."""

import pytest
from msgspec.msgpack import Encoder

from aiokpl_metrics_protocol import Column, Description, MetricEvent, MetricKind, MetricsLevel
from tests.daemon.aggregation import BEGIN, Bench, Dimensions, build_column, build_rows, name_series

OVERFLOW = (("overflow", "true"),)


def add_to(bench: Bench, *dimensions: tuple[str, str], name: str = "m", kind: str | None = None) -> None:
    column = Column(name_series(name, tuple(dimensions), kind), BEGIN, 1.0, 1)
    bench.aggregator.add_columns([column], BEGIN)


def test_rows_and_columns_of_any_spelling_are_one_series() -> None:
    bench = Bench()
    a, b = ("a", "1"), ("b", "2")
    rows = build_rows(MetricEvent("m", 1.0, 0.0, (a, b)), MetricEvent("m", 1.0, 0.0, (b, a)))
    bench.aggregator.add_rows(rows.events, BEGIN)
    for dimensions in ((a, b), (b, a)):
        bench.aggregator.add_columns([build_column(1.0, dimensions=dimensions)], BEGIN)
    # An array that has grown at its end, as a later version's may.
    longer = Encoder().encode(["m", None, None, [["a", "1"], ["b", "2"]], "later"])
    bench.aggregator.add_columns([Column(longer, BEGIN, 1.0, 1)], BEGIN)
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.dimensions) == (5, (a, b))
    assert bench.ledger.series_conflicts == 0


def test_another_declared_kind_or_unit_is_the_same_series_and_a_conflict() -> None:
    bench = Bench()
    for kind, unit in (("gauge", "ms"), ("counter", "ms"), ("gauge", "s"), (None, None), ("gauge", "ms")):
        column = Column(name_series("m", (), kind, unit), BEGIN, 1.0, 1)
        for _ in range(2):
            bench.aggregator.add_columns([column], BEGIN)
    snapshot = bench.close_one()
    assert (snapshot.count, snapshot.kind, snapshot.unit) == (10, MetricKind.GAUGE, "ms")
    assert bench.ledger.series_conflicts == 2
    assert bench.registry.conflicts == {"m": 2}


def test_a_series_that_is_new_several_times_in_one_frame_is_remembered_once() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column(1.0)], BEGIN)
    rows = build_rows(*[MetricEvent("m", 1.0, 0.0, (), "gauge")] * 5)
    bench.aggregator.add_rows(rows.events, BEGIN)
    (entry,) = bench.registry.entries()
    assert len(entry.aliases) == len(bench.registry.by_alias) == 2
    assert bench.ledger.series_conflicts == 1


def test_a_unit_declared_after_none_was_is_no_conflict_and_holds() -> None:
    bench = Bench()
    for unit in (None, "ms", None):
        bench.aggregator.add_columns([Column(name_series("m", (), None, unit), BEGIN, 1.0, 1)], BEGIN)
    assert bench.close_one().unit == "ms"
    assert bench.ledger.series_conflicts == 0


def test_the_catalog_holds_against_producers_and_the_configuration_against_the_catalog() -> None:
    configured = {"RequestTime": Description(MetricKind.GAUGE, None)}
    for descriptions, kind, unit in ((None, MetricKind.HISTOGRAM, "ms"), (configured, MetricKind.GAUGE, "s")):
        bench = Bench(descriptions=descriptions)
        column = Column(name_series("RequestTime", (), "counter", "s"), BEGIN, 1.0, 1)
        bench.aggregator.add_columns([column], BEGIN)
        snapshot = bench.close_one()
        assert (snapshot.kind, snapshot.unit) == (kind, unit)
        assert bench.ledger.series_conflicts == 1


def test_conflicts_of_endless_names_are_named_for_the_first_hundred() -> None:
    bench = Bench(max_series=300)
    for number in range(150):
        for kind in ("gauge", "counter"):
            add_to(bench, name=f"m{number}", kind=kind)
    assert bench.ledger.series_conflicts == 150
    assert len(bench.registry.conflicts) == 100


def test_constant_dimensions_are_added_and_a_producers_own_value_wins() -> None:
    bench = Bench(dimensions={"env": "prod", "zone": "a"})
    add_to(bench)
    add_to(bench, ("env", "test"))
    add_to(bench, ("zone", "a"))
    found = {each.dimensions: each.count for each in bench.close()}
    assert found == {(("env", "prod"), ("zone", "a")): 2, (("env", "test"), ("zone", "a")): 1}


def test_at_level_summary_shards_and_error_codes_are_merged() -> None:
    bench = Bench(level=MetricsLevel.SUMMARY)
    add_to(bench, ("stream", "s"), ("shard", "1"))
    add_to(bench, ("stream", "s"), ("shard", "2"), ("error_code", "E"))
    add_to(bench, ("stream", "s"))
    snapshot = bench.close_one()
    assert (snapshot.dimensions, snapshot.count) == ((("stream", "s"),), 3)


def test_the_overflow_series_has_the_constant_dimensions_too() -> None:
    bench = Bench(max_series=1, dimensions={"env": "prod"})
    add_to(bench, ("k", "1"))
    add_to(bench, ("k", "2"))
    assert {each.dimensions for each in bench.close()} == {
        (("env", "prod"), ("k", "1")),
        (("env", "prod"), *OVERFLOW),
    }


def test_a_producers_own_series_of_the_overflow_dimension_is_the_overflow_series() -> None:
    bench = Bench(max_series=2)
    for dimensions in (OVERFLOW, (("k", "1"),), (("k", "2"),), (("k", "3"),), OVERFLOW):
        add_to(bench, *dimensions)
    found = [(each.dimensions, each.count) for each in bench.close()]
    assert sorted(found) == [((("k", "1"),), 1), ((("k", "2"),), 1), (OVERFLOW, 3)]


def test_the_overflow_series_of_a_histogram_is_a_histogram() -> None:
    bench = Bench(max_series=1)
    for number in range(3):
        add_to(bench, ("k", str(number)), kind="histogram")
    (rest,) = [each for each in bench.close() if each.dimensions == OVERFLOW]
    assert rest.kind is MetricKind.HISTOGRAM
    assert rest.histogram is not None
    assert sum(rest.histogram.positive_counts) == 2


def test_two_hundred_thousand_series_leave_bounded_tables_and_right_sums() -> None:
    bench = Bench(max_series=1_000, live_series=50)
    for start in range(0, 200_000, 1_000):
        columns = [build_column([2.0], dimensions=(("k", str(start + i)),)) for i in range(1_000)]
        bench.aggregator.add_columns(columns, BEGIN)
    assert_bounded(bench)
    assert len(bench.registry) == 1_001
    assert bench.ledger.events_overflowed == 199_000
    assert bench.registry.offenders == {"m": 199_000}
    snapshots = bench.close()
    assert sum(each.count for each in snapshots) == 200_000
    assert sum(each.sum for each in snapshots) == 400_000.0


def test_two_hundred_thousand_names_leave_bounded_tables_and_right_sums() -> None:
    bench = Bench(max_series=1_000, live_series=50)
    for start in range(0, 200_000, 1_000):
        columns = [build_column([2.0], name=f"m{start + i}", kind="gauge") for i in range(1_000)]
        bench.aggregator.add_columns(columns, BEGIN)
    assert_bounded(bench)
    assert len(bench.registry) <= 2_001
    snapshots = bench.close()
    assert sum(each.count for each in snapshots) == 200_000
    assert sum(each.sum for each in snapshots) == 400_000.0
    (shared,) = [each for each in snapshots if each.name == "overflow"]
    # 1,000 names have series of their own, 1,000 more an overflow series; the others share one.
    assert (shared.count, shared.kind, shared.unit) == (198_000, MetricKind.COUNTER, None)


def assert_bounded(bench: Bench) -> None:
    registry = bench.registry
    assert len(registry._by_key) == 1_000
    assert len(registry._overflow) <= 1_001
    assert len(registry.by_alias) == 1_000
    assert len(registry.offenders) <= 100
    assert len(registry.conflicts) <= 100
    assert len(bench.aggregator._live_view) == 50
    assert sum(len(window.statistics) for window in bench.windows.opened) == len(registry)


def test_the_name_that_overflows_most_is_among_the_offenders_whoever_came_first() -> None:
    bench = Bench(max_series=1)
    for number in range(500):
        add_to(bench, name=f"early{number}")
    for number in range(1_000):
        add_to(bench, ("k", str(number)), name="flood")
        add_to(bench, name=f"other{number}")
    assert max(bench.registry.offenders, key=bench.registry.offenders.__getitem__) == "flood"


def test_of_endless_spellings_of_a_series_eight_are_remembered() -> None:
    bench = Bench()
    for number in range(100):
        alias = Encoder().encode(["m", None, None, [], number])
        bench.aggregator.add_columns([Column(alias, BEGIN, 1.0, 1)], BEGIN)
    assert len(bench.registry.by_alias) == 8
    assert bench.close_one().count == 100


def test_a_spelling_as_long_as_a_datagram_is_not_remembered() -> None:
    bench = Bench()
    alias = Encoder().encode(["m", None, None, [], "x" * 60_000])
    for _ in range(2):
        bench.aggregator.add_columns([Column(alias, BEGIN, 1.0, 1)], BEGIN)
    assert bench.registry.by_alias == {}
    assert bench.close_one().count == 2


def test_an_idle_series_is_forgotten_with_its_aliases_and_place_and_is_right_when_it_comes_back() -> None:
    bench = Bench()
    rows = build_rows(MetricEvent("m", 2.0, BEGIN + 1))
    bench.aggregator.add_rows(rows.events, BEGIN + 1)
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 1)], BEGIN + 1)
    assert bench.forget(BEGIN + 10_000) == 0, "it is in an open window"
    bench.freeze(bench.aggregator.close_due(BEGIN + 62, 2.0))
    assert bench.forget(BEGIN + 60 + 120) == 0
    assert bench.forget(BEGIN + 60 + 121) == 1
    assert len(bench.registry) == len(bench.registry.by_alias) == len(bench.aggregator._live_view) == 0
    bench.aggregator.add_columns([build_column([5.0], BEGIN + 200)], BEGIN + 200)
    snapshot = bench.close_one(BEGIN + 200)
    assert (snapshot.count, snapshot.sum, snapshot.window_start) == (1, 5.0, BEGIN + 180)


def test_a_forgotten_series_makes_room_for_another_and_an_idle_overflow_series_goes_too() -> None:
    bench = Bench(max_series=1)
    add_to(bench, ("k", "1"))
    add_to(bench, ("k", "2"))
    bench.close()
    assert bench.forget(BEGIN + 1_000) == 2
    add_to(bench, ("k", "3"))
    assert [each.dimensions for each in bench.close(BEGIN + 1_000)] == [(("k", "3"),)]


def test_series_known_before_a_large_step_back_are_forgotten_after_it() -> None:
    bench = Bench()
    add_to(bench)
    back = BEGIN - 1_000_000.0
    bench.freeze(bench.aggregator.close_all(back))
    bench.aggregator.begin_anew(back)
    assert bench.forget(back) == 0
    assert bench.forget(back + 300) == 1


def test_a_refused_series_takes_no_memory() -> None:
    bench = Bench()
    for number in range(1_000):
        add_to(bench, (str(number), ""))
    assert len(bench.registry) == len(bench.registry.by_alias) == 0


@pytest.mark.parametrize("dimensions", [(), (("a", "1"),)])
def test_entries_are_all_series(dimensions: Dimensions) -> None:
    bench = Bench(max_series=1)
    for name in ("m", "n"):
        add_to(bench, *dimensions, name=name)
    assert [(each.name, each.overflow) for each in bench.registry.entries()] == [("m", False), ("n", True)]
