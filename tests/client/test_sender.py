"""The thread: nothing is lost while the daemon lives, whatever the daemon, the log or the system does."""

import itertools
import logging
import math
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from aiokpl_metrics_client import MetricsClient, State, complaint
from aiokpl_metrics_client import outbound as outbound_module
from aiokpl_metrics_client.clock import Clock
from tests.client.conftest import ClientMaker
from tests.client.door import Door, dropped, expand, hold_back
from tests.support.polling import wait_for


def test_events_are_sent_without_a_flush(door: Door, client: MetricsClient) -> None:
    client.put("n")
    client.counter("m").record(1)
    door.wait_for_events(2)
    wait_for(lambda: client.statistics().events_sent == 2, "the thread to count what it sent")


@pytest.mark.slow
def test_nothing_is_lost_and_seconds_are_right_while_the_receiver_does_not_read(
    door: Door, client: MetricsClient
) -> None:
    filler = hold_back(client, door)
    recorded: list[tuple[float, float]] = []
    end = time.monotonic() + 2.2
    record = client.histogram("h").record
    for number in itertools.count():
        before = time.time()
        record(number)
        recorded.append((before, time.time()))
        if time.monotonic() > end:
            break
        time.sleep(0.005)
    assert client.statistics().state is State.HELD_BACK
    door.wait_for_events(filler + len(recorded))
    door.check()
    seconds = [
        column.second for series, column in door.columns() if series.name == "h" for _ in expand(column)
    ]
    assert door.values("h") == list(range(len(recorded)))
    # A thread may wake up late: its events then may have the second beside their own.
    wrong = [
        1
        for (before, after), at in zip(recorded, seconds, strict=True)
        if not int(before) <= at <= int(after)
    ]
    assert len(wrong) < len(recorded) / 5
    assert all(abs(at - before) < 2 for (before, _), at in zip(recorded, seconds, strict=True))


@pytest.mark.parametrize("unlinked", [True, False], ids=["socket deleted", "stale socket left"])
def test_a_daemon_that_comes_back_is_found_within_a_second_and_nothing_is_lost(
    door: Door, client: MetricsClient, unlinked: bool
) -> None:
    client.put("n")
    door.wait_for_events(1)
    if unlinked:
        door.close()
    else:
        assert door._socket is not None
        door._socket.close()
    for _ in range(100):
        client.put("n")
    wait_for(lambda: client.statistics().state is State.AWAY, "the client to notice")
    assert "metrics.sock" in client.statistics().problem
    if not unlinked:
        door.path.unlink()
    door.open()
    door.wait_for_events(101, timeout_s=1.0)
    door.check()
    wait_for(lambda: client.statistics().problem == "", "the problem to be over")


def test_a_daemon_that_comes_later_gets_everything(directory: Path, make_client: ClientMaker) -> None:
    client = make_client()
    for number in range(1_000):
        client.put("n", number)
    wait_for(lambda: client.statistics().state is State.AWAY, "the client to notice")
    door = Door(directory / "metrics.sock")
    door.wait_for_events(1_000, timeout_s=1.0)
    door.check()
    door.close()


def test_past_the_byte_bound_drops_are_counted_and_the_rest_arrives(
    directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound_module, "MAX_PENDING_BYTES", 200_000)
    client = make_client()
    histogram = client.histogram("h")
    recorded = 0
    while "buffer_full" not in client.statistics().dropped:
        for number in range(5_000):
            histogram.record(number + 0.5)
        recorded += 5_000
        assert not client.flush(0.0)
        assert client.statistics().bytes_pending < 400_000
    lost = client.statistics().dropped["buffer_full"]
    door = Door(directory / "metrics.sock")
    door.wait_for_events(recorded - lost)
    assert not client.flush(), "events were dropped since the last flush that told"
    assert client.flush()
    client.put("last")
    assert client.flush()
    door.read()
    assert dropped(door.frames) == {"buffer_full": lost}
    door.check()
    door.close()


