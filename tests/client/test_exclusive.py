"""One at a time, never within itself, and free again whatever comes out."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Generator

import pytest

from aiokpl_metrics_client.exclusive import Exclusive, Guard, _Claim
from tests.support.polling import wait_for


def _ignore() -> None:
    pass


def test_it_returns_what_was_returned_and_is_free_again() -> None:
    exclusive = Exclusive()
    assert exclusive.run(lambda: True, None, _ignore) is True
    assert exclusive.run(lambda: False, 0.0, _ignore) is False


def test_who_comes_back_into_his_own_work_is_turned_away_at_once() -> None:
    exclusive = Exclusive()
    inner: list[bool | None] = []

    def come_back() -> bool:
        inner.extend(exclusive.run(lambda: True, timeout_s, _ignore) for timeout_s in (None, 30.0, 0.0))
        return True

    assert exclusive.run(come_back, None, _ignore)
    assert inner == [None, None, None]


def test_another_thread_waits_for_its_turn_or_until_its_time_is_up() -> None:
    exclusive = Exclusive()
    begins, ends = threading.Event(), threading.Event()
    results: list[bool | None] = []

    def work() -> bool:
        begins.set()
        return ends.wait(30)

    worker = threading.Thread(target=lambda: results.append(exclusive.run(work, None, _ignore)))
    worker.start()
    assert begins.wait(30)
    assert exclusive.run(lambda: True, 0.0, _ignore) is None
    assert exclusive.run(lambda: True, 0.02, _ignore) is None
    waiters = [
        threading.Thread(target=lambda: results.append(exclusive.run(lambda: True, 30.0, _ignore))),
        threading.Thread(target=lambda: results.append(exclusive.run(lambda: True, None, _ignore))),
    ]
    for waiter in waiters:
        waiter.start()
    ends.set()
    for thread in (worker, *waiters):
        thread.join(30)
    wait_for(lambda: len(results) == 3, "all of them")
    assert results == [True, True, True]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_comes_out_of_the_work_is_told_and_passed_on(error: type[BaseException]) -> None:
    exclusive = Exclusive()
    aborted: list[bool | None] = []

    def fail() -> bool:
        raise error

    with pytest.raises(error):
        # Still alone: nobody gets in between.
        exclusive.run(fail, None, lambda: aborted.append(exclusive.run(lambda: True, None, _ignore)))
    assert aborted == [None]
    assert exclusive.run(lambda: True, 0.0, _ignore) is True


def test_who_interrupts_the_wait_of_his_own_thread_works_in_its_place() -> None:
    exclusive = Exclusive()
    # A signal handler comes between a claim and its work.
    exclusive._claims.append(_Claim(threading.get_ident()))
    assert exclusive.run(lambda: True, 30.0, _ignore)


def test_nobody_waits_for_what_is_abandoned() -> None:
    exclusive = Exclusive()
    begins, ends = threading.Event(), threading.Event()
    results: list[bool | None] = []

    def work() -> bool:
        begins.set()
        return ends.wait(30)

    worker = threading.Thread(target=exclusive.run, args=(work, None, _ignore))
    worker.start()
    assert begins.wait(30)
    waiter = threading.Thread(target=lambda: results.append(exclusive.run(lambda: True, None, _ignore)))
    waiter.start()
    exclusive.is_abandoned = True
    waiter.join(30)
    ends.set()
    worker.join(30)
    assert results == [None]


def test_a_guard_lets_in_who_comes_back_into_his_own_work_and_returns_what_was_returned() -> None:
    guard = Guard()

    def add(a: int, b: int) -> int:
        return guard.run(max, a, b) + guard.run(min, a, b)

    assert guard.run(add, 2, b=3) == 5
    assert guard._claims == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_guard_is_free_again_whatever_comes_out_of_the_work(error: type[BaseException]) -> None:
    guard = Guard()

    def fail() -> None:
        raise error

    def come_back() -> None:
        with pytest.raises(error):
            guard.run(fail)
        assert len(guard._claims) == 1, "it is still ours"

    guard.run(come_back)
    with pytest.raises(error):
        guard.run(fail)
    assert guard._claims == []


def test_a_guard_lets_one_thread_in_at_a_time() -> None:
    guard = Guard()
    within = most = done = 0

    def work() -> None:
        nonlocal within, most, done
        within += 1
        most = max(most, within)
        # Another thread has its turn here, and sees that this one is within.
        time.sleep(0)
        done += 1
        within -= 1

    def repeat() -> None:
        for _ in range(500):
            guard.run(work)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=repeat) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert (most, done, guard._claims) == (1, 2_000, [])


@contextlib.contextmanager
def _holding(guard: Guard) -> Generator[None]:
    """Have another thread at work, until the end of the block."""
    begins, ends = threading.Event(), threading.Event()

    def work() -> None:
        begins.set()
        ends.wait(30)

    worker = threading.Thread(target=guard.run, args=(work,))
    worker.start()
    assert begins.wait(30)
    try:
        yield
    finally:
        ends.set()
        worker.join(30)


def test_a_guard_lets_nobody_wait_for_threads_that_stand_still_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = Guard()
    with _holding(guard):
        monkeypatch.setattr(Guard, "_is_finalizing", staticmethod(lambda: True))
        assert guard.run(max, 1, 2) == 2
        assert len(guard._claims) == 1


def test_who_waits_for_a_guard_when_its_process_is_another_one_has_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = Guard()
    pids = iter([guard._pid, guard._pid])
    claims = guard._claims
    claims.append(-1)
    # As after a fork below Python, which runs no hook.
    monkeypatch.setattr(os, "getpid", lambda: next(pids, -1))
    assert guard.run(max, 1, 2) == 2
    assert claims == []


def test_to_forget_other_threads_keeps_a_guard_for_who_is_at_work() -> None:
    guard = Guard()
    guard._claims.append(-1)

    def work() -> list[int]:
        guard._claims.append(-1)
        guard.forget_others()
        return list(guard._claims)

    guard.forget_others()
    assert guard.run(work) == [threading.get_ident()]
    assert guard._claims == []
