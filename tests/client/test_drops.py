"""No drop is lost, whoever counts it, and however it is interrupted."""

import signal
import threading
import time
from types import FrameType

import pytest

from aiokpl_metrics_client.drops import DropCounter
from aiokpl_metrics_client.statistics import DropReason


def test_counts_of_many_threads_are_exact() -> None:
    drops = DropCounter()

    def add() -> None:
        for _ in range(20_000):
            drops.add(DropReason.CLOSED, 1)
            drops.add(DropReason.VALUE_INVALID, 2)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert drops.counts() == {"closed": 160_000, "value_invalid": 320_000}


def test_what_waits_to_be_added_up_is_bounded() -> None:
    drops = DropCounter()
    for _ in range(100_000):
        drops.add(DropReason.CLOSED, 1)
    assert len(drops.news) < 1_000


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_may_count_in_the_midst_of_counting() -> None:
    drops = DropCounter()
    calls = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        drops.add(DropReason.CLOSED, 1)

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(100_000):
            drops.add(DropReason.VALUE_INVALID, 1)
            if drops.counts()["value_invalid"] > 20_000 and calls > 20:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    counts = drops.counts()
    assert calls > 0
    assert counts["closed"] == calls


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_ctrl_c_in_the_midst_of_counting_neither_stops_it_nor_counts_twice() -> None:
    drops = DropCounter()
    counted = interrupts = 0

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    deadline = time.monotonic() + 20
    try:
        while interrupts < 1_000 and time.monotonic() < deadline:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001)
                while True:
                    drops.add(DropReason.CLOSED, 1)
                    counted += 1
                    if counted % 20 == 0:
                        drops.counts()
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupts >= 1_000
    # An interrupt may come after an event was counted and before this test has noted it.
    assert counted <= drops.counts()["closed"] <= counted + interrupts
    for _ in range(1_000):
        drops.add(DropReason.CLOSED, 1)
    assert len(drops.news) < 1_000
