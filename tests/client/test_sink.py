"""Every event of a real aiokpl manager arrives once, at every level, under asyncio and trio."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aiokpl_metrics_client import MetricsdSink
from aiokpl_metrics_protocol import MetricsLevel
from tests.client.door import Door
from tests.client.odd import Raising

aiokpl = pytest.importorskip("aiokpl")
metrics = pytest.importorskip("aiokpl.metrics")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def sink(door: Door) -> Iterator[MetricsdSink]:
    sink = MetricsdSink(door.path)
    yield sink
    sink.client.close(0.0)


def _event(**changes: object) -> Any:  # noqa: ANN401 - stands in for an event
    return SimpleNamespace(**{"name": "n", "value": 1.0, "timestamp": 3.0, "dimensions": (), **changes})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("NONE", {}),
        ("SUMMARY", {("n", ()): 1, ("n", (("stream", "s"),)): 300}),
        (
            "DETAILED",
            {
                ("n", ()): 1,
                ("n", (("shard", "1"), ("stream", "s"))): 100,
                ("n", (("shard", "2"), ("stream", "s"))): 100,
                ("n", (("error_code", "E"), ("stream", "s"))): 100,
            },
        ),
    ],
)
async def test_every_event_of_a_manager_arrives_once(
    door: Door, sink: MetricsdSink, level: str, expected: dict[Any, int]
) -> None:
    manager = metrics.MetricsManager(level=metrics.MetricsLevel[level], sink=sink, upload_interval_ms=5.0)
    async with manager:
        manager.put("n", 5.0)
        for number in range(100):
            manager.put("n", number, stream="s", shard_id="1")
            manager.put("n", number, stream="s", shard_id="2")
            manager.put("n", number, stream="s", error_code="E")
            if number % 25 == 0:
                await manager.flush()
    assert sink.client.flush()
    door.read()
    assert door.counts() == expected
    door.check()
    assert sum(door.values()) == (5.0 + 3 * sum(range(100)) if expected else 0)


@pytest.mark.anyio
async def test_leaving_the_sink_hands_over_without_waiting_and_later_events_still_count(
    door: Door, sink: MetricsdSink
) -> None:
    async with sink:
        sink.record(_event())
    door.read()
    assert door.events() == 1
    sink.record(_event())
    assert sink.client.flush()
    door.read()
    assert door.events() == 2


def test_it_has_the_shape_of_both_of_aiokpl_s_sinks(sink: MetricsdSink) -> None:
    from aiokpl.sinks import EventfulMetricsSink, MetricsSink

    assert isinstance(sink, EventfulMetricsSink)
    assert isinstance(sink, MetricsSink)
    assert aiokpl.Config(region="us-east-1", metrics_sink=sink).metrics_sink is sink


def test_an_event_is_one_series_with_the_same_put(door: Door, sink: MetricsdSink) -> None:
    for _ in range(2):
        sink.record(_event(dimensions=(("stream", "s"), ("shard", "1"))))
        sink.record(_event(dimensions=(("shard", "1"), ("stream", "s"))))
        sink.client.put("n", shard_id="1", stream="s")
    assert sink.client.flush()
    door.read()
    assert door.counts() == {("n", (("shard", "1"), ("stream", "s"))): 6}


@pytest.mark.parametrize("level", [MetricsLevel.DETAILED, MetricsLevel.NONE])
def test_odd_events_never_raise(door: Door, level: MetricsLevel) -> None:
    sink = MetricsdSink(door.path, level=level)
    odd = (None, 5, "text", [["a", 1]], (("a",),), ((1, 2),), Raising())
    for dimensions in odd:
        sink.record(_event(dimensions=dimensions))
    sink.record(_event(name=None))
    sink.record(_event(value=None))
    sink.record(_event(dimensions=[("a", "b")]))
    assert sink.client.flush()
    dropped = sink.client.statistics().dropped
    if level is MetricsLevel.NONE:
        assert dropped == {}
    else:
        assert dropped == {"series_invalid": 7, "value_invalid": 1}
        door.read()
        assert door.counts() == {("n", (("a", "1"),)): 1, ("n", (("a", "b"),)): 1}
    sink.client.close()


def test_its_own_level_dimensions_and_client_are_used(door: Door) -> None:
    sink = MetricsdSink(door.path, level=MetricsLevel.SUMMARY, dimensions={"service": "x"}, max_series=5)
    sink.record(_event(dimensions=(("shard", "1"),)))
    assert sink.client.flush()
    assert MetricsdSink(client=sink.client).client is sink.client
    sink.client.close()
    door.read()
    assert door.counts() == {("n", (("service", "x"),)): 1}
