"""The last 1 to 60 seconds, right against a naive model; only `live_series` series keep them."""

from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.live import LIVE_SECONDS, Live
from tests.daemon.aggregation import BEGIN, Bench, build_column, build_folded

EVENTS = st.lists(st.tuples(st.integers(0, 150), st.integers(-100, 100).map(float)), max_size=60)


def fill(events: list[tuple[int, float]]) -> Live:
    live = Live()
    for second, value in events:
        live.add(second, 1, value, value, value)
    return live


def expect(values: list[float]) -> tuple[int, float, float, float] | None:
    return (len(values), sum(values), min(values), max(values)) if values else None


@given(EVENTS, st.integers(0, 210), st.integers(1, 60))
def test_the_last_seconds_are_those_of_a_naive_model(
    events: list[tuple[int, float]], now: int, seconds: int
) -> None:
    live = fill(events)
    kept: list[tuple[int, float]] = []
    newest = -1
    for second, value in events:
        newest = max(newest, second)
        kept = [each for each in [*kept, (second, value)] if each[0] > newest - LIVE_SECONDS]
    expected = expect([value for second, value in kept if now - seconds < second <= now])
    assert live.read(now, seconds) == expected
    assert live.last_second == (newest if events else None)
    shown = [second for second, _ in kept if now - LIVE_SECONDS < second <= now]
    assert live.bounds(now) == ((min(shown), max(shown) + 1) if shown else (0.0, 0.0))
    assert len(live._cells) <= LIVE_SECONDS
    assert [cell.second for cell in live._cells] == sorted({second for second, _ in kept})


def test_a_new_second_is_told_from_one_that_is_known_or_past() -> None:
    live = Live()
    assert [live.add(second, 1, 1.0, 1.0, 1.0) for second in (5, 5, 6, 4, -54, 100)] == [
        True,
        False,
        True,
        False,
        False,
        True,
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 130), st.integers(-50, 50).map(float), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 60),
)
def test_the_aggregators_view_is_that_of_a_naive_model(
    steps: list[tuple[int, int, float, bool]], seconds: int
) -> None:
    bench = Bench(interval_s=200)
    now = BEGIN
    known: list[tuple[str, int, float]] = []
    for ahead, back, value, folded in steps:
        now += ahead
        second = now - back % 59
        name = f"m{back % 3}"
        if folded:
            bench.aggregator.add_sets([build_folded([value], second, name)], now + 0.5)
        else:
            bench.aggregator.add_columns([build_column([value], second, name=name)], now + 0.5)
        known.append((name, second, value))
    expected = {
        (name, ()): expect([v for n, second, v in known if n == name and now - seconds < second <= now])
        for name in {each[0] for each in known}
    }
    assert bench.view(now + 0.9, seconds) == {key: found for key, found in expected.items() if found}


def test_the_view_says_which_seconds_it_covers_and_what_it_shows() -> None:
    bench = Bench()
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 5, kind="gauge")], BEGIN + 5)
    (shown,) = bench.aggregator.view_live(BEGIN + 9.7, 10)
    assert (shown.window_start, shown.window_end) == (BEGIN, BEGIN + 10)
    assert shown.kind is MetricKind.GAUGE


def test_only_live_series_series_keep_seconds_and_the_rest_answer_from_their_open_window() -> None:
    bench = Bench(live_series=2)
    for name in ("a", "b", "c"):
        for second in (BEGIN, BEGIN + 30):
            bench.aggregator.add_columns([build_column([1.0], second, name=name)], BEGIN + 30)
    assert sum(entry.live is not None for entry in bench.registry.entries()) == 2
    found = {each.name: each for each in bench.aggregator.view_live(BEGIN + 30, 5)}
    assert {name: each.count for name, each in found.items()} == {"a": 1, "b": 1, "c": 2}
    assert (found["c"].window_start, found["c"].window_end) == (BEGIN, BEGIN + 60)


def test_a_series_without_seconds_shows_nothing_once_its_window_has_closed() -> None:
    bench = Bench(live_series=0)
    bench.aggregator.add_columns([build_column([1.0])], BEGIN)
    assert len(bench.aggregator.view_live(BEGIN)) == 1
    windows = bench.aggregator.close_due(BEGIN + 62, 2.0)
    assert bench.aggregator.view_live(BEGIN + 62) == []
    bench.freeze(windows)
    assert bench.aggregator.view_live(BEGIN + 62) == []


def test_a_place_passes_on_when_its_holder_was_idle_for_ten_seconds() -> None:
    bench = Bench(live_series=2)

    def record(name: str, second: int) -> None:
        bench.aggregator.add_columns([build_column([1.0], second, name=name)], second)

    def holders() -> set[str]:
        return {entry.name for entry in bench.registry.entries() if entry.live is not None}

    record("a", BEGIN)
    record("b", BEGIN + 1)
    record("a", BEGIN + 5)
    record("c", BEGIN + 10)
    assert holders() == {"a", "b"}
    record("c", BEGIN + 11)
    assert holders() == {"a", "c"}
    record("b", BEGIN + 15)
    assert holders() == {"b", "c"}


def test_a_second_ahead_of_the_clock_is_shown_as_now_and_hides_nothing() -> None:
    bench = Bench(interval_s=300, live_series=1)
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 250)], BEGIN + 1)
    bench.aggregator.add_columns([build_column([2.0], BEGIN + 2)], BEGIN + 2)
    assert bench.view(BEGIN + 2) == {("m", ()): (2, 3.0, 1.0, 2.0)}
    # Nor does it keep the place from others for that long.
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 250, name="n")], BEGIN + 3)
    bench.aggregator.add_columns([build_column([1.0], BEGIN + 20, name="n")], BEGIN + 20)
    assert [entry.live is not None for entry in bench.registry.entries()] == [False, True]


def test_after_a_large_step_back_the_view_shows_what_comes() -> None:
    bench = Bench(live_series=1)
    for name in ("a", "b"):
        bench.aggregator.add_columns([build_column([1.0], name=name)], BEGIN)
    back = BEGIN - 100_000
    bench.freeze(bench.aggregator.close_all(back))
    bench.aggregator.begin_anew(back)
    bench.aggregator.forget_live()
    bench.aggregator.add_columns([build_column([3.0], back, name="b")], back)
    assert bench.view(back) == {("b", ()): (1, 3.0, 3.0, 3.0)}
    assert [entry.live is not None for entry in bench.registry.entries()] == [False, True]
