"""`flush`, `close` and letting go: what was recorded is handed over or counted; no wait is endless."""

import gc
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from aiokpl_metrics_client import MetricsClient, State, process
from aiokpl_metrics_client import outbound as outbound_module
from aiokpl_metrics_client import sender as sender_module
from aiokpl_metrics_client.transport import Outcome
from tests.client.conftest import ClientMaker
from tests.client.door import Door, hold_back
from tests.support.polling import wait_for

# ---- flush


def test_flush_is_true_once_everything_recorded_before_it_is_with_the_kernel(
    door: Door, client: MetricsClient
) -> None:
    for round_number in range(1, 6):
        for series in range(150):
            client.put(f"n{series}")
        assert client.flush()
        assert door.read() > 0
        assert door.events() == 150 * round_number
    door.check()


def test_flush_without_events_is_true_even_without_a_daemon(make_client: ClientMaker) -> None:
    client = make_client()
    assert client.flush(0.0)
    assert client.flush(float("inf"))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 0.05, 0.3])
def test_flush_is_false_in_time_while_the_daemon_is_away_or_does_not_read(
    door: Door, client: MetricsClient, timeout_s: float
) -> None:
    hold_back(client, door)
    start = time.monotonic()
    assert not client.flush(timeout_s)
    door.close()
    client.put("n")
    assert not client.flush(timeout_s)
    assert time.monotonic() - start < 2 * max(0.0, timeout_s) + 5.0
    door.open()


def test_flush_returns_as_soon_as_the_receiver_has_read(door: Door, client: MetricsClient) -> None:
    filler = hold_back(client, door)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(client.flush(60.0)))
    thread.start()
    door.wait_for_events(filler)
    thread.join(30)
    assert results == [True]


def test_a_flush_that_waits_holds_up_neither_the_thread_nor_another_flush(
    directory: Path, make_client: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound_module, "MAX_PENDING_BYTES", 50_000)
    client = make_client()
    client.put("n")
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(client.flush(60.0)))
    thread.start()
    wait_for(lambda: client.statistics().state is State.AWAY, "the flush to wait")
    record = client.histogram("h").record

    def is_bounded() -> bool:
        for number in range(1_000):
            record(number + 0.5)
        return "buffer_full" in client.statistics().dropped

    wait_for(is_bounded, "the thread to go on draining and dropping")
    assert not client.flush(0.0)
    door = Door(directory / "metrics.sock")
    thread.join(30)
    assert results == [True], "what it was to hand over is handed over; what came later was dropped"
    door.close()


