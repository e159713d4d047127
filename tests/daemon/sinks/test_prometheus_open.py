"""Totals that include the open windows: never twice, never back, whatever closes in between."""

import asyncio
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiokpl_metrics_protocol import SUMMED_GAUGE, MetricKind, MetricsLevel
from aiokpl_metricsd.aggregating.windows import Window
from aiokpl_metricsd.delivering.selection import Selection
from aiokpl_metricsd.rendering.exposition import Form
from aiokpl_metricsd.serving.view import SelectedWindows
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.aggregation import BEGIN, Bench, build_column

BOUNDS = (0.0, 0.5, 3.0, 1e3)


class Rig:
    """An aggregator and a sink that sees its open windows; what is between them waits until told."""

    def __init__(self, selection: Selection | None = None) -> None:
        self.bench = Bench(max_series=10_000)
        self.now = float(BEGIN)
        self.selection = selection or Selection()
        self.sink = PrometheusSink(buckets=BOUNDS, clock=lambda: self.now)
        self.sink.join_page(SelectedWindows(self.bench.aggregator, self.selection), ())
        self.closed: list[Window] = []
        self.frozen: list[list[MetricSnapshot]] = []
        self.unsealing: Iterator[None] = iter(())
        asyncio.run(self._enter())

    async def _enter(self) -> None:
        await self.sink.__aenter__()

    def add(
        self, name: str, values: list[float], kind: str | None = None, shard: str = "", producer: int = 0
    ) -> None:
        dimensions = (("shard", shard),) if shard else ()
        column = build_column(values, int(self.now), name=name, dimensions=dimensions, kind=kind)
        self.bench.aggregator.add_columns([column], self.now, producer)

    def close(self) -> None:
        """Let the clock pass the window's end; it closes, and nobody has it yet."""
        self.put_back()
        self.now += self.bench.windows.interval_s
        self.closed += self.bench.aggregator.close_due(self.now, 0.0)

    def seal(self) -> None:
        """Set aside what the open windows hold."""
        self.put_back()
        self.bench.aggregator.seal()
        self.unsealing = self.bench.aggregator.unseal(1)

    def unseal(self) -> None:
        """Put back one series of it."""
        next(self.unsealing, None)

    def put_back(self) -> None:
        for _ in self.unsealing:
            pass

    def freeze(self, series: int = 1_000) -> None:
        """Make snapshots of the oldest closed window."""
        if self.closed:
            window = self.closed.pop(0)
            self.frozen.append(
                [each for part in self.bench.aggregator.freeze(window, series) for each in part]
            )

    def export(self) -> None:
        """Hand the oldest frozen window to the sink, as its selection has it."""
        if self.frozen:
            selected = self.selection.select(self.frozen.pop(0)).snapshots
            asyncio.run(self.sink.export(selected))

    def settle(self) -> None:
        """Let all that has closed arrive."""
        while self.closed:
            self.freeze()
        while self.frozen:
            self.export()

    def read(self) -> dict[str, float]:
        """Return the page's samples, by name and `le`."""
        return {
            sample.name + sample.labels.get("le", ""): sample.value
            for family in parse_text(self.sink.encode_page(Form.TEXT))
            for sample in family.samples
        }


def test_the_total_includes_the_open_window() -> None:
    rig = Rig()
    rig.add("m", [1.0, 2.0])
    assert rig.read() == {"m_total": 3.0}
    rig.add("m", [4.0])
    assert rig.read() == {"m_total": 7.0}


def test_between_closing_and_arriving_the_total_stays_and_then_neither_doubles_nor_falls() -> None:
    rig = Rig()
    rig.add("m", [5.0])
    assert rig.read() == {"m_total": 5.0}
    rig.close()
    assert rig.read() == {"m_total": 5.0}
    rig.freeze()
    assert rig.read() == {"m_total": 5.0}
    rig.add("m", [1.0])
    assert rig.read() == {"m_total": 6.0}
    rig.export()
    assert rig.read() == {"m_total": 6.0}
    rig.close()
    rig.settle()
    assert rig.read() == {"m_total": 6.0}


def test_events_after_the_last_look_arrive_with_the_closed_window() -> None:
    rig = Rig()
    rig.add("m", [5.0])
    rig.read()
    rig.add("m", [2.0])
    rig.close()
    assert rig.read() == {"m_total": 5.0}
    rig.settle()
    assert rig.read() == {"m_total": 7.0}


def test_a_page_that_is_made_while_a_window_is_taken_counts_nothing_twice() -> None:
    rig = Rig()
    for number in range(1_200):
        rig.add(f"m{number}", [1.0])
    slices = rig.sink.render(Form.TEXT)
    parts = [next(slices)]
    rig.close()
    rig.settle()
    parts += slices
    totals = [sample.value for family in parse_text("".join(parts)) for sample in family.samples]
    assert totals == [1.0] * 1_200
    assert list(rig.read().values()) == [1.0] * 1_200


def test_series_that_the_selection_merges_are_one_also_while_they_are_open() -> None:
    rig = Rig(Selection(level=MetricsLevel.SUMMARY, exclude=["hidden"]))
    rig.add("m", [1.0], shard="a")
    rig.add("m", [2.0], shard="b")
    rig.add("hidden", [1.0])
    assert rig.read() == {"m_total": 3.0}
    rig.close()
    rig.add("m", [4.0], shard="b")
    assert rig.read() == {"m_total": 7.0}
    rig.settle()
    assert rig.read() == {"m_total": 7.0}


def test_a_gauge_shows_the_open_windows_value() -> None:
    rig = Rig()
    rig.add("g", [5.0], "gauge")
    rig.close()
    rig.settle()
    rig.add("g", [2.0], "gauge")
    assert rig.read() == {"g": 2.0}


