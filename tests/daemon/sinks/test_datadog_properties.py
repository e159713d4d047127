"""Whatever the snapshots and whatever the answers: nothing is refused, lost, overwritten or doubled."""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.aggregating.histogram import Histogram
from aiokpl_metricsd.errors import PartialExportError, PermanentExportError, RetryableExportError
from aiokpl_metricsd.rendering.quantile import quantile
from aiokpl_metricsd.sinks.datadog.memory import Memory
from aiokpl_metricsd.sinks.datadog.point import TYPES, Role, encode_distribution
from aiokpl_metricsd.sinks.datadog.request import (
    Point,
    cut_requests,
    encode_distribution_points,
    encode_series,
)
from aiokpl_metricsd.sinks.datadog.text import encode_name, encode_tag, encode_tags, split_tag
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.sinks.datadog_snapshots import (
    build_histogram,
    build_sink,
    build_snapshot,
    clear_environment,
    window_end,
)
from tests.support.datadog_intake import DISTRIBUTIONS, NAME, RESET, SERIES, Answer, DatadogIntake, check_tag

ERROR_RATIO = 2 ** (2**-3 / 2) - 1

texts = st.text(max_size=12) | st.text(st.sampled_from("aZ_.:-9 ü北\ud800"), max_size=6)
pairs = st.tuples(texts, texts)
numbers = st.floats() | st.integers(-(2**70), 2**70) | st.floats(-1e3, 1e3)
counts = st.lists(st.integers(0, 2**63 - 1), max_size=5).map(tuple)
buckets = st.builds(
    Buckets,
    st.integers(-10, 20),
    st.integers(0, 5),
    st.integers(-(2**62), 2**62) | st.integers(-99, 99),
    counts,
    st.integers(-99, 99),
    counts,
)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture(scope="module")
def intake() -> Iterator[DatadogIntake]:
    with DatadogIntake() as intake:
        yield intake


def forget(intake: DatadogIntake) -> None:
    for kept in (intake.values, intake.points, intake.types, intake.refusals, intake.requests):
        kept.clear()
    intake.script = []
    intake.check_models = True


@st.composite
def any_snapshots(draw: st.DrawFn) -> list[MetricSnapshot]:
    now = time.time()
    times = st.sampled_from([0.0, now, now - 30.5, now - 3_590, now + 590, -1.0]) | numbers
    return draw(
        st.lists(
            st.builds(
                MetricSnapshot,
                texts,
                st.integers(-1, 2**64),
                numbers,
                numbers,
                numbers,
                st.lists(pairs, max_size=3).map(tuple),
                times,
                times,
                st.sampled_from(MetricKind),
                st.none() | st.sampled_from(["ms", "bytes", "odd"]),
                numbers,
                st.none() | buckets,
                st.sampled_from(["", "w1", "w2"]),
            ),
            max_size=8,
        )
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(snapshots=any_snapshots(), exact=st.booleans(), prefix=st.sampled_from(["", "aiokpl.", "9x"]))
def test_no_snapshots_whatsoever_make_the_intake_refuse(
    intake: DatadogIntake, snapshots: list[MetricSnapshot], exact: bool, prefix: str
) -> None:
    async def export() -> None:
        async with build_sink(intake, exact_statistics=exact, metric_prefix=prefix) as sink:
            try:
                await sink.export(snapshots)
            except PartialExportError as error:
                outcomes.append((len(error.remaining), len(error.rejected)))

    forget(intake)
    outcomes: list[tuple[int, int]] = []
    asyncio.run(export())
    assert not intake.refusals
    # Set aside, not refused.
    assert all(not remaining and rejected for remaining, rejected in outcomes)


names = st.sampled_from(["a", "A", "a b", "a_b", "a-b", "x.count"])
dimensions = st.lists(
    st.tuples(st.sampled_from(["k", "K", "l"]), st.sampled_from(["v", "V", ""])), max_size=2
).map(tuple)


@st.composite
def windows(draw: st.DrawFn) -> list[MetricSnapshot]:
    """Series of one window, many of which become equal."""
    series = draw(st.lists(st.tuples(names, dimensions), unique=True, min_size=1, max_size=10))
    window = []
    for number, (name, pairs) in enumerate(series):
        if draw(st.booleans()):
            window.append(build_snapshot(name, float(2**number), dimensions=pairs))
        else:
            values = draw(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=20))
            window.append(build_histogram(name, values, dimensions=pairs))
    return window


