"""Instruments, levels, and what is left of a client after its end."""

import atexit
import gc
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from aiokpl_metrics_client import ClientStatistics, MetricsClient, MetricsLevel, State, process
from aiokpl_metrics_protocol import Series
from tests.client.conftest import ClientMaker
from tests.client.door import Door

# ---- instruments


@pytest.mark.parametrize("make", ["counter", "gauge", "histogram", "timer"])
@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": None},
        {"name": "x" * 256},
        {"name": "\ud800"},
        {"name": "n", "unit": "u" * 64},
        {"name": "n", "unit": 5},
        {"name": "n", "stream": "x" * 1025},
        {"name": "n", **{f"k{i}": "v" for i in range(31)}},
    ],
)
@pytest.mark.parametrize("level", [MetricsLevel.DETAILED, MetricsLevel.NONE])
def test_a_bad_instrument_raises_when_it_is_made_at_every_level(
    make_client: ClientMaker, make: str, options: dict[str, Any], level: MetricsLevel
) -> None:
    with pytest.raises(ValueError, match=r"."):
        getattr(make_client(level=level), make)(**options)


def test_instruments_declare_kind_and_unit(door: Door, client: MetricsClient) -> None:
    client.counter("c", unit="bytes").record(1)
    client.gauge("g").record(2)
    client.histogram("h", unit="ms", stream="s").record(3)
    client.put("p", 4)
    assert client.flush()
    door.read()
    assert door.series() == {
        Series("c", "counter", "bytes"),
        Series("g", "gauge"),
        Series("h", "histogram", "ms", (("stream", "s"),)),
        Series("p"),
    }


# ---- levels


def test_summary_drops_shard_and_error_code_however_they_are_given(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client(level=MetricsLevel.SUMMARY, dimensions={"error_code": "E"})
    client.put("n", stream="s", shard_id="1", error_code="F")
    client.put("n", stream="s", shard="2")
    client.histogram("n", stream="s", shard_id="3").record(1.0)
    assert client.flush()
    door.read()
    assert {series.dimensions for series in door.series()} == {(("stream", "s"),)}
    assert door.events() == 3


def _use_everything(client: MetricsClient) -> None:
    for value in (1.0, None, float("nan"), [1]):
        client.put("n", value, stream="s", zone=value)  # type: ignore[arg-type]
        client.put(value)  # type: ignore[arg-type]
        for make in (client.counter, client.gauge, client.histogram):
            make("n").record(value)  # type: ignore[arg-type]
    with client.timer("t"):
        pass
    assert client.flush() is True
    assert client.statistics().state is State.DISABLED


def test_at_none_nothing_outlives_a_call(
    door: Door, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[object] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(process, "_hooks_installed", False)
    threads = set(threading.enumerate())
    client = make_client(level=MetricsLevel.NONE)
    _use_everything(client)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2_000):
            client.put(f"n{number}", 1.0, zone=[number])
            client.counter(f"n{number}").record(1.0)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert set(threading.enumerate()) <= threads
    assert registered == []
    assert client._sender not in process.read_members()
    assert door.read() == 0
    assert client.close() is True


@pytest.mark.parametrize(("value", "disabled"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_disables_every_client(
    door: Door, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch, value: str, disabled: bool
) -> None:
    monkeypatch.setenv("AIOKPL_METRICSD_DISABLED", value)
    client = make_client()
    client.put("n")
    assert client.flush()
    assert door.read() == (0 if disabled else 1)
    assert (client.level is MetricsLevel.NONE) is disabled


def test_the_levels_of_aiokpl_are_levels(make_client: ClientMaker) -> None:
    aiokpl_metrics = pytest.importorskip("aiokpl.metrics")
    assert make_client(level=aiokpl_metrics.MetricsLevel.NONE).level is MetricsLevel.NONE


# ---- the end


@pytest.mark.slow
def test_after_close_everything_is_counted_and_memory_stays_flat(
    door: Door, make_client: ClientMaker
) -> None:
    client = make_client()
    counter = client.counter("bound")
    client.put("n")
    counter.record(1)
    assert client.close()
    assert client.close()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000):
            client.put("n")
            client.put(f"n{number}")
            counter.record(1)
        client.counter("late").record(1)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000
    statistics = client.statistics()
    assert statistics.dropped == {"closed": 60_001}
    assert (statistics.state, statistics.events_sent, statistics.events_pending) == (State.CLOSED, 2, 0)
    door.read()
    assert door.events() == 2
    assert client.flush()


def test_a_context_manager_closes(door: Door) -> None:
    with MetricsClient(door.path) as client:
        client.put("n")
    door.read()
    assert door.events() == 1
    assert client.statistics().state is State.CLOSED


def test_close_without_a_daemon_says_so_each_time_and_counts_what_it_had(directory: Path) -> None:
    client = MetricsClient(directory / "nobody")
    client.put("n")
    assert not client.close(timeout_s=0.05)
    assert not client.close()
    assert client.statistics().dropped == {"closed": 1}
    assert client.statistics().bytes_pending == 0


def test_statistics_of_a_fresh_client_are_zero(client: MetricsClient, directory: Path) -> None:
    assert client.statistics() == ClientStatistics(State.IDLE, None, "", 0, 0, 0, 0, 0, 0, 0, {})


def test_a_path_may_be_bytes_or_a_path(door: Door, make_client: ClientMaker) -> None:
    for path in (bytes(door.path), door.path, str(door.path)):
        client = make_client(path)
        client.put("n")
        assert client.flush()
    door.read()
    assert door.events() == 3


def test_importing_and_making_a_client_starts_no_thread(directory: Path) -> None:
    code = "import threading, aiokpl_metrics_client as c; c.MetricsClient(); print(threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "1\n"