def test_a_value_below_zero_stops_the_counters_window_where_it_was_shown() -> None:
    rig = Rig()
    rig.add("m", [5.0])
    assert rig.read() == {"m_total": 5.0}
    rig.add("m", [-1.0, 100.0])
    assert rig.read() == {"m_total": 5.0}
    rig.close()
    rig.freeze()
    try:
        rig.export()
    except Exception as error:  # noqa: BLE001 - which one is tested elsewhere
        assert "negative_counter" in str(error)  # noqa: PT017
    assert rig.read() == {"m_total": 5.0}


def test_a_scraped_series_that_was_forgotten_leaves_no_trace_in_the_next_page() -> None:
    rig = Rig()
    rig.add("m", [5.0])
    rig.read()
    rig.close()
    rig.settle()
    rig.now += 4_000.0
    assert rig.read() == {}
    rig.add("m", [1.0])
    assert rig.read() == {"m_total": 1.0}


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.lists(st.floats(0.0, 1e9), min_size=1, max_size=4),
            st.sampled_from(["x", "y"]),
        ),
        st.sampled_from(["close", "freeze", "export", "read", "seal", "unseal"]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=80)
@given(STEPS, st.booleans(), st.sampled_from(["counter", "histogram"]))
def test_no_total_ever_falls_and_all_are_exact_in_the_end(
    steps: list[str | tuple[str, list[float], str]], merges: bool, kind: str
) -> None:
    rig = Rig(Selection(drop_dimensions=["shard"]) if merges else None)
    before: dict[str, float] = {}
    sent: dict[str, list[float]] = {}
    for step in [*steps, "read"]:
        if not isinstance(step, str):
            name, values, shard = step
            # Of each name two series; told apart by name where they stay two.
            full = name if merges else name + shard
            rig.add(full, values, kind, shard)
            sent.setdefault(full, []).extend(values)
        elif step == "read":
            now = rig.read()
            assert all(now[key] >= value for key, value in before.items())
            before = now
        else:
            getattr(rig, step)()
    rig.close()
    rig.settle()
    final = rig.read()
    suffix = "_total" if kind == MetricKind.COUNTER else "_sum"
    for name, values in sent.items():
        assert abs(final[name + suffix] - sum(values)) <= 1e-9 * sum(values)
        if kind == MetricKind.HISTOGRAM:
            assert final[f"{name}_count"] == final[f"{name}_bucket+Inf"] == len(values)
    assert all(final[key] >= value for key, value in before.items())


def test_a_page_that_began_before_the_windows_were_sealed_shows_all_of_them() -> None:
    rig = Rig()
    for number in range(1_000):
        rig.add("m", [1.0], shard=str(number))
    page = rig.sink.render(Form.TEXT)
    next(page)
    rig.seal()
    for number in range(1_000):
        rig.add("m", [2.0], shard=str(number))
    next(page)
    rig.unseal()
    rest = "".join(page)
    assert rest.count(" 1.0\n") + rest.count(" 3.0\n") == 1_000
    assert rest.count(" 3.0\n") == 500


def test_a_page_is_made_in_slices() -> None:
    rig = Rig()
    for number in range(2_000):
        rig.add("m", [1.0], shard=str(number))
    parts: Iterator[str] = rig.sink.render(Form.OPENMETRICS)
    assert max(part.count("\n") for part in parts) <= 2 * 500


def test_a_summed_gauge_shows_the_sum_and_does_not_fall_while_a_window_begins() -> None:
    rig = Rig(Selection(drop_dimensions=("shard",)))

    def tell(producer: int, value: float, shard: str) -> None:
        rig.add("open", [value], SUMMED_GAUGE, shard, producer)

    rig.now = BEGIN + 59.0
    tell(1, 3.0, "a")
    tell(2, 4.0, "a")
    tell(2, 10.0, "b")
    assert rig.read() == {"open": 17.0}
    rig.now = BEGIN + 60.0
    tell(1, 5.0, "a")
    # Of `b` nobody has said anything yet in the new window.
    assert rig.read() == {"open": 9.0}
    tell(2, 10.0, "b")
    tell(2, 4.0, "a")
    assert rig.read() == {"open": 19.0}
    rig.closed += rig.bench.aggregator.close_due(BEGIN + 62.0, 2.0)
    rig.settle()
    assert rig.read() == {"open": 19.0}
    rig.close()
    assert rig.read() == {"open": 19.0}
    rig.settle()
    assert rig.read() == {"open": 19.0}


def read_created(rig: Rig) -> str:
    lines = rig.sink.encode_page(Form.OPENMETRICS).splitlines()
    return next(line.removeprefix("m_created ") for line in lines if line.startswith("m_created "))


def test_before_the_page_is_shown_a_window_from_before_moves_the_created_time_back() -> None:
    """It waited for this daemon, which has seen what is open by then."""
    rig = Rig()
    rig.add("m", [5.0])
    rig.close()
    rig.freeze()
    rig.add("m", [1.0])
    for _ in rig.sink.see_open():
        pass
    rig.export()
    assert read_created(rig) == repr(float(BEGIN))
    assert rig.read() == {"m_total": 6.0}


def test_once_the_page_was_shown_the_created_time_stays() -> None:
    rig = Rig()
    rig.add("m", [5.0])
    rig.close()
    rig.freeze()
    rig.add("m", [1.0])
    shown = read_created(rig)
    rig.export()
    assert read_created(rig) == shown == repr(float(BEGIN + rig.bench.windows.interval_s))
