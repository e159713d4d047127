"""Snapshots -> an intake as strict as the documents: what arrives, under which names, and when."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from aiokpl_metrics_protocol import Buckets, MetricKind
from aiokpl_metricsd.errors import ConfigurationError, PartialExportError
from aiokpl_metricsd.sinks import RepeatRule
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
from aiokpl_metricsd.sinks.loading import BUILTIN, build_options, load_factory
from aiokpl_metricsd.snapshot import MetricSnapshot
from tests.daemon.sinks.datadog_snapshots import (
    build_histogram,
    build_sink,
    build_snapshot,
    clear_environment,
)
from tests.support.datadog_intake import COUNT, DISTRIBUTIONS, GAUGE, SERIES, DatadogIntake

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[("asyncio", {}), ("asyncio", {"use_uvloop": True}), ("trio", {})],
    ids=["asyncio", "uvloop", "trio"],
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clear_environment(monkeypatch)


@pytest.fixture
def intake() -> Iterator[DatadogIntake]:
    with DatadogIntake() as intake:
        yield intake
    assert not intake.refusals


async def test_a_counter_is_a_count_of_its_sum_with_the_windows_length(intake: DatadogIntake) -> None:
    snapshot = build_snapshot("Requests", 5.0)
    async with build_sink(intake, host="web-1") as sink:
        await sink.export([snapshot])
    ((key, value),) = intake.values.items()
    assert (key.host, key.metric, key.timestamp) == ("web-1", "aiokpl.Requests", int(snapshot.window_end))
    assert value == 5.0
    assert intake.types["aiokpl.Requests"] == COUNT
    assert intake.intervals["aiokpl.Requests"] == 60


async def test_a_gauge_has_its_last_value_and_its_unit(intake: DatadogIntake) -> None:
    async with build_sink(intake) as sink:
        await sink.export([build_snapshot("Depth", 7.0, kind=MetricKind.GAUGE, unit="bytes")])
    assert intake.total("aiokpl.Depth") == 7.0
    assert intake.types["aiokpl.Depth"] == GAUGE
    assert intake.units["aiokpl.Depth"] == "byte"


async def test_a_histogram_is_a_distribution_of_as_many_points_from_least_to_greatest(
    intake: DatadogIntake,
) -> None:
    values = [1.5, 20.0, 20.0, 300.0]
    async with build_sink(intake) as sink:
        await sink.export([build_histogram("Latency", values)])
    points = intake.distribution("aiokpl.Latency")
    assert len(points) == 4
    assert (points[0], points[-1]) == (1.5, 300.0)
    assert points[1] == pytest.approx(20.0, rel=0.0443)
    assert not intake.values


async def test_exact_statistics_stand_beside_the_distribution_under_names_of_their_own(
    intake: DatadogIntake,
) -> None:
    values = [float(n) for n in range(1, 5001)]
    async with build_sink(intake, exact_statistics=True) as sink:
        await sink.export([build_histogram("Latency", values, unit="ms")])
    assert len(intake.distribution("aiokpl.Latency")) == 1000
    assert intake.total("aiokpl.Latency.count") == 5000
    assert intake.total("aiokpl.Latency.sum") == sum(values)
    assert intake.total("aiokpl.Latency.min") == 1.0
    assert intake.total("aiokpl.Latency.max") == 5000.0
    assert intake.types["aiokpl.Latency.sum"] == COUNT
    assert intake.types["aiokpl.Latency.max"] == GAUGE
    assert intake.units["aiokpl.Latency.sum"] == "millisecond"
    assert "aiokpl.Latency.count" not in intake.units


async def test_a_histogram_without_buckets_is_sent_as_its_statistics_and_never_as_its_mean(
    intake: DatadogIntake,
) -> None:
    snapshot = MetricSnapshot("H", 3, 6.0, 1.0, 3.0, kind=MetricKind.HISTOGRAM)
    empty = MetricSnapshot("E", 3, 6.0, 1.0, 3.0, kind=MetricKind.HISTOGRAM, histogram=Buckets(3))
    async with build_sink(intake) as sink:
        await sink.export([snapshot, empty])
    assert not intake.points
    for name in ("H", "E"):
        assert intake.total(f"aiokpl.{name}.count") == 3
        assert intake.total(f"aiokpl.{name}.sum") == 6.0


async def test_dimensions_are_tags_and_the_operators_tags_and_the_pod_are_beside_them(
    intake: DatadogIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_TAGS", "team:Core, env:test")
    monkeypatch.setenv("POD_NAME", "web-0")
    async with build_sink(intake, tags=["zone:A"]) as sink:
        await sink.export([build_snapshot("R", 1.0, dimensions=(("stream", "Orders"), ("shard", "")))])
    (key,) = intake.values
    assert set(key.tags) == {"team:core", "env:test", "pod_name:web-0", "zone:a", "stream:orders", "shard"}


async def test_in_kubernetes_the_pod_is_a_tag_even_where_the_host_is_the_nodes(
    intake: DatadogIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DD_HOSTNAME", "node-1")
    monkeypatch.setattr("socket.gethostname", lambda: "web-7")
    async with build_sink(intake, host=None) as sink:
        await sink.export([build_snapshot("R", 1.0)])
    (key,) = intake.values
    assert key.host == "node-1"
    assert "pod_name:web-7" in key.tags


async def test_two_hosts_and_two_pods_never_overwrite_each_other(
    intake: DatadogIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = [build_snapshot("R", 1.0), build_histogram("H", [1.0, 2.0])]
    for host, pod in (("a", "x"), ("b", "x"), ("a", "y")):
        monkeypatch.setenv("POD_NAME", pod)
        async with build_sink(intake, host=host) as sink:
            await sink.export(window)
    assert intake.total("aiokpl.R") == 3.0
    assert len(intake.distribution("aiokpl.H")) == 6


async def test_series_that_become_equal_are_merged_and_the_log_says_so(
    intake: DatadogIntake, caplog: pytest.LogCaptureFixture
) -> None:
    window = [
        build_snapshot("a b", 1.0, dimensions=(("shard", "X"),)),
        build_snapshot("a_b", 2.0, dimensions=(("shard", "x"),)),
        build_snapshot("a-b", 4.0, dimensions=(("shard", "y"),)),
        build_snapshot("g", 8.0, dimensions=(("k", "A"),), kind=MetricKind.GAUGE),
        build_snapshot("g", 9.0, dimensions=(("k", "a"),), kind=MetricKind.GAUGE),
    ]
    async with build_sink(intake) as sink:
        await sink.export(window)
    assert sorted(intake.values.values()) == [3.0, 4.0, 9.0]
    assert any("several series become aiokpl.a_b" in message for message in caplog.messages)


async def test_a_merged_series_sent_again_in_parts_keeps_its_whole_value(intake: DatadogIntake) -> None:
    window = [build_snapshot("a b", 1.0), build_snapshot("a_b", 2.0)]
    async with build_sink(intake) as sink:
        await sink.export(window)
        await sink.export(window[:1])
        await sink.export(window[1:])
    assert list(intake.values.values()) == [3.0]


async def test_equal_statistics_are_merged_each_by_its_own_rule(intake: DatadogIntake) -> None:
    window = [build_histogram("h x", [1.0, 5.0]), build_histogram("h_x", [3.0, 9.0])]
    async with build_sink(intake, exact_statistics=True) as sink:
        await sink.export(window)
    assert intake.total("aiokpl.h_x.count") == 4.0
    assert intake.total("aiokpl.h_x.sum") == 18.0
    assert intake.total("aiokpl.h_x.min") == 1.0
    assert intake.total("aiokpl.h_x.max") == 9.0
    assert sorted(intake.distribution("aiokpl.h_x")) == [1.0, 3.0, 5.0, 9.0]


async def test_a_distribution_never_shares_its_name(
    intake: DatadogIntake, caplog: pytest.LogCaptureFixture
) -> None:
    window = [
        build_snapshot("x", 1.0),
        build_histogram("x", [2.0, 3.0], dimensions=(("k", "v"),)),
        build_snapshot("x.count", 7.0, dimensions=(("k", "v"),)),
    ]
    async with build_sink(intake, exact_statistics=True) as sink:
        await sink.export(window)
        await sink.export(window[1:2])
    assert intake.total("aiokpl.x") == 1.0
    assert intake.types["aiokpl.x.distribution"] == "distribution"
    assert intake.total("aiokpl.x.count") + intake.total("aiokpl.x.count.count") == 9.0
    assert any("sent as aiokpl.x.distribution" in message for message in caplog.messages)


async def test_two_windows_that_end_in_one_second_do_not_overwrite_each_other(intake: DatadogIntake) -> None:
    now = float(int(time.time()))
    first = build_snapshot("R", 1.0, end=now + 0.2, window_id="early")
    second = build_snapshot("R", 2.0, end=now + 0.7, window_id="late")
    async with build_sink(intake) as sink:
        await sink.export([first])
        await sink.export([second])
        # Again: each has its own second still.
        await sink.export([second])
        await sink.export([first])
    assert sorted((key.timestamp - now, value) for key, value in intake.values.items()) == [
        (0, 1.0),
        (1, 2.0),
    ]


async def test_snapshots_without_a_time_are_sent_as_now_and_each_export_has_a_second_of_its_own(
    intake: DatadogIntake,
) -> None:
    before = int(time.time())
    async with build_sink(intake) as sink:
        for _ in range(3):
            await sink.export([MetricSnapshot("R", 1, 1.0, 1.0, 1.0)])
    assert intake.total("aiokpl.R") == 3.0
    assert len(intake.values) == 3
    assert min(key.timestamp for key in intake.values) >= before


async def test_what_cannot_be_sent_is_rejected_by_reason_and_the_rest_is_delivered(
    intake: DatadogIntake,
) -> None:
    now = time.time()
    bad = [
        build_snapshot("nan", float("nan")),
        build_snapshot("inf", float("inf"), kind=MetricKind.GAUGE),
        build_snapshot("wide", 1e39),
        build_snapshot("old", 1.0, end=now - 3_600),
        build_snapshot("ahead", 1.0, end=now + 3_600),
        build_snapshot("", 1.0),
        build_snapshot("北京", 1.0),
        MetricSnapshot("none", 0, 0.0, 0.0, 0.0),
        MetricSnapshot("h", 2, 3.0, 2.0, 1.0, kind=MetricKind.HISTOGRAM),
        build_snapshot("tags", 1.0, dimensions=tuple((f"k{n}", "v") for n in range(200))),
        MetricSnapshot(None, 1, 1.0, 1.0, 1.0),  # type: ignore[arg-type]
        MetricSnapshot("list", 1, 1.0, 1.0, 1.0, [("a", "b")]),  # type: ignore[arg-type]
    ]
    good = build_snapshot("good", 1.0)
    async with build_sink(intake) as sink:
        with pytest.raises(PartialExportError) as caught:
            await sink.export([*bad, good])
    assert list(caught.value.rejected) == bad
    assert not caught.value.remaining
    assert "number_out_of_range 3" in str(caught.value)
    assert intake.total("aiokpl.good") == 1.0


async def test_a_window_is_cut_below_the_limits_and_arrives_whole(intake: DatadogIntake) -> None:
    intake.check_models = False
    window = [
        build_snapshot("R", float(n), dimensions=(("shard", f"{n:06}"), ("k", "ü" * 150)))
        for n in range(2_000)
    ]
    window += [
        build_histogram("H", [n + 0.123456789 * m for m in range(1, 200)], dimensions=(("n", str(n)),))
        for n in range(300)
    ]
    async with build_sink(intake) as sink:
        await sink.export(window)
    paths = [path for path, _, _ in intake.requests]
    assert paths.count(SERIES) > 1
    assert paths.count(DISTRIBUTIONS) > 1
    assert {encoding for _, encoding, _ in intake.requests} == {"deflate"}
    assert intake.total("aiokpl.R") == sum(range(2_000))
    assert len(intake.distribution("aiokpl.H")) == 300 * 199


async def test_nothing_is_sent_before_entering_nor_of_nothing(intake: DatadogIntake) -> None:
    sink = build_sink(intake)
    await sink.export([build_snapshot("R", 1.0)])
    async with sink:
        await sink.export([])
    await sink.export([build_snapshot("R", 1.0)])
    assert not intake.requests


async def test_it_can_be_entered_and_left_twice(intake: DatadogIntake) -> None:
    sink = build_sink(intake)
    for number in range(2):
        async with sink:
            await sink.export([build_snapshot("R", 1.0, window_id=f"w{number}")])
    assert intake.total("aiokpl.R") == 2.0


async def test_a_missing_key_is_told_on_entering_and_by_check_not_at_construction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DD_API_KEY", raising=False)
    sink = DatadogSink()
    with pytest.raises(ConfigurationError, match="DD_API_KEY"):
        await sink.check()
    with pytest.raises(ConfigurationError, match="DD_API_KEY"):
        await sink.__aenter__()


async def test_a_key_that_would_break_the_header_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await DatadogSink(api_key="s3cret\nX: y").check()
    assert "s3cret" not in str(caught.value)


async def test_keys_and_site_come_from_the_environment_unless_given(
    intake: DatadogIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_API_KEY", "ENV")
    monkeypatch.setenv("DD_APP_KEY", "APP")
    monkeypatch.setenv("DD_SITE", "datadoghq.eu")
    found = DatadogSink()._find_access()
    assert (found.url, found.api_key, found.app_key) == ("https://api.datadoghq.eu", "ENV", "APP")
    # Who names the site gets it, also where it is the default.
    given = DatadogSink(site="datadoghq.com", api_key="GIVEN")._find_access()
    assert (given.url, given.api_key) == ("https://api.datadoghq.com", "GIVEN")
    monkeypatch.setenv("DD_API_KEY", "KEY")
    async with DatadogSink(endpoint_url=intake.url) as sink:
        await sink.export([build_snapshot("R", 1.0)])
    assert intake.total("aiokpl.R") == 1.0


async def test_an_unusable_host_or_site_is_told_on_entering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_SITE", "not a site")
    with pytest.raises(ConfigurationError, match="DD_SITE"):
        await DatadogSink(api_key="KEY").check()
    monkeypatch.delenv("DD_SITE")
    with pytest.raises(ConfigurationError, match="host"):
        await DatadogSink(api_key="KEY", host="a b").check()


@pytest.mark.parametrize(
    "options",
    [
        {"site": "http://x"},
        {"endpoint_url": "ftp://x"},
        {"request_timeout_s": 0.0},
        {"export_timeout_s": -1.0},
        {"distribution_points": 1},
        {"distribution_points": 1001},
    ],
)
def test_an_option_out_of_its_range_is_refused_at_construction(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        DatadogSink(**options)  # type: ignore[arg-type]


def test_its_options_are_those_of_the_table_and_unknown_ones_are_refused() -> None:
    factory = load_factory("datadog")
    options, _ = build_options(factory, {"api_key": "KEY", "tags": ["a:b"], "exact_statistics": True})
    sink: Any = factory(**options)
    assert isinstance(sink, DatadogSink)
    assert sink.repeat_rule is RepeatRule.ADDS
    assert sink.ordered is False
    assert sink.max_age_s == 3_540.0
    assert "datadog" in BUILTIN
    with pytest.raises(ConfigurationError, match="ap_key"):
        build_options(factory, {"ap_key": "KEY"})


def test_entering_imports_the_client_and_not_its_eight_thousand_models() -> None:
    code = """
import asyncio, json, sys
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
def loaded(): return [m for m in sys.modules if m.split(".")[0] in {"datadog_api_client", "urllib3"}]
before = loaded()
async def main():
    async with DatadogSink(api_key="KEY"):
        pass
asyncio.run(main())
print(json.dumps([before, "datadog_api_client.v2.api.metrics_api" in sys.modules,
                  "datadog_api_client.v2.models" in sys.modules]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DD_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout) == [[], True, False]


def test_without_its_package_the_error_names_the_extra() -> None:
    code = """
import asyncio, sys
sys.modules["datadog_api_client"] = None
from aiokpl_metricsd.errors import ConfigurationError
from aiokpl_metricsd.sinks.datadog.sink import DatadogSink
try:
    asyncio.run(DatadogSink(api_key="KEY").__aenter__())
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install 'aiokpl-metricsd[datadog]'" in done.stdout
