"""One at a time, never within itself, and free again whatever comes out."""

import threading

import pytest

from aiokpl_metrics_client.exclusive import Exclusive, _Claim
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