def test_many_threads_may_flush_at_once(door: Door, client: MetricsClient) -> None:
    results: list[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            door.read()
            done.wait(0.001)

    def work() -> None:
        for _ in range(50):
            client.put("n")
            results.append(client.flush(30.0))

    reader = threading.Thread(target=read)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in [reader, *threads]:
        thread.start()
    for thread in threads:
        thread.join(60)
    done.set()
    reader.join(30)
    door.read()
    assert results == [True] * 400
    assert door.events() == 400
    door.check()


def test_a_frame_too_large_for_the_system_makes_flush_false_and_is_counted(
    door: Door, client: MetricsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("n")
    with monkeypatch.context() as patched:
        patched.setattr(client._sender._outbound.transport, "send", lambda _data: Outcome.TOO_LARGE)
        assert not client.flush()
    assert client.flush()
    assert client.statistics().dropped == {"frame_too_large": 1}


# ---- close


def test_close_ends_the_thread_and_the_socket(door: Door, client: MetricsClient) -> None:
    client.put("n")
    assert client.flush()
    thread = client._sender._background._thread
    assert thread is not None
    assert client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert client._sender._outbound.transport._socket is None
    assert client._sender not in process.read_members()


def test_close_is_bounded_while_another_flush_waits(make_client: ClientMaker) -> None:
    client = make_client()
    client.put("n")
    flushed: list[bool] = []
    thread = threading.Thread(target=lambda: flushed.append(client.flush(60.0)))
    thread.start()
    wait_for(lambda: client.statistics().state is State.AWAY, "the flush to wait")
    start = time.monotonic()
    assert not client.close(0.1)
    assert time.monotonic() - start < 5.0
    thread.join(30)
    assert flushed == [False]
    assert client.statistics().dropped == {"closed": 1}


def test_a_flush_whose_turn_comes_after_close_leaves_no_socket_open(
    door: Door, client: MetricsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("n")
    assert client.flush()
    sender = client._sender
    work = sender._work
    flush = threading.Thread(target=client.flush, args=(30.0,))
    asked = threading.Event()

    def work_when_asked(do: Callable[[], bool], timeout_s: float | None) -> bool | None:
        if threading.current_thread() is flush:
            asked.set()
        return work(do, timeout_s)

    monkeypatch.setattr(sender, "_work", work_when_asked)

    def close() -> bool:
        flush.start()
        assert asked.wait(30)
        # What a frame would report.
        client.put("invalid\ud800")
        sender._end()
        return True

    assert sender._exclusive.run(close, 30.0, lambda: None)
    flush.join(30)
    transport = sender._own_outbound.transport
    assert (client.statistics().state, transport._socket) == (State.CLOSED, None)


def test_close_racing_put_counts_every_event_once(door: Door, make_client: ClientMaker) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(20):
            client = make_client()
            started = threading.Barrier(5)
            recorded: list[int] = []

            def work(client: MetricsClient, started: threading.Barrier, recorded: list[int]) -> None:
                started.wait(30)
                for number in range(1_000):
                    client.put(f"n{number % 7}")
                recorded.append(1_000)

            threads = [threading.Thread(target=work, args=(client, started, recorded)) for _ in range(4)]
            for thread in threads:
                thread.start()
            started.wait(30)
            client.close()
            for thread in threads:
                thread.join(30)
            door.read()
            statistics = client.statistics()
            waiting = sum(len(buffer.values) for buffer in client._sender.table.buffers())
            # A thread interrupted between its look-up and its append may leave one event behind.
            assert waiting <= 4
            assert statistics.events_sent + statistics.dropped.get("closed", 0) + waiting == 4_000
    finally:
        sys.setswitchinterval(interval)


def test_a_client_let_go_sends_what_it_has_and_ends(door: Door) -> None:
    client = MetricsClient(door.path)
    client.put("n")
    thread = client._sender._background._thread
    assert thread is not None
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None
    door.wait_for_events(1)
    thread.join(10)
    assert not thread.is_alive()


def test_a_client_let_go_without_a_daemon_ends_as_well(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module.Sender.finish, "__defaults__", (0.05,))
    client = MetricsClient(directory / "nobody")
    client.put("n")
    sender, thread = client._sender, client._sender._background._thread
    assert thread is not None
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert sender.statistics().dropped == {"closed": 1}
    assert sender not in process.read_members()


def test_an_instrument_alone_keeps_events_coming(door: Door) -> None:
    counter = MetricsClient(door.path).counter("n")
    gc.collect()
    counter.record(1)
    door.wait_for_events(1)


def test_a_client_let_go_where_no_thread_could_start_sends_what_it_has(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    client = MetricsClient(door.path)
    client.put("n")
    del client
    gc.collect()
    door.read()
    assert door.events() == 1


def test_flush_and_close_work_where_a_library_has_taken_poll_away(
    door: Door, client: MetricsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As eventlet does.
    monkeypatch.delattr(select, "poll")
    filler = hold_back(client, door)
    assert not client.flush(0.01)
    assert client._sender._outbound.transport.wait(0.0)
    door.wait_for_events(filler)
    assert client.flush()
    assert client.close()


def test_a_failure_within_is_no_exception_of_flush_or_close(
    client: MetricsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> bool:
        raise RuntimeError("within")

    client.put("n")
    monkeypatch.setattr(client._sender._outbound, "send", fail)
    assert not client.flush(0.0)
    assert not client.close(0.0)