def test_a_drain_that_fails_does_not_end_the_thread(
    door: Door, client: MetricsClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = client._sender._turn
    failures = iter([RuntimeError("once"), MemoryError()])

    def turn() -> bool:
        for failure in failures:
            raise failure
        return real()

    monkeypatch.setattr(client._sender, "_turn", turn)
    client.put("n")
    door.wait_for_events(1)
    assert "a drain failed: RuntimeError('once')" in caplog.text


def test_an_absent_daemon_is_logged_once_a_minute(
    make_client: ClientMaker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    for _ in range(20):
        client.put("n")
        assert not client.flush(0.0)
    wait_for(lambda: caplog.records, "the report")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    last = Clock.monotonic()
    for passed_s, lines in ((59.0, 1), (61.0, 2)):
        now = last + passed_s
        monkeypatch.setattr(complaint, "Clock", SimpleNamespace(monotonic=lambda now=now: now))
        assert not client.flush(0.0)
        assert len(caplog.records) == lines


def test_a_log_handler_may_record_and_flush(make_client: ClientMaker) -> None:
    client = make_client()
    results: list[bool] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            client.put("logged")
            results.append(client.flush(0.0))

    handler = Handler()
    logger = logging.getLogger("aiokpl_metrics_client")
    logger.addHandler(handler)
    try:
        client.put("n")
        wait_for(lambda: results, "the handler to come back")
    finally:
        logger.removeHandler(handler)
    assert results == [False]


def test_where_no_thread_can_start_flush_still_sends(
    door: Door, client: MetricsClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        client.put("n")
        client.counter("m").record(1)
        assert client.flush()
    assert "can't start new thread" in caplog.text
    door.read()
    assert door.events() == 2
    client.put("another")
    door.wait_for_events(3)


def test_without_unix_sockets_events_are_counted_once_logged_and_never_kept(
    client: MetricsClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    client.put("n")
    assert not client.flush()
    client.put("n")
    assert not client.flush()
    assert client.flush()
    statistics = client.statistics()
    assert (statistics.state, statistics.dropped) == (State.UNSUPPORTED, {"unsupported": 2})
    assert caplog.text.count("no Unix sockets") == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_log_handler_that_ends_the_thread_it_runs_in_does_not_end_the_client_s(
    directory: Path, make_client: ClientMaker, error: type[BaseException]
) -> None:
    logged = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.set()
            raise error

    handler = Handler()
    logger = logging.getLogger("aiokpl_metrics_client")
    logger.addHandler(handler)
    client = make_client()
    try:
        client.put("n")
        assert logged.wait(30)
    finally:
        logger.removeHandler(handler)
    door = Door(directory / "metrics.sock")
    client.put("n")
    door.wait_for_events(2)
    door.close()


def test_a_log_handler_that_blocks_holds_up_no_event(directory: Path, make_client: ClientMaker) -> None:
    logged, goes_on = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.set()
            goes_on.wait(30)

    handler = Handler()
    logger = logging.getLogger("aiokpl_metrics_client")
    logger.addHandler(handler)
    client = make_client()
    try:
        client.put("n")
        assert logged.wait(30)
        # Another line waits for the first one, in no thread of its own.
        client.put("m", math.nan)
        door = Door(directory / "metrics.sock")
        door.wait_for_events(1)
        tellers = [each for each in threading.enumerate() if each.name == "aiokpl-metrics-client-log"]
        assert len(tellers) == 1
    finally:
        goes_on.set()
        logger.removeHandler(handler)
    door.close()


def test_a_clock_that_a_test_has_frozen_holds_up_no_flush(
    make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    client.put("n")
    with monkeypatch.context() as patched:
        for name in ("monotonic", "time", "perf_counter_ns"):
            frozen = getattr(time, name)()
            patched.setattr(time, name, lambda frozen=frozen: frozen)
        assert not client.flush(0.05)
