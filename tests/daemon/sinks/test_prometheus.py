"""The sink that is scraped: totals, names, what is refused; read back by the official parsers."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from aiokpl_metrics_protocol import MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.errors import PartialExportError
from aiokpl_metricsd.rendering.exposition import EOF_LINE, Form
from aiokpl_metricsd.sinks.contract import RepeatRule
from aiokpl_metricsd.sinks.prometheus.sink import PrometheusSink
from aiokpl_metricsd.sinks.scraped import ScrapedSink
from aiokpl_metricsd.snapshot import MetricSnapshot

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Hand:
    """A clock that is moved by hand."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def build(
    name: str = "requests",
    value: float = 1.0,
    kind: MetricKind = MetricKind.COUNTER,
    *,
    dimensions: tuple[tuple[str, str], ...] = (),
    window: int = 0,
    values: list[float] | None = None,
    unit: str | None = None,
) -> MetricSnapshot:
    values = [value] if values is None else values
    histogram = None
    if kind is MetricKind.HISTOGRAM:
        counted = Histogram()
        counted.add_values(values, min(values), max(values))
        histogram = counted.freeze()
    return MetricSnapshot(
        name,
        len(values),
        sum(values),
        min(values),
        max(values),
        dimensions,
        60.0 * window,
        60.0 * window + 60.0,
        kind,
        unit,
        values[-1],
        histogram,
        f"w{window}",
    )


def export(sink: PrometheusSink, *snapshots: MetricSnapshot) -> None:
    async def run() -> None:
        async with sink:
            await sink.export(snapshots)

    asyncio.run(run())


def read(sink: PrometheusSink, form: Form = Form.OPENMETRICS) -> Samples:
    """Return every sample of the page as the official parser reads it."""
    return samples_of(families(sink, form))


def families(sink: PrometheusSink, form: Form) -> list[Any]:
    page = sink.encode_page(form)
    return list((parse_openmetrics if form is Form.OPENMETRICS else parse_text)(page))


def samples_of(found: Iterable[Any]) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }


def test_it_declares_what_a_repeat_does_and_that_it_wants_windows_in_order() -> None:
    assert PrometheusSink.repeat_rule is RepeatRule.CUMULATIVE
    assert PrometheusSink.ordered
    assert isinstance(PrometheusSink(), ScrapedSink)


@pytest.mark.parametrize("form", list(Form))
def test_a_counter_adds_up_over_windows(form: Form) -> None:
    sink = PrometheusSink()
    export(sink, build(values=[1.0, 2.0]))
    export(sink, build(values=[4.0], window=1))
    assert read(sink, form)["requests_total", ()] == 7.0


def test_a_counters_created_time_is_the_start_of_its_first_window() -> None:
    sink = PrometheusSink()
    export(sink, build(window=5))
    export(sink, build(window=6))
    assert read(sink)["requests_created", ()] == 300.0
    assert ("requests_created", ()) not in read(sink, Form.TEXT)


@pytest.mark.parametrize("form", list(Form))
def test_a_gauge_shows_its_newest_value(form: Form) -> None:
    sink = PrometheusSink()
    export(sink, build("depth", 5.0, MetricKind.GAUGE))
    export(sink, build("depth", -3.0, MetricKind.GAUGE, window=1))
    assert read(sink, form) == {("depth", ()): -3.0}


@pytest.mark.parametrize("form", list(Form))
def test_a_histogram_is_exact_in_count_sum_and_at_its_bounds(form: Form) -> None:
    sink = PrometheusSink(
        buckets=(-1.0, 0.0, 1.0, 5.0, 100.0) if form is Form.TEXT else (0.0, 1.0, 5.0, 100.0)
    )
    export(sink, build("t", kind=MetricKind.HISTOGRAM, values=[0.0, 1.0, 5.0, 7.0, 100.0, 1e9]))
    found = read(sink, form)
    assert found["t_count", ()] == 6
    assert found["t_sum", ()] == 1e9 + 113.0
    counts = {labels[0][1]: value for (name, labels), value in found.items() if name == "t_bucket"}
    assert counts["0.0"] == 1
    assert counts["1.0"] == 2
    assert counts["5.0"] == 3
    assert counts["100.0"] == 5
    assert counts["+Inf"] == 6


def test_openmetrics_has_no_sum_where_it_may_fall() -> None:
    sink = PrometheusSink(buckets=(1.0,))
    export(sink, build("t", kind=MetricKind.HISTOGRAM, values=[-2.0, 1.0]))
    assert ("t_sum", ()) not in read(sink)
    assert read(sink, Form.TEXT)["t_sum", ()] == -1.0
    assert read(sink)["t_bucket", (("le", "+Inf"),)] == 2


