"""The library beside aiokpl 0.2.0's own: the same names, the same keys, the same rolling view."""

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiokpl_metricsd import metrics
from aiokpl_metricsd.metrics import Metric, MetricKey, MetricsLevel, MetricsManager
from tests.daemon.metrics_fakes import Clock

theirs: Any = pytest.importorskip("aiokpl.metrics")

OPTIONAL = st.none() | st.sampled_from(["x", "y"])
PUTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.4, 1.0, 7.0, 59.0, 60.0, 61.0, 200.0]),
        st.sampled_from(["UserRecordsPut", "RequestTime", "mine"]),
        st.integers(-100, 100) | st.floats(-1e6, 1e6),
        OPTIONAL,
        OPTIONAL,
        OPTIONAL,
    ),
    max_size=60,
)


def test_the_names_are_the_same() -> None:
    expected = {name: value for name, value in vars(theirs).items() if name.startswith("NAME_")}
    assert len(expected) == 12
    assert {name: getattr(metrics, name) for name in expected} == expected
    assert set(theirs.__all__) <= set(metrics.__all__)


@pytest.mark.parametrize(
    "call",
    [
        "Metric",
        "Metric.put",
        "MetricKey",
        "MetricsManager",
        "MetricsManager.put",
        "MetricsManager.flush",
        "MetricsManager.snapshot",
        "MetricsManager.snapshots",
    ],
)
def test_every_call_that_aiokpl_takes_is_taken(call: str) -> None:
    def read(module: object) -> dict[str, tuple[Any, Any]]:
        found: Any = module
        for part in call.split("."):
            found = getattr(found, part)
        parameters = inspect.signature(found).parameters.values()
        return {
            p.name: (p.kind, getattr(p.default, "value", getattr(p.default, "__name__", p.default)))
            for p in parameters
        }

    ours, expected = read(metrics), read(theirs)
    assert {name: ours[name] for name in expected} == expected


@given(OPTIONAL, OPTIONAL, OPTIONAL)
def test_dimensions_are_the_same(stream: str | None, shard_id: str | None, error_code: str | None) -> None:
    ours = MetricKey("n", stream, shard_id, error_code).dimensions()
    assert ours == theirs.MetricKey("n", stream, shard_id, error_code).dimensions()


@pytest.mark.parametrize("level", ["none", "summary", "detailed"])
@given(puts=PUTS, wait=st.sampled_from([0.0, 30.0, 59.0, 60.0]))
def test_the_rolling_view_is_the_same(level: str, puts: list[tuple[Any, ...]], wait: float) -> None:
    clock = Clock(1000.0)
    ours = MetricsManager(level=MetricsLevel(level), clock=clock, wall_clock=clock)
    other = theirs.MetricsManager(level=theirs.MetricsLevel(level), clock=clock)
    for advance, name, value, stream, shard_id, error_code in puts:
        clock.now += advance
        for manager in (ours, other):
            manager.put(name, value, stream=stream, shard_id=shard_id, error_code=error_code)
    clock.now += wait
    expected = {
        (key.name, key.stream, key.shard_id, key.error_code): pytest.approx(statistics)
        for key, statistics in other.snapshot().items()
    }
    assert {
        (key.name, key.stream, key.shard_id, key.error_code): statistics
        for key, statistics in ours.snapshot().items()
    } == expected
    assert sorted(
        (s.name, s.dimensions, s.count, s.window_start, s.window_end) for s in ours.snapshots()
    ) == sorted((s.name, s.dimensions, s.count, s.window_start, s.window_end) for s in other.snapshots())


@given(st.lists(st.tuples(st.integers(0, 70), st.floats(-1e6, 1e6)), max_size=30))
def test_a_metric_alone_is_the_same(puts: list[tuple[int, float]]) -> None:
    clock = Clock(1000.0)
    ours, other = Metric(MetricKey("n"), clock), theirs.Metric(theirs.MetricKey("n"), clock)
    for advance, value in puts:
        clock.now += advance
        ours.put(value)
        other.put(value)
        assert ours.stats() == pytest.approx(other.stats())
        assert ours.window_bounds() == other.window_bounds()