def count_total(intake: DatadogIntake, window: Sequence[MetricSnapshot]) -> tuple[float, int]:
    """Return what all counters together, and all distributions together, amount to."""
    exact = {name for name in intake.types if name.endswith((".sum", ".min", ".max"))}
    counters = sum(value for key, value in intake.values.items() if key.metric not in exact)
    return counters, sum(map(len, intake.points.values()))


def expected_total(window: Sequence[MetricSnapshot]) -> tuple[float, int]:
    return (
        sum(each.sum for each in window if each.kind is MetricKind.COUNTER),
        sum(each.count for each in window if each.kind is MetricKind.HISTOGRAM),
    )


taken = Answer(202, "{}", takes=True)
answers = st.lists(
    st.sampled_from(
        [
            taken,
            taken._replace(path=SERIES),
            taken._replace(path=DISTRIBUTIONS),
            Answer(503),
            Answer(400, path=SERIES),
            Answer(400, path=DISTRIBUTIONS),
            Answer(413),
            Answer(429, headers=(("X-Ratelimit-Reset", "1"),)),
            RESET,
            # Series may be repeated, whoever knows whether they were taken.
            Answer(500, takes=True, path=SERIES),
            RESET._replace(takes=True, path=SERIES),
        ]
    ),
    max_size=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=windows(), script=answers, max_bytes=st.sampled_from([300, 700, 500_000]), exact=st.booleans())
def test_after_any_failures_the_totals_are_those_of_the_window(
    intake: DatadogIntake, window: list[MetricSnapshot], script: list[Answer], max_bytes: int, exact: bool
) -> None:
    async def deliver() -> None:
        async with build_sink(intake, exact_statistics=exact) as sink:
            assert sink._plan is not None
            sink._plan = replace(sink._plan, max_request_bytes=max_bytes)
            waiting = [window]
            while waiting:
                batch = waiting.pop()
                try:
                    await sink.export(batch)
                except PartialExportError as error:
                    rejected.extend(error.rejected)
                    waiting.append(list(error.remaining))
                except RetryableExportError:
                    waiting.append(batch)
                except PermanentExportError:
                    # As delivery does: in halves. The script ends, so a single one is taken some time.
                    middle = len(batch) // 2
                    waiting += [part for part in (batch[:middle], batch[middle:]) if part]

    forget(intake)
    # Other tests ask the models, which take a millisecond an entry.
    intake.check_models = False
    intake.script = list(script)
    rejected: list[MetricSnapshot] = []
    asyncio.run(deliver())
    assert not rejected
    counters, points = count_total(intake, window)
    expected_counters, expected_points = expected_total(window)
    if exact:
        expected_counters += expected_points
    assert (counters, points) == (expected_counters, expected_points)


values_of_any_size = st.lists(
    st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False), min_size=1, max_size=300
)


