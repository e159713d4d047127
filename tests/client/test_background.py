"""One thread at a time, whoever asks for it and whatever comes in between; it sleeps until it is woken."""

import threading
from collections.abc import Callable, Iterator

import pytest

from aiokpl_metrics_client import background as module
from aiokpl_metrics_client.background import Background
from tests.support.polling import wait_for


class Work:
    """Steps that are counted, of a background whose thread ends with the test."""

    def __init__(self) -> None:
        self.background = Background(self._step, self._note)
        self.do: Callable[[], object] = lambda: None
        self.steps = 0
        self.failures: list[BaseException] = []
        self.started: list[Exception | None] = []
        self.is_over = False

    def start(self) -> bool:
        """Ask for the thread."""
        return self.background.start(self.started.append)

    def end(self) -> None:
        """Have the next step be the last, and wait for it."""
        self.is_over = True
        self.background.wake()
        self.background.join(30.0, lambda: False)

    def _step(self) -> bool:
        self.background.sleep(0.005)
        self.steps += 1
        self.do()
        return self.is_over

    def _note(self, error: BaseException) -> None:
        self.failures.append(error)


@pytest.fixture
def work() -> Iterator[Work]:
    """Steps without a thread yet."""
    work = Work()
    yield work
    work.end()
    assert not work.background.is_running


def test_it_takes_steps_from_its_start_until_one_is_the_last(work: Work) -> None:
    assert not work.background.is_running
    assert work.start()
    assert (work.background.is_running, work.background.is_current) == (True, False)
    wait_for(lambda: work.steps >= 3, "some steps")
    work.end()
    assert not work.background.is_running
    assert (work.started, work.failures) == ([None], [])


def test_one_that_runs_is_not_started_and_one_that_ended_is(work: Work) -> None:
    assert [work.start(), work.start()] == [True, False]
    work.end()
    work.is_over = False
    assert work.start()
    assert work.started == [None, None]


def test_where_no_thread_can_start_that_is_told_and_may_be_tried_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [MemoryError(), RuntimeError("can't start new thread")]

    def refuse(_thread: threading.Thread) -> None:
        raise errors[len(work.started)]

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert [work.start(), work.start()] == [True, True]
    assert not work.background.is_running
    assert work.started == errors
    assert work.start()
    assert work.started == [*errors, None]


def test_a_thread_whose_start_was_interrupted_ends_and_another_one_can_start(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def start_and_be_interrupted(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt):
            work.start()
    begun[0].join(30)
    assert not begun[0].is_alive()
    assert work.started == []
    assert work.start()
    assert work.background.is_running


def test_who_asks_while_it_is_being_started_goes_on_at_once(work: Work) -> None:
    asked: list[bool] = []

    def ask() -> None:
        asked.append(work.start())

    def be_told(_error: Exception | None) -> None:
        # A finalizer in this very thread, and another thread.
        ask()
        other = threading.Thread(target=ask)
        other.start()
        other.join(30)

    assert work.background.start(be_told)
    assert asked == [False, False]


@pytest.mark.parametrize("failure", [RuntimeError("once"), SystemExit("once")], ids=["exception", "exit"])
def test_it_goes_on_whatever_comes_out_of_a_step(
    work: Work, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    monkeypatch.setattr(module, "_FAILURE_PAUSE_S", 0.0)

    def fail() -> None:
        if work.steps == 2:
            raise failure

    work.do = fail
    assert work.start()
    wait_for(lambda: work.steps >= 4, "steps after the one that fails")
    assert work.failures == [failure]


def test_whoever_is_woken_before_it_falls_asleep_does_not(work: Work) -> None:
    work.background.wake()
    work.background.wake()
    work.background.sleep(30.0)
    # Both were one.
    work.background.sleep(0.0)
    woken = threading.Timer(0.0, work.background.wake)
    woken.start()
    work.background.sleep(30.0)
    woken.join(30)


def test_to_wait_for_its_end_is_over_in_time_or_when_that_is_enough_and_never_waits_for_itself(
    work: Work,
) -> None:
    work.background.join(30.0, lambda: False)
    waited: list[None] = []

    def wait_for_itself() -> None:
        work.background.join(30.0, lambda: False)
        waited.append(None)

    work.do = wait_for_itself
    assert work.start()
    wait_for(lambda: waited, "the thread to have waited for itself")
    asked = iter([False, False, True])
    work.background.join(30.0, lambda: next(asked))
    assert list(asked) == []
    work.background.join(0.0, lambda: False)
    work.background.join(-1.0, lambda: False)
    assert work.background.is_running


def test_one_that_is_abandoned_ends_with_the_step_that_it_is_in_and_starts_no_more(work: Work) -> None:
    assert work.start()
    (thread,) = [each for each in threading.enumerate() if each is work.background._thread]
    work.background.abandon()
    assert not work.background.is_running
    thread.join(30)
    assert not thread.is_alive()
    assert not work.start()