def test_a_unit_is_declared_where_the_name_ends_with_it() -> None:
    sink = PrometheusSink()
    export(
        sink, build("sent_bytes", unit="bytes"), build("wait_seconds", unit="s"), build("hits", unit="count")
    )
    units = {family.name: family.unit for family in families(sink, Form.OPENMETRICS)}
    assert units == {"sent_bytes": "bytes", "wait_seconds": "seconds", "hits": ""}
    assert "# HELP hits hits, in count." in sink.encode_page(Form.OPENMETRICS)


def test_the_text_format_types_the_counter_by_its_full_name() -> None:
    sink = PrometheusSink()
    export(sink, build("a.b"))
    assert sink.encode_page() == "# HELP a_b_total a.b.\n# TYPE a_b_total counter\na_b_total 1.0\n"


def test_a_prefix_stands_before_every_name_and_total_is_not_doubled() -> None:
    sink = PrometheusSink(prefix="shop_")
    export(sink, build("sold_total"))
    assert read(sink)["shop_sold_total", ()] == 1.0


def test_a_window_that_comes_again_is_not_counted_again() -> None:
    sink = PrometheusSink()
    export(sink, build(value=2.0))
    export(sink, build(value=2.0))
    assert read(sink)["requests_total", ()] == 2.0


def test_before_entering_and_of_nothing_export_does_nothing() -> None:
    sink = PrometheusSink()
    asyncio.run(sink.export([build()]))
    export(sink)
    assert sink.encode_page() == ""
    assert sink.encode_page(Form.OPENMETRICS) == EOF_LINE


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (build("a.b"), build("a_b"), "name_collides"),
        (build("a"), build("a_total", kind=MetricKind.GAUGE), "name_collides"),
        (build("a", kind=MetricKind.HISTOGRAM), build("a_count", kind=MetricKind.GAUGE), "name_collides"),
        (build("a"), build("a", kind=MetricKind.GAUGE, dimensions=(("k", "v"),)), "kind_differs"),
        (build("a"), build("a", kind=MetricKind.GAUGE, window=1), "kind_differs"),
        (
            build("a", dimensions=(("k.1", "v"),)),
            build("a", dimensions=(("k_1", "v"),)),
            "labels_collide",
        ),
    ],
)
def test_what_collides_is_refused_named_and_counted_and_the_first_stays(
    caplog: pytest.LogCaptureFixture, first: MetricSnapshot, second: MetricSnapshot, reason: str
) -> None:
    sink = PrometheusSink()
    export(sink, first)
    before = read(sink)
    for times in (1, 2):
        with pytest.raises(PartialExportError, match=reason) as caught:
            export(sink, second)
        assert caught.value.rejected == (second,)
        assert caught.value.remaining == ()
        assert sink.refused[reason] == times
    assert read(sink) == before
    assert len(caplog.records) == 1


def test_a_counters_window_below_zero_is_refused_and_the_total_stays() -> None:
    sink = PrometheusSink()
    export(sink, build(value=2.0))
    with pytest.raises(PartialExportError, match="negative_counter"):
        export(sink, build(values=[5.0, -1.0], window=1), build("other", window=1))
    assert read(sink)["requests_total", ()] == 2.0
    assert read(sink)["other_total", ()] == 1.0


def test_two_keys_of_one_series_that_escape_to_one_label_are_told_apart() -> None:
    sink = PrometheusSink()
    export(sink, build(dimensions=(("a.b", "1"), ("a_b", "2"))))
    assert read(sink)["requests_total", (("a_b", "1"), ("a_b_2", "2"))] == 1.0


def test_labels_that_the_scraper_keeps_for_itself_are_moved() -> None:
    sink = PrometheusSink(buckets=(1.0,))
    export(
        sink,
        build(dimensions=(("__name__", "x"),)),
        build("t", kind=MetricKind.HISTOGRAM, dimensions=(("le", "y"),)),
    )
    found = read(sink)
    assert found["requests_total", (("exported__name__", "x"),)] == 1.0
    assert found["t_bucket", (("exported_le", "y"), ("le", "1.0"))] == 1.0


def test_a_silent_series_goes_and_begins_anew_when_it_returns() -> None:
    clock = Hand()
    sink = PrometheusSink(idle_s=100.0, clock=clock)
    export(sink, build("gone"), build("stays"))
    clock.now += 90.0
    export(sink, build("stays", window=1))
    clock.now += 20.0
    assert set(read(sink)) == {("stays_total", ()), ("stays_created", ())}
    assert sink.series_count == 1
    export(sink, build("gone", window=9))
    assert read(sink)["gone_created", ()] == 540.0