@given(values=values_of_any_size, copies=st.integers(1, 40), max_points=st.integers(2, 1000))
def test_every_quantile_of_the_points_is_in_the_bucket_of_that_of_the_events(
    values: list[float], copies: int, max_points: int
) -> None:
    events = values * copies
    low, high = min(events), max(events)
    histogram = Histogram()
    histogram.add_values(events, low, high)
    frozen = histogram.freeze()
    count = min(len(events), max_points)
    runs = encode_distribution(frozen, low, high, count)
    points = list(chain.from_iterable(repeat(value, times) for value, times in runs))
    assert len(points) == count
    assert points == sorted(points)
    assert points[-1] == high
    assert count == 1 or points[0] == low
    for number in range(2, count):
        assert math.isclose(
            points[number - 1],
            _at_rank(frozen, -(-number * len(events) // count), len(events), low, high),
            rel_tol=1e-5,
        )


def _at_rank(frozen: Buckets, rank: int, total: int, low: float, high: float) -> float:
    # Half a rank below, so that rounding up gets there whatever the last digit of the quotient.
    return quantile(frozen, (rank - 0.5) / total, low=low, high=high)


@pytest.mark.parametrize("count", [1000, 1001, 4999, 50_000])
def test_the_usual_quantiles_of_the_points_are_within_the_buckets_error(count: int) -> None:
    random = Random(count)
    events = sorted(random.lognormvariate(3, 1) for _ in range(count))
    histogram = Histogram()
    histogram.add_values(events, events[0], events[-1])
    ratio = 2 ** (2**-histogram.scale / 2) - 1
    assert ratio <= ERROR_RATIO * 1.0001
    runs = encode_distribution(histogram.freeze(), events[0], events[-1], 1000)
    points = list(chain.from_iterable(repeat(value, times) for value, times in runs))
    for per_mille in (10, 500, 900, 990, 999, 1000):
        point = points[per_mille - 1]
        event = events[-(-per_mille * len(events) // 1000) - 1]
        assert point == pytest.approx(event, rel=ratio + 1e-5)


@given(texts, texts)
def test_a_name_is_one_that_is_taken_as_it_is(prefix: str, name: str) -> None:
    encoded = encode_name(prefix, name)
    assert not encoded or NAME.fullmatch(encoded)
    if encoded:
        assert encode_name("", encoded) == encoded
        assert "__" not in encoded
        assert "_." not in encoded


@given(texts, texts)
def test_a_tag_is_one_that_is_taken_as_it_is(key: str, value: str) -> None:
    tag = encode_tag(key, value)
    check_tag(tag)
    assert encode_tag(*split_tag(tag)) == tag


def test_texts_that_are_too_long_are_cut_and_stay_apart() -> None:
    stem = "a" * 300
    assert len({encode_name("", stem + "x"), encode_name("", stem + "y")}) == 2
    assert len(encode_name("", stem)) == 200
    assert len(set(encode_tags((("k", stem + "x"), ("k", stem + "y"))))) == 2
    check_tag(encode_tag(stem, stem))


def check_series(point: Point, entry: str) -> None:
    assert entry == json.dumps(
        {
            "metric": point.name,
            "type": TYPES[point.role],
            "points": [{"timestamp": point.window.second, "value": point.number}],
            "resources": [{"type": "host", "name": "höst"}],
            "tags": point.tags,
            "interval": point.interval_s,
            "unit": point.unit,
        }
    )


def check_distribution(point: Point, entry: str) -> None:
    values = [value for value, count in point.runs for _ in range(count)]
    assert entry == json.dumps(
        {
            "metric": point.name,
            "type": "distribution",
            "points": [[point.window.second, values]],
            "host": "höst",
            "tags": point.tags,
        }
    )


@given(st.lists(st.floats(-1e38, 1e38), min_size=1, max_size=5), st.lists(pairs, max_size=3))
def test_entries_are_written_as_json_dumps_writes_them_and_their_bytes_are_counted(
    values: list[float], dimensions: list[tuple[str, str]]
) -> None:
    window = Memory().find(build_snapshot("a", 1.0), 0.0, ("", 0.0, 0.0))
    tags = encode_tags(dimensions)
    series = Point(Role.COUNT, "a", tags, values[0], window, (0,), ("a", ()), (), 60, "byte")
    check_series(series, encode_series(series, "höst"))
    runs = tuple((value, 3) for value in values)
    distribution = Point(Role.DISTRIBUTION, "a", tags, 0.0, window, (0,), ("a", ()), runs)
    check_distribution(distribution, encode_distribution_points(distribution, "höst"))
    for request in cut_requests([series] * 5, "höst", 500):
        body = request.encode_body()
        assert body == json.dumps({"series": [json.loads(entry) for entry in request.entries]}).encode()
        assert len(body) <= request.size_bytes <= max(500, len(body) + 2)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ends=st.lists(st.floats(-9.0, 0.0), min_size=1, max_size=15))
def test_windows_that_end_whenever_never_overwrite_each_other(
    intake: DatadogIntake, ends: list[float]
) -> None:
    base = window_end()
    batches: list[Any] = [
        [build_snapshot("R", 1.0, end=base + end, window_id=f"w{number}")] for number, end in enumerate(ends)
    ]

    async def export() -> None:
        async with build_sink(intake) as sink:
            for batch in (*batches, *reversed(batches)):
                await sink.export(batch)

    forget(intake)
    intake.check_models = False
    asyncio.run(export())
    assert intake.total("aiokpl.R") == len(ends)
    assert Counter(intake.values.values()) == {1.0: len(ends)}
