"""The thread, `flush` and `close`: nothing is lost while the daemon lives, and nothing waits for ever."""

import gc
import itertools
import logging
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from aiokpl_metrics_client import MetricsClient, State
from aiokpl_metrics_client import outbound as outbound_module
from aiokpl_metrics_client import sender as sender_module
from aiokpl_metrics_client.transport import Outcome
from tests.client.conftest import ClientMaker
from tests.client.door import Door, dropped, expand
from tests.support.polling import wait_for

Interrupt = Callable[[Callable[[], object], Callable[[], object]], int]


def _hold_back(client: MetricsClient, door: Door) -> int:
    """Fill the door's queue and return how many events that took."""
    for count in itertools.count(1):
        client.put("filler")
        if not client.flush(0.0):
            assert client.statistics().state is State.HELD_BACK
            return count
    raise AssertionError


# ---- the thread


def test_events_are_sent_without_a_flush(door: Door, client: MetricsClient) -> None:
    client.put("n")
    client.counter("m").record(1)
    door.wait_for_events(2)
    wait_for(lambda: client.statistics().events_sent == 2, "the thread to count what it sent")


def test_nothing_is_lost_and_seconds_are_right_while_the_receiver_does_not_read(
    door: Door, client: MetricsClient
) -> None:
    filler = _hold_back(client, door)
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
    monkeypatch.setattr(client._sender, "_next_log", 0.0)
    assert not client.flush(0.0)
    assert len(caplog.records) == 2


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
    _hold_back(client, door)
    start = time.monotonic()
    assert not client.flush(timeout_s)
    door.close()
    client.put("n")
    assert not client.flush(timeout_s)
    assert time.monotonic() - start < 2 * max(0.0, timeout_s) + 5.0
    door.open()


def test_flush_returns_as_soon_as_the_receiver_has_read(door: Door, client: MetricsClient) -> None:
    filler = _hold_back(client, door)
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
    thread = client._sender._thread
    assert thread is not None
    assert client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert client._sender._outbound.transport._socket is None
    assert client._sender not in sender_module._senders


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
    thread = client._sender._thread
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
    sender, thread = client._sender, client._sender._thread
    assert thread is not None
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert sender.statistics().dropped == {"closed": 1}
    assert sender not in sender_module._senders


def test_an_instrument_alone_keeps_events_coming(door: Door) -> None:
    counter = MetricsClient(door.path).counter("n")
    gc.collect()
    counter.record(1)
    door.wait_for_events(1)


# ---- signals and finalizers


@pytest.fixture
def interrupt() -> Interrupt:
    """Have a function called by a signal handler every millisecond, while another one runs."""

    def run(handler: Callable[[], object], work: Callable[[], object]) -> int:
        calls = 0

        def handle(_number: int, _frame: FrameType | None) -> None:
            nonlocal calls
            calls += 1
            handler()

        previous = signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            deadline = time.monotonic() + 20
            while calls < 100 and time.monotonic() < deadline:
                work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert calls >= 100
        return calls

    return run


def test_a_signal_handler_may_put_new_series_in_the_midst_of_a_put(
    door: Door, client: MetricsClient, interrupt: Interrupt
) -> None:
    numbers = itertools.count()
    mine: list[int] = []

    def work() -> None:
        # The same series as the handler's, with luck at the same moment.
        number = next(numbers)
        client.put(f"n{number % 9_000}")
        mine.append(number)

    calls = interrupt(lambda: client.put(f"n{(len(mine) + 1) % 9_000}"), work)
    client.flush(0.0)
    door.wait_for_events(calls + len(mine))
    door.check()


@pytest.mark.parametrize("method", ["flush", "statistics"])
def test_a_signal_handler_may_call_it_in_the_midst_of_a_flush(
    door: Door, client: MetricsClient, interrupt: Interrupt, method: str
) -> None:
    recorded = 0

    def work() -> None:
        nonlocal recorded
        for series in range(200):
            client.put(f"n{series}")
        recorded += 200
        client.flush()
        door.read()

    interrupt(getattr(client, method), work)
    client.flush()
    door.wait_for_events(recorded)
    door.check()


def test_a_signal_handler_may_close_in_the_midst_of_a_flush(directory: Path) -> None:
    client = MetricsClient(directory / "nobody")
    client.put("n")
    closed: list[bool] = []
    previous = signal.signal(signal.SIGALRM, lambda _number, _frame: closed.append(client.close(0.1)))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert not client.flush(20.0), "it ends early: the client closed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert closed == [False]
    assert client.statistics().dropped == {"closed": 1}


def test_the_very_thread_that_drains_may_come_back_without_a_wait(door: Door, client: MetricsClient) -> None:
    results: list[bool] = []

    class Value:
        def __float__(self) -> float:
            client.put("nested")
            start = time.monotonic()
            results.append(client.flush(30.0))
            results.append(time.monotonic() - start < 10.0)
            return 1.0

    client.put("n", Value())  # type: ignore[arg-type]
    client.put("n", 2.0)
    door.wait_for_events(3)
    assert results[:2] == [False, True]


def test_a_finalizer_may_put_and_let_a_client_go_in_any_thread(door: Door, client: MetricsClient) -> None:
    class Last:
        def __init__(self) -> None:
            self.cycle = self
            self.client = MetricsClient(door.path)
            self.client.put("inner")

        def __del__(self) -> None:
            client.put("last")

    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(50):
            Last()
            client.put("n")
            door.read()
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    door.wait_for_events(150)
    wait_for(lambda: len(sender_module._senders) <= 1 or None, "the inner clients to end")