def test_past_max_series_the_silent_ones_make_room_and_active_ones_do_not() -> None:
    clock = Hand()
    sink = PrometheusSink(max_series=2, idle_s=1_000.0, clock=clock)
    export(sink, build("a"), build("b"))
    with pytest.raises(PartialExportError, match="too_many_series"):
        export(sink, build("c"))
    clock.now += 300.0
    export(sink, build("b", window=1))
    export(sink, build("c", window=1))
    assert {name for name, _ in read(sink, Form.TEXT)} == {"b_total", "c_total"}


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "a-b"},
        {"prefix": "1a"},
        {"idle_s": 0.0},
        {"max_series": 0},
        {"buckets": ()},
        {"buckets": (1.0, 1.0)},
        {"buckets": (1.0, float("inf"))},
        {"buckets": (float("nan"),)},
    ],
)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PrometheusSink(**options)


def test_names_of_the_page_itself_are_left_out_silently_and_what_collides_with_them_is_refused() -> None:
    sink = PrometheusSink()
    sink.join_page(None, ["metricsd_events_decoded_total"])
    export(sink, build("metricsd_events_decoded_total"))
    with pytest.raises(PartialExportError, match="name_collides"):
        export(sink, build("metricsd.events.decoded"))
    assert read(sink) == {}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n\r\0{},='), max_size=20)


@settings(deadline=None)
@given(st.dictionaries(TEXTS, TEXTS, max_size=4), TEXTS)
def test_whatever_a_producer_sends_the_parsers_read_the_values_back(
    dimensions: dict[str, str], name: str
) -> None:
    sink = PrometheusSink()
    export(sink, build(name, dimensions=tuple(sorted(dimensions.items()))))
    found = read(sink)
    expected = sorted(value.replace("\0", "\ufffd") for value in dimensions.values())
    assert len(found) == 2
    for _, labels in found:
        assert sorted(value for _, value in labels) == expected


def test_lone_surrogates_become_question_marks() -> None:
    sink = PrometheusSink()
    export(sink, build(dimensions=(("k", "a\ud800"),)))
    sink.encode_page().encode()
    assert read(sink)["requests_total", (("k", "a?"),)] == 1.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=5, unique=True),
)
def test_a_bound_counts_all_at_or_below_it_and_of_the_rest_those_within_a_bucket_alone(
    values: list[float], bounds: list[float]
) -> None:
    bounds = sorted({bound + 0.0 for bound in bounds})
    sink = PrometheusSink(buckets=tuple(bounds))
    snapshot = build("t", kind=MetricKind.HISTOGRAM, values=values)
    export(sink, snapshot)
    assert snapshot.histogram is not None
    width = 2.0 ** (2.0**-snapshot.histogram.scale) * (1 + 1e-9)
    found = read(sink, Form.TEXT)
    for bound in bounds:
        highest = bound * width if bound > 0.0 else bound / width
        counted = found["t_bucket", (("le", repr(bound)),)] if abs(bound) < 1e6 else 0
        assert sum(value <= bound for value in values) <= counted <= sum(value <= highest for value in values)
    assert found["t_count", ()] == len(values)


def test_totals_go_on_from_a_state_and_a_window_that_is_in_them_is_not_added_again() -> None:
    bounds = (1.0, 10.0)
    first = PrometheusSink(buckets=bounds, clock=Hand())
    window = [
        build("requests", 3.0, dimensions=(("a", "b"),), unit="count"),
        build("depth", -2.0, MetricKind.GAUGE),
        build("latency", kind=MetricKind.HISTOGRAM, values=[0.5, 5.0, 50.0], unit="ms"),
    ]
    named = [replace(each, window_id="daemon-1") for each in window]
    export(first, *named)
    second = PrometheusSink(buckets=bounds, clock=Hand())
    second.load_state(first.dump_state())
    assert first.encode_page(Form.OPENMETRICS) == second.encode_page(Form.OPENMETRICS)
    export(second, *named)
    assert first.encode_page(Form.OPENMETRICS) == second.encode_page(Form.OPENMETRICS)
    export(second, *[replace(each, window_id="daemon-2", window_end=each.window_end + 60) for each in window])
    assert read(second)["requests_total", (("a", "b"),)] == 6.0
    assert read(second)["latency_count", ()] == 6.0


def test_histograms_of_other_bounds_begin_anew_and_the_rest_goes_on() -> None:
    first = PrometheusSink(buckets=(1.0, 10.0), clock=Hand())
    export(first, build("requests", 3.0), build("latency", kind=MetricKind.HISTOGRAM, values=[0.5]))
    second = PrometheusSink(buckets=(1.0, 20.0), clock=Hand())
    second.load_state(first.dump_state())
    samples = read(second)
    assert samples["requests_total", ()] == 3.0
    assert not any(name.startswith("latency") for name, _ in samples)


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x93\x02\x90\x90", b"\x93\x01\x90\x91\xc4\x01\xc1"])
def test_a_state_that_cannot_be_read_is_refused_and_nothing_changes(state: bytes) -> None:
    sink = PrometheusSink(clock=Hand())
    with pytest.raises(ValueError, match="the totals "):
        sink.load_state(state)
    assert sink.series_count == 0
